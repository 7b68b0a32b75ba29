"""Item rewards as clipped log-odds, and the log-odds of each item averaged over users."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmrec.data.dataset import InteractionData
from llmrec.data.seen_mask import seen_mask
from reward_models.features import profile_words

SAMPLED_USERS = 1000  # users over whom an item's log-odds are averaged
LARGEST_LOG_PROBABILITY = -1e-6  # log-odds are at most 13.8, where the probability is 1 - 1e-6
CLIP = 12.0  # nats at which a lift is clipped, so that no single value outweighs a batch


def log_odds(log_probability: Tensor) -> Tensor:
    """log(p / (1 - p)) from log p, any shape; at most 13.8."""
    log_probability = log_probability.clamp(max=LARGEST_LOG_PROBABILITY)
    log_rest = torch.expm1(log_probability).neg_().log_()
    return log_probability.sub_(log_rest)


def lowest_lift(num_items: int, popularity_weight: float) -> float:
    """The value below which `clipped_lift` clips: `CLIP` nats below the lift of a uniform choice among N items."""
    return -CLIP - (1 - popularity_weight) * math.log(num_items)


def clipped_lift(log_probability: Tensor, popularity: Tensor, popularity_weight: float) -> Tensor:
    """Log-odds of all items minus `popularity_weight` times their popularity, clipped.

    The lower limit follows the size of the catalogue, because log-odds do: a uniform choice among N items has about
    -log(N). A fixed limit would make most items of a large catalogue equal.

    Args:
        log_probability: log-probability of each item, float [..., N].
        popularity: average log-odds of each item, float [N].
        popularity_weight: weight of the popularity, in [0, 1].

    Returns:
        float [..., N], nats, from `lowest_lift` to `CLIP`.
    """
    lift = log_odds(log_probability).sub_(popularity, alpha=popularity_weight)
    return lift.clamp_(lowest_lift(lift.shape[-1], popularity_weight), CLIP)


@dataclass(frozen=True)
class SampledPrefixes:
    """Prefixes of training histories, one for each sampled user.

    Attributes:
        histories: item indices before a random position, int64 [n] each.
        purchases: whether each item was purchased, bool [n] each.
        profiles: profile words of the users, int64 [U, P].
        masked: items that may not follow: those of the history, or none with repeats, int64 [n] each.
    """

    histories: list[np.ndarray]
    purchases: list[np.ndarray]
    profiles: np.ndarray
    masked: list[np.ndarray]


def sampled_prefixes(data: InteractionData, sample: int = SAMPLED_USERS) -> SampledPrefixes:
    """Cuts the training histories of at most `sample` users at random positions, with a fixed seed."""
    generator = np.random.default_rng(0)
    users = generator.permutation(np.flatnonzero(data.train_lengths))[:sample]
    cuts = [(user, int(generator.integers(data.train_lengths[user]))) for user in users]
    histories = [data.histories[user][:cut] for user, cut in cuts]
    return SampledPrefixes(
        histories=histories,
        purchases=[data.purchases[user][:cut] for user, cut in cuts],
        profiles=profile_words(data.users)[users],
        masked=[history[:0] for history in histories] if data.repeats else histories,
    )


@torch.no_grad()
def item_log_odds(
    log_rewards: Callable[[slice], Tensor], masked: Sequence[np.ndarray], num_items: int, batch: int = 64
) -> Tensor:
    """Log-odds of each item as the next click of an average user to whom it may be recommended.

    They are the log-odds of the mean over users of the *model's* probability, not of the log's frequency. A rare item
    that the model overrates is then overrated here as well, so a policy gains nothing from it.

    Args:
        log_rewards: gives the model's log-rewards after b of the U histories, [..., b, N]; see
            `RewardModel.log_rewards`. Leading dimensions, such as several weights of purchases, stay apart.
        masked: items that may not follow the history of each of U users.
        num_items: size N of the catalogue.
        batch: number of histories in one forward pass.

    Returns:
        float32 [..., N].
    """
    totals: list[Tensor] = []
    counts: list[Tensor] = []
    for start in range(0, len(masked), batch):
        rows = slice(start, start + batch)
        probabilities = log_rewards(rows).exp()
        impossible = torch.from_numpy(seen_mask(masked[rows], num_items)).to(probabilities.device)
        totals.append(torch.where(impossible, 0.0, probabilities).sum(-2).double())
        counts.append((~impossible).sum(0))
    total = torch.stack(totals).sum(0)
    users = torch.stack(counts).sum(0).float()
    # One more user, with equal probabilities of all items, is for items that all of these users have seen.
    mean = (total + total.sum(-1, keepdim=True) / users.sum()) / (users + 1.0)
    return log_odds(mean.log()).float()
