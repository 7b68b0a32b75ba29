"""PPO's losses (Schulman et al., 2017, arXiv:1707.06347); pure functions."""

import torch


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the places where the mask is true; 0 if there is none."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def policy_loss(
    log_probs: torch.Tensor,
    old_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    cliprange: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The clipped surrogate over sampled tokens.

    Args:
        log_probs, old_log_probs, advantages: [B, T].
        mask: tokens that count, bool [B, T].

    Returns:
        loss, and the share of tokens whose ratio the clip held back.
    """
    ratio = (log_probs - old_log_probs).exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    return masked_mean(torch.maximum(plain, clipped), mask), masked_mean((clipped > plain).float(), mask)


def value_loss(
    values: torch.Tensor,
    old_values: torch.Tensor,
    returns: torch.Tensor,
    mask: torch.Tensor,
    cliprange: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Half the squared error of the critic, clipped around its old values.

    Returns:
        loss, and the share of tokens whose value the clip held back.
    """
    clipped = old_values + (values - old_values).clamp(-cliprange, cliprange)
    plain_error, clipped_error = (values - returns) ** 2, (clipped - returns) ** 2
    loss = 0.5 * masked_mean(torch.maximum(plain_error, clipped_error), mask)
    return loss, masked_mean((clipped_error > plain_error).float(), mask)


def exact_item_loss(
    log_probs: torch.Tensor, old_log_probs: torch.Tensor, advantages: torch.Tensor, cliprange: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The clipped surrogate at item decisions as an expectation over the whole catalogue.

    Args:
        log_probs, old_log_probs: over the trie's columns, -inf where not allowed, [R, C].
        advantages: of each column, 0 where not allowed, [R, C].

    Returns:
        loss (mean over decisions), and the probability mass that the clip held back.
    """
    blocked = old_log_probs.isneginf()
    ratio = (log_probs - old_log_probs).masked_fill(blocked, 0).exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    weight = old_log_probs.exp()
    loss = (weight * torch.maximum(plain, clipped)).sum(1).mean()
    return loss, (weight * (clipped > plain)).sum(1).mean()


def kl_estimate(log_probs: torch.Tensor, ref_log_probs: torch.Tensor, estimator: str) -> torch.Tensor:
    """Per-token estimate of KL(policy || reference) from sampled tokens (Schulman, kl-approx): `k1` or `k3`."""
    difference = ref_log_probs - log_probs
    return -difference if estimator == "k1" else difference.exp() - 1 - difference
