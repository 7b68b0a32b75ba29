"""Logged exposures: who was shown what, where in the list, with which probability, and whether it was clicked.

A log shows items by its own policy, so clicks tell of the policy as much as of the users. Every exposure is weighted
by 1 / propensity, clipped at `CLIP` times the median weight and divided by the mean: the weighted log is what a
policy that shows all items alike would have logged (inverse propensity scoring: Schnabel et al., ICML 2016), at
the price of a little bias and much less variance. How much of the log the weights leave is reported (effective
sample size). Positions get a bias of their own (Craswell et al., WSDM 2008, as an additive log-odds term).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from llmrec.data.dataset import InteractionData
from llmrec.errors import DataError
from reward_models.click_purchase import POSITIONS, ClickPurchaseModel

CLIP = 10.0  # times the median of 1 / propensity


@dataclass(frozen=True)
class Exposures:
    """M exposures.

    Attributes:
        users: user index, int64 [M].
        before: clicks of that user's history that lie before the exposure, int64 [M].
        items: what was shown, int64 [M].
        positions: rank from 1, 0 if unknown, int64 [M].
        clicked: bool [M].
        weights: see the module; mean 1, float64 [M].
        clipped: share of the propensities that were clipped.
    """

    users: np.ndarray
    before: np.ndarray
    items: np.ndarray
    positions: np.ndarray
    clicked: np.ndarray
    weights: np.ndarray
    clipped: float

    def __len__(self) -> int:
        return len(self.items)

    @property
    def effective_sample_size(self) -> float:
        """Kish's (sum of w)^2 / sum of w^2."""
        return float(self.weights.sum() ** 2 / np.square(self.weights).sum()) if len(self) else 0.0


def propensity_weights(propensities: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights of mean 1 and the share that was clipped; a missing propensity (NaN) counts as the median.

    Raises:
        DataError: a propensity is not above 0 and at most 1.
    """
    known = ~np.isnan(propensities)
    bad = known & ~((propensities > 0) & (propensities <= 1))
    if bad.any():
        raise DataError(
            f"A propensity is {propensities[bad][0]:g}; expected a probability above 0 and at most 1. What was logged "
            "had a chance of being shown: correct the log, or leave the field empty."
        )
    if not known.any():
        return np.ones(len(propensities)), 0.0
    raw = np.where(known, 1 / np.where(known, propensities, 1.0), np.nan)
    median = np.nanmedian(raw)
    raw = np.where(known, raw, median)
    return np.minimum(raw, CLIP * median) / np.minimum(raw, CLIP * median).mean(), float((raw > CLIP * median).mean())


def exposures_of(data: InteractionData, part: str, users: np.ndarray | None = None) -> Exposures:
    """The exposures of a part of the log: `train`, `valid` or `test`.

    Training exposures lie before the user's first held-out click, and before the temporal split's validation;
    validation and test exposures lie in that split's windows.

    Args:
        data: the prepared log.
        part: which.
        users: user indices that may be read; None: all.

    Raises:
        DataError: an item outside the catalogue, or an impossible propensity.
    """
    frame, nothing = data.exposures, np.zeros(0, dtype=np.int64)
    if frame is None or not len(frame):
        return Exposures(nothing, nothing, nothing, nothing, nothing.astype(bool), np.zeros(0), 0.0)
    valid, test = data.temporal_cuts()
    times, user = frame["timestamp"].to_numpy(), frame["user"].to_numpy()
    first_held_out = np.array(
        [t[n] if n < len(t) else np.inf for t, n in zip(data.timestamps, data.train_lengths, strict=True)]
    )
    keep = {
        "train": (times < valid) & (times < first_held_out[user]),
        "valid": (times >= valid) & (times < test),
        "test": times >= test,
    }[part]
    if users is not None:
        keep &= np.isin(user, users)
    rows = frame[keep]
    items = rows["item"].to_numpy(dtype=np.int64)
    if len(items) and (items.min() < 0 or items.max() >= data.num_items):
        raise DataError(
            f"An exposure shows an item index outside 0..{data.num_items - 1}. Run the prepare stage again."
        )
    weights, clipped = propensity_weights(rows["propensity"].to_numpy(dtype=np.float64, na_value=np.nan))
    before = [np.searchsorted(data.timestamps[u], t, "left") for u, t in zip(user[keep], times[keep], strict=True)]
    positions = rows["position"].fillna(0).to_numpy(dtype=np.int64).clip(0, POSITIONS)
    clicked = rows["click"].to_numpy(dtype=bool)
    return Exposures(user[keep], np.array(before, dtype=np.int64), items, positions, clicked, weights, clipped)


def exposure_logits(
    model: ClickPurchaseModel, data: InteractionData, profiles: np.ndarray, exposures: Exposures, rows: np.ndarray
) -> Tensor:
    """Log-odds of a click on some exposures, float [len(rows)]: the click score, the user's level, the position."""
    users, before, device = exposures.users[rows], exposures.before[rows], model.device
    window = model.config.window
    histories = [data.histories[u][max(0, n - window) : n] for u, n in zip(users, before, strict=True)]
    flags = [data.purchases_before(u, n)[max(0, n - window) :] for u, n in zip(users, before, strict=True)]
    states, _ = model.last_states(histories, flags, profiles[users])
    items, positions = (torch.from_numpy(values[rows]).to(device) for values in (exposures.items, exposures.positions))
    return model.exposure_logits(states, items, positions)


def exposure_loss(logits: Tensor, exposures: Exposures, rows: np.ndarray) -> Tensor:
    """Propensity-weighted log-loss of clicks on exposures, in nats an exposure."""
    clicked = torch.from_numpy(exposures.clicked[rows]).float().to(logits.device)
    weights = torch.from_numpy(exposures.weights[rows]).float().to(logits.device)
    return (weights * F.binary_cross_entropy_with_logits(logits, clicked, reduction="none")).mean()
