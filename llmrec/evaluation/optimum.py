"""The exact optimum of PPO's item objective, and the share of the gap to it that PPO closed.

PPO's item decisions maximize J(pi) = E_pi[r] - beta KL(pi || pi_sft) + alpha H(pi). Over a catalogue that can be
enumerated the maximum is known: pi*(a) = exp((r(a) + beta log pi_sft(a)) / (alpha + beta)) / Z, with
J(pi*) = (alpha + beta) log Z. For alpha = 0 see Korbak et al., Findings of EMNLP 2022, and Rafailov et al., NeurIPS
2023, eq. 4. The optimum is computed from the SFT policy and the reward; no model is trained for it.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from llmrec.config import PPOConfig
from llmrec.evaluation.comparisons import mean_estimate
from llmrec.evaluation.metrics import bootstrap_ratio
from llmrec.evaluation.report import HEADLINE_METRIC, OPTIMUM, POLICIES, Estimate, OptimumReport


def has_optimum(section: PPOConfig) -> bool:
    """Whether PPO maximizes one fixed J that can be enumerated: exact item decisions and constant weights."""
    regularized = section.item_kl_coef + section.item_entropy_coef > 0
    return section.advantage == "exact" and regularized and section.adaptive_kl_target is None


def optimum_log_probs(sft: Tensor, rewards: Tensor, beta: float, alpha: float) -> Tensor:
    """Log-probabilities of the optimal policy.

    Args:
        sft: log-probabilities of the SFT policy, -inf for items that may not be recommended, [..., N].
        rewards: finite rewards in nats, [..., N].
        beta: weight of the KL divergence.
        alpha: weight of the entropy; alpha + beta must be above 0.

    Returns:
        log pi* of all items, [..., N].
    """
    return optimum_logits(sft, rewards, beta, alpha).log_softmax(-1)


def optimum_logits(sft: Tensor, rewards: Tensor, beta: float, alpha: float) -> Tensor:
    """`optimum_log_probs` before they are normalized, which is all that a ranking needs: [..., N]."""
    logits = torch.add(rewards, sft, alpha=beta) / (alpha + beta)
    return torch.where(sft == -torch.inf, -torch.inf, logits)  # for a beta of 0, where 0 * -inf is NaN


def objective(policy: Tensor, sft: Tensor, rewards: Tensor, beta: float, alpha: float) -> Tensor:
    """J = E_pi[r] - beta KL(pi || pi_sft) + alpha H(pi).

    Args:
        policy: log-probabilities of pi, with the support of `sft`, [..., N].
        sft: log-probabilities of the SFT policy, -inf for items that may not be recommended, [..., N].
        rewards: finite rewards in nats, [..., N].
        beta: weight of the KL divergence.
        alpha: weight of the entropy.

    Returns:
        J in nats, [...].
    """
    gain = torch.add(rewards, sft, alpha=beta).sub(policy, alpha=alpha + beta)
    return torch.where(sft > -torch.inf, policy.exp() * gain, 0.0).sum(-1)


def optimum(
    log_probs: Mapping[str, Tensor], rewards: Tensor, section: PPOConfig
) -> tuple[Tensor, dict[str, np.ndarray]]:
    """The optimal log-probabilities, and the objective of SFT, PPO and the optimum.

    Args:
        log_probs: log-probabilities of all items after each of b prompts, for `sft` and `ppo`, [b, N].
        rewards: rewards of all items after the same prompts, see `CompositeReward.newest_item_rewards`, [b, N].
        section: `item_kl_coef` is beta, `item_entropy_coef` is alpha. Distributions are taken at `temperature`, as
            in training.

    Returns:
        log pi*, [b, N], and J of each prompt in nats, by policy, float64 [b].
    """
    weights = (section.item_kl_coef, section.item_entropy_coef)
    sft, ppo = (log_probs[name] for name in POLICIES)
    start = (sft / section.temperature).log_softmax(-1)
    best = optimum_log_probs(start, rewards, *weights)
    of_sft, of_best = (objective(policy, start, rewards, *weights) for policy in (start, best))
    of_ppo = of_sft if ppo is sft else objective((ppo / section.temperature).log_softmax(-1), start, rewards, *weights)
    values = dict(zip((*POLICIES, OPTIMUM), (of_sft, of_ppo, of_best), strict=True))
    return best, {name: value.double().numpy() for name, value in values.items()}


def optimum_report(
    objectives: Mapping[str, np.ndarray],
    ndcg: Mapping[str, np.ndarray],
    section: PPOConfig,
    samples: int,
    seed: int,
) -> OptimumReport:
    """The objective on one split and the share of the gap that PPO closed.

    Args:
        objectives: J by policy (SFT, PPO and the optimum), of each user, [U], or of each seed and user, [S, U].
        ndcg: NDCG@10 of the same policies, in the same form.
        section: the config with the two weights.
        samples: bootstrap resamples over users.
        seed: seed of the bootstrap.
    """
    return OptimumReport(
        beta=section.item_kl_coef,
        alpha=section.item_entropy_coef,
        objective={name: mean_estimate(values, samples, seed) for name, values in objectives.items()},
        gap_closed={
            "objective": gap_closed(objectives, samples, seed),
            HEADLINE_METRIC: gap_closed(ndcg, samples, seed),
        },
    )


def gap_closed(values: Mapping[str, np.ndarray], samples: int, seed: int) -> Estimate:
    """(ppo - sft) / (optimum - sft) with its interval; undefined if the optimum is not significantly above SFT.

    Args:
        values: values of `sft`, `ppo` and `optimum` of each user, [U], or of each seed and user, [S, U].
        samples: bootstrap resamples over users.
        seed: seed of the bootstrap.
    """
    start = values["sft"]
    found = bootstrap_ratio(values["ppo"] - start, values[OPTIMUM] - start, samples, seed)
    users = np.shape(start)[-1]
    if found is None:
        return Estimate(value=None, ci95=None, n=users)
    ratio, low, high = found
    return Estimate(value=ratio, ci95=(low, high), n=users)
