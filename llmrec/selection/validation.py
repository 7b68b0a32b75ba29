"""Validation during training: a sample of users and how well a policy ranks their next items."""

import numpy as np
import torch

from llmrec.data.dataset import InteractionData, Targets
from llmrec.data.decision import Decisions
from llmrec.distributed import gathered, own_rows
from llmrec.evaluation.metrics import rank_of_target
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import all_item_scores


def validation_sample(data: InteractionData, count: int, seed: int) -> Targets:
    """A seeded sample of at most `count` of `InteractionData.selection_targets`."""
    targets = data.selection_targets()
    order = np.random.default_rng((seed, 11)).permutation(len(targets))[:count]
    return Targets(targets.users[order], targets.positions[order])


def choosing_and_deciding(sample: Targets) -> tuple[Targets, Targets]:
    """Splits a sample of targets by user: the first third of its users choose an adapter, the others decide on it.

    Most users decide, because the decision is a test and needs more users than a choice. `sample` is in random order.
    """
    users = sample.users[np.sort(np.unique(sample.users, return_index=True)[1])]
    chooses = np.isin(sample.users, users[: -(-len(users) // 3)])
    parts = (chooses, ~chooses)
    choosing, deciding = (Targets(sample.users[part], sample.positions[part]) for part in parts)
    return choosing, deciding


def user_ndcg(scores: torch.Tensor, targets: torch.Tensor, k: int = 10) -> torch.Tensor:
    """NDCG@k of each user with one relevant item; ties count half.

    Args:
        scores: scores of all items, [U, N]. An item at -inf counts as not ranked.
        targets: the relevant item of each user, int64 [U].
        k: length of the list.

    Returns:
        float32 [U].
    """
    rank = rank_of_target(scores, targets)
    return torch.where(rank <= k, 1 / torch.log2(rank + 1), 0.0)


def best_items(scores: torch.Tensor, k: int = 10) -> torch.Tensor:
    """Each user's k best items, best first.

    Args:
        scores: scores of all items, [U, N]. An item at -inf enters no list.
        k: length of the lists.

    Returns:
        item indices, int64 [U, min(k, N)]; -1 where fewer items may be recommended.
    """
    best = scores.topk(min(k, scores.shape[1]))
    return best.indices.masked_fill(best.values.isneginf(), -1)


def mean_list_reward(lists: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
    """Mean reward of each user's list. It depends on the listed items only, whatever their probabilities.

    Args:
        lists: item indices, -1 where there is none, int64 [U, k].
        rewards: rewards of all items, [U, N].

    Returns:
        float [U].
    """
    listed = lists >= 0
    return (rewards.gather(1, lists.clamp(min=0)) * listed).sum(1) / listed.sum(1).clamp(min=1)


def mean_policy_ndcg(policy: RecPolicy, decisions: Decisions) -> float:
    """Mean NDCG@10 of a policy's ranking at decisions with known targets; ties count half.

    The processes share the decisions. Every process must call it.
    """
    own = decisions.select(own_rows(len(decisions)))
    values = user_ndcg(all_item_scores(policy, own), torch.from_numpy(own.targets))
    return float(np.mean(gathered(values.tolist(), len(decisions))))
