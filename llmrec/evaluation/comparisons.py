"""Paired comparisons of models: which pairs are tested, and Holm's correction over all of them.

One metric is tested, `HEADLINE_METRIC`, named before any result. The other metrics of a pair are descriptive: they have
intervals and neither p-values nor verdicts.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from llmrec.evaluation.metrics import (
    bootstrap_ci,
    holm,
    mean_over_seeds,
    paired_bootstrap,
    per_user,
    smallest_detectable,
)
from llmrec.evaluation.report import (
    COMPARED_METRICS,
    HEADLINE_METRIC,
    POWER,
    BaselineReport,
    Comparison,
    Estimate,
    SplitReport,
    verdict_of,
)

RIVALS = ("reward_model", "pool", "sasrec", "sasrec_x3", "markov")  # compared with both policies where they exist
# A p-value needs more resamples than an interval: near 0.05 the conclusion of 1,000 resamples depends on their seed.
RESAMPLES_PER_TEST = 10

Matrices = Mapping[str, np.ndarray]  # metric -> value of each user, [U], or of each seed and user, [S, U]


def best_rival(baselines: Mapping[str, BaselineReport]) -> str | None:
    """The baseline with the highest NDCG@10 on validation; None without baselines.

    Test results have no part in the choice, so the comparison with it is a fair test. Baselines that were refitted with
    the validation items are left out, because the policies were not.
    """
    candidates = {name: one.valid_ndcg for name, one in baselines.items() if not one.refitted}
    known = {name: value for name, value in candidates.items() if value is not None}
    return max(known, key=lambda name: known[name]) if known else None


def compared_pairs(models: Iterable[str], rival: str | None) -> list[tuple[str, str]]:
    """The pairs of models that are tested: PPO against SFT, and both against their rivals.

    Args:
        models: names of the measured models.
        rival: the strongest baseline on validation, see `best_rival`.
    """
    known = set(models)
    rivals = [*RIVALS, rival] if rival is not None and rival not in RIVALS else [*RIVALS]
    pairs = [("ppo", "sft"), *(("ppo", one) for one in rivals), *(("sft", one) for one in rivals)]
    return [(one, two) for one, two in pairs if one in known and two in known]


def compare(one: Matrices, two: Matrices, samples: int, seed: int) -> dict[str, Comparison]:
    """Paired comparison of two models by `COMPARED_METRICS`; `correct` adds corrected p-values and verdicts.

    Args:
        one: metrics of the first model by user, or by seed and user.
        two: metrics of the second model for the same users.
        samples: bootstrap resamples of an interval.
        seed: seed of the bootstrap.
    """
    found: dict[str, Comparison] = {}
    for metric in COMPARED_METRICS:
        tested = metric == HEADLINE_METRIC
        resamples = RESAMPLES_PER_TEST * samples if tested else samples
        difference, low, high, p = paired_bootstrap(one[metric], two[metric], resamples, seed)
        found[metric] = Comparison(difference=difference, ci95=(low, high))
        if tested:
            found[metric].p = p
        if np.ndim(one[metric]) == 2:
            found[metric].seeds = [mean_over_seeds(row) for row in one[metric] - two[metric]]
    return found


def correct(splits: Mapping[str, SplitReport]) -> None:
    """Sets corrected p-values, verdicts and detectable differences of all tests of a report.

    Holm's correction covers every tested pair of every split, because a reader sees all of them. Verdicts of seeds that
    differ in sign are withdrawn.
    """
    tests = [
        comparison
        for split in splits.values()
        for metrics in split.comparisons.values()
        for comparison in metrics.values()
        if comparison.p is not None
    ]
    for test, p in zip(tests, holm([float(test.p or 0.0) for test in tests]), strict=True):
        if test.difference is None or test.ci95 is None:
            continue
        test.p_holm = p
        signs = {np.sign(value) for value in test.seeds or [test.difference] if value is not None}
        test.verdict = verdict_of(test.difference, p) if len(signs) == 1 else "no difference"
        test.detectable = smallest_detectable(*test.ci95, tests=len(tests), power=POWER)


def mean_estimate(values: np.ndarray, samples: int, seed: int) -> Estimate:
    """Mean over users (and seeds) with its 95 % interval, from values [U] or [S, U]; undefined without any value.

    With several seeds, a seed without a value leaves the estimate undefined.

    Args:
        values: value of each user; NaN in [S, U] where a user has none under a seed.
        samples: bootstrap resamples.
        seed: seed of the bootstrap.
    """
    table = np.atleast_2d(values)
    if not table.size or np.isnan(table).all(1).any():
        return Estimate(value=None, ci95=None, n=0)
    value, low, high = bootstrap_ci(values, samples, seed)
    found = Estimate(value=value, ci95=(low, high), n=table.shape[1])
    if np.ndim(values) == 2:
        found.seeds = [mean_over_seeds(row) for row in table]
    return found


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
    return mean_estimate(per_user(values[defined], users[defined])[1], samples, seed)
