"""What user-level differential privacy costs a ranking: NDCG@10 on validation at several budgets, beside popularity.

    python benchmarks/privacy.py [--epsilons 2,8] [--layers 1] [--lora-r 4] [--epochs 0.5] [--json]

The rows of a budget train with DP-SGD. The row `no noise` does the same with a budget so large that the noise is
negligible: it still samples, clips and leaves out the clicks of the start. The row `no privacy` is ordinary SFT. Every
training is one run, with splits, base and epochs in common, measured on the same users after its last step.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script has only its own folder on the path

from llmrec.config import Config, PrivacyConfig, load_config
from llmrec.data.dataset import InteractionData, load_data
from llmrec.data.decision import Decisions
from llmrec.policy.model import RecPolicy
from llmrec.run import Run, run_all
from llmrec.selection.validation import validation_sample
from llmrec.sft.private_ranking import ranked, ranking_report

NO_NOISE = 1e6  # an epsilon that asks for almost no noise
DELTA = 1e-5

Row = dict[str, Any]


def main(
    config: Annotated[Path, typer.Option(help="Config to train.")] = Path("configs/movielens.yaml"),
    epsilons: Annotated[str, typer.Option(help="Budgets, separated by commas.")] = "2,8",
    layers: Annotated[int, typer.Option(min=1, help="Number of first layers of the base that are kept.")] = 1,
    lora_r: Annotated[int, typer.Option(min=1, help="Rank of LoRA.")] = 4,
    epochs: Annotated[float, typer.Option(min=0.01, help="Epochs of SFT.")] = 0.5,
    batch_size: Annotated[int, typer.Option(min=1, help="Users of a step of DP-SGD on average.")] = 32,
    learning_rate: Annotated[float, typer.Option(min=0, help="Peak learning rate of all trainings.")] = 5e-3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")] = False,
) -> None:
    """Print a Markdown table with one row for each budget."""
    base = load_config(config)
    model = base.model.model_copy(update={"layers": layers, "lora_r": lora_r, "lora_alpha": 2 * lora_r})
    # `eval_steps` 0.999 evaluates once, at the end. 1.0 would mean every step.
    settings = {"num_train_epochs": epochs, "learning_rate": learning_rate, "eval_steps": 0.999}
    sft = base.sft.model_copy(update=settings)
    catalogue = base.catalogue.model_copy(update={"cooccurrence_weight": 0.0})
    with tempfile.TemporaryDirectory() as folder:
        common = base.model_copy(update={"output_dir": folder, "report_to": [], "model": model, "sft": sft})
        rows = {}
        for epsilon in [*map(float, epsilons.split(",")), NO_NOISE]:
            name = "no-noise" if epsilon == NO_NOISE else f"epsilon-{epsilon:g}"
            private = {
                "name": name,
                "catalogue": catalogue,
                "sft": sft.model_copy(update={"batch_size": batch_size, "save_steps": 5}),
                "privacy": PrivacyConfig(epsilon=epsilon, delta=DELTA),
            }
            rows[name] = trained(common.model_copy(update=private))
        rows["no-privacy"] = trained(common.model_copy(update={"name": "no-privacy"}))
    print(json.dumps(rows, indent=2) if as_json else table(rows))


def trained(config: Config) -> Row:
    """Trains SFT; returns NDCG@10 and the gains over the untrained start and popularity, and the cost if private."""
    run = Run.create(config)
    run_all(run, "data", "sft", say=lambda line: print(f"{config.name}: {line}", file=sys.stderr))
    found = run.metrics("sft")
    if config.privacy is not None:
        return found["privacy"]
    data = load_data(run.path("data"))
    decisions = validation_decisions(config, data)
    start = ranked(RecPolicy.create(config, data), decisions)
    return ranking_report(start, ranked(RecPolicy.from_pretrained(run.adapter("sft")), decisions), decisions, data)


def validation_decisions(config: Config, data: InteractionData) -> Decisions:
    """The validation decisions of SFT."""
    sample = validation_sample(data, config.sft.eval_users, config.seed)
    return Decisions.from_targets(data, sample, config.catalogue)


def table(rows: dict[str, Row]) -> str:
    """A Markdown table with one row for each training."""
    lines = [
        "| training | noise | steps | NDCG@10 | untrained start | popularity | gain over start | over popularity |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        ranking = row["ranking"]
        gains = [f"{row['gains'][rival]['mean']:+.4f}, {row['gains'][rival]['lower']:+.4f}" for rival in row["gains"]]
        noise = f"{row['noise_multiplier']:.2f}" if "noise_multiplier" in row else "none"
        values = [f"{ranking[one]:.4f}" for one in ("private", "start", "popularity")]
        lines.append(" | ".join([f"| {name}", noise, str(row.get("steps", "")), *values, *gains]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
