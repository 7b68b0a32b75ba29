"""Logged exposures: who was shown which item, at which rank, with which propensity, and whether it was clicked.

The log was made by a policy that chose what to show, so clicks depend on the policy as well as on the users. Every
exposure is weighted by 1 / propensity, clipped at `CLIP` times the median weight and divided by the mean weight. The
weighted log resembles that of a policy that shows all items equally often (inverse propensity scoring: Schnabel et al.,
ICML 2016). Clipping adds a small bias and removes much variance. The effective sample size says how many exposures the
weights leave. Each list rank has a bias (Craswell et al., WSDM 2008, as an additive term in the log-odds).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from llmrec.data.dataset import InteractionData
from llmrec.errors import DataError
from reward_models.click_purchase import POSITIONS, ClickPurchaseModel

CLIP = 10.0  # largest weight, as a multiple of the median of 1 / propensity


@dataclass(frozen=True)
class Exposures:
    """M exposures.

    Attributes:
        users: user indices, int64 [M].
        before: number of clicks in the user's history before the exposure, int64 [M].
        items: indices of the shown items, int64 [M].
        positions: ranks in the list from 1; 0 if unknown, int64 [M].
        clicked: whether the item was clicked, bool [M].
        weights: propensity weights with mean 1, float64 [M].
        clipped: share of the weights that were clipped.
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
        """Kish's effective sample size (sum of w)^2 / sum of w^2."""
        return float(self.weights.sum() ** 2 / np.square(self.weights).sum()) if len(self) else 0.0

    @property
    def has_both_classes(self) -> bool:
        """Whether some exposures were clicked and some were not."""
        return bool(0 < self.clicked.sum() < len(self))


NO_INTEGERS = np.zeros(0, dtype=np.int64)
NO_EXPOSURES = Exposures(
    users=NO_INTEGERS,
    before=NO_INTEGERS,
    items=NO_INTEGERS,
    positions=NO_INTEGERS,
    clicked=np.zeros(0, dtype=bool),
    weights=np.zeros(0),
    clipped=0.0,
)


def propensity_weights(propensities: np.ndarray) -> tuple[np.ndarray, float]:
    """Clipped inverse propensities.

    Args:
        propensities: float [M]; NaN means unknown and counts as the median.

    Returns:
        weights with mean 1, float64 [M], and the share of them that was clipped.

    Raises:
        DataError: a propensity is not above 0 and at most 1.
    """
    known = ~np.isnan(propensities)
    bad = known & ~((propensities > 0) & (propensities <= 1))
    if bad.any():
        raise DataError(
            f"A propensity is {propensities[bad][0]:g}; expected a probability above 0 and at most 1, because a logged "
            "item had a chance of being shown. Correct the log, or leave the field empty."
        )
    if not known.any():
        return np.ones(len(propensities)), 0.0
    inverse = np.where(known, 1 / np.where(known, propensities, 1.0), np.nan)
    median = np.nanmedian(inverse)
    inverse = np.where(known, inverse, median)
    clipped = np.minimum(inverse, CLIP * median)
    return clipped / clipped.mean(), float((inverse > CLIP * median).mean())


def exposures_of(data: InteractionData, part: str, users: np.ndarray | None = None) -> Exposures:
    """Reads the exposures of a part of the log.

    Training exposures lie before the user's first held-out click and before the validation window of the temporal
    split. Validation and test exposures lie in that split's windows.

    Args:
        data: the prepared log.
        part: `train`, `valid` or `test`.
        users: user indices that may be read; None means all.

    Raises:
        DataError: an item is outside the catalogue, or a propensity is impossible.
    """
    frame = data.exposures
    if frame is None or not len(frame):
        return NO_EXPOSURES
    keep = _in_part(data, part)
    user = frame["user"].to_numpy()
    if users is not None:
        keep &= np.isin(user, users)
    rows = frame[keep]
    items = rows["item"].to_numpy(dtype=np.int64)
    if len(items) and (items.min() < 0 or items.max() >= data.num_items):
        raise DataError(
            f"An exposure shows an item index outside 0..{data.num_items - 1}. Run the prepare stage again."
        )
    weights, clipped = propensity_weights(rows["propensity"].to_numpy(dtype=np.float64, na_value=np.nan))
    moments = zip(user[keep], rows["timestamp"].to_numpy(), strict=True)
    before = [np.searchsorted(data.timestamps[owner], time, "left") for owner, time in moments]
    return Exposures(
        users=user[keep],
        before=np.array(before, dtype=np.int64),
        items=items,
        positions=rows["position"].fillna(0).to_numpy(dtype=np.int64).clip(0, POSITIONS),
        clicked=rows["click"].to_numpy(dtype=bool),
        weights=weights,
        clipped=clipped,
    )


def _in_part(data: InteractionData, part: str) -> np.ndarray:
    """Which exposures lie in a part of the log, bool [M]."""
    valid, test = data.temporal_cuts()
    times = data.exposures["timestamp"].to_numpy()
    if part == "test":
        return times >= test
    if part == "valid":
        return (times >= valid) & (times < test)
    first_held_out = np.array(
        [
            times_of_user[length] if length < len(times_of_user) else np.inf
            for times_of_user, length in zip(data.timestamps, data.train_lengths, strict=True)
        ]
    )
    return (times < valid) & (times < first_held_out[data.exposures["user"].to_numpy()])


def exposure_logits(
    model: ClickPurchaseModel, data: InteractionData, profiles: np.ndarray, exposures: Exposures, rows: np.ndarray
) -> Tensor:
    """Log-odds of a click on some exposures: the click score plus the biases of the user's state and of the rank.

    Args:
        model: the model.
        data: the prepared log, for the histories before the exposures.
        profiles: profile words of all users of `data`, int64 [U, P].
        exposures: the exposures.
        rows: which of them, int64 [E].

    Returns:
        float [E].
    """
    window = model.config.window
    users = exposures.users[rows]
    before = exposures.before[rows]
    histories = []
    flags = []
    for user, count in zip(users, before, strict=True):
        start = max(0, count - window)
        histories.append(data.histories[user][start:count])
        flags.append(data.purchases_before(user, count)[start:])
    states, _ = model.last_states(histories, flags, profiles[users])
    items = torch.from_numpy(exposures.items[rows]).to(model.device)
    positions = torch.from_numpy(exposures.positions[rows]).to(model.device)
    return model.exposure_logits(states, items, positions)


def exposure_loss(logits: Tensor, exposures: Exposures, rows: np.ndarray) -> Tensor:
    """Propensity-weighted log-loss of clicks on the exposures of some rows, in nats an exposure."""
    clicked = torch.from_numpy(exposures.clicked[rows]).float().to(logits.device)
    weights = torch.from_numpy(exposures.weights[rows]).float().to(logits.device)
    return (weights * F.binary_cross_entropy_with_logits(logits, clicked, reduction="none")).mean()
