"""What PPO, the evaluation and the metrics ask of a reward model over a catalogue, whatever is inside."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def lowest_for_had(rewards: Tensor, had: Tensor) -> Tensor:
    """Gives items that a user already has the lowest reward of their row: [..., N] -> [..., N], all finite.

    They can be no next click (log-probability -inf), but an expectation over items must stay a number.
    """
    lowest = rewards.masked_fill(had, float("inf")).amin(-1, keepdim=True)
    # With every item had, no reward says more than another.
    lowest = torch.where(lowest.isinf(), torch.zeros_like(lowest), lowest)
    return torch.where(had, lowest, rewards)


@dataclass(frozen=True)
class Prediction:
    """Scores of all items in B states (of any shape [...]), before they become one reward.

    Attributes:
        log_click: log P(click i | not had), float [..., N]; -inf for items had.
        purchase: logits of P(purchase | click), float [..., N].
        had: bool [..., N].
        members: what the members of an ensemble say, each in a shape as above.
        penalty: standard deviations of the members' rewards that an ensemble subtracts.
    """

    log_click: Tensor
    purchase: Tensor
    had: Tensor
    members: Sequence["Prediction"] = ()
    penalty: float = 0.0

    def rewards(self, conversion_weight: float = 1.0) -> Tensor:
        """log P(click) + `conversion_weight` x log P(purchase | click) less an ensemble's disagreement, [..., N], nats.

        An item had can be no next click; see `lowest_for_had`.
        """
        value = self.log_click + conversion_weight * F.logsigmoid(self.purchase)
        if self.members and self.penalty:
            said = torch.stack([member.rewards(conversion_weight) for member in self.members])
            value = value - self.penalty * said.std(0, correction=0)
        return lowest_for_had(value, self.had)


class Rewarder(nn.Module):
    """Rewards from two methods that a model gives: `predict` for the end of each history and `predict_packed` for
    every prefix.
    """

    @torch.no_grad()
    def log_rewards(
        self,
        histories: Sequence[np.ndarray],
        purchases: Sequence[np.ndarray | None] | None = None,
        profiles: np.ndarray | None = None,
        conversion_weight: float = 1.0,
    ) -> Tensor:
        """Reward of every item as the next of each history.

        Args:
            histories: item indices in time order, any length, also empty; the encoder reads the newest
                `window`.
            purchases: whether each item was purchased; None, or None for one history: not known.
            profiles: rows of `features.profile_words`, int64 [B, P]; None: not known.
            conversion_weight: of log P(purchase | click); 1: both, jointly; 0: clicks alone.

        Returns:
            float [B, N], nats; items that the history holds get the lowest reward of their row.

        Raises:
            DataError: an item outside the catalogue, or purchases of another length than their history.
        """
        return self.predict(histories, purchases, profiles).rewards(conversion_weight)

    @torch.no_grad()
    def log_clicks(
        self,
        histories: Sequence[np.ndarray],
        purchases: Sequence[np.ndarray | None] | None = None,
        profiles: np.ndarray | None = None,
    ) -> Tensor:
        """Calibrated log P(click) alone, float [B, N], nats: a next-item recommender (SASRec).

        Arguments, errors and items that the history holds as in `log_rewards`.
        """
        prediction = self.predict(histories, purchases, profiles)
        return lowest_for_had(prediction.log_click, prediction.had)

    @torch.no_grad()
    def log_rewards_packed(
        self,
        history: Tensor,
        purchased: Tensor | None = None,
        mask: Tensor | None = None,
        had: Tensor | None = None,
        profiles: np.ndarray | None = None,
        conversion_weight: float = 1.0,
    ) -> Tensor:
        """Reward of every item after every prefix of packed histories.

        Args:
            history: item indices, int64 [B, L], left-aligned. One pass up to the window; each prefix beyond
                it is a pass over its newest `window` items.
            purchased: int or bool [B, L], or None if not known.
            mask: bool [B, L], False at padding; rewards there are 0. None: no padding.
            had: bool [B, N], items that the user had before the first one here.
            profiles, conversion_weight: as in `log_rewards`.

        Returns:
            float [B, L, N], nats: [:, t] is the reward after items 0..t, the same as `log_rewards` of that
            prefix.

        Raises:
            DataError: an item outside the catalogue.
        """
        mask = torch.ones_like(history, dtype=torch.bool) if mask is None else mask.bool()
        rewards = self.predict_packed(history, purchased, mask, had, profiles).rewards(conversion_weight)
        return rewards.masked_fill(~mask.to(rewards.device)[..., None], 0.0)
