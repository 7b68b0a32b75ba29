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
from llmrec.evaluation.report import COMPARED_METRICS, Comparison, Estimate, SplitReport, verdict_of
from llmrec.evaluation.slices import slices

COMPARISONS = (
    ("ppo", "sft"),
    ("ppo", "sasrec"),
    ("ppo", "markov"),
    ("ppo", "reward_model"),
    ("sft", "sasrec"),
    ("sft", "markov"),
)
SLICED_METRICS = ("hr@10", "ndcg@10")
# A p-value needs more resamples than an interval: near 0.05 the conclusion of 1,000 resamples depends on their seed.
RESAMPLES_PER_TEST = 10


def split_report(
    data: InteractionData, decisions: Decisions, models: dict[str, Ranked], config: EvaluationConfig, seed: int
) -> SplitReport:
    """Metrics, comparisons and slices of one split.

    Args:
        data: the prepared log.
        decisions: the split's M test decisions.
        models: the rankings at these decisions, by model.
        config: cut-offs and number of bootstrap resamples.
        seed: seed of the bootstrap.
    """
    samples = config.bootstrap
    users = decisions.users
    clicks = np.bincount(np.concatenate(data.train_histories), minlength=data.num_items)
    categories = category_matrix(data.items["categories"].tolist())
    accuracy = {name: accuracy_columns(ranked.ranks, config.ks) for name, ranked in models.items()}
    metrics = {}
    for name, ranked in models.items():
        columns = accuracy[name] | list_columns(decisions, ranked.lists, clicks, categories, data.num_users)
        metrics[name] = {metric: user_mean(column, users, samples, seed) for metric, column in columns.items()}
        metrics[name]["coverage"] = Estimate(value=coverage(ranked.lists, data.num_items), n=len(decisions))
        metrics[name]["gini"] = Estimate(value=gini(ranked.lists, data.num_items), n=len(decisions))
    return SplitReport(
        models=metrics,
        comparisons={
            f"{one}_vs_{two}": compare(accuracy[one], accuracy[two], users, samples, seed)
            for one, two in COMPARISONS
            if one in models and two in models
        },
        slices={
            slice_name: {
                name: {m: user_mean(columns[m][mask], users[mask], samples, seed) for m in SLICED_METRICS}
                for name, columns in accuracy.items()
            }
            for slice_name, mask in slices(decisions, clicks, data.train_lengths).items()
        },
        targets=len(decisions),
        users=len(np.unique(users)),
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


def user_mean(values: np.ndarray, users: np.ndarray, samples: int, seed: int) -> Estimate:
    """Mean over users of the users' means, with its 95 % bootstrap interval.

    Args:
        values: value of each target, [M]; NaN are left out.
        users: user of each target, [M].
        samples: bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        The estimate, where `n` counts users; undefined if all values are NaN.
    """
    defined = ~np.isnan(values)
    if not defined.any():
        return Estimate(value=None, ci95=None, n=0)
    means = per_user(values[defined], users[defined])[1]
    value, low, high = bootstrap_ci(means, samples, seed)
    return Estimate(value=value, ci95=(low, high), n=len(means))


def compare(
    one: dict[str, np.ndarray], two: dict[str, np.ndarray], users: np.ndarray, samples: int, seed: int
) -> dict[str, Comparison]:
    """Paired comparison of two models by `COMPARED_METRICS`, with Holm's correction over these metrics.

    Args:
        one: metrics of the first model, [M] each.
        two: metrics of the second model, [M] each.
        users: user of each target, [M]; users are resampled.
        samples: bootstrap resamples of an interval.
        seed: seed of the bootstrap.
    """
    tests = {}
    for metric in COMPARED_METRICS:
        first = per_user(one[metric], users)[1]
        second = per_user(two[metric], users)[1]
        tests[metric] = paired_bootstrap(first, second, RESAMPLES_PER_TEST * samples, seed)
    adjusted = holm([p for *_, p in tests.values()])
    return {
        metric: Comparison(difference=difference, ci95=(low, high), p_holm=p, verdict=verdict_of(difference, p))
        for (metric, (difference, low, high, _)), p in zip(tests.items(), adjusted, strict=True)
    }
