"""The best that KL-regularised RL could reach, exactly, and how much of the way PPO went.

PPO's item decisions maximise J(pi) = E_pi[r] - beta KL(pi || pi_sft) + alpha H(pi). Over an enumerable catalogue the
maximum is known: pi*(a) = exp((r(a) + beta log pi_sft(a)) / (alpha + beta)) / Z, with J(pi*) = (alpha + beta) log Z
(alpha 0: Korbak et al., RL with KL penalties is better viewed as Bayesian inference, Findings of EMNLP 2022; Rafailov
et al., NeurIPS 2023, eq. 4). It is computed at inference time from the SFT policy and the reward; nothing is trained.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from llmrec.config import PPOConfig
from llmrec.data.decision import Decisions
from llmrec.evaluation.ranking import chunks
from llmrec.evaluation.split_report import interval
from llmrec.reward.composite import CompositeReward

NAMES = ("sft", "ppo", "optimum")
DECISION_ROWS = 16  # prompts a pass: the reward is computed after each of their items, [16, J, N]


def has_optimum(section: PPOConfig) -> bool:
    """Whether PPO maximises one fixed J that can be enumerated: exact item decisions, and a beta that stays."""
    regularised = section.item_kl_coef + section.item_entropy_coef > 0
    return section.advantage == "exact" and regularised and section.adaptive_kl_target is None


def optimum_log_probs(sft: Tensor, rewards: Tensor, beta: float, alpha: float) -> Tensor:
    """log pi* of all items, [..., N].

    Args:
        sft: log-probabilities of the SFT policy, -inf where an item may not be recommended, [..., N].
        rewards: finite, in nats, [..., N].
        beta, alpha: weights of the KL and of the entropy, above 0 together.
    """
    blocked = sft == -torch.inf  # 0 * -inf is no number
    logits = (rewards + beta * sft.masked_fill(blocked, 0.0)) / (alpha + beta)
    return logits.masked_fill(blocked, -torch.inf).log_softmax(-1)


def objective(policy: Tensor, sft: Tensor, rewards: Tensor, beta: float, alpha: float) -> Tensor:
    """J = E_pi[r] - beta KL(pi || pi_sft) + alpha H(pi), nats, [...], of log-probabilities [..., N], of one support."""
    allowed = sft > -torch.inf
    own = policy.masked_fill(~allowed, 0.0)
    gain = rewards - beta * (own - sft.masked_fill(~allowed, 0.0)) - alpha * own
    return (policy.exp() * gain.masked_fill(~allowed, 0.0)).sum(-1)


def optimum(
    log_probs: dict[str, Tensor], rewards: Tensor, section: PPOConfig
) -> tuple[Iterator[np.ndarray], dict[str, np.ndarray]]:
    """The optimum as scores to rank by, and the objective of SFT, PPO and the optimum.

    Args:
        log_probs: of `sft` and `ppo`, all items after each of M prompts, [M, N].
        rewards: of the same, see `item_rewards`, [M, N].
        section: beta is `item_kl_coef`, alpha `item_entropy_coef`; distributions are taken at `temperature`, as in
            training.

    Returns:
        log pi* in batches [b, N], and J of each prompt by policy, nats, float [M].
    """
    weights = (section.item_kl_coef, section.item_entropy_coef)
    parts, values = [], {name: [] for name in NAMES}
    for rows in chunks(len(rewards)):
        part = slice(rows.start, rows.stop)
        at = {name: (log_probs[name][part] / section.temperature).log_softmax(-1) for name in ("sft", "ppo")}
        at["optimum"] = optimum_log_probs(at["sft"], rewards[part], *weights)
        parts.append(at["optimum"].numpy())
        for name in NAMES:
            values[name].append(objective(at[name], at["sft"], rewards[part], *weights).numpy())
    return iter(parts), {name: np.concatenate(value).astype(np.float64) for name, value in values.items()}


def optimum_report(
    values: dict[str, np.ndarray], models: dict, users: np.ndarray, section: PPOConfig, samples: int, seed: int
) -> dict:
    """What `report.json` says of one split.

    Args:
        values: J by policy, [M].
        models: the split's `models` of the report, with sft, ppo and optimum.
        users: of each target, [M].
        section: of the two weights.
        samples, seed: of the bootstrap over users.

    Returns:
        `beta`, `alpha`, `objective.<sft|ppo|optimum>` and `gap_closed.<objective|ndcg@10>`.
    """
    means = {name: interval(value, users, samples, seed) for name, value in values.items()}
    gains = {name: models[name]["ndcg@10"] for name in NAMES}
    return {
        "beta": section.item_kl_coef,
        "alpha": section.item_entropy_coef,
        "objective": means,
        "gap_closed": {
            metric: gap_closed(*(found[name]["value"] for name in NAMES))
            for metric, found in (("objective", means), ("ndcg@10", gains))
        },
    }


def item_rewards(reward: CompositeReward, decisions: Decisions) -> Tensor:
    """The reward of every item at M decisions, exactly as PPO's item decisions see it, float [M, N].

    Args:
        reward: what PPO maximised.
        decisions: M prompts.
    """
    parts = (reward.decisions(part) for part in decisions.batches(DECISION_ROWS))
    # A copy: a view of the last decision would keep those of all others.
    return torch.stack([rewards[-1].clone() for part in parts for rewards in part]).cpu()


def gap_closed(sft: float, ppo: float, optimum: float) -> float | None:
    """(ppo - sft) / (optimum - sft): 0 is the SFT start, 1 the optimum; None where the optimum is not above SFT."""
    return (ppo - sft) / (optimum - sft) if optimum > sft else None
