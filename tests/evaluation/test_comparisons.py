"""Which pairs are tested, and one correction over all tests that a report shows."""

import numpy as np
import pytest

from llmrec.evaluation.comparisons import best_rival, compare, compared_pairs, correct, mean_estimate
from llmrec.evaluation.metrics import smallest_detectable
from llmrec.evaluation.report import BaselineReport, Estimate, SplitReport
from llmrec.evaluation.split_report import accuracy_columns

SETTINGS = {"samples": 200, "seed": 0}
FIRST = accuracy_columns(np.tile([1.0, 40.0], 30), [10])
SECOND = accuracy_columns(np.tile([2.0, 40.0], 30), [10])
LOWEST_P = 2 / 2001  # of ten times 200 resamples that all agree


def baselines(**valid: float | None) -> dict[str, BaselineReport]:
    return {name: BaselineReport(grid=[{"valid_ndcg@10": value}, {"l2": 1.0}]) for name, value in valid.items()}


def test_the_rival_is_chosen_on_validation():
    assert best_rival(baselines(ease=0.1, bpr=0.3, ials=0.2)) == "bpr"
    assert best_rival(baselines(ease=None)) is None is best_rival({})
    refitted = {"transitions_refit": BaselineReport(grid=[{"valid_ndcg@10": 0.9}], refitted=True)}
    assert best_rival(baselines(ease=0.1) | refitted) == "ease"


def test_both_policies_meet_the_named_rivals_and_the_best_one():
    models = ["markov", "sasrec", "ials", "pool", "reward_model", "sft", "ppo", "optimum"]
    rivals = ["reward_model", "pool", "sasrec", "markov", "ials"]
    assert compared_pairs(models, "ials") == [
        ("ppo", "sft"), *(("ppo", one) for one in rivals), *(("sft", one) for one in rivals)
    ]  # fmt: skip
    assert len(compared_pairs(models, "sasrec")) == 9  # no pair twice
    assert compared_pairs(["sft", "ease"], None) == []


def test_only_the_primary_metric_is_tested():
    found = compare(FIRST, SECOND, **SETTINGS)
    assert list(found) == ["hr@10", "ndcg@10", "mrr"]
    assert found["ndcg@10"].p == pytest.approx(LOWEST_P)
    for metric in ("hr@10", "mrr"):
        assert (found[metric].p, found[metric].conclusion) == (None, None) and found[metric].ci95 is not None
    assert found["mrr"].difference == pytest.approx(0.25)


def test_holm_covers_all_pairs_of_all_splits():
    same = compare(FIRST, FIRST, **SETTINGS)
    splits = {
        "temporal": SplitReport(comparisons={"ppo_vs_sft": compare(FIRST, SECOND, **SETTINGS), "ppo_vs_ease": same}),
        "leave_one_out": SplitReport(comparisons={"ppo_vs_sft": compare(SECOND, FIRST, **SETTINGS)}),
    }
    correct(splits)
    better = splits["temporal"].comparison("ppo", "sft", "ndcg@10")
    worse = splits["leave_one_out"].comparison("ppo", "sft", "ndcg@10")
    assert better is not None and worse is not None and better.ci95 is not None
    assert (better.p_holm, worse.p_holm) == (pytest.approx(3 * LOWEST_P), pytest.approx(3 * LOWEST_P))
    assert (better.verdict, worse.verdict, same["ndcg@10"].verdict) == ("better", "worse", "no difference")
    assert better.detectable == pytest.approx(smallest_detectable(*better.ci95, tests=3))
    assert better.as_json().keys() == {"difference", "ci95", "p", "p_holm", "verdict", "detectable"}


def test_seeds_that_disagree_have_no_verdict():
    one = {metric: np.stack([column, column, column * 0]) for metric, column in FIRST.items()}
    two = {metric: np.stack([column * 0, column * 0, column / 9]) for metric, column in FIRST.items()}
    found = compare(one, two, **SETTINGS)
    found["ndcg@10"].p = 1e-6
    correct({"temporal": SplitReport(comparisons={"ppo_vs_sft": found})})
    assert found["ndcg@10"].seeds == pytest.approx([0.5, 0.5, -1 / 18])
    assert found["ndcg@10"].verdict == "no difference"


def test_an_estimate_without_values_is_undefined():
    assert mean_estimate(np.zeros(0), **SETTINGS) == Estimate(value=None, ci95=None, n=0)
    assert mean_estimate(np.array([[np.nan, np.nan], [1.0, 0.0]]), **SETTINGS).value is None
    assert mean_estimate(np.array([[0.0, np.nan], [1.0, 0.0]]), **SETTINGS).seeds == [0.0, 0.5]
