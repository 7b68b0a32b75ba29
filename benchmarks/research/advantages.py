"""Compares the four values of `ppo.advantage` at equal training time.

    python benchmarks/research/advantages.py runs/movielens-seed0 [--minutes 5] [--learning-rates 1e-3,1e-4] [--json]

RUN is a run in which `sft` and `reward` have finished. Every contender starts from its SFT adapter and its reward. The
contenders run one after the other as `llmrec ppo`, each in a process of its own, and keep the adapter that is best on
validation. `exact` learns from the probabilities of all items; `gae`, `rloo` and `group` sample the item. Those three
have one KL coefficient for items and text, which is set to `item_kl_coef`, and no entropy bonus. The learning rate is
chosen on validation. `exact` is compared with the others by paired tests over users with Holm's correction.

Run it on an otherwise idle machine.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[2]))  # a script has only its own folder on the path

from llmrec.config import Config, dump_config, parse_config
from llmrec.data.dataset import InteractionData, load_data
from llmrec.data.decision import Decisions
from llmrec.evaluation.metrics import holm, ndcg, paired_bootstrap, per_user
from llmrec.evaluation.ranking import rank_policy
from llmrec.policy.model import RecPolicy
from llmrec.run import Run

ADVANTAGES = ("exact", "gae", "rloo", "group")
EVALUATIONS = 6  # on validation, after the one at the start


def main(
    run: Annotated[Path, typer.Argument(help="Run in which sft and reward have finished.")],
    minutes: Annotated[float, typer.Option(help="Minutes of training of each contender.")] = 5.0,
    learning_rates: Annotated[str, typer.Option(help="Learning rates that each contender tries.")] = "1e-3,1e-4",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")] = False,
) -> None:
    """Compare the values of `ppo.advantage` at equal training time."""
    source = Run.open(run)
    rates = [float(rate) for rate in learning_rates.split(",")]
    source.require("data", "sft", "reward")
    data = load_data(source.path("data"))
    samples = source.config.evaluation.bootstrap
    start = ndcg_of(source.path("sft", "adapter"), data, source.config)
    rows: list[dict[str, Any]] = []
    test_ndcg: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for advantage in ADVANTAGES:
            tried = [train(source, Path(folder), advantage, rate, minutes * 60) for rate in rates]
            best = max(tried, key=lambda one: (one["valid_ndcg@10"], one["end_ndcg@10"]))
            test = ndcg_of(Path(best.pop("adapter")), data, source.config)
            test_ndcg[advantage] = test
            difference, low, high, _ = paired_bootstrap(test, start, samples, 0)
            gain = {"test_ndcg@10": float(test.mean()), "difference": difference, "ci95": [low, high]}
            rows.append({"advantage": advantage, **best, **gain, "tried": len(tried)})
            Console(stderr=True).print(rows[-1])
    exact, *sampled = test_ndcg.values()
    tests = [paired_bootstrap(exact, other, samples, 0) for other in sampled]
    adjusted = holm([p for *_, p in tests])
    for row, (difference, low, high, _), p in zip(rows[1:], tests, adjusted, strict=True):
        row["exact_less_this"] = {"difference": difference, "ci95": [low, high], "p_holm": p}
    report = {"sft_test_ndcg@10": float(start.mean()), "users": len(start), "minutes": minutes, "rows": rows}
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        show(report)


def train(source: Run, folder: Path, advantage: str, rate: float, seconds: float) -> dict[str, Any]:
    """Trains one contender for about `seconds`. A short run measures how many updates that is."""
    section = source.config.ppo
    batch = section.batch_size
    changes: dict[str, Any] = {"advantage": advantage, "learning_rate": rate}
    if advantage != "exact":
        changes |= {"kl_coef": section.item_kl_coef, "item_entropy_coef": 0.0}
    if advantage in ("rloo", "group"):
        changes["num_generations"] = 4
    short = {"total_episodes": 3 * batch, "eval_steps": 9}
    trial = ppo(source, folder / f"{advantage}-{rate:g}-trial", changes | short)
    updates = max(EVALUATIONS, round(seconds * trial["log"][-1]["eps"] / batch))
    changes |= {"total_episodes": updates * batch, "eval_steps": max(1, updates // EVALUATIONS)}
    directory = folder / f"{advantage}-{rate:g}"
    metrics = ppo(source, directory, changes)
    return {
        "learning_rate": rate,
        "updates": updates,
        "seconds": json.loads((directory / "ppo" / "metrics.json").read_text())["seconds"],
        "best_step": metrics["guard"]["best_step"],
        "sft_valid_ndcg@10": metrics["guard"]["sft_ndcg@10"],
        "valid_ndcg@10": metrics["guard"]["best_ndcg@10"],
        "end_ndcg@10": metrics["guard"]["history"][-1]["eval/ndcg@10"],
        "adapter": str(directory / "ppo" / "adapter"),
    }


def ppo(source: Run, directory: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Runs `llmrec ppo` on the SFT adapter and the reward of a run, with some options changed.

    Returns:
        the metrics of the stage.
    """
    values = source.config.model_dump(mode="json")
    values |= {"name": directory.name, "output_dir": str(directory.parent), "report_to": []}
    values["ppo"] |= {"save_steps": 10_000, "sample_steps": 0, **changes}
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(dump_config(parse_config(values)), encoding="utf-8")
    for stage in ("data", "sft", "reward"):
        (directory / stage).symlink_to(source.path(stage).resolve(), target_is_directory=True)
    subprocess.run([sys.executable, "-m", "llmrec", "ppo", str(directory)], check=True, stdout=sys.stderr)
    return Run.open(directory).metrics("ppo")


def ndcg_of(adapter: Path, data: InteractionData, config: Config) -> np.ndarray:
    """NDCG@10 of each user on the test targets of the first split, float [U]."""
    targets = next(iter(data.targets.values()))["test"]
    decisions = Decisions.from_targets(data, targets, config.catalogue)
    ranked, _ = rank_policy(RecPolicy.from_pretrained(adapter), decisions, config.seed, lambda _: None)
    return per_user(ndcg(ranked.ranks, 10), targets.users)[1]


def show(report: dict[str, Any]) -> None:
    """Prints the comparison as a table."""
    table = Table(title=f"SFT start: test NDCG@10 {report['sft_test_ndcg@10']:.4f}, {report['users']} users")
    for heading in (
        "advantage",
        "learning rate",
        "updates",
        "seconds",
        "validation",
        "last validation",
        "test",
        "test - SFT [95 %]",
        "exact - this",
    ):
        table.add_column(heading, justify="right")
    for row in report["rows"]:
        low, high = row["ci95"]
        against = row.get("exact_less_this")
        table.add_row(
            row["advantage"],
            f"{row['learning_rate']:g}",
            str(row["updates"]),
            f"{row['seconds']:.0f}",
            f"{row['valid_ndcg@10']:.4f}",
            f"{row['end_ndcg@10']:.4f}",
            f"{row['test_ndcg@10']:.4f}",
            f"{row['difference']:+.4f} [{low:+.4f}, {high:+.4f}]",
            f"{against['difference']:+.4f}, p {against['p_holm']:.3f}" if against else "",
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(main)
