"""Trains with S-DPO, an offline alternative to PPO without a reward model, and measures the gain over SFT.

    python benchmarks/research/sdpo.py runs/movielens-seed0 [--minutes 10] [--beta 1] [--negatives 15] [--json]

RUN is a run in which `sft` has finished. S-DPO (Chen et al., On Softmax Direct Preference Optimization for
Recommendation, NeurIPS 2024) prefers the item that the user took to sampled negatives, at every decision of packed
training histories. Negatives are drawn from the items that may be recommended, here uniformly. The distribution is the
masked one of PPO; TRL's DPOTrainer supports neither the mask nor several negatives. The adapter that is best on
validation is kept, possibly the SFT adapter itself, and compared with the SFT adapter by a paired test over test users.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[2]))  # a script has only its own folder on the path

from benchmarks.research.advantages import EVALUATIONS, ndcg_of
from llmrec.data.dataset import InteractionData, load_data
from llmrec.data.decision import Decisions
from llmrec.errors import ConfigError
from llmrec.evaluation.metrics import paired_bootstrap
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import PackedBatch, item_log_probs, pack
from llmrec.ppo.stage import training_decisions
from llmrec.run import Run
from llmrec.selection.validation import mean_policy_ndcg

BATCH_SIZE = 8  # windows per optimizer step, as in the mini-batches of PPO
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main(
    run: Annotated[Path, typer.Argument(help="Run in which sft has finished.")],
    minutes: Annotated[float, typer.Option(help="Minutes of training.")] = 10.0,
    beta: Annotated[float, typer.Option(help="Strength of the pull towards the SFT adapter.")] = 1.0,
    negatives: Annotated[int, typer.Option(help="Negatives per decision.")] = 15,
    learning_rate: Annotated[float, typer.Option(help="Initial learning rate, which falls to 0.")] = 1e-3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")] = False,
) -> None:
    """Train with S-DPO from the SFT adapter and measure the gain over it."""
    source = Run.open(run)
    source.require("data", "sft")
    data = load_data(source.path("data"))
    samples = source.config.evaluation.bootstrap
    policy = RecPolicy.from_pretrained(source.path("sft", "adapter"))
    if len(policy.vocabulary.trie.order) != len(policy.vocabulary.sequences):
        raise ConfigError(
            f"{run} spells items by several tokens. This script needs one token per item: use a run with "
            "`catalogue.scheme: atomic`."
        )
    policy.add_rl_adapter()
    policy.to(DEVICE)
    valid = Decisions.from_targets(data, data.selection_targets(), source.config.catalogue)
    best = source.path("sft", "adapter")
    start = ndcg_of(best, data, source.config)
    validation = [mean_policy_ndcg(policy, valid)]
    with tempfile.TemporaryDirectory() as folder:
        for share in train(policy, source, data, minutes * 60, beta, negatives, learning_rate):
            validation.append(mean_policy_ndcg(policy, valid))
            Console(stderr=True).print(
                f"{share:.0%} of the time: validation NDCG@10 {validation[-1]:.4f}, SFT {validation[0]:.4f}"
            )
            if validation[-1] == max(validation):
                best = Path(folder) / f"adapter-{len(validation)}"
                policy.save_pretrained(best)
        after = ndcg_of(best, data, source.config)
    difference, low, high, _ = paired_bootstrap(after, start, samples, 0)
    report: dict[str, Any] = {"validation_ndcg@10": validation, "sft_test_ndcg@10": float(start.mean())}
    report |= {"test_ndcg@10": float(after.mean()), "difference": difference, "ci95": [low, high], "users": len(start)}
    print(json.dumps(report, indent=2) if as_json else report)


def train(
    policy: RecPolicy,
    source: Run,
    data: InteractionData,
    seconds: float,
    beta: float,
    negatives: int,
    learning_rate: float,
) -> Iterator[float]:
    """Trains in place and yields `EVALUATIONS` times the share of the time that has passed.

    Args:
        policy: the policy with an RL adapter.
        source: the run that holds the config.
        data: the prepared log.
        seconds: training time.
        beta: strength of the pull towards the SFT adapter.
        negatives: negatives per decision.
        learning_rate: initial learning rate.
    """
    rows = training_decisions(data, source.config)
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=0.0)
    rng = np.random.default_rng(source.config.seed)
    generator = torch.Generator(DEVICE).manual_seed(source.config.seed)
    spent = 0.0
    evaluations = 0
    policy.eval()  # as in PPO: no dropout
    while evaluations < EVALUATIONS:
        for chosen in np.array_split(rng.permutation(len(rows)), max(1, len(rows) // BATCH_SIZE)):
            started = time.monotonic()
            optimizer.param_groups[0]["lr"] = learning_rate * max(0.0, 1 - spent / seconds)
            optimizer.zero_grad()
            sdpo_loss(policy, pack(policy, rows.select(chosen)).to(DEVICE), beta, negatives, generator).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            spent += time.monotonic() - started
            if spent >= seconds * (evaluations + 1) / EVALUATIONS:
                evaluations += 1
                yield spent / seconds
                if evaluations == EVALUATIONS:
                    return


def sdpo_loss(
    policy: RecPolicy,
    batch: PackedBatch,
    beta: float,
    negatives: int,
    generator: torch.Generator,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """The loss of S-DPO (equation 10 of the paper), the mean over decisions.

    It is -log sigmoid(-log sum_n exp(beta (gain(n) - gain(taken)))) over the negatives n. The gain of an item is
    log(policy / reference).

    Args:
        policy: the policy with an RL adapter.
        batch: prompts on the policy's device.
        beta: strength of the pull towards the reference.
        negatives: negatives per decision.
        generator: draws the negatives.
        weights: how often each trie column is drawn, relative to the others, float [C], above 0. None: all alike.
    """
    new = item_log_probs(policy, batch, policy(*batch.inputs()))
    with torch.no_grad(), policy.reference():
        old = item_log_probs(policy, batch, policy(*batch.inputs()))
    taken = policy.vocabulary.trie.columns_of(batch.target)[:, None]
    allowed = old.isfinite().float().scatter(1, taken, 0.0)
    if weights is not None:
        allowed = allowed * weights
    drawn = torch.multinomial(allowed, negatives, replacement=True, generator=generator)
    gain = beta * (new - old).masked_fill(old.isneginf(), 0.0)
    against = (gain.gather(1, drawn) - gain.gather(1, taken)).logsumexp(1)
    return -F.logsigmoid(-against).mean()


if __name__ == "__main__":
    typer.run(main)
