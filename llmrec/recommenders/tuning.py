"""Chooses the setting of a baseline on the validation set of a run.

A weak baseline makes any model look good. Every baseline with settings is therefore fitted with all settings of a
stated grid, and the one with the highest NDCG@10 on `InteractionData.selection_targets` is kept. The reward model and
the adapters of the policy are chosen on the same targets.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from llmrec.config import Config
from llmrec.data.dataset import InteractionData
from llmrec.data.decision import Decisions
from llmrec.data.ragged import Ragged
from llmrec.evaluation.metrics import ndcg, ranks
from llmrec.recommenders.protocol import Fitted, Histories, Score

BATCH_SIZE = 64  # histories scored at a time
VALID = "valid_ndcg@10"  # key of the validation metric in a grid

Setting = dict[str, Any]  # parameter of a baseline -> value
Grid = dict[str, list[Any]]  # parameter of a baseline -> values to try


class Advance(Protocol):
    """Shows progress: without arguments one more fit, with arguments the start of a baseline with `total` fits."""

    def __call__(self, description: str = "", total: int | None = None, /) -> None:
        """Moves on by one fit, or starts the baseline `description` with `total` fits."""
        ...


@dataclass(frozen=True)
class FittedBaseline:
    """A baseline with the best setting of its grid.

    Attributes:
        model: the fitted baseline.
        chosen: the best setting.
        grid: every setting that was tried, with its `valid_ndcg@10`.
        refitted: whether the model was fitted again with the validation items after the choice.
        seconds: wall-clock time of fitting and tuning, with that of the baselines it consists of.
        cpu_seconds: the same as process time of all threads.
    """

    model: Fitted
    chosen: Setting
    grid: list[Setting]
    refitted: bool = False
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def scores(self) -> Score:
        """Scores all items after B histories, float [B, N]."""
        return self.model.scores

    @property
    def valid_ndcg(self) -> float:
        """NDCG@10 on validation of the chosen setting."""
        return max(setting[VALID] for setting in self.grid)


class Tuning:
    """The data that baselines are fitted on, and the validation targets on which their settings are chosen.

    Args:
        data: the prepared log.
        config: the experiment.
        advance: called before each baseline and after each fit.
    """

    def __init__(self, data: InteractionData, config: Config, advance: Advance = lambda *_: None) -> None:
        self.data = data
        self.config = config
        self.advance = advance
        chosen = evaluated_users(data.num_users, config)
        self.valid = Decisions.from_targets(data, data.selection_targets().of_users(chosen))

    @property
    def histories(self) -> Histories:
        """The training histories of all users."""
        return self.data.train_histories

    @property
    def histories_with_validation(self) -> Histories:
        """The training histories, with what each user clicked up to the validation target."""
        lengths = self.data.train_lengths.copy()
        targets = self.data.selection_targets()
        np.maximum.at(lengths, targets.users, targets.positions + 1)
        return Ragged.of(self.data.histories).first(lengths)

    def validate(self, scores: Score) -> float:
        """NDCG@10 of a scoring function on the validation targets."""
        return mean_ndcg(scores, self.valid)

    def best(self, name: str, fit: Callable[..., Fitted], grid: Grid) -> FittedBaseline:
        """Fits a baseline with every setting of a grid and keeps the best.

        Args:
            name: name of the baseline, for the progress bar.
            fit: makes the fitted baseline of a setting.
            grid: the values to try; the first of equal settings is kept.
        """
        self.advance(f"baselines: {name}", len(settings(grid)))
        best: FittedBaseline | None = None
        tried: list[Setting] = []
        for setting in settings(grid):
            model = fit(**setting)
            value = self.validate(model.scores)
            if best is None or value > max(one[VALID] for one in tried):
                best = FittedBaseline(model, setting, tried)
            tried.append(setting | {VALID: value})
            self.advance()
        assert best is not None  # a grid has at least one setting
        return best


def evaluated_users(num_users: int, config: Config, most: int | None = None) -> np.ndarray:
    """Marks the users whose targets are measured: a seeded sample of `evaluation.users`, at most `most`, bool [U]."""
    size = config.evaluation.users if most is None else min(most, config.evaluation.users)
    chosen = np.zeros(num_users, dtype=bool)
    chosen[np.random.default_rng((config.seed, 29)).permutation(num_users)[:size]] = True
    return chosen


def mean_ndcg(scores: Score, decisions: Decisions, k: int = 10) -> float:
    """Mean NDCG@k of a scoring function over the full catalogue without seen items.

    Args:
        scores: scores all items after a batch of histories.
        decisions: M decisions with known targets.
        k: cut-off.
    """
    return float(ndcg(target_ranks(scores, decisions), k).mean())


def target_ranks(scores: Score, decisions: Decisions) -> np.ndarray:
    """Rank of each target among the items that may be recommended, float64 [M]; only one batch is in memory."""
    found = [ranks(scores(batch.histories), batch.targets, batch.masked) for batch in decisions.batches(BATCH_SIZE)]
    return np.concatenate(found)


def settings(grid: Grid) -> list[Setting]:
    """All combinations of the values of a grid; `[{}]` for an empty grid."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
