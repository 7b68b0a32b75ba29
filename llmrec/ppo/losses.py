"""Losses of PPO (Schulman et al., 2017, arXiv:1707.06347): pure functions of tensors.

All losses are sums over tokens or decisions. The caller divides by the number of tokens of the whole mini-batch, so the
mean does not depend on how the mini-batch is split into micro-batches and processes.
"""

import torch

from llmrec.ppo.kl import categorical_kl


def policy_loss(
    log_probs: torch.Tensor,
    old_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    cliprange: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clipped surrogate loss over sampled tokens.

    Args:
        log_probs: log-probabilities under the policy that learns, [B, T].
        old_log_probs: log-probabilities under the policy that sampled, [B, T].
        advantages: advantage of each token, [B, T].
        mask: tokens that count, bool [B, T].
        cliprange: clip range of the probability ratio.

    Returns:
        summed loss, and number of clipped tokens.
    """
    ratio = (log_probs - old_log_probs).exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    loss = (torch.maximum(unclipped, clipped) * mask).sum()
    return loss, ((clipped > unclipped) & mask).sum()


def value_loss(
    values: torch.Tensor,
    old_values: torch.Tensor,
    returns: torch.Tensor,
    mask: torch.Tensor,
    cliprange: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Half the squared error of the critic, with its values clipped around those at sampling time.

    Args:
        values: values of the critic that learns, [B, T].
        old_values: values at sampling time, [B, T].
        returns: targets of the critic, [B, T].
        mask: tokens that count, bool [B, T].
        cliprange: clip range of the values.

    Returns:
        summed loss, and number of clipped tokens.
    """
    clipped = values.clamp(old_values - cliprange, old_values + cliprange)
    unclipped_error = (values - returns) ** 2
    clipped_error = (clipped - returns) ** 2
    loss = 0.5 * (torch.maximum(unclipped_error, clipped_error) * mask).sum()
    return loss, ((clipped_error > unclipped_error) & mask).sum()


def exact_item_loss(
    log_probs: torch.Tensor, old_log_probs: torch.Tensor, advantages: torch.Tensor, cliprange: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clipped surrogate loss at item decisions, as an expectation over the whole catalogue instead of a sample.

    Args:
        log_probs: log-probabilities under the policy that learns, -inf where not allowed, [R, C].
        old_log_probs: log-probabilities under the policy that sampled, -inf at the same places, [R, C].
        advantages: advantage of each item, 0 where not allowed, [R, C].
        cliprange: clip range of the probability ratio.

    Returns:
        loss summed over decisions, and clipped probability mass summed over decisions.
    """
    blocked = old_log_probs.isneginf()
    ratio = torch.where(blocked, 0, log_probs - old_log_probs).exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    probabilities = old_log_probs.exp()
    loss = (probabilities * torch.maximum(unclipped, clipped)).sum()
    return loss, (probabilities * (clipped > unclipped)).sum()


def distillation_loss(
    log_probs: torch.Tensor, old_log_probs: torch.Tensor, advantages: torch.Tensor, weight: float, forward: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distillation of the policy that maximizes the objective of item decisions, without clipping.

    The maximum of E[r] - beta KL(pi || ref) + alpha H(pi) is pi* = softmax((r + beta log ref) / (alpha + beta)). An
    exact advantage under `old` is (alpha + beta) (log pi* - log old) plus a constant of the decision, so it determines
    pi*. At `old`, the gradient of (alpha + beta) KL(pi || pi*) equals that of `exact_item_loss`.

    Args:
        log_probs: log-probabilities under the policy that learns, -inf where not allowed, [R, C].
        old_log_probs: log-probabilities under the policy of the advantages, -inf at the same places, [R, C].
        advantages: exact advantage of each item, 0 where not allowed, [R, C].
        weight: alpha + beta, above 0.
        forward: KL(pi* || pi) instead of KL(pi || pi*).

    Returns:
        `weight` times the KL divergence, summed over decisions, and 0, because nothing is clipped.
    """
    optimum = (advantages / weight + old_log_probs).log_softmax(1)
    divergence = categorical_kl(optimum, log_probs) if forward else categorical_kl(log_probs, optimum)
    return weight * divergence.sum(), torch.zeros_like(advantages[:0].sum())
