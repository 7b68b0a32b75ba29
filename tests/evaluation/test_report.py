"""report.json as typed records: round trips, old and newer files, undefined numbers, faults."""

import json
import math

import pytest

from llmrec.errors import RunError
from llmrec.evaluation.report import (
    Comparison,
    Estimate,
    Example,
    GenerationReport,
    OptimumReport,
    Rate,
    Report,
    RewardReport,
    SplitReport,
    measurement,
    verdict_of,
)
from llmrec.files import write_json, write_text
from tests.report.test_page import make_report


def test_a_file_that_is_read_and_written_stays_the_same(tmp_path):
    values = make_report()
    write_json(tmp_path / "a.json", values)
    Report.load(tmp_path / "a.json").write(tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text()) == values


def test_an_old_file_gets_defaults():
    old = Report.model_validate({"splits": {"temporal": {"optimum": {"beta": 0.5}}}})
    assert old.guard is None and not old.fell_back and not old.reward and old.generation == {}
    optimum = old.splits["temporal"].optimum
    assert isinstance(optimum, OptimumReport) and (optimum.alpha, optimum.gap_closed) == (0.0, {})
    assert old.splits["temporal"].metric("ppo", "ndcg@10") is None
    assert old.splits["temporal"].comparison("ppo", "sft", "ndcg@10") is None


def test_keys_of_a_newer_version_are_kept():
    values = {"off_policy": {"snips": 0.04}, "splits": {"temporal": {"targets": 3, "fairness": 0.5}}}
    report = Report.model_validate(values)
    assert report.unknown == {"off_policy": {"snips": 0.04}}
    assert report.splits["temporal"].unknown == {"fairness": 0.5}
    assert report.as_json() == values


def test_undefined_numbers_are_none():
    estimate = Estimate.model_validate({"value": math.nan, "ci95": [0.1, math.nan], "n": 0})
    assert (estimate.number, estimate.ci95, estimate.n) == (None, None, 0)
    assert Estimate(value=None, ci95=None, n=0).as_json() == {"value": None, "ci95": None, "n": 0}
    assert Comparison(difference=None).conclusion is None


def test_a_gap_of_an_early_report_has_no_interval():
    old = OptimumReport.model_validate({"gap_closed": {"objective": 0.86, "ndcg@10": None}})
    assert old.gap_closed == {"objective": Estimate(value=0.86), "ndcg@10": Estimate(value=None)}


def test_only_keys_that_were_set_are_written():
    split = SplitReport(models={"ppo": {"coverage": Estimate(value=0.5, n=9)}})
    assert split.as_json() == {"models": {"ppo": {"coverage": {"value": 0.5, "n": 9}}}}


@pytest.mark.parametrize(
    ("entry", "conclusion"),
    [
        ({"difference": 0.1, "p_holm": 0.04}, "better"),
        ({"difference": -0.1, "p_holm": 0.04}, "worse"),
        ({"difference": 0.1, "p_holm": 0.05, "ci95": [0.01, 0.2]}, "no difference"),
        ({"difference": 0.1, "ci95": [0.01, 0.2]}, None),  # a descriptive metric has no verdict
        ({"difference": 0.1, "p_holm": 0.01, "verdict": "no difference"}, "no difference"),  # seeds disagree
    ],
)
def test_the_conclusion_of_a_comparison(entry, conclusion):
    assert Comparison.model_validate(entry).conclusion == conclusion


def test_the_significance_level_is_five_percent():
    assert [verdict_of(0.1, 0.049), verdict_of(0.1, 0.05), verdict_of(-0.1, 0.0)] == [
        "better", "no difference", "worse"
    ]  # fmt: skip


def test_measurements_of_every_kind():
    assert isinstance(measurement({"rate": 0.5, "n": 4}), Rate)
    assert [found.number for entry in ({"value": 1.5}, {"count": 3}, {"difference": -1.0})
            if (found := measurement(entry))] == [1.5, 3, -1.0]  # fmt: skip
    assert measurement({"beta": 1.0}) is None and measurement(None) is None


def test_generation_lists_nested_and_unknown_measurements():
    written = GenerationReport.model_validate(
        {"validity": {"rate": 0.9}, "faithfulness": {"fall": {"value": 0.2}}, "toxicity": {"rate": 0.0}, "note": "x"}
    )
    assert {name: found.number for name, found in written.measurements.items()} == {
        "validity": 0.9, "faithfulness: fall": 0.2, "toxicity": 0.0
    }  # fmt: skip


def test_parts_of_the_reward():
    reward = RewardReport.model_validate(
        {"before": {"value": -2.0}, "difference": {"value": 0.5}, "list_judge_difference": {"value": 0.25}}
    )
    assert list(reward.parts) == ["", "list_judge"] and reward.parts[""].after is None
    total = reward.difference()
    judge = reward.difference("list_judge")
    assert total is not None and judge is not None and (total.value, judge.value) == (0.5, 0.25)
    assert reward.difference("popularity") is None


def test_answers_of_an_example():
    example = Example.model_validate({"user": "1", "ppo": {"item": None, "justification": [], "grounded": False}})
    assert list(example.answers) == ["ppo"]


def test_a_copy_without_some_keys():
    report = Report(commands=["llmrec run"], seconds={"sft": 1.5})
    assert report.without("commands").as_json() == {"seconds": {"sft": 1.5}}
    assert report.commands == ["llmrec run"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"splits": {', "Expecting"),
        ("[]", "the file: Input should be"),
        ('{"splits": {"temporal": null}}', "splits.temporal"),
        ('{"splits": {"temporal": {"users": "many"}}}', "splits.temporal.users"),
    ],
)
def test_a_broken_file_is_named_with_the_remedy(tmp_path, text, words):
    write_text(tmp_path / "report.json", text)
    with pytest.raises(RunError, match="llmrec evaluate") as raised:
        Report.load(tmp_path / "report.json")
    assert words in str(raised.value) and "report.json" in str(raised.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(RunError, match="No such file"):
        Report.load(tmp_path / "report.json")


def test_every_field_is_described():
    schema = Report.model_json_schema()
    for definition in (schema, *schema["$defs"].values()):
        for name, field in definition.get("properties", {}).items():
            assert field.get("description", "").endswith("."), (definition["title"], name)
