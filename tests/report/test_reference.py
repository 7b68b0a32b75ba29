"""The reference pages cover every key of a report, every metric, every model and every slice."""

import re
from dataclasses import replace

import numpy as np
import pytest

from llmrec.catalogue.facts import FactBook
from llmrec.data.decision import Decisions
from llmrec.evaluation.generation import rates, text_metrics
from llmrec.evaluation.purchases import purchase_columns
from llmrec.evaluation.report import COMPARED_METRICS, Report
from llmrec.evaluation.slices import day_slices, slices
from llmrec.evaluation.split_report import accuracy_columns, list_columns
from llmrec.recommenders.registry import REGISTRY
from llmrec.report.glossary import METRICS, MODELS, SLICES, better, is_ranking, label
from llmrec.report.reference import metrics_reference, reference_markdown
from tests.report.test_page import make_report


@pytest.fixture
def decisions() -> Decisions:
    return Decisions(
        profiles=[""],
        histories=[np.array([0])],
        purchased=[np.array([False])],
        users=np.array([0]),
        targets=np.array([1]),
        max_history=50,
    )


def test_every_key_of_the_schema_is_documented():
    page = reference_markdown()
    schema = Report.model_json_schema(mode="serialization")
    for name, definition in {"Report": schema, **schema["$defs"]}.items():
        assert f"\n## {name}\n" in page
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for key in definition.get("properties", {}):
            assert f"| `{key}` |" in section, (name, key)


def test_links_lead_to_sections():
    page = reference_markdown()
    anchors = {heading.lower() for heading in re.findall(r"^## (\w+)$", page, re.M)}
    assert {link for link in re.findall(r"\]\(#(\w+)\)", page)} <= anchors


def test_types_are_words_of_json():
    page = reference_markdown()
    assert "| `splits` | {string: [SplitReport](#splitreport)} |" in page
    assert "| `seeds` | list of (number or null) or null |" in page
    assert "| `ci95` | [number, number] or null |" in page
    assert "| `verdict` | `better` or `worse` or `no difference` or null |" in page
    assert "any value" not in page.split("## Estimate")[1].split("## ")[0]


def test_every_metric_of_an_evaluation_is_defined(data, decisions):
    facts = FactBook.from_data(data)
    clicks = np.ones(data.num_items)
    measured = {
        *accuracy_columns(np.array([1]), [10]),
        *list_columns(decisions, np.array([[0]]), clicks, np.ones((data.num_items, 1), dtype=bool), 1),
        *("coverage", "gini", "objective", "gap_closed"),
        *rates([], [], facts, 1),
        *(*purchase_columns(np.array([1.0]), np.array([True])), "expected_purchases@10"),
        *text_metrics([], facts),
    }
    defined = {key for name in METRICS for key in name.split(", ")}
    assert {metric.partition("@")[0] for metric in measured} <= defined
    page = metrics_reference()
    assert all(f"| `{metric.key}` | {metric.label} |" in page for metric in METRICS.values())


def test_every_slice_and_model_is_defined(data, decisions):
    of_days = day_slices(replace(data, card={"time": {"first": "1970-01-01T00:00:00+00:00"}}), decisions)
    found = slices(replace(decisions, repeats=True), np.ones(10), np.ones(1))
    assert list(of_days) and set(SLICES) == {*of_days, *found}
    policies = {"sft", "ppo", "sft_new_user", "ppo_new_user", "sft_reranked", "optimum"}
    assert {*REGISTRY, "reward_model", *policies} == set(MODELS)
    assert all(f"| `{key}` | {meaning} |" in metrics_reference() for key, meaning in (SLICES | MODELS).items())


def test_labels_and_directions():
    assert [label(key) for key in ("ndcg@10", "mrr", "sft", "leave_one_out", "cold_items", "log_odds")] == [
        "NDCG@10", "MRR", "SFT", "leave-one-out", "cold items", "log odds"
    ]  # fmt: skip
    assert [better(key) for key in ("hr@5", "gini", "popularity_bias", "toxicity")] == [
        "higher", "lower", "neither", "higher"
    ]  # fmt: skip
    assert is_ranking("hr@20") and is_ranking("mrr") and not is_ranking("gini")


def test_verdicts_hold_only_for_metrics_of_which_more_is_better():
    assert all(better(metric) == "higher" for metric in COMPARED_METRICS)


def test_the_example_report_of_the_tests_uses_documented_keys_only():
    report = Report.model_validate({key: value for key, value in make_report().items() if key != "off_policy"})
    assert report.unknown == {}
