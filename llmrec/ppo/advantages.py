"""Advantage estimators for sampled tokens and for all items."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

Sum = Callable[[torch.Tensor], torch.Tensor]  # the sum of a tensor over all processes
Estimate = tuple[torch.Tensor, torch.Tensor | None]  # advantages [B, T], and returns [B, T] if a critic learns
Estimator = Callable[["Trajectories"], Estimate]


@dataclass(frozen=True)
class Trajectories:
    """B sampled episodes with their rewards; the G episodes of a prompt are consecutive.

    Attributes:
        rewards: reward that follows each token, [B, T].
        values: critic's value of the state before each token, [B, T].
        mask: real tokens, bool [B, T].
        item_mask: tokens of the recommended item, bool [B, T].
        policy_mask: tokens whose advantages the policy loss uses, bool [B, T].
    """

    rewards: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor
    item_mask: torch.Tensor
    policy_mask: torch.Tensor


def sampled_estimator(name: str, gamma: float, lam: float, num_generations: int, total: Sum) -> Estimator:
    """The estimator that `ppo.advantage` names, for items that are learned from samples.

    Args:
        name: `gae`, `rloo` or `group`.
        gamma: discount of GAE.
        lam: lambda of GAE.
        num_generations: episodes of each prompt.
        total: sums a tensor over all processes.
    """
    estimators: dict[str, Estimator] = {
        "gae": partial(gae_advantages, gamma=gamma, lam=lam, total=total),
        "rloo": partial(rloo_advantages, num_generations=num_generations),
        "group": partial(group_advantages, num_generations=num_generations),
    }
    return estimators[name]


def gae_advantages(
    trajectories: Trajectories, gamma: float, lam: float, total: Sum
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whitened GAE advantages, and returns for the critic; each [B, T]."""
    advantages, returns = gae(trajectories.rewards, trajectories.values, trajectories.mask, gamma, lam)
    return whiten(advantages, trajectories.policy_mask, total=total), returns


def text_advantages(
    trajectories: Trajectories, gamma: float, lam: float, total: Sum
) -> tuple[torch.Tensor, torch.Tensor]:
    """Like `gae_advantages`, but never scales up.

    If all texts earn the same reward, the advantages are only critic noise, and whitening would amplify it.
    """
    advantages, returns = gae(trajectories.rewards, trajectories.values, trajectories.mask, gamma, lam)
    return whiten(advantages, trajectories.policy_mask, amplify=False, total=total), returns


def rloo_advantages(trajectories: Trajectories, num_generations: int) -> tuple[torch.Tensor, None]:
    """REINFORCE leave-one-out (Ahmadian et al., 2024, arXiv:2402.14740), without critic or discount.

    The advantage is the return minus the mean return of the prompt's other G-1 episodes.
    """
    deviations = _deviations(trajectories, num_generations)
    advantages = deviations * num_generations / (num_generations - 1)
    return _to_tokens(advantages.flatten(0, 1), trajectories), None


def group_advantages(trajectories: Trajectories, num_generations: int) -> tuple[torch.Tensor, None]:
    """GRPO (Shao et al., 2024, arXiv:2402.03300): returns standardized within the prompt's G episodes."""
    deviations = _deviations(trajectories, num_generations)
    advantages = deviations / (deviations.std(1, keepdim=True) + 1e-4)
    return _to_tokens(advantages.flatten(0, 1), trajectories), None


def _deviations(trajectories: Trajectories, num_generations: int) -> torch.Tensor:
    """Span returns less their mean over the prompt's generations, [B/G, G, 2]; exactly 0 if all are equal."""
    returns = span_returns(trajectories).unflatten(0, (-1, num_generations))
    differences = returns - returns[:, :1]  # the mean of equal numbers may be rounded, that of zeros is 0
    return differences - differences.mean(1, keepdim=True)


def span_returns(trajectories: Trajectories) -> torch.Tensor:
    """Undiscounted return of each episode from the start of the item, and from the start of the text; [B, 2].

    The text cannot change the item's reward, so text tokens are credited with the second return only.
    """
    rewards = trajectories.rewards * trajectories.mask
    return torch.stack([rewards.sum(1), (rewards * ~trajectories.item_mask).sum(1)], 1)


def _to_tokens(advantages: torch.Tensor, trajectories: Trajectories) -> torch.Tensor:
    """Gives item tokens the first and text tokens the second of an episode's two advantages: [B, 2] to [B, T]."""
    return torch.where(trajectories.item_mask, advantages[:, :1], advantages[:, 1:]) * trajectories.mask


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalized advantage estimation (Schulman et al., 2016, arXiv:1506.02438).

    Args:
        rewards: reward that follows each token, [B, T].
        values: value of the state before each token, [B, T].
        mask: true where a token is real; real tokens come first, bool [B, T].
        gamma: discount.
        lam: lambda.

    Returns:
        advantages and returns, [B, T], both 0 beyond the mask. The state after the last real token has value 0.
    """
    rewards = rewards * mask
    values = values * mask
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        next_value = values[:, t + 1] if t + 1 < rewards.shape[1] else torch.zeros_like(running)
        delta = rewards[:, t] + gamma * next_value - values[:, t]
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
    """Scales masked values to variance 1 (Bessel-corrected, as in TRL) and, with `shift_mean`, to mean 0.

    Args:
        values: any shape.
        mask: true where a value counts, same shape.
        shift_mean: whether to subtract the mean.
        amplify: whether to scale up if the variance is below 1.
        total: sums a tensor over all processes, so that all processes scale alike. The default is for one process.

    Returns:
        same shape, 0 beyond the mask. A single value, or equal values, become 0 (unchanged without `shift_mean`).
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

    The regularized reward of item `a` in state `s` is
    `r(s,a) - kl_coef * (log pi(a|s) - log pi_ref(a|s)) - entropy_coef * log pi(a|s)`. Its expectation under the policy
    is the baseline.

    Args:
        rewards: reward of each item, nats, [R, C].
        log_probs: log-probabilities under the policy, -inf where not allowed, [R, C].
        ref_log_probs: log-probabilities under the reference policy, -inf at the same places, [R, C].
        kl_coef: coefficient of the KL penalty.
        entropy_coef: coefficient of the entropy bonus.

    Returns:
        [R, C], 0 where not allowed. The expectation under the policy is 0 in every row.
    """
    blocked = log_probs.isneginf()
    log_ratio = torch.where(blocked, 0, log_probs - ref_log_probs)
    regularized = torch.where(blocked, 0, rewards - kl_coef * log_ratio - entropy_coef * log_probs)
    baseline = (log_probs.exp() * regularized).sum(1, keepdim=True)
    return torch.where(blocked, 0, regularized - baseline)


def add_span_rewards(
    rewards: torch.Tensor,
    item_mask: torch.Tensor,
    mask: torch.Tensor,
    item_reward: torch.Tensor,
    text_reward: torch.Tensor,
) -> torch.Tensor:
    """Adds the item reward to the last item token of each episode, and the text reward to its last token.

    Args:
        rewards: rewards so far (the KL penalty), [B, T].
        item_mask: item tokens, bool [B, T]. An episode without any receives its item reward at the first token.
        mask: real tokens, bool [B, T].
        item_reward: [B].
        text_reward: [B].

    Returns:
        [B, T].
    """
    rewards = rewards.clone()
    rows = torch.arange(len(rewards), device=rewards.device)
    rewards[rows, ((item_mask & mask).sum(1) - 1).clamp(min=0)] += item_reward.to(rewards)
    rewards[rows, mask.sum(1) - 1] += text_reward.to(rewards)
    return rewards
