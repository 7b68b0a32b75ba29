"""From rewards to advantages; pure functions over padded episodes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

Sum = Callable[[torch.Tensor], torch.Tensor]  # of a tensor over all processes


@dataclass(frozen=True)
class Rewarded:
    """Episodes with their rewards, G of each prompt in a row.

    Attributes:
        rewards: that follow each token, [B, T].
        values: of the state before each token, [B, T].
        mask: real tokens, bool [B, T].
        item: tokens of the item span, bool [B, T].
        learned: tokens that the sampled objective learns from, bool [B, T].
    """

    rewards: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor
    item: torch.Tensor
    learned: torch.Tensor


def gae_advantages(
    episodes: Rewarded, num_generations: int, gamma: float, lam: float, total: Sum
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whitened GAE; and returns for the critic. Each [B, T]."""
    advantages, returns = gae(episodes.rewards, episodes.values, episodes.mask, gamma, lam)
    return whiten(advantages, episodes.learned, total=total), returns


def text_advantages(
    episodes: Rewarded, num_generations: int, gamma: float, lam: float, total: Sum
) -> tuple[torch.Tensor, torch.Tensor]:
    """GAE as `gae_advantages`, but scaled down alone: where all texts earn the same there is nothing to learn, and
    whitening would make a lesson of the critic's errors.
    """
    advantages, returns = gae(episodes.rewards, episodes.values, episodes.mask, gamma, lam)
    return whiten(advantages, episodes.learned, amplify=False, total=total), returns


def rloo_advantages(
    episodes: Rewarded, num_generations: int, gamma: float, lam: float, total: Sum
) -> tuple[torch.Tensor, None]:
    """REINFORCE leave-one-out (Ahmadian et al., 2024, arXiv:2402.14740): the return minus the mean return of the
    prompt's other G-1 episodes. No critic, no discount.
    """
    returns = span_returns(episodes).unflatten(0, (-1, num_generations))
    others = (returns.sum(1, keepdim=True) - returns) / (num_generations - 1)
    return _to_tokens((returns - others).flatten(0, 1), episodes), None


def group_advantages(
    episodes: Rewarded, num_generations: int, gamma: float, lam: float, total: Sum
) -> tuple[torch.Tensor, None]:
    """GRPO (Shao et al., 2024, arXiv:2402.03300): returns standardised within the prompt's G episodes."""
    returns = span_returns(episodes).unflatten(0, (-1, num_generations))
    scaled = (returns - returns.mean(1, keepdim=True)) / (returns.std(1, keepdim=True) + 1e-4)
    return _to_tokens(scaled.flatten(0, 1), episodes), None


# Under `exact` the item span learns by `exact_item_advantages`; what follows it, from samples.
ESTIMATORS = {"gae": gae_advantages, "exact": text_advantages, "rloo": rloo_advantages, "group": group_advantages}


def span_returns(episodes: Rewarded) -> torch.Tensor:
    """What an episode earns from the start of the item span, and what from its end, [B, 2].

    The text cannot change what the item earned: its tokens are measured against the second number alone.
    """
    rewards = episodes.rewards * episodes.mask
    return torch.stack([rewards.sum(1), (rewards * ~episodes.item).sum(1)], 1)


def _to_tokens(advantages: torch.Tensor, episodes: Rewarded) -> torch.Tensor:
    """The advantage of its span for each token, [B, T], from [B, 2]."""
    return torch.where(episodes.item, advantages[:, :1], advantages[:, 1:]) * episodes.mask


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation (Schulman et al., 2016, arXiv:1506.02438).

    Args:
        rewards: reward that follows each token, [B, T].
        values: value of the state before each token, [B, T].
        mask: true where a token is real; real tokens come first, bool [B, T].
        gamma: discount.
        lam: lambda.

    Returns:
        advantages and returns, [B, T], both 0 beyond the mask. What follows the last real token has value 0.
    """
    rewards, values = rewards * mask, values * mask
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        following = values[:, t + 1] if t + 1 < rewards.shape[1] else torch.zeros_like(running)
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = delta + gamma * lam * running
        advantages[:, t] = running
    advantages = advantages * mask
    return advantages, advantages + values


def whiten(
    values: torch.Tensor,
    mask: torch.Tensor,
    shift_mean: bool = True,
    amplify: bool = True,
    total: Sum = lambda tensor: tensor,
) -> torch.Tensor:
    """Scales masked values to variance 1 (Bessel-corrected, as TRL does) and, with `shift_mean`, to mean 0.

    Args:
        values: any shape.
        mask: true where a value counts, same shape.
        amplify: also where the variance is below 1.
        total: sums over processes, so that all scale alike; by default there is one.

    Returns:
        same shape, 0 beyond the mask; a single value, or equal values, become 0 (or stay, without `shift_mean`).
    """
    count, sum_ = total(torch.stack([mask.sum().to(values), (values * mask).sum()]))
    if count < 2:
        return values * mask * (0 if shift_mean else 1)
    mean = sum_ / count
    variance = total((((values - mean) ** 2) * mask).sum()) / (count - 1)
    scale = torch.rsqrt(variance + 1e-8)
    whitened = (values - mean) * (scale if amplify else scale.clamp(max=1))
    return (whitened if shift_mean else whitened + mean) * mask


def exact_item_advantages(
    rewards: torch.Tensor,
    log_probs: torch.Tensor,
    ref_log_probs: torch.Tensor,
    kl_coef: float,
    entropy_coef: float = 0.0,
) -> torch.Tensor:
    """Advantage of every item of the catalogue at a decision, without sampling.

    The regularised reward of choosing `a` is
    `r(s,a) - kl_coef * (log pi(a|s) - log pi_ref(a|s)) - entropy_coef * log pi(a|s)`; its expectation under the policy
    is the exact baseline.

    Args:
        rewards: reward of each item, nats, [R, C].
        log_probs: of the policy that is being improved, -inf where not allowed, [R, C].
        ref_log_probs: of the reference, -inf at the same places, [R, C].

    Returns:
        [R, C], 0 where not allowed; its expectation under the policy is 0 in every row.
    """
    blocked = log_probs.isneginf()
    penalty = (log_probs - ref_log_probs).masked_fill(blocked, 0)
    shaped = (rewards - kl_coef * penalty - entropy_coef * log_probs).masked_fill(blocked, 0)
    return (shaped - (log_probs.exp() * shaped).sum(1, keepdim=True)).masked_fill(blocked, 0)


def place_rewards(
    rewards: torch.Tensor, span: torch.Tensor, mask: torch.Tensor, item: torch.Tensor, text: torch.Tensor
) -> torch.Tensor:
    """Adds the item's reward at the end of the item span and the text's at the last token.

    Args:
        rewards: rewards that are already there (the KL penalty), [B, T].
        span: tokens of the item span, bool [B, T]; where there are none, the item's reward comes first.
        mask: real tokens, bool [B, T].
        item, text: [B].
    """
    rewards = rewards.clone()
    rows = torch.arange(len(rewards), device=rewards.device)
    rewards[rows, ((span & mask).sum(1) - 1).clamp(min=0)] += item.to(rewards)
    rewards[rows, mask.sum(1) - 1] += text.to(rewards)
    return rewards


def adapted(coefficient: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """The KL coefficient after a batch: raised while the KL is above its target, lowered below (Ziegler et al., 2019,
    arXiv:1909.08593).

    Args:
        kl: measured, nats an episode.
        episodes: in the batch.
        horizon: episodes over which a full correction is made.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * episodes / horizon)
