"""Sentences that are computed from a report."""

from llmrec.evaluation.report import Report, SeedsReport
from llmrec.report.verdict import fallback_remark, remarks, verdict


def report_of(models: dict[str, float | None], comparison: dict | None = None, **sections) -> Report:
    split = {
        "models": {name: {"ndcg@10": {"value": value, "n": 9}} for name, value in models.items()},
        "comparisons": {"ppo_vs_sft": {"ndcg@10": comparison}} if comparison else {},
    }
    return Report.model_validate({"splits": {"temporal": split}, **sections})


def test_a_report_without_the_comparison_says_so():
    assert verdict(report_of({"ppo": 0.2})) == "This report does not compare PPO with its SFT start."


def test_a_stored_verdict_wins_over_the_p_value():
    comparison = {"difference": 0.02, "ci95": [0.01, 0.03], "p_holm": 0.001, "verdict": "no difference"}
    assert verdict(report_of({}, comparison)) == (
        "NDCG@10 on the temporal split: PPO does not differ significantly from SFT (+0.0200 [+0.0100, +0.0300])."
    )


def test_an_undefined_difference_has_no_verdict():
    assert "undefined" in verdict(report_of({}, {"difference": None, "ci95": None, "p_holm": None}))


def compared(difference: float, verdict: str) -> dict:
    interval = [difference - 0.005, difference + 0.005]
    return {"ndcg@10": {"difference": difference, "ci95": interval, "verdict": verdict, "detectable": 0.0091}}


def test_the_verdict_names_every_rival_that_matters():
    comparisons = {
        "ppo_vs_sft": compared(0.02, "better"),
        "ppo_vs_markov": compared(0.03, "better"),
        "ppo_vs_pool": compared(-0.01, "worse"),
        "ppo_vs_reward_model": compared(0.001, "no difference"),
        "ppo_vs_ials": compared(0.004, "no difference"),
    }
    report = Report.model_validate({"best_rival": "ials", "splits": {"given": {"comparisons": comparisons}}})
    assert verdict(report) == (
        "NDCG@10 on the given split: PPO is better than SFT (+0.0200 [+0.0150, +0.0250]); does not differ "
        "significantly from its reward model (+0.0010 [-0.0040, +0.0060]); is worse than the pool (-0.0100 [-0.0150, "
        "-0.0050]); does not differ significantly from iALS, the best baseline on validation (+0.0040 [-0.0010, "
        "+0.0090])."
    )
    assert remarks(report) == [
        "Smallest difference of PPO and SFT in NDCG@10 that the given split can see with 80 % power: 0.0091."
    ]
    pool = Report.model_validate({"best_rival": "pool", "splits": {"given": {"comparisons": comparisons}}})
    assert "is worse than the pool, the best baseline on validation" in verdict(pool) and "iALS" not in verdict(pool)


def test_a_report_of_seeds_tells_their_limit():
    assert remarks(SeedsReport(runs=["a", "b", "c"]))[-1] == (
        "Intervals and tests resample users and 3 seeds. So few seeds show the variance between seeds only in part."
    )


def test_the_best_model_is_named_beside_ppo():
    assert remarks(report_of({"sasrec": 0.3, "ppo": 0.2, "optimum": 0.9, "markov": None})) == [
        "Highest NDCG@10 on the temporal split: SASRec, 0.300; PPO has 0.200."
    ]
    assert remarks(report_of({"sasrec": 0.1, "ppo": 0.2})) == ["Highest NDCG@10 on the temporal split: PPO, 0.200."]
    assert remarks(report_of({"ppo": 0.2})) == []


def test_the_change_of_list_rewards_is_told():
    reward = {"list_reward_difference": {"value": 0.5, "ci95": [0.25, 0.75]}, "list_judge_difference": {"value": -0.1}}
    assert remarks(report_of({}, reward=reward)) == [
        "For the ten best items on validation, PPO changed the learned reward by +0.500 [+0.250, +0.750] and the "
        "judge's reward by -0.100 nats."
    ]


def test_a_fallback_of_the_guard_comes_first():
    fallen = report_of({"sasrec": 0.3, "ppo": 0.2}, guard={"fell_back_to_sft": True})
    assert remarks(fallen)[0] == fallback_remark(fallen) != ""
    assert fallback_remark(report_of({}, guard={"fell_back_to_sft": False})) == ""
