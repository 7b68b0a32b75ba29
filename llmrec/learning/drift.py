"""Drift: how the new events differ from the training window, in categories, popularity and calibration of the reward.

Each distance stands beside the 95 % quantile that chance alone gives, by a permutation test: all clicks, old and new,
are parted at random into as many old and new ones. A user's old clicks stay together and so do the new ones, because
clicks of one user are alike.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llmrec.data.dataset import InteractionData
from reward_models import RewardModel
from reward_models.held_out import held_out, predictions

DRAWS = 200
EVENTS = 2000  # events that the calibration is measured on at most


@dataclass(frozen=True)
class Shift:
    """A distance between the training window and the new events.

    Attributes:
        value: the distance.
        chance: its 95 % quantile if nothing but chance tells old clicks from new ones.
        drifted: whether `value` is above `chance`.
    """

    value: float
    chance: float
    drifted: bool


@dataclass(frozen=True)
class Calibration:
    """How well a reward model predicts clicks, before and after.

    Attributes:
        before: mean -log P(clicked item) on the events that the model was tested on when it was trained, nats.
        new: the same on the new events.
        worse: `new` minus `before`; None if one of them is not known.
    """

    before: float | None
    new: float | None
    worse: float | None


@dataclass(frozen=True)
class Drift:
    """Differences between the training window and the new events.

    Attributes:
        old_clicks: clicks in the training window.
        new_clicks: new clicks.
        categories: total variation distance between the shares of categories, 0 to 1.
        popularity: absolute difference of the mean popularity rank of clicked items, as a share of the catalogue. Ranks
            are those of the training window.
        reward: calibration of the reward model that the present version was trained with.
    """

    old_clicks: int
    new_clicks: int
    categories: Shift
    popularity: Shift
    reward: Calibration

    def as_json(self) -> dict[str, Any]:
        """The drift as JSON values."""
        return asdict(self)


def measure_drift(data: InteractionData, since: float, reward: Calibration, seed: int) -> Drift:
    """Measures the drift of a log.

    Args:
        data: the log, old and new events.
        since: time of the first new event, seconds since 1970.
        reward: see `calibration`.
        seed: seed of the draws.
    """
    user = np.repeat(np.arange(data.num_users), [len(history) for history in data.histories])
    item = np.concatenate(list(data.histories))
    new = np.concatenate(list(data.timestamps)) >= since
    shares = _category_shares(data)

    def categories(old: np.ndarray, newer: np.ndarray) -> float:
        return float(np.abs(shares[old].mean(0) - shares[newer].mean(0)).sum() / 2)

    def popularity(old: np.ndarray, newer: np.ndarray) -> float:
        rank = np.empty(data.num_items)
        counts = np.bincount(old, minlength=data.num_items)
        rank[np.argsort(-counts, kind="stable")] = np.arange(data.num_items) / max(data.num_items - 1, 1)
        return float(abs(rank[old].mean() - rank[newer].mean()))

    pairs = _chance_pairs(2 * user + new, item, int(new.sum()), seed)
    return Drift(
        old_clicks=int((~new).sum()),
        new_clicks=int(new.sum()),
        categories=_shift(categories, item[~new], item[new], pairs),
        popularity=_shift(popularity, item[~new], item[new], pairs),
        reward=reward,
    )


def log_loss(model: RewardModel, data: InteractionData, seed: int) -> float | None:
    """Mean -log P(clicked item) of the test targets, nats; None without any."""
    events = held_out(data, "test", EVENTS, seed)
    losses = [
        -prediction.log_click.gather(1, targets[:, None])[:, 0].cpu().numpy()
        for _, prediction, targets in predictions(model, events)
    ]
    return float(np.concatenate(losses).mean()) if losses else None


def calibration(before: float | None, new: float | None) -> Calibration:
    """Compares two log losses of the same model."""
    return Calibration(before, new, None if before is None or new is None else new - before)


def _category_shares(data: InteractionData) -> np.ndarray:
    """Share of each category in each item, float64 [N, G]; items without categories have one of their own."""
    lists = [list(categories) or [""] for categories in data.items["categories"]]
    names = sorted({name for categories in lists for name in categories})
    column = {name: number for number, name in enumerate(names)}
    shares = np.zeros((data.num_items, len(names)))
    for item, categories in enumerate(lists):
        for name in categories:
            shares[item, column[name]] += 1 / len(categories)
    return shares


def _chance_pairs(block: np.ndarray, item: np.ndarray, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random parts of all clicks: about all but `count`, and about `count`.

    Args:
        block: clicks with the same number stay together; ascending, int64 [E].
        item: the clicked items, int64 [E].
        count: clicks of the second part.
        seed: seed of the draws.

    Returns:
        the items of both parts in each draw; [] with fewer than two blocks.
    """
    blocks, starts = np.unique(block, return_index=True)
    of_block = np.split(item, starts[1:])
    random = np.random.default_rng((seed, 13))
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(DRAWS if len(blocks) > 1 else 0):
        order = random.permutation(len(blocks))
        sizes = np.cumsum([len(of_block[one]) for one in order])
        taken = min(int(np.searchsorted(sizes, count)) + 1, len(blocks) - 1)
        drawn = np.concatenate([of_block[one] for one in order[:taken]])
        pairs.append((np.concatenate([of_block[one] for one in order[taken:]]), drawn))
    return pairs


def _shift(
    distance: Callable[[np.ndarray, np.ndarray], float],
    old: np.ndarray,
    new: np.ndarray,
    pairs: list[tuple[np.ndarray, np.ndarray]],
) -> Shift:
    if not len(old) or not len(new) or not pairs:
        return Shift(0.0, 0.0, False)
    value = distance(old, new)
    chance = float(np.quantile([distance(one, other) for one, other in pairs], 0.95))
    return Shift(value, chance, value > chance)
