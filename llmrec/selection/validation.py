"""How well a policy ranks validation targets during training."""

from collections.abc import Sequence

import numpy as np
import torch

from llmrec.data.dataset import InteractionData, Targets
from llmrec.data.decision import Decision, Decisions
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import item_scores


def validation_sample(data: InteractionData, count: int, seed: int) -> Targets:
    """A seeded sample of at most `count` of `InteractionData.selection_targets`."""
    targets = data.selection_targets()
    order = np.random.default_rng((seed, 11)).permutation(len(targets))[:count]
    return Targets(targets.users[order], targets.positions[order])


def user_ndcg(scores: torch.Tensor, targets: torch.Tensor, k: int = 10) -> torch.Tensor:
    """NDCG@k of each user, [U], where one item is relevant; ties count half.

    Args:
        scores: of all items, [U, N]; an item at -inf is not found.
        targets: the relevant items, int64 [U].
    """
    of_target = scores.gather(1, targets[:, None])
    rank = 1 + (scores > of_target).sum(1) + ((scores == of_target).sum(1) - 1) / 2
    return torch.where((rank <= k) & of_target[:, 0].isfinite(), 1 / torch.log2(rank + 1), 0.0)


def mean_ndcg(scores: torch.Tensor, targets: torch.Tensor, k: int = 10) -> float:
    """The mean of `user_ndcg`."""
    return float(user_ndcg(scores, targets, k).mean())


def best_items(scores: torch.Tensor, k: int = 10) -> torch.Tensor:
    """Each user's k best items, best first, int64 [U, k]; -1 where fewer may be recommended.

    Args:
        scores: of all items, [U, N]; an item at -inf is in no list.
    """
    best = scores.topk(min(k, scores.shape[1]))
    return best.indices.masked_fill(best.values.isneginf(), -1)


def of_lists(lists: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
    """Mean reward of each user's list, [U]: what it is worth, however sure the policy is of it.

    Args:
        lists: items, -1 where there is none, int64 [U, k].
        rewards: of all items, [U, N].
    """
    listed = lists >= 0
    return (rewards.gather(1, lists.clamp(min=0)) * listed).sum(1) / listed.sum(1).clamp(min=1)


def all_item_scores(policy: RecPolicy, decisions: Sequence[Decision]) -> torch.Tensor:
    """Log-probabilities of all items at M decisions, on the CPU, float32 [M, N]."""
    return torch.cat([batch.float().cpu() for batch in item_scores(policy, decisions)])


def mean_policy_ndcg(policy: RecPolicy, decisions: Decisions) -> float:
    """Mean NDCG@10 of a policy's ranking at decisions whose targets are known; ties count half."""
    return mean_ndcg(all_item_scores(policy, decisions), torch.from_numpy(decisions.targets))
