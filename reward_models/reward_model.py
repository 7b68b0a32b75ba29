"""The interface of a reward model: scores of all items after a history, and the reward that they combine to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Histories = Sequence[np.ndarray] | Sequence[Sequence[int]]
Purchases = Sequence[np.ndarray | None] | None

CALIBRATION = {"click_temperature": 1.0, "purchase_scale": 1.0, "purchase_offset": 0.0}


def mask_seen(rewards: Tensor, seen: Tensor) -> Tensor:
    """Gives seen items the lowest reward of their row, so that expectations over items stay finite.

    The log-probability of a seen item is -inf, because it cannot be the next click.

    Args:
        rewards: float [..., N].
        seen: bool [..., N].

    Returns:
        float [..., N], all finite. If all items of a row are seen, the row is 0.
    """
    lowest = torch.where(seen, torch.inf, rewards).amin(-1, keepdim=True)
    lowest = torch.where(lowest.isinf(), torch.zeros_like(lowest), lowest)
    return torch.where(seen, lowest, rewards)


@dataclass(frozen=True)
class Prediction:
    """Scores of all items in B states (of any shape [...]), before they are combined to a reward.

    Attributes:
        log_click: log P(click on the item | the next click is on an unseen item), float [..., N]; -inf for seen items.
        purchase: logits of P(purchase | click), float [..., N].
        seen: whether the user has seen the item, so that it cannot be the next click, bool [..., N].
        members: predictions of the members of an ensemble, each with tensors of these shapes.
        penalty: how many standard deviations of the members' rewards are subtracted from the reward.
    """

    log_click: Tensor
    purchase: Tensor
    seen: Tensor
    members: Sequence["Prediction"] = ()
    penalty: float = 0.0

    def rewards(self, conversion_weight: float = 1.0) -> Tensor:
        """log P(click) + `conversion_weight` x log P(purchase | click), minus the penalty for disagreement.

        Returns:
            float [..., N], nats; seen items get the lowest reward of their row (`mask_seen`).
        """
        return self.rewards_at([conversion_weight])[0]

    def rewards_at(self, conversion_weights: Sequence[float]) -> list[Tensor]:
        """`rewards` at each of W weights, for which the purchases are computed once: W times float [..., N]."""
        log_purchase = F.logsigmoid(self.purchase) if any(conversion_weights) else self.purchase
        found: list[Tensor] = []
        for weight in conversion_weights:
            value = torch.add(self.log_click, log_purchase, alpha=weight) if weight else self.log_click
            if len(self.members) > 1 and self.penalty:
                of_members = torch.stack([member.rewards(weight) for member in self.members])
                value = value - self.penalty * of_members.std(0, correction=0)
            found.append(mask_seen(value, self.seen))
        return found


class RewardModel(nn.Module):
    """Base class of models that score all items of a catalogue as the next click, with rewards in nats.

    A subclass implements `predict`, `predict_packed`, `num_items`, `window` and `device`. Its calibration (click
    temperature, purchase scale and offset) is set once after training, without gradients.
    """

    click_temperature: Tensor
    purchase_scale: Tensor
    purchase_offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, value in CALIBRATION.items():
            self.register_buffer(name, torch.tensor(value))

    @property
    def num_items(self) -> int:
        """Size N of the catalogue."""
        raise NotImplementedError

    @property
    def window(self) -> int:
        """Number of newest items of a history that the encoder reads."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        raise NotImplementedError

    def predict(
        self,
        histories: Histories,
        purchases: Purchases = None,
        profiles: np.ndarray | None = None,
        clicks_before: Tensor | None = None,
    ) -> Prediction:
        """Scores [B, N] after the last item of each history.

        Args:
            histories: as in `log_rewards`.
            purchases: as in `log_rewards`.
            profiles: as in `log_rewards`.
            clicks_before: number of the user's clicks on each item before the history starts, [B, N]. The encoder does
                not read them.
        """
        raise NotImplementedError

    def predict_packed(
        self,
        history: Tensor,
        purchased: Tensor | None,
        mask: Tensor,
        clicks_before: Tensor | None = None,
        profiles: np.ndarray | None = None,
    ) -> Prediction:
        """Scores [B, L, N] after every prefix; see `log_rewards_packed` for the arguments."""
        raise NotImplementedError

    def set_calibration(
        self, click_temperature: float = 1.0, purchase_scale: float = 1.0, purchase_offset: float = 0.0
    ) -> None:
        """Sets the calibration; without arguments, to that of an uncalibrated model."""
        self.click_temperature.fill_(click_temperature)
        self.purchase_scale.fill_(purchase_scale)
        self.purchase_offset.fill_(purchase_offset)

    @torch.no_grad()
    def log_rewards(
        self,
        histories: Histories,
        purchases: Purchases = None,
        profiles: np.ndarray | None = None,
        conversion_weight: float = 1.0,
    ) -> Tensor:
        """Reward of every item as the next click after each history.

        Args:
            histories: item indices in time order, [B] histories of any length, also empty. The encoder reads the
                newest `window` items.
            purchases: whether each item was purchased. None, or None for one history, means unknown.
            profiles: rows of `features.profile_words`, int64 [B, P]. None means unknown.
            conversion_weight: weight of log P(purchase | click). 1 gives the joint log-probability of click and
                purchase, 0 that of the click.

        Returns:
            float [B, N], nats; seen items get the lowest reward of their row.

        Raises:
            DataError: an item is outside the catalogue, or the flags and items of a history differ in number.
        """
        return self.predict(histories, purchases, profiles).rewards(conversion_weight)

    @torch.no_grad()
    def log_clicks(
        self,
        histories: Histories,
        purchases: Purchases = None,
        profiles: np.ndarray | None = None,
    ) -> Tensor:
        """Calibrated log P(click), for use of the model as a next-item recommender.

        Arguments and errors are those of `log_rewards`.

        Returns:
            float [B, N], nats; seen items get the lowest value of their row.
        """
        prediction = self.predict(histories, purchases, profiles)
        return mask_seen(prediction.log_click, prediction.seen)

    @torch.no_grad()
    def log_rewards_packed(
        self,
        history: Tensor,
        purchased: Tensor | None = None,
        mask: Tensor | None = None,
        clicks_before: Tensor | None = None,
        profiles: np.ndarray | None = None,
        conversion_weight: float = 1.0,
    ) -> Tensor:
        """Reward of every item after every prefix of packed histories.

        Prefixes up to the window take one pass. Each longer prefix is a pass over its newest `window` items.

        Args:
            history: item indices, left-aligned, int64 [B, L].
            purchased: whether each item was purchased, int or bool [B, L]; None if unknown.
            mask: bool [B, L], False at padding; None if there is no padding.
            clicks_before: number of the user's clicks on each item before the history starts, [B, N].
            profiles: as in `log_rewards`.
            conversion_weight: as in `log_rewards`.

        Returns:
            float [B, L, N], nats. [:, t] equals `log_rewards` of the prefix that ends with item t. Padding is 0.

        Raises:
            DataError: an item is outside the catalogue.
        """
        mask = torch.ones_like(history, dtype=torch.bool) if mask is None else mask.bool()
        rewards = self.predict_packed(history, purchased, mask, clicks_before, profiles).rewards(conversion_weight)
        return torch.where(mask.to(rewards.device)[..., None], rewards, 0.0)
