"""The report of one split: metrics of every model, comparisons of models, and slices."""

import numpy as np

from llmrec.config import EvaluationConfig
from llmrec.data.dataset import InteractionData
from llmrec.data.decision import Decisions
from llmrec.evaluation.beyond_accuracy import (
    category_calibration,
    category_matrix,
    diversity,
    gini,
    novelty,
    popularity_bias,
)
from llmrec.evaluation.comparisons import compare, compared_pairs, user_mean
from llmrec.evaluation.metrics import coverage, hit_rate, ndcg, per_user, reciprocal_rank
from llmrec.evaluation.purchases import Purchases, purchase_columns
from llmrec.evaluation.ranking import Ranked
from llmrec.evaluation.report import Estimate, SplitReport
from llmrec.evaluation.slices import day_slices, slices
from llmrec.recommenders.popularity import item_counts

SLICED_METRICS = ("hr@10", "ndcg@10")


def split_report(
    data: InteractionData,
    decisions: Decisions,
    models: dict[str, Ranked],
    config: EvaluationConfig,
    seed: int,
    rival: str | None = None,
    purchases: Purchases | None = None,
) -> SplitReport:
    """Metrics, comparisons (before `comparisons.correct`) and slices of one split.

    Args:
        data: the prepared log.
        decisions: the split's M test decisions.
        models: the rankings at these decisions, by model.
        config: cut-offs and number of bootstrap resamples.
        seed: seed of the bootstrap.
        rival: the strongest baseline on validation, which the policies are compared with.
        purchases: purchases at the targets; None if the log has none.
    """
    samples = config.bootstrap
    users = decisions.users
    clicks = item_counts(data.train_histories, data.num_items)
    categories = category_matrix(data.items["categories"].tolist())
    accuracy = {name: accuracy_columns(ranked.ranks, config.ks) for name, ranked in models.items()}
    by_user = {
        name: {metric: per_user(column, users)[1] for metric, column in columns.items()}
        for name, columns in accuracy.items()
    }
    metrics = {}
    for name, ranked in models.items():
        columns = accuracy[name] | list_columns(decisions, ranked.lists, clicks, categories, data.num_users)
        if purchases is not None:
            columns |= purchase_columns(ranked.ranks, purchases.purchased)
            columns["expected_purchases@10"] = purchases.expected[name]
        metrics[name] = {metric: user_mean(column, users, samples, seed) for metric, column in columns.items()}
        metrics[name]["coverage"] = Estimate(value=coverage(ranked.lists, data.num_items), n=len(decisions))
        metrics[name]["gini"] = Estimate(value=gini(ranked.lists, data.num_items), n=len(decisions))
    masks = day_slices(data, decisions) | slices(decisions, clicks, data.train_lengths)
    return SplitReport(
        models=metrics,
        comparisons={
            f"{one}_vs_{two}": compare(by_user[one], by_user[two], samples, seed)
            for one, two in compared_pairs(models, rival)
        },
        slices={
            slice_name: {
                name: {m: user_mean(columns[m][mask], users[mask], samples, seed) for m in SLICED_METRICS}
                for name, columns in accuracy.items()
            }
            for slice_name, mask in masks.items()
        },
        targets=len(decisions),
        users=len(np.unique(users)),
        users_with_training=int((data.train_lengths[np.unique(users)] > 0).sum()),
    )


def accuracy_columns(ranks: np.ndarray, ks: list[int]) -> dict[str, np.ndarray]:
    """Ranking metrics of M targets.

    With one relevant item per target Recall@K equals HR@K, so it has no column of its own.

    Args:
        ranks: rank of each target, [M].
        ks: cut-offs. Comparisons need 10, so it is always added.

    Returns:
        float [M] for each metric.
    """
    cutoffs = sorted({*ks, 10})
    columns = {f"hr@{k}": hit_rate(ranks, k) for k in cutoffs} | {f"ndcg@{k}": ndcg(ranks, k) for k in cutoffs}
    return columns | {"mrr": reciprocal_rank(ranks)}


def list_columns(
    decisions: Decisions, lists: np.ndarray, clicks: np.ndarray, categories: np.ndarray, num_users: int
) -> dict[str, np.ndarray]:
    """Properties of the list for each of M targets, float [M]; arguments as in `beyond_accuracy`."""
    return {
        "diversity": diversity(lists, categories),
        "novelty": novelty(lists, clicks, num_users),
        "popularity_bias": popularity_bias(lists, decisions.histories, clicks),
        "miscalibration": category_calibration(lists, decisions.histories, categories),
    }
