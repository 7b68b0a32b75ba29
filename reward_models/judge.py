"""The judge: a second reward model, fitted on other users, that shows whether a policy exploits errors of the first.

If the reward that a policy is trained on rises while the judge's reward does not, the policy has learned the errors of
the reward model. The judge therefore shares nothing with `ClickPurchaseModel`: no gradients, no order of events, and
users of its own. It resembles `LinearNextItem`, which an ensemble may contain, but has other users and ignores order.
P(click) comes from EASE (Steck, WWW 2019) and item popularity, and with repeats also from the user's own clicks on the
item. P(purchase | click) comes from each item's smoothed purchase rate. The reward has the same unit, log P(click) +
log P(purchase | click) in nats.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from llmrec.data.ragged import Ragged
from llmrec.data.seen_mask import seen_mask
from llmrec.errors import DataError
from llmrec.recommenders.bags import bags
from llmrec.recommenders.ease import ease_weights
from llmrec.recommenders.popularity import item_counts
from reward_models.reward_model import Histories, mask_seen
from reward_models.storage import SavedModel

# EASE inverts a dense matrix of at most this size. Rarer items are scored by their popularity alone.
MAX_EASE_ITEMS = 5_000
MIX_SCORES = 50_000_000  # largest number of scores (users x items) that the mixture is fitted on
# Number of clicks with the average purchase rate that are added to an item's own clicks.
PURCHASE_PRIOR = 10.0


@dataclass(frozen=True)
class JudgeConfig:
    """Shape of the judge; saved as `judge.json`.

    Attributes:
        num_items: size N of the catalogue.
        ease_items: number K of items that EASE covers.
        items_sha256: hash of the item ids in catalogue order, or "" if unknown.
        repeats: whether a seen item can be the next click.
    """

    num_items: int
    ease_items: int
    items_sha256: str = ""
    repeats: bool = False


class EaseJudge(SavedModel):
    """Rewards in nats from EASE, popularity and purchase rates; fit it with `fit_judge`.

    Attributes:
        covered: catalogue indices of the items that EASE covers, int64 [K].
        weights: EASE weights, float [K, K].
        log_popularity: log of each item's smoothed share of clicks, float [N].
        log_purchase: log of each item's smoothed purchase rate, float [N].
        mix: log-linear weights of `features` in the click logit, float [2], or [3] with repeats.
    """

    FAMILY = "ease_judge"
    CONFIG_FILE = "judge.json"
    WEIGHTS_FILE = "judge.safetensors"

    covered: Tensor
    weights: Tensor
    log_popularity: Tensor
    log_purchase: Tensor
    mix: Tensor

    def __init__(self, config: JudgeConfig):
        super().__init__()
        self.config = config
        self.register_buffer("covered", torch.zeros(config.ease_items, dtype=torch.long))
        self.register_buffer("weights", torch.zeros(config.ease_items, config.ease_items))
        self.register_buffer("log_popularity", torch.zeros(config.num_items))
        self.register_buffer("log_purchase", torch.zeros(config.num_items))
        self.register_buffer("mix", torch.ones(3 if config.repeats else 2))

    @classmethod
    def _build(cls, values: dict[str, Any], directory: Path, item_ids: list[str] | None) -> Self:
        return cls(JudgeConfig(**values))

    def features(self, histories: Histories) -> tuple[list[Tensor], Tensor]:
        """What the click logit is a sum of, and the items that cannot be the next click.

        Returns:
            EASE score, float [B, N], log-popularity, float [N], and with repeats log(1 + clicks of the user on the
            item), float [B, N], because the zero diagonal of EASE says nothing of a repeated click; and the seen items,
            or none with repeats, bool [B, N].

        Raises:
            DataError: an item is outside the catalogue.
        """
        seen = torch.from_numpy(seen_mask(histories, self.config.num_items)).to(self.weights.device)
        ease = torch.zeros(seen.shape, device=seen.device)
        ease[:, self.covered] = seen[:, self.covered].float() @ self.weights
        if not self.config.repeats:
            return [ease, self.log_popularity], seen
        counts = bags([np.asarray(history) for history in histories], self.config.num_items).toarray()
        own = torch.from_numpy(counts).log1p().to(seen.device)
        return [ease, self.log_popularity, own], torch.zeros_like(seen)

    def click(self, histories: Histories) -> tuple[Tensor, Tensor]:
        """log P(click) among unseen items, float [B, N] (-inf for seen items), and the seen items, bool [B, N]."""
        features, seen = self.features(histories)
        return _mixed(self.mix, features, seen).log_softmax(-1), seen

    @torch.no_grad()
    def log_rewards(self, histories: Histories, conversion_weight: float = 1.0) -> Tensor:
        """Reward of every item as the next click after each history, as in `RewardModel.log_rewards`.

        Args:
            histories: item indices in time order, [B] histories.
            conversion_weight: weight of log P(purchase | click).

        Returns:
            float [B, N], nats; seen items get the lowest reward of their row.

        Raises:
            DataError: an item is outside the catalogue.
        """
        log_click, seen = self.click(histories)
        return mask_seen(log_click + conversion_weight * self.log_purchase, seen)


def judge_split(num_users: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits users at random into those of the reward model and those of the judge.

    Args:
        num_users: number of users.
        share: share of users for the judge; it gets at least two.
        seed: seed of the split.

    Returns:
        user indices of the reward model and of the judge, both ascending.
    """
    order = np.random.default_rng([seed, 1]).permutation(num_users)
    count = min(num_users - 1, max(2, round(share * num_users)))
    return np.sort(order[count:]), np.sort(order[:count])


def fit_judge(
    histories: Sequence[np.ndarray],
    purchases: Sequence[np.ndarray],
    num_items: int,
    items_sha256: str = "",
    l2: float = 100.0,
    repeats: bool = False,
) -> EaseJudge:
    """Fits the judge. The weights of the mixture are fitted on the last item of every fifth user.

    Large logs fit them on fewer users, so that `MIX_SCORES` is kept.

    Args:
        histories: item indices of each user in time order.
        purchases: whether each item was purchased, bool, shaped as `histories`.
        num_items: size N of the catalogue.
        items_sha256: hash of the item ids.
        l2: L2 regularization of EASE, in users.
        repeats: whether a seen item can be the next click.

    Raises:
        DataError: fewer than two users have at least two events.
    """
    histories = Ragged.of(histories)
    lengths = histories.lengths
    usable = np.flatnonzero(lengths > 1)
    if len(usable) < 2:
        raise DataError(
            f"The judge needs at least 2 users with 2 or more training events, found {len(usable)}: "
            "use a longer log, or a larger `reward.judge_users`."
        )
    # EASE must not see the last items on which the mixture is fitted.
    held_out = usable[::5]
    is_held_out = np.zeros(len(lengths), dtype=bool)
    is_held_out[held_out] = True
    shown = histories.first(lengths - is_held_out)
    config = JudgeConfig(num_items, min(num_items, MAX_EASE_ITEMS), items_sha256, repeats)
    judge = _count(shown, Ragged.of(purchases), config, l2)
    sample = held_out[:: -(-len(held_out) * num_items // MIX_SCORES)]
    targets = torch.from_numpy(histories.at(sample, lengths[sample] - 1))
    judge.mix.copy_(_fit_mix(judge, shown.select(sample), targets))
    return judge


def _count(histories: Ragged, purchases: Ragged, config: JudgeConfig, l2: float) -> EaseJudge:
    """A judge with everything but the weights of its mixture, from the clicks and purchases of each user."""
    num_items = config.num_items
    clicks = item_counts(histories, num_items)
    purchased = np.zeros(num_items)
    for items, flags in zip(histories.parts(), purchases.first(histories.lengths).parts(), strict=True):
        purchased += np.bincount(items.flat(), flags.flat(), minlength=num_items)
    covered = np.sort(np.argsort(-clicks, kind="stable")[: config.ease_items])
    row_of_item = np.full(num_items, -1)
    row_of_item[covered] = np.arange(len(covered))
    rows = (row_of_item[history] for history in histories)
    inside = (row[row >= 0] for row in rows)
    judge = EaseJudge(config)
    judge.covered.copy_(torch.from_numpy(covered))
    judge.weights.copy_(torch.from_numpy(ease_weights(inside, len(covered), l2)))
    share = (clicks + 1.0) / (clicks.sum() + num_items)
    # The prior has one more click without a purchase, so the logarithm is finite if nobody purchased anything.
    average_rate = (purchased.sum() + 1.0) / (clicks.sum() + 2.0)
    rate = (purchased + PURCHASE_PRIOR * average_rate) / (clicks + PURCHASE_PRIOR)
    judge.log_popularity.copy_(torch.from_numpy(np.log(share)))
    judge.log_purchase.copy_(torch.from_numpy(np.log(rate)))
    return judge


def _fit_mix(judge: EaseJudge, histories: Sequence[np.ndarray], targets: Tensor) -> Tensor:
    """Mixture weights of maximum likelihood; the loss is convex, so L-BFGS finds the optimum."""
    features, seen = judge.features(histories)
    mix = torch.ones(len(features), requires_grad=True)
    optimizer = torch.optim.LBFGS([mix], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        # A weak pull towards 1 keeps the weights finite if the targets are separable.
        pull = 1e-3 * (mix - 1.0).square().sum()
        value = nn.functional.cross_entropy(_mixed(mix, features, seen), targets) + pull
        value.backward()
        return value

    optimizer.step(loss)
    return mix.detach()


def _mixed(mix: Tensor, features: Sequence[Tensor], impossible: Tensor) -> Tensor:
    """Click logits, float [B, N]: the weighted sum of the features, -inf for items that cannot be clicked."""
    logits = sum((weight * feature for weight, feature in zip(mix, features, strict=True)), torch.zeros(()))
    return torch.where(impossible, -torch.inf, logits)
