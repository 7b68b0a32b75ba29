"""PPO's losses (Schulman et al., 2017, arXiv:1707.06347); pure functions.

All are *sums*, over tokens or decisions: a mean over a mini-batch must not depend on how it is cut into micro-batches
or spread over processes, so whoever knows how many there are in all divides.
"""

import torch


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
        summed loss, and the number of tokens whose ratio the clip held back.
    """
    ratio = (log_probs - old_log_probs).exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    return (torch.maximum(plain, clipped) * mask).sum(), ((clipped > plain) & mask).sum()


def kl_loss(log_probs: torch.Tensor, ref_log_probs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """How far sampled tokens are from the reference, to be minimised: the `k3` estimate of `kl_estimate`, summed.

    On samples of the policy its gradient is, in expectation, that of KL(reference || policy): it raises the likelihood
    of all that the reference says, so that nothing becomes rare unnoticed.

    Args:
        log_probs, ref_log_probs: [B, T].
        mask: tokens that count, bool [B, T].
    """
    return (kl_estimate(log_probs, ref_log_probs, "k3") * mask).sum()


def value_loss(
    values: torch.Tensor,
    old_values: torch.Tensor,
    returns: torch.Tensor,
    mask: torch.Tensor,
    cliprange: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Half the squared error of the critic, clipped around its old values.

    Returns:
        summed loss, and the number of tokens whose value the clip held back.
    """
    clipped = old_values + (values - old_values).clamp(-cliprange, cliprange)
    plain_error, clipped_error = (values - returns) ** 2, (clipped - returns) ** 2
    return 0.5 * (torch.maximum(plain_error, clipped_error) * mask).sum(), ((clipped_error > plain_error) & mask).sum()


def exact_item_loss(
    log_probs: torch.Tensor, old_log_probs: torch.Tensor, advantages: torch.Tensor, cliprange: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The clipped surrogate at item decisions as an expectation over the whole catalogue.

    Args:
        log_probs, old_log_probs: over the trie's columns, -inf where not allowed, [R, C].
        advantages: of each column, 0 where not allowed, [R, C].

    Returns:
        loss summed over decisions, and the probability mass that the clip held back.
    """
    blocked = old_log_probs.isneginf()
    ratio = (log_probs - old_log_probs).masked_fill(blocked, 0).exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    weight = old_log_probs.exp()
    return (weight * torch.maximum(plain, clipped)).sum(), (weight * (clipped > plain)).sum()


def row_kl(log_probs: torch.Tensor, other_log_probs: torch.Tensor) -> torch.Tensor:
    """KL(first || second) of each row, exact, [R]; both [R, C], -inf at the same places."""
    difference = (log_probs - other_log_probs).masked_fill(log_probs.isneginf(), 0)
    return (log_probs.exp() * difference).sum(1)


def kl_estimate(log_probs: torch.Tensor, ref_log_probs: torch.Tensor, estimator: str) -> torch.Tensor:
    """Per-token estimate of KL(policy || reference) from sampled tokens (Schulman, kl-approx): `k1` or `k3`."""
    difference = ref_log_probs - log_probs
    return -difference if estimator == "k1" else difference.exp() - 1 - difference
