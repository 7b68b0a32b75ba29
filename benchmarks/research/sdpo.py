"""S-DPO, the offline alternative to RL: what a user took is preferred to items that were not; no reward model.

    python benchmarks/research/sdpo.py runs/movielens-seed0 [--minutes 10] [--beta 1] [--negatives 15] [--json]

RUN has finished `sft`. Softmax DPO (Chen et al., On Softmax Direct Preference Optimization for Recommendation, NeurIPS
2024) at every decision of packed training histories, with negatives drawn uniformly from what was allowed, on the
masked distribution that PPO learns on (TRL's DPOTrainer knows neither the mask nor several negatives). The adapter that
is best on validation is kept, the SFT start among them, and compared with the start on the test, paired over users.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a file, its own package is not on the path

from benchmarks.research.advantages import LOOKS, ndcg_of
from llmrec.data.dataset import load_data
from llmrec.data.decision import Decisions
from llmrec.errors import ConfigError
from llmrec.evaluation.metrics import paired_bootstrap
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import PackedBatch, item_log_probs, pack
from llmrec.ppo.stage import training_decisions
from llmrec.run import Run
from llmrec.selection.validation import mean_policy_ndcg

BATCH = 8  # windows a step, as PPO's mini-batches have
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main(
    run: Annotated[Path, typer.Argument(help="a run that has finished sft")],
    minutes: Annotated[float, typer.Option(help="of training")] = 10.0,
    beta: Annotated[float, typer.Option(help="strength of the pull to the SFT start")] = 1.0,
    negatives: Annotated[int, typer.Option(help="a decision")] = 15,
    learning_rate: Annotated[float, typer.Option(help="at the start; it falls to 0")] = 1e-3,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON on stdout and nothing else")] = False,
) -> None:
    """Trains with S-DPO from the SFT adapter and measures what it gains."""
    source = Run.open(run)
    source.require("data", "sft")
    data, samples = load_data(source.path("data")), source.config.evaluation.bootstrap
    policy = RecPolicy.from_pretrained(source.path("sft", "adapter"))
    if len(policy.vocabulary.trie.order) != len(policy.vocabulary.sequences):
        raise ConfigError(f"S-DPO here needs one token an item (catalogue.scheme: atomic), as {run} does not have.")
    policy.add_rl_adapter()
    policy.to(DEVICE)
    held = Decisions.from_targets(data, data.selection_targets(), source.config.catalogue)
    best = source.path("sft", "adapter")
    start = ndcg_of(best, data, source.config)
    seen = [mean_policy_ndcg(policy, held)]
    with tempfile.TemporaryDirectory() as folder:
        for share in train(policy, source, data, minutes * 60, beta, negatives, learning_rate):
            seen.append(mean_policy_ndcg(policy, held))
            Console(stderr=True).print(f"{share:.0%} of the time: validation NDCG@10 {seen[-1]:.4f}, SFT {seen[0]:.4f}")
            if seen[-1] == max(seen):
                best = Path(folder) / f"adapter-{len(seen)}"
                policy.save_pretrained(best)
        after = ndcg_of(best, data, source.config)
    difference, low, high, _ = paired_bootstrap(after, start, samples, 0)
    report: dict[str, Any] = {"validation_ndcg@10": seen, "sft_test_ndcg@10": float(start.mean())}
    report |= {"test_ndcg@10": float(after.mean()), "difference": difference, "ci95": [low, high], "users": len(start)}
    print(json.dumps(report, indent=2) if as_json else report)


def train(policy: RecPolicy, source: Run, data, seconds: float, beta: float, negatives: int, learning_rate: float):
    """Trains in place for so many seconds, and yields the share of them that has passed, `LOOKS` times."""
    rows = training_decisions(data, source.config)
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=0.0)
    rng = np.random.default_rng(source.config.seed)
    generator = torch.Generator(DEVICE).manual_seed(source.config.seed)
    spent, looks = 0.0, 0
    policy.eval()  # as in PPO: no dropout
    while looks < LOOKS:
        for chosen in np.array_split(rng.permutation(len(rows)), max(1, len(rows) // BATCH)):
            started = time.monotonic()
            optimizer.param_groups[0]["lr"] = learning_rate * max(0.0, 1 - spent / seconds)
            optimizer.zero_grad()
            sdpo_loss(policy, pack(policy, rows.select(chosen)).to(DEVICE), beta, negatives, generator).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            spent += time.monotonic() - started
            if spent >= seconds * (looks + 1) / LOOKS:
                looks += 1
                yield spent / seconds
                if looks == LOOKS:
                    return


def sdpo_loss(
    policy: RecPolicy, batch: PackedBatch, beta: float, negatives: int, generator: torch.Generator
) -> torch.Tensor:
    """-log sigmoid(-log sum over negatives of exp(beta (gain of the negative - gain of what was taken))), the mean over
    decisions; a gain is the log-ratio of policy and reference (S-DPO, equation 10).
    """
    new = item_log_probs(policy, batch, policy(*batch.inputs()))
    with torch.no_grad(), policy.reference():
        old = item_log_probs(policy, batch, policy(*batch.inputs()))
    taken = policy.vocabulary.trie.columns_of(batch.target)[:, None]
    allowed = old.isfinite().float().scatter(1, taken, 0.0)
    drawn = torch.multinomial(allowed, negatives, replacement=True, generator=generator)
    gain = beta * (new - old).masked_fill(old.isneginf(), 0.0)
    against = (gain.gather(1, drawn) - gain.gather(1, taken)).logsumexp(1)
    return -F.logsigmoid(-against).mean()


if __name__ == "__main__":
    typer.run(main)
