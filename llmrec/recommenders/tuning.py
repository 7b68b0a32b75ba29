"""Fits all baselines on the training events of a run and chooses their settings on its validation set.

A weak baseline makes any model look good. Every baseline with settings is therefore fitted with all settings of a
stated grid, and the one with the highest NDCG@10 on `InteractionData.selection_targets` is kept. The reward model and
the adapters of the policy are chosen on the same targets.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from llmrec.config import Config
from llmrec.data.dataset import InteractionData
from llmrec.data.decision import Decisions
from llmrec.evaluation.metrics import ndcg, ranks
from llmrec.recommenders.ease import EASE
from llmrec.recommenders.itemknn import ItemKNN
from llmrec.recommenders.markov import Markov
from llmrec.recommenders.popularity import Popularity
from llmrec.recommenders.protocol import Baseline, Score
from llmrec.recommenders.sasrec import SASRec

BATCH_SIZE = 64  # histories scored at a time

Setting = dict[str, Any]  # parameter of a baseline -> value
Grid = dict[str, list[Any]]  # parameter of a baseline -> values to try
GRIDS: dict[str, tuple[Callable[..., Baseline], Grid]] = {
    "popularity": (Popularity, {}),
    "markov": (Markov, {"decay": [0.5, 0.7, 0.8, 0.9], "smoothing": [3.0, 10.0, 30.0, 100.0]}),
    "itemknn": (ItemKNN, {"neighbors": [50, 200], "shrinkage": [0.0, 10.0, 50.0]}),
    "ease": (EASE, {"l2": [30.0, 100.0, 300.0, 1000.0, 3000.0]}),
}


class Advance(Protocol):
    """Shows progress: without arguments one more fit, with arguments the start of a baseline with `total` fits."""

    def __call__(self, description: str = "", total: int | None = None, /) -> None:
        """Moves on by one fit, or starts the baseline `description` with `total` fits."""
        ...


@dataclass(frozen=True)
class FittedBaseline:
    """A baseline with the best setting of its grid.

    Attributes:
        scores: scores all items after B histories, float [B, N].
        chosen: the best setting.
        grid: every setting that was tried, with its `valid_ndcg@10`.
    """

    scores: Score
    chosen: Setting
    grid: list[Setting]


def fit_baselines(data: InteractionData, config: Config, advance: Advance) -> dict[str, FittedBaseline]:
    """Fits every baseline on `data.train_histories` and chooses its setting on validation.

    Args:
        data: the prepared log.
        config: `evaluation.sasrec` holds SASRec's grid; null leaves SASRec out.
        advance: called before each baseline and after each fit.

    Returns:
        The fitted baselines by name.
    """
    decisions = Decisions.from_targets(data, data.selection_targets())
    validate = partial(mean_ndcg, decisions=decisions)
    grids = dict(GRIDS)
    if config.evaluation.sasrec is not None:
        grid = config.evaluation.sasrec.model_dump()
        epochs = grid.pop("epochs")
        sasrec = partial(SASRec, validate, epochs=epochs, window=config.catalogue.max_history, seed=config.seed)
        grids["sasrec"] = (sasrec, grid)
    fitted = {}
    for name, (make, grid) in grids.items():
        advance(f"baselines: {name}", len(settings(grid)))
        fitted[name] = fit_best(make, grid, data, validate, advance)
    return fitted


def mean_ndcg(scores: Score, decisions: Decisions, k: int = 10) -> float:
    """Mean NDCG@k of a scoring function over the full catalogue without seen items.

    Args:
        scores: scores all items after a batch of histories.
        decisions: M decisions with known targets.
        k: cut-off.
    """
    found = [ranks(scores(batch.histories), batch.targets, batch.histories) for batch in decisions.batches(BATCH_SIZE)]
    return float(ndcg(np.concatenate(found), k).mean())


def fit_best(
    make: Callable[..., Baseline],
    grid: Grid,
    data: InteractionData,
    validate: Callable[[Score], float],
    advance: Advance = lambda *_: None,
) -> FittedBaseline:
    """Fits a baseline with every setting of a grid and keeps the best.

    Args:
        make: creates the baseline from a setting.
        grid: the values to try.
        data: the prepared log.
        validate: validation metric of a scoring function, higher is better. The first of equal settings is kept.
        advance: called after each fit.
    """
    best: FittedBaseline | None = None
    highest = -np.inf
    tried: list[Setting] = []
    for setting in settings(grid):
        baseline = make(**setting).fit(data.train_histories, data.num_items)
        value = validate(baseline.scores)
        tried.append(setting | {"valid_ndcg@10": value})
        if best is None or value > highest:
            highest = value
            best = FittedBaseline(scores=baseline.scores, chosen=setting, grid=tried)
        advance()
    assert best is not None  # a grid has at least one setting
    return best


def settings(grid: Grid) -> list[Setting]:
    """All combinations of the values of a grid; `[{}]` for an empty grid."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
