"""GRPO as generative recommenders run it: 16 rollouts of the next item, and a reward of exact matches."""

import numpy as np
import torch

from benchmarks.arms.start import Start, fit_policy
from benchmarks.budget import Budget, Trained
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import PackedBatch, decision_log_probs, pack
from llmrec.ppo.kl import categorical_kl

GENERATIONS = 16  # rollouts of a prompt in GRPO
GRPO_KL = 1e-3  # KL coefficient of MiniOneRec (arXiv:2510.24431)


def grpo(start: Start, budget: Budget, beam: bool) -> Trained:
    """GRPO with 16 rollouts of the next item at the last prefix, standardized within the group; exact KL of 0.001.

    Windows have random cuts and end before a training item. An item is one token, so 16 rollouts cost no more than
    one. Rollouts have no text, which favors this arm.

    Args:
        start: the start.
        budget: the budget.
        beam: False: sampled items, reward 1 for the taken item, else 0. True: the 16 most probable items (a beam
            search over single tokens), with the rank penalty of ReRe (arXiv:2510.12211) on top: in a group with the
            taken item, each other item loses a share of 1 that falls with its rank by 1 / log2(rank + 1).
    """
    policy = start.policy()
    queue = start.cut_batches()
    generator = torch.Generator().manual_seed(start.run.config.seed)
    equal_groups: list[float] = []

    def loss() -> torch.Tensor:
        decisions = next(queue)
        batch = pack(policy, decisions)
        log_probs = last_log_probs(policy, batch)
        with torch.no_grad(), policy.reference():
            reference = last_log_probs(policy, batch)
        items = drawn(log_probs.detach(), generator, beam)
        target = policy.vocabulary.trie.rank[torch.from_numpy(decisions.targets)]
        rewards = group_rewards(items == target[:, None], beam)
        gains = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
        equal_groups.append(float((rewards.amax(1) == rewards.amin(1)).float().mean()))
        divergence = categorical_kl(log_probs, reference).mean()
        return -(gains * log_probs.gather(1, items)).mean() + GRPO_KL * divergence

    trained = fit_policy(policy, loss, budget)
    notes = {"groups_without_advantage": float(np.mean(equal_groups))}
    return Trained(trained.scores, trained.validation, trained.steps, notes)


def drawn(log_probs: torch.Tensor, generator: torch.Generator, beam: bool) -> torch.Tensor:
    """The 16 columns of each group: sampled, or the most probable ones in order; int64 [B, 16]."""
    if beam:
        return log_probs.topk(min(GENERATIONS, log_probs.shape[1])).indices
    return torch.multinomial(log_probs.exp(), GENERATIONS, replacement=True, generator=generator)


def group_rewards(hits: torch.Tensor, ranked: bool) -> torch.Tensor:
    """Rewards of groups of items.

    Args:
        hits: whether each item is the taken one, bool [B, G].
        ranked: whether groups with a hit get ReRe's rank penalty; the items are then in the order of their rank.

    Returns:
        float [B, G].
    """
    rewards = hits.float()
    if not ranked:
        return rewards
    penalty = 1 / torch.log2(torch.arange(hits.shape[1]) + 2.0)
    penalty = (penalty / penalty.sum()).expand_as(rewards)
    return rewards - penalty * (~hits & hits.any(1, keepdim=True))


def last_log_probs(policy: RecPolicy, batch: PackedBatch) -> torch.Tensor:
    """Log-probabilities of all columns at the prompts' ends, [B, C]."""
    rows = decision_log_probs(policy, batch, policy(*batch.inputs()), 1.0)
    return torch.stack([of_prompt[-1] for of_prompt in rows])
