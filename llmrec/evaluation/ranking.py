"""Ranks of test targets and lists of the best items, over the full catalogue without seen items.

The results of all batches are arrays that are made once. Small arrays that outlive a batch would lie between the freed
scores of a large catalogue, which could then not be used again: memory would grow with every batch.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from llmrec.data.dataset import InteractionData, Targets
from llmrec.data.decision import Decision, Decisions
from llmrec.data.ragged import Ragged
from llmrec.distributed import gathered, own_rows
from llmrec.evaluation.metrics import ranks, top_k
from llmrec.files import write_with
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import all_item_scores, score_batches
from llmrec.recommenders.protocol import Score

BATCH = 64  # decisions per batch
RANKS = "ranks.parquet"  # file name of the table of ranks
OBJECTIVES = "objectives.parquet"  # file name of the table of PPO's objective at each target
TARGET_COLUMNS = ("user", "user_id", "position", "purchased")  # columns of these tables that describe the target
LIST_LENGTH = 10
KEPT_SCORES = 250_000_000  # log-probabilities that a policy's ranking keeps at most, 1 GB


@dataclass(frozen=True)
class Ranked:
    """The ranking of one model at M decisions.

    Attributes:
        ranks: rank of each target, 1 is best and ties get the mean of their places, float64 [M].
        lists: the ten best items at each decision, [M, 10], filled up with -1.
    """

    ranks: np.ndarray
    lists: np.ndarray

    @classmethod
    def empty(cls, count: int) -> "Ranked":
        """Arrays for `count` decisions, which `put` fills."""
        return cls(np.empty(count), np.empty((count, LIST_LENGTH), dtype=np.int64))

    def put(self, rows: slice | np.ndarray, part: "Ranked") -> None:
        """Sets the ranking at some of the decisions."""
        self.ranks[rows] = part.ranks
        self.lists[rows] = part.lists

    def select(self, rows: np.ndarray) -> "Ranked":
        """The ranking at some of the decisions, in the order of `rows`."""
        return Ranked(self.ranks[rows], self.lists[rows])


def distinct_targets(splits: dict[str, Targets]) -> tuple[Targets, dict[str, np.ndarray]]:
    """The targets of all splits without duplicates, so that a target in two splits is ranked once.

    Returns:
        M distinct targets, and for each split the indices of its targets among them, int64.
    """
    pairs = [np.stack([targets.users, targets.positions], 1) for targets in splits.values()]
    distinct, inverse = np.unique(np.concatenate(pairs), axis=0, return_inverse=True)
    borders = np.cumsum([len(part) for part in pairs])[:-1]
    return Targets(distinct[:, 0], distinct[:, 1]), dict(zip(splits, np.split(inverse, borders), strict=True))


def rank(scores: Score, decisions: Decisions, seed: int) -> Ranked:
    """Ranks by a scoring function, one batch at a time.

    Args:
        scores: scores all items after a batch of histories.
        decisions: M decisions with known targets.
        seed: seed of the order among equal scores in lists, see `metrics.tie_keys`.
    """
    batches = (scores(part.histories) for part in decisions.batches(BATCH))
    return rank_batches(batches, decisions, seed)


def rank_batches(batches: Iterable[np.ndarray], decisions: Decisions, seed: int) -> Ranked:
    """Ranks by scores that come in batches; only one batch is held in memory.

    Args:
        batches: scores of all items at the decisions in order, float [b, N] per batch.
        decisions: M decisions with known targets.
        seed: seed of the order among equal scores in lists, see `metrics.tie_keys`.
    """
    found = Ranked.empty(len(decisions))
    start = 0
    for scores in batches:
        rows = slice(start, start + len(scores))
        found.put(rows, rank_batch(scores, decisions[rows], seed))
        start = rows.stop
    return found


def rank_batch(scores: np.ndarray, decisions: Decisions, seed: int) -> Ranked:
    """Ranks by the scores of all items at b decisions, float [b, N]; see `rank_batches`."""
    return Ranked(
        ranks=ranks(scores, decisions.targets, decisions.masked),
        lists=top_k(scores, LIST_LENGTH, decisions.masked, seed),
    )


def rank_policy(
    policy: RecPolicy, decisions: Decisions, seed: int, advance: Callable[[int], None], keep: bool = False
) -> tuple[Ranked, Tensor | None]:
    """Ranks by the policy's exact distribution over items. The processes share the decisions, and all get the result.

    Args:
        policy: the policy.
        decisions: M decisions with known targets.
        seed: seed of the order among equal scores in lists.
        advance: called after each batch with the number of its decisions.
        keep: whether the log-probabilities are wanted as well.

    Returns:
        The ranking, and the log-probability of every item, float32 [M, N] (see `policy.ranking.all_item_scores`). The
        latter is None without `keep`, and if it would have more than `KEPT_SCORES` numbers.
    """
    own = decisions.select(own_rows(len(decisions)))
    num_items = policy.vocabulary.trie.num_items
    log_probs = torch.empty(len(own), num_items) if keep and len(decisions) * num_items <= KEPT_SCORES else None
    found = Ranked.empty(len(own))
    for rows, scores in score_batches(policy, own, advance, share_prompts=True):
        found.put(rows, rank_batch(scores.numpy(), own.select(rows), seed))
        if log_probs is not None:
            log_probs[rows] = scores
    ranks_of_all = np.array(gathered(list(found.ranks), len(decisions)))
    lists_of_all = np.stack(gathered(list(found.lists), len(decisions)))
    if log_probs is not None:
        log_probs = torch.from_numpy(np.stack(gathered(list(log_probs.numpy()), len(decisions))))
    return Ranked(ranks_of_all, lists_of_all), log_probs


class LogProbs(Protocol):
    """Log-probabilities of all items at M decisions, of which slices are read; a tensor [M, N] is one."""

    def __getitem__(self, rows: slice, /) -> Tensor:
        """Log-probabilities at consecutive decisions, float32 [b, N]."""
        ...


@dataclass(frozen=True)
class Recomputed:
    """Log-probabilities that are computed when they are read, because all of them would not fit into memory.

    Attributes:
        load: reads the policy; called once.
        decisions: the M decisions.
    """

    load: Callable[[], RecPolicy]
    decisions: Decisions

    @cached_property
    def policy(self) -> RecPolicy:
        """The policy, which stays in memory."""
        return self.load()

    def __getitem__(self, rows: slice, /) -> Tensor:
        """As in `LogProbs`."""
        return all_item_scores(self.policy, self.decisions[rows], share_prompts=True)


def by_length(decisions: Sequence[Decision]) -> np.ndarray:
    """An order in which prompts of similar length are neighbors, so that batches need little padding, int64 [M]."""
    return np.argsort([len(decision.items) for decision in decisions], kind="stable")


def chunks(count: int, size: int = BATCH) -> Iterator[range]:
    """Ranges of at most `size` indices that cover 0..count-1 in order."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def target_table(data: InteractionData, targets: Targets) -> pd.DataFrame:
    """What identifies each of M targets under any seed, and whether it was purchased.

    Returns:
        M rows of `TARGET_COLUMNS`: index and id of the user, position in the history, whether the user purchased it.
    """
    values = (
        targets.users,
        data.users["user_id"].to_numpy()[targets.users],
        targets.positions,
        Ragged.of(data.purchases).at(targets.users, targets.positions).astype(bool),
    )
    return pd.DataFrame(dict(zip(TARGET_COLUMNS, values, strict=True)))


def save_values(
    path: Path, targets: pd.DataFrame, rows: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]
) -> None:
    """Writes a table with one row per target of every split: `split`, `TARGET_COLUMNS` and one column per model.

    Args:
        path: the Parquet file to write.
        targets: table of the M distinct targets, see `target_table`.
        rows: indices of each split's targets among them.
        values: a number for each of the M targets, such as its rank, by model, [M].
    """
    table = targets.assign(**values)
    frames = [table.iloc[index].assign(split=split) for split, index in rows.items()]
    columns = ["split", *table.columns]
    write_with(path, lambda file: pd.concat(frames, ignore_index=True)[columns].to_parquet(file, index=False))
