"""Printed tables of results."""

from pathlib import Path
from typing import Any

from llmrec.cli.results import print_report, print_reward
from llmrec.evaluation.report import Report, RewardModelReport
from llmrec.progress.console import console_for

VALUE: dict[str, Any] = {"value": 0.9123, "ci95": [0.9, 0.92]}


def test_a_reward_model_is_printed_with_baselines_and_slices(capsys) -> None:
    row = {"n": 40, "auc": VALUE, "log_loss": VALUE, "brier": VALUE, "ece": VALUE, "ece_floor": 0.01}
    quality = {**row, "baselines": {"item_item": row}, "slices": {"user_activity <=65": {**row, "auc": None}}}
    exposures = {**quality, "position_bias": {"1": 0.0}, "effective_sample_size": 9.0, "propensities_clipped": 0.1}
    metrics = {
        "splits": {"temporal": {"part": "test", "ranking": {"click_ndcg@10": 0.1}, "click": quality, "purchase": None}},
        "exposures": exposures,
    }
    print_reward(console_for(), RewardModelReport.model_validate(metrics), Path("runs/x/reward"))
    printed = capsys.readouterr().out
    for text in ("0.912", "[0.900,", "item item", "user activity", "click ndcg@10 0.1000", "effective sample size 9"):
        assert text in printed
    assert "popular" not in printed and "purchase" not in printed


def test_popularity_matched_auc_is_printed_if_measured(capsys) -> None:
    matched = {"auc_popularity_matched": VALUE, "lift_auc_popularity_matched": VALUE}
    row = {"n": 4, "auc": VALUE, "ece_floor": 0.01, **matched}
    split = {"part": "valid", "ranking": {}, "click": row}
    report = RewardModelReport.model_validate({"splits": {"temporal": split}, "exposures": {"n": 0}})
    print_reward(console_for(), report, Path("reward"))
    printed = capsys.readouterr().out
    assert "popular" in printed and "effective sample size" not in printed


def test_comparisons_and_the_optimum_are_printed(capsys) -> None:
    comparison = {"difference": 0.05, "ci95": [0.01, 0.09], "p_holm": 0.01, "verdict": "better", "seeds": [0.04, 0.06]}
    split = {
        "models": {"sft": {"hr@10": VALUE}, "ppo": {"hr@10": VALUE | {"seeds": [0.9, 0.92]}}},
        "comparisons": {"ppo_vs_sft": {"hr@10": comparison, "ndcg@10": comparison}},
        "optimum": {
            "beta": 0.3,
            "alpha": 1.0,
            "objective": {"ppo": VALUE},
            "gap_closed": {"objective": {"value": 0.5, "ci95": [0.4, 0.7]}, "ndcg@10": {"value": None}},
        },
    }
    print_report(console_for(), Report.model_validate({"splits": {"temporal": split}}))
    printed = capsys.readouterr().out
    for text in ("PPO vs SFT", "+0.050 [+0.010, +0.090] better", "+0.040, +0.060", "0.900, 0.920", "+ 1.0 H"):
        assert text in printed
    assert "objective 50 % [40 %, 70 %]" in printed and "NDCG@10 undefined (the optimum is not above SFT)" in printed


def test_the_verdict_stands_beside_the_strongest_rival(capsys) -> None:
    tied = {"difference": 0.001, "ci95": [-0.01, 0.01], "p_holm": 0.9, "verdict": "no difference", "detectable": 0.02}
    split = {"comparisons": {f"ppo_vs_{name}": {"ndcg@10": tied} for name in ("sft", "ials")}}
    generation = {"ppo": {"validity": {"rate": 1.0, "n": 4}, "repeats": {"rate": 0.25, "n": 4}}}
    report = {"best_rival": "ials", "splits": {"temporal": split}, "generation": generation}
    print_report(console_for(), Report.model_validate(report))
    printed = capsys.readouterr().out
    assert "PPO vs iALS (best on validation)" in printed
    assert "from iALS, the best baseline on validation (+0.0010 [-0.0100, +0.0100])." in printed
    assert "can see with 80 % power: 0.0200." in printed
    assert "guarantees of the mask, PPO: validity 100.0 %\n" in printed and "of PPO: repeats 25.0 %\n" in printed


def test_purchases_are_printed_if_measured(capsys) -> None:
    ranked = {"models": {"optimum": {"purchases@10": VALUE}}}
    split = {"models": {"ppo": {"purchase_ndcg@10": VALUE}}, "purchases": {"0.5": ranked}}
    print_report(console_for(), Report.model_validate({"splits": {"temporal": split}}))
    printed = capsys.readouterr().out
    assert "temporal split, purchases" in printed and "0.5: optimum" in printed
