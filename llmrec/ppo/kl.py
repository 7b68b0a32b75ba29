"""The KL penalty of PPO, the KL estimates behind it, and the adaptive KL coefficient. All KLs are in nats.

Under `ppo.advantage: exact`, the KL terms of items and text are applied in `ppo.items_exact`.
"""

import torch


def kl_estimate(log_probs: torch.Tensor, ref_log_probs: torch.Tensor, estimator: str) -> torch.Tensor:
    """Estimate of KL(policy || reference) at each token, from the sampled token alone.

    Args:
        log_probs: log-probabilities under the policy, any shape.
        ref_log_probs: log-probabilities under the reference policy, same shape.
        estimator: `k1`, unbiased, or `k3`, which has less variance and is never negative (Schulman, 2020,
            "Approximating KL divergence").

    Returns:
        same shape.
    """
    difference = ref_log_probs - log_probs
    return -difference if estimator == "k1" else difference.exp() - 1 - difference


def kl_penalty(kl: torch.Tensor, kl_coef: float) -> torch.Tensor:
    """The KL penalty: the reward of each token for its distance from the reference policy, zero or below on average.

    Args:
        kl: KL estimate of each token, [B, T].
        kl_coef: KL coefficient.

    Returns:
        `-kl_coef * kl`, [B, T].
    """
    return -kl_coef * kl


def kl_loss(log_probs: torch.Tensor, ref_log_probs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The KL penalty of sampled tokens as a loss: the sum of their `k3` estimates.

    On samples of the policy, its expected gradient is that of KL(reference || policy). It raises the probability of
    every token that the reference policy uses, so rare tokens do not vanish.

    Args:
        log_probs: log-probabilities under the policy, [B, T].
        ref_log_probs: log-probabilities under the reference policy, [B, T].
        mask: tokens that count, bool [B, T].

    Returns:
        the sum, a scalar.
    """
    return (kl_estimate(log_probs, ref_log_probs, "k3") * mask).sum()


def anchor_loss(log_probs: torch.Tensor, ref_log_probs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """KL(reference || policy) of given tokens as a loss: the sum of their `k3` estimates.

    It is an estimate of that KL for tokens that the reference policy samples. Supervised tokens stand in for them. Each
    term is 0 and lowest where policy and reference agree. Its derivative is bounded below by -1, so a token that the
    policy has lost does not dominate the loss, as it would in `kl_loss`.

    Args:
        log_probs: log-probabilities under the policy, [B, T].
        ref_log_probs: log-probabilities under the reference policy, [B, T].
        mask: tokens that count, bool [B, T].

    Returns:
        the sum, a scalar.
    """
    return (kl_estimate(ref_log_probs, log_probs, "k3") * mask).sum()


def categorical_kl(log_probs: torch.Tensor, other_log_probs: torch.Tensor) -> torch.Tensor:
    """Exact KL(first || second) of each row of two tables of log-probabilities.

    Args:
        log_probs: first distribution, -inf where not allowed, [R, C].
        other_log_probs: second distribution, -inf at the same places, [R, C].

    Returns:
        [R].
    """
    difference = torch.where(log_probs.isneginf(), 0, log_probs - other_log_probs)
    return (log_probs.exp() * difference).sum(1)


def next_kl_coef(coefficient: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """The adaptive KL coefficient after a batch (Ziegler et al., 2019, arXiv:1909.08593).

    It grows while the KL is above its target and shrinks while the KL is below.

    Args:
        coefficient: coefficient before the batch.
        kl: measured KL, nats an episode.
        target: desired KL, nats an episode.
        episodes: episodes in the batch.
        horizon: episodes over which a full correction is made.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * episodes / horizon)
