"""What `report.json` says of one split: every model's metrics, comparisons of models, and slices."""

import numpy as np

from llmrec.config import EvaluationConfig
from llmrec.data.dataset import InteractionData
from llmrec.data.decision import Decisions
from llmrec.evaluation.beyond_accuracy import category_matrix, diversity, gini, miscalibration, novelty, popularity_bias
from llmrec.evaluation.metrics import (
    bootstrap_ci,
    coverage,
    hit_rate,
    holm,
    ndcg,
    paired_bootstrap,
    per_user,
    reciprocal_rank,
)
from llmrec.evaluation.ranking import Ranked
from llmrec.evaluation.slices import slices

COMPARISONS = (
    ("ppo", "sft"),
    ("ppo", "sasrec"),
    ("ppo", "markov"),
    ("ppo", "reward_model"),
    ("sft", "sasrec"),
    ("sft", "markov"),
)
COMPARED_METRICS = ("hr@10", "ndcg@10", "mrr")  # of one pair on one split: a family for Holm's correction
SLICED_METRICS = ("hr@10", "ndcg@10")
ALPHA = 0.05


def split_report(
    data: InteractionData, decisions: Decisions, models: dict[str, Ranked], config: EvaluationConfig, seed: int
) -> dict:
    """Metrics, comparisons and slices of one split.

    Args:
        data: the prepared log.
        decisions: the split's test decisions with their targets.
        models: what each model makes of them.
        config: which K, how many bootstrap samples.
        seed: of the bootstrap.

    Returns:
        `models, comparisons, slices, targets, users`, as the README describes them.
    """
    bootstrap = {"samples": config.bootstrap, "seed": seed}
    accuracy = {name: accuracy_columns(ranked.ranks, config.ks) for name, ranked in models.items()}
    clicks = np.bincount(np.concatenate(data.train_histories), minlength=data.num_items)
    categories = category_matrix(data.items["categories"])
    columns = {
        name: accuracy[name] | list_columns(decisions, ranked.lists, clicks, categories, data.num_users)
        for name, ranked in models.items()
    }
    masks = slices(decisions, clicks, data.train_lengths)
    return {
        "models": {
            name: {metric: interval(column, decisions.users, **bootstrap) for metric, column in columns[name].items()}
            | {
                "coverage": {"value": coverage(ranked.lists, data.num_items), "n": len(decisions)},
                "gini": {"value": gini(ranked.lists, data.num_items), "n": len(decisions)},
            }
            for name, ranked in models.items()
        },
        "comparisons": {
            f"{one}_vs_{two}": comparison(accuracy[one], accuracy[two], decisions.users, **bootstrap)
            for one, two in COMPARISONS
            if one in models and two in models
        },
        "slices": {
            slice_name: {
                name: {m: interval(accuracy[name][m][mask], decisions.users[mask], **bootstrap) for m in SLICED_METRICS}
                for name in models
            }
            for slice_name, mask in masks.items()
        },
        "targets": len(decisions),
        "users": len(np.unique(decisions.users)),
    }


def accuracy_columns(ranks: np.ndarray, ks: list[int]) -> dict[str, np.ndarray]:
    """Ranking metrics of each target, float [M]; at 10 always, where comparisons are made.

    With one relevant item a target, Recall@K is HR@K, so it has no column of its own.
    """
    ks = sorted({*ks, 10})
    columns = {f"hr@{k}": hit_rate(ranks, k) for k in ks} | {f"ndcg@{k}": ndcg(ranks, k) for k in ks}
    return columns | {"mrr": reciprocal_rank(ranks)}


def list_columns(
    decisions: Decisions, lists: np.ndarray, clicks: np.ndarray, categories: np.ndarray, num_users: int
) -> dict[str, np.ndarray]:
    """What the list for each target is like, float [M]; arguments as in `beyond_accuracy`."""
    return {
        "diversity": diversity(lists, categories),
        "novelty": novelty(lists, clicks, num_users),
        "popularity_bias": popularity_bias(lists, decisions.histories, clicks),
        "miscalibration": miscalibration(lists, decisions.histories, categories),
    }


def interval(values: np.ndarray, users: np.ndarray, samples: int, seed: int) -> dict:
    """Mean over users of values [M], its 95 % interval and the number of users; NaN are left out, None if all are."""
    defined = ~np.isnan(values)
    if not defined.any():
        return {"value": None, "ci95": None, "n": 0}
    means = per_user(values[defined], users[defined])[1]
    value, low, high = bootstrap_ci(means, samples, seed)
    return {"value": value, "ci95": [low, high], "n": len(means)}


def comparison(
    one: dict[str, np.ndarray], two: dict[str, np.ndarray], users: np.ndarray, samples: int, seed: int
) -> dict:
    """Paired comparison of two models by `COMPARED_METRICS`, columns [M] each, resampling users.

    Returns:
        per metric `difference` (one - two), `ci95`, `p_holm` (corrected over the metrics) and `verdict`: `better` or
        `worse` if p_holm is below .05, else `no difference`.
    """
    tests = {}
    for metric in COMPARED_METRICS:
        pair = (per_user(columns[metric], users)[1] for columns in (one, two))
        # A p needs more resamples than an interval does: with 1,000, one near .05 is the toss of a coin.
        tests[metric] = paired_bootstrap(*pair, 10 * samples, seed)
    adjusted = holm([p for *_, p in tests.values()])
    return {
        metric: {"difference": difference, "ci95": [low, high], "p_holm": p, "verdict": verdict(difference, p)}
        for (metric, (difference, low, high, _)), p in zip(tests.items(), adjusted, strict=True)
    }


def verdict(difference: float, p: float) -> str:
    """In words, at 95 %: `better`, `worse` or `no difference`."""
    if p >= ALPHA:
        return "no difference"
    return "better" if difference > 0 else "worse"
