"""Ranks of held-out targets and lists of the best items, over the full catalogue minus what the user had."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from llmrec.data.dataset import Targets
from llmrec.data.decision import Decision, Decisions
from llmrec.evaluation.metrics import ranks, top_k
from llmrec.files import write_with
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import item_scores

BATCH = 64
RANKS = "ranks.parquet"
LIST = 10  # items of a list
Score = Callable[[Sequence[np.ndarray]], np.ndarray]  # histories [B] -> float [B, N], higher is better


@dataclass(frozen=True)
class Ranked:
    """What one model makes of M decisions.

    Attributes:
        ranks: rank of each target, [M].
        lists: the ten best items of each, [M, 10], -1 where fewer are left.
    """

    ranks: np.ndarray
    lists: np.ndarray

    def select(self, rows: np.ndarray) -> "Ranked":
        """Of some of the decisions, in the order of `rows`."""
        return Ranked(self.ranks[rows], self.lists[rows])


def distinct_targets(splits: dict[str, Targets]) -> tuple[Targets, dict[str, np.ndarray]]:
    """The targets of all splits, each once: two splits may ask the same, and need not be answered twice.

    Returns:
        M distinct targets, and by split the place among them of each of its own, int64.
    """
    places = [np.stack([targets.users, targets.positions], 1) for targets in splits.values()]
    distinct, inverse = np.unique(np.concatenate(places), axis=0, return_inverse=True)
    borders = np.cumsum([len(part) for part in places])[:-1]
    return Targets(distinct[:, 0], distinct[:, 1]), dict(zip(splits, np.split(inverse, borders), strict=True))


def rank(scores: Score, decisions: Decisions, seed: int) -> Ranked:
    """Ranks by a scoring function, a batch at a time; equal scores are ordered by `metrics.tie_keys` of the seed."""
    batches = (scores([decisions.histories[m] for m in rows]) for rows in chunks(len(decisions)))
    return rank_batches(batches, decisions, seed)


def rank_batches(batches: Iterable[np.ndarray], decisions: Decisions, seed: int) -> Ranked:
    """Ranks by scores of the decisions in order, float [b, N] a batch; never holds more than one batch."""
    parts, start = [], 0
    for scores in batches:
        histories = decisions.histories[start : start + len(scores)]
        items = decisions.targets[start : start + len(scores)]
        parts.append((ranks(scores, items, histories, seed), top_k(scores, LIST, histories, seed)))
        start += len(scores)
    return Ranked(*map(np.concatenate, zip(*parts, strict=True)))


def rank_policy(
    policy: RecPolicy, decisions: Decisions, seed: int, advance: Callable[..., None]
) -> tuple[Ranked, torch.Tensor]:
    """Ranks by the policy's exact distribution over items; `advance` is called after each batch.

    Returns:
        ranks and lists, and the log-probability of every item, float32 [M, N] (`policy.ranking.item_scores`).
    """
    order, parts = by_length(decisions), []
    for batch in item_scores(policy, decisions.select(order), BATCH):
        parts.append(batch.float().cpu())
        advance()
    log_probs = torch.cat(parts)[np.argsort(order)]
    return rank_batches((part.numpy() for part in log_probs.split(BATCH)), decisions, seed), log_probs


def by_length(decisions: Sequence[Decision]) -> np.ndarray:
    """Order of prompts in which like lengths share a batch, so that little of it is padding, [M]."""
    return np.argsort([len(decision.items) for decision in decisions], kind="stable")


def chunks(count: int, size: int = BATCH) -> Iterator[range]:
    """Ranges of at most `size` that cover 0..count-1 in order."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def save_ranks(path: Path, targets: Targets, rows: dict[str, np.ndarray], ranked: dict[str, Ranked]) -> None:
    """Writes the rank of every test target by every model: columns `split, user, position` and one a model.

    Args:
        path: a Parquet file.
        targets: M distinct targets.
        rows: by split, the places of its targets among them.
        ranked: by model, of the M targets.
    """
    frames = [
        pd.DataFrame({"split": split, "user": targets.users[places], "position": targets.positions[places]}).assign(
            **{name: one.ranks[places] for name, one in ranked.items()}
        )
        for split, places in rows.items()
    ]
    write_with(path, lambda file: pd.concat(frames, ignore_index=True).to_parquet(file, index=False))
