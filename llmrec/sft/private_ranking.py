"""Whether a private adapter still ranks: its NDCG@10 on validation beside its untrained start and popularity.

Noise can protect people by leaving nothing of the ranking. Such an adapter is not called private.
"""

from typing import Any

import numpy as np
import torch

from llmrec.data.dataset import InteractionData
from llmrec.data.decision import Decisions
from llmrec.evaluation.metrics import per_user
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import all_item_scores
from llmrec.selection.guard import difference_bounds
from llmrec.selection.validation import user_ndcg
from llmrec.timing import timed

RIVALS = {"start": "its untrained start", "popularity": "popularity"}


@timed("validation")
def ranked(policy: RecPolicy, decisions: Decisions) -> np.ndarray:
    """NDCG@10 of a policy at decisions with known targets; ties count half. float [M]."""
    policy.eval()
    return user_ndcg(all_item_scores(policy, decisions), torch.from_numpy(decisions.targets)).numpy()


def popularity_ranked(data: InteractionData, decisions: Decisions) -> np.ndarray:
    """NDCG@10 of the items' training clicks at decisions with known targets; ties count half. float [M]."""
    clicks = torch.from_numpy(np.bincount(data.train_histories.flat(), minlength=data.num_items)).float()
    scores = clicks.repeat(len(decisions), 1)
    for row, seen in enumerate(decisions.masked):
        scores[row, torch.tensor(seen, dtype=torch.int64)] = -torch.inf
    return user_ndcg(scores, torch.from_numpy(decisions.targets)).numpy()


def ranking_report(
    start: np.ndarray, private: np.ndarray, decisions: Decisions, data: InteractionData
) -> dict[str, Any]:
    """Compares a private adapter with its untrained start and with popularity.

    Args:
        start: NDCG@10 of the untrained start, [M].
        private: NDCG@10 of the private adapter, [M].
        decisions: the M validation decisions.
        data: the prepared log.

    Returns:
        `ranking`: users, and mean NDCG@10 over users by name; `gains`: mean and one-sided 95 % lower bound by rival,
        paired by user; `ranks`: whether both bounds are above 0; `verdict`: what that means.
    """
    values = {"private": private, "start": start, "popularity": popularity_ranked(data, decisions)}
    by_user = {name: per_user(one, decisions.users)[1] for name, one in values.items()}
    gains = {name: _gain(by_user["private"] - by_user[name]) for name in RIVALS}
    failed = [words for name, words in RIVALS.items() if not gains[name]["lower"] > 0]
    return {
        "ranking": {"users": len(by_user["private"])} | {name: float(one.mean()) for name, one in by_user.items()},
        "gains": gains,
        "ranks": not failed,
        "verdict": _verdict(failed),
    }


def _gain(differences: np.ndarray) -> dict[str, float]:
    """Mean and lower bound of paired differences; a single user has no bound, so its bound is its worst case."""
    if len(differences) < 2:
        return {"mean": float(differences.mean()), "lower": -1.0}
    mean, lower, _ = difference_bounds(differences)
    return {"mean": float(mean), "lower": float(lower)}


def _verdict(failed: list[str]) -> str:
    if failed:
        rivals = " and no better than ".join(failed)
        return f"not called private: the guarantee holds, but the adapter ranks no better than {rivals}"
    return "private and useful: the adapter ranks better than its untrained start and than popularity"
