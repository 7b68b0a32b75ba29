"""From rewards to advantages; pure functions over padded episodes."""

import torch

from llmrec.policy.constraint import ITEM


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


def whiten(values: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
    """Scales masked values to variance 1 (Bessel-corrected, as TRL does) and, with `shift_mean`, to mean 0.

    Args:
        values: any shape.
        mask: true where a value counts, same shape.

    Returns:
        same shape, 0 beyond the mask; a single value, or equal values, become 0 (or stay, without `shift_mean`).
    """
    count = mask.sum()
    if count < 2:
        return values * mask * (0 if shift_mean else 1)
    mean = (values * mask).sum() / count
    variance = (((values - mean) ** 2) * mask).sum() / (count - 1)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if shift_mean else whitened + mean) * mask


def exact_item_advantages(
    rewards: torch.Tensor, log_probs: torch.Tensor, ref_log_probs: torch.Tensor, kl_coef: float
) -> torch.Tensor:
    """Advantage of every item of the catalogue at a decision, without sampling.

    The KL-regularised reward of choosing `a` is `r(s,a) - kl_coef * (log pi(a|s) - log pi_ref(a|s))`; its expectation
    under the policy is the exact baseline.

    Args:
        rewards: reward of each item, nats, [R, C].
        log_probs: of the policy that is being improved, -inf where not allowed, [R, C].
        ref_log_probs: of the reference, -inf at the same places, [R, C].

    Returns:
        [R, C], 0 where not allowed; its expectation under the policy is 0 in every row.
    """
    blocked = log_probs.isneginf()
    penalty = (log_probs - ref_log_probs).masked_fill(blocked, 0)
    shaped = (rewards - kl_coef * penalty).masked_fill(blocked, 0)
    return (shaped - (log_probs.exp() * shaped).sum(1, keepdim=True)).masked_fill(blocked, 0)


def place_rewards(
    rewards: torch.Tensor, region: torch.Tensor, mask: torch.Tensor, item: torch.Tensor, text: torch.Tensor
) -> torch.Tensor:
    """Adds the item's reward at the end of the item span and the text's at the last token.

    Args:
        rewards: rewards that are already there (the KL penalty), [B, T].
        region: what each token is, [B, T].
        mask: real tokens, bool [B, T].
        item, text: [B].
    """
    rewards = rewards.clone()
    rows = torch.arange(len(rewards), device=rewards.device)
    last_of_item = ((region == ITEM) & mask).sum(1) - 1
    rewards[rows, last_of_item] += item.to(rewards)
    rewards[rows, mask.sum(1) - 1] += text.to(rewards)
    return rewards
