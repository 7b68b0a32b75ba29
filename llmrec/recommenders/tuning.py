"""Baselines fitted on the training events of a run and chosen on its validation targets, each from a small stated grid.

A weak baseline makes any model look good, so every baseline that has something to choose is given the choice that is
best by NDCG@10 on `InteractionData.selection_targets`, on which the reward model and PPO's guard are chosen as well.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from llmrec.config import Config
from llmrec.data.dataset import InteractionData
from llmrec.data.decision import Decisions
from llmrec.evaluation.metrics import ndcg
from llmrec.evaluation.ranking import Score, rank
from llmrec.recommenders.baselines import EASE, Baseline, ItemKNN, Markov, Popularity
from llmrec.recommenders.sasrec import SASRec

Grid = dict[str, list]
GRIDS: dict[str, tuple[Callable[..., Baseline], Grid]] = {
    "popularity": (Popularity, {}),
    "markov": (Markov, {"decay": [0.5, 0.7, 0.8, 0.9], "smoothing": [3.0, 10.0, 30.0, 100.0]}),
    "itemknn": (ItemKNN, {"neighbours": [50, 200], "shrinkage": [0.0, 10.0, 50.0]}),
    "ease": (EASE, {"l2": [30.0, 100.0, 300.0, 1000.0, 3000.0]}),
}


@dataclass(frozen=True)
class Fitted:
    """A baseline at its best setting.

    Attributes:
        scores: histories [B] to scores, float [B, N].
        report: `chosen` (the setting) and `grid`, what was tried: each the setting and its `valid_ndcg@10`.
    """

    scores: Score
    report: dict


def fit_baselines(data: InteractionData, config: Config, advance: Callable[..., None]) -> dict[str, Fitted]:
    """Every baseline, fitted on `data.train_histories` and chosen on validation.

    Args:
        data: the prepared log.
        config: `evaluation.sasrec` gives SASRec's grid; null leaves it out.
        advance: called after each fit, see `llmrec.evaluation.evaluate`.
    """
    decisions = Decisions.from_targets(data, data.selection_targets())

    def validate(scores: Score) -> float:
        return float(ndcg(rank(scores, decisions, config.seed).ranks, 10).mean())

    grids = dict(GRIDS)
    if config.evaluation.sasrec is not None:
        grid = config.evaluation.sasrec.model_dump()
        fixed = {"epochs": grid.pop("epochs"), "window": config.catalogue.max_history, "seed": config.seed}
        grids["sasrec"] = (partial(SASRec, validate, **fixed), grid)
    fitted = {}
    for name, (make, grid) in grids.items():
        advance(f"baselines: {name}", len(settings(grid)))
        fitted[name] = fit_best(make, grid, data, validate, advance)
    return fitted


def fit_best(
    make: Callable[..., Baseline],
    grid: Grid,
    data: InteractionData,
    validate: Callable[[Score], float],
    advance: Callable[..., None] = lambda: None,
) -> Fitted:
    """Fits a baseline with every setting of a grid and keeps the first of the best by `validate`, higher is better."""
    tried, best = [], None
    for setting in settings(grid):
        baseline = make(**setting).fit(data.train_histories, data.num_items)
        tried.append(setting | {"valid_ndcg@10": validate(baseline.scores)})
        if best is None or tried[-1]["valid_ndcg@10"] > best[0]:
            best = tried[-1]["valid_ndcg@10"], baseline.scores, setting
        advance()
    return Fitted(best[1], {"chosen": best[2], "grid": tried})


def settings(grid: Grid) -> list[dict]:
    """All combinations of a grid's values, `[{}]` of an empty one."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
