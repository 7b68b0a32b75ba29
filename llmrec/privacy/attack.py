"""A membership inference attack: does an adapter tell who was in its training data?

The attacker knows the first clicks of somebody and the log-probability that the adapter gives them. A user of the
training data is paired with a user of whom no click was trained on and who has as many clicks. The attack scores both,
and its AUC is the probability that the user of the training data gets the higher score. It divides the probability by
that of the base model without the adapter (the likelihood ratio, Carlini et al., 2022).

Two controls know nothing of the adapter. If one of them also tells the groups apart, for instance because they clicked
at different times, a high AUC is no sign of membership (Das et al., 2024).
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

from llmrec.data.dataset import InteractionData
from llmrec.data.decision import Decision
from llmrec.data.profiles import profile_texts
from llmrec.distributed import own_device
from llmrec.off_policy.bootstrap import Estimate, bootstrap
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack, target_log_probs
from llmrec.run import Run

MIN_CLICKS = 3  # fewest clicks of a user who is attacked
MIN_PAIRS = 20  # fewest pairs of which an interval is given
MAX_PAIRS = 1000
BATCH = 16  # histories in a forward pass
SCORES = ("likelihood_ratio", "loss", "base", "popularity")  # the attack, a weaker one, and two controls


@dataclass(frozen=True)
class Pairs:
    """M users of the training data, each with a user outside of it who has as many clicks.

    Attributes:
        members: users of the training data, int64 [M].
        others: users of whom no click was trained or selected on, int64 [M].
        lengths: first clicks of both that are scored, int64 [M].
    """

    members: np.ndarray
    others: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.members)


def matched_users(data: InteractionData, max_history: int, seed: int) -> Pairs:
    """Pairs users of equal activity. Histories that are longer than a prompt count as equally long.

    Args:
        data: the prepared log.
        max_history: clicks that a prompt shows.
        seed: seed of the drawn pairs.
    """
    rng = np.random.default_rng(seed)
    selected = np.zeros(data.num_users, dtype=bool)
    selected[data.selection_targets().users] = True
    lengths = np.array([len(history) for history in data.histories])
    outside = np.flatnonzero((data.train_lengths == 0) & ~selected & (lengths >= MIN_CLICKS))
    waiting: dict[int, list[int]] = defaultdict(list)
    for user in rng.permutation(np.flatnonzero(data.train_lengths >= MIN_CLICKS)).tolist():
        waiting[min(int(data.train_lengths[user]), max_history)].append(user)
    pairs: list[tuple[int, int, int]] = []
    for user in rng.permutation(outside).tolist():
        length = min(int(lengths[user]), max_history)
        if waiting[length] and len(pairs) < MAX_PAIRS:
            pairs.append((waiting[length].pop(), user, length))
    members, others, length = np.array(pairs, dtype=np.int64).reshape(-1, 3).T
    return Pairs(members, others, length)


@torch.no_grad()
def mean_log_probs(policy: RecPolicy, decisions: list[Decision]) -> np.ndarray:
    """Mean log-probability that a policy gives to the shown items of each prompt, float64 [M]."""
    policy.eval().to(own_device())
    found = np.zeros(len(decisions))
    order = np.argsort([len(decision.items) for decision in decisions], kind="stable")
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        batch = pack(policy, [decisions[row] for row in rows]).to(policy.device)
        log_probs = target_log_probs(policy, batch, policy(*batch.inputs())).double().cpu().numpy()
        sums = np.bincount(batch.row.cpu().numpy(), log_probs, minlength=len(rows))
        found[rows] = sums / [len(decisions[row].items) for row in rows]
    return found


def popularity_scores(data: InteractionData, users: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Mean log-popularity of the first clicks of some users among the training clicks of all others, float64 [M]."""
    counts = np.bincount(data.train_histories.flat(), minlength=data.num_items)
    scores: list[float] = []
    for user, length in zip(users.tolist(), lengths.tolist(), strict=True):
        items = data.histories[user][:length]
        own = np.bincount(data.train_histories[user], minlength=data.num_items)[items]
        scores.append(float(np.log(counts[items] - own + 1.0).mean()))
    return np.array(scores)


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """Probability that a score of `members` is above one of `others`; equal scores count half (Mann-Whitney)."""
    ranks = rankdata(np.concatenate([members, others]))[: len(members)]
    return float((ranks.mean() - (len(members) + 1) / 2) / len(others))


def attack(
    pairs: Pairs, scores: dict[str, tuple[np.ndarray, np.ndarray]], samples: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """AUC of each score, and by how much the likelihood ratio exceeds the control that has no model.

    Args:
        pairs: M pairs of users.
        scores: by name of `SCORES`, the scores of both users of each pair, float [M].
        samples: bootstrap resamples, over pairs.
        seed: seed of the bootstrap.
    """

    def statistics(rows: np.ndarray) -> dict[str, float]:
        found = {name: auc(members[rows], others[rows]) for name, (members, others) in scores.items()}
        return found | {"above_popularity": found["likelihood_ratio"] - found["popularity"]}

    return bootstrap(statistics, np.arange(len(pairs)), samples, seed)


def verdict(found: dict[str, Estimate]) -> str:
    """What the AUCs mean, in one sentence."""
    low, high = found["base"].ci95
    if not low <= 0.5 <= high:
        return (
            "not measured: the base model without the adapter tells the two groups apart, so they differ by themselves"
        )
    if found["likelihood_ratio"].ci95[0] <= 0.5:
        return "no membership found: the interval of the attack holds 0.5 or lies below it"
    if found["above_popularity"].ci95[0] <= 0:
        return "not measured: popularity alone tells the two groups apart as well as the attack does"
    return "the adapter tells who was in its training data"


def attack_run(run: Run, data: InteractionData, adapter: str | None, seed: int = 0) -> dict[str, Any]:
    """Attacks an adapter of a run.

    Args:
        run: the run.
        data: its prepared log.
        adapter: `ppo` or `sft`; None for `ppo` if that stage has finished, else `sft`.
        seed: seed of the pairs and of the bootstrap.

    Returns:
        the result as JSON values; `missing` says why there is none.
    """
    name = run.adapter_stage(adapter)
    if adapter is None and not run.finished(name):
        return {"missing": f"The run has no adapter yet. Train one with `llmrec sft {run.directory}`."}
    directory = run.adapter(name)
    catalogue = run.config.catalogue
    pairs = matched_users(data, catalogue.max_history, seed)
    if len(pairs) < MIN_PAIRS:
        return {
            "missing": f"{len(pairs)} users outside of the training data have {MIN_CLICKS} or more clicks, and as many "
            f"as a user of the training data; expected at least {MIN_PAIRS}. Use a log with a `temporal` split "
            "(`data.splits`), and raise `data.temporal_test` (up to 0.5)."
        }
    scores = {"popularity": _both(pairs, popularity_scores(data, *_all_users(pairs)))}
    decisions = _decisions(data, pairs, catalogue.user_attributes)
    with_adapter = mean_log_probs(RecPolicy.from_pretrained(directory), decisions)
    # Co-occurrence of items comes from the training data, so the base starts without it.
    untrained = run.config.model_copy(update={"catalogue": catalogue.model_copy(update={"cooccurrence_weight": 0.0})})
    base = mean_log_probs(RecPolicy.create(untrained, data), decisions)
    scores |= {
        "likelihood_ratio": _both(pairs, with_adapter - base),
        "loss": _both(pairs, with_adapter),
        "base": _both(pairs, base),
    }
    found = attack(pairs, scores, seed=seed)
    return {
        "adapter": name,
        "pairs": len(pairs),
        "auc": {key: {"value": one.value, "ci95": list(one.ci95)} for key, one in found.items()},
        "verdict": verdict(found),
    }


def _all_users(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Members, then others, with the number of clicks that are scored, each int64 [2M]."""
    return np.concatenate([pairs.members, pairs.others]), np.tile(pairs.lengths, 2)


def _both(pairs: Pairs, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of members and of others, from those in the order of `_all_users`."""
    return scores[: len(pairs)], scores[len(pairs) :]


def _decisions(data: InteractionData, pairs: Pairs, attributes: list[str]) -> list[Decision]:
    profiles = profile_texts(data.users, attributes)
    users, lengths = _all_users(pairs)
    return [
        Decision(profiles[user], [], data.histories[user][:length])
        for user, length in zip(users.tolist(), lengths.tolist(), strict=True)
    ]
