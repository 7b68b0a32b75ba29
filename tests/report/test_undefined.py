"""Every number of a report may be undefined, as in runs of a few users: each reader shows it as such.

The reports are made from the types: every field of every section is set, and then numbers are undefined by their name.
"""

import io
import json
import math
import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel
from rich.console import Console

from llmrec.cli.results import print_report, print_reward
from llmrec.config import parse_config
from llmrec.evaluation.report import BaselineReport, Estimate, Report, RewardReport
from llmrec.hub.card import SharedRun, run_card
from llmrec.hub.compare import headline
from llmrec.policy.sharing import SharedPolicy
from llmrec.report.page import render
from llmrec.report.verdict import remarks, verdict
from llmrec.run import STAGES

# Keys of mappings, by the name of the field. Others have one key.
KEYS = {
    "splits": ("temporal", "leave_one_out"),
    "models": ("popularity", "sft", "ppo", "optimum"),
    "comparisons": ("ppo_vs_sft",),
    "slices": ("cold_items",),
    "generation": ("sft", "ppo"),
    "objective": ("sft", "ppo", "optimum"),
    "gap_closed": ("objective", "ndcg@10"),
    "metrics": ("hr@10", "ndcg@10", "mrr", "coverage"),
    "time": ("first", "last"),
}
DEPTH = 9  # sections inside sections of the same type are left out below


class Sample:
    """Makes JSON values of types.

    Args:
        undefined: names of the fields that are undefined, if their type allows it.
        blank: what stands for an undefined number, None or NaN.
    """

    def __init__(self, undefined: set[str], blank: float | None = None):
        self.undefined = undefined
        self.blank = blank

    def of(self, annotation: Any, name: str, depth: int = 0) -> Any:
        """A value of a type for a field of this name."""
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        is_union = origin in (typing.Union, types.UnionType)
        if is_union and type(None) in arguments and (name in self.undefined or depth > DEPTH):
            return self.blank if float in arguments else None
        if is_union or origin is Annotated:
            return self.of(arguments[0], name, depth)
        if origin is dict:
            return self._mapping(arguments[1], name, depth)
        if origin is list:
            return [self.of(arguments[0], name, depth + 1) for _ in range(2)]
        return self._section(annotation, depth) if _is_section(annotation) else self._plain(annotation)

    def _plain(self, annotation: Any) -> Any:
        origin = typing.get_origin(annotation)
        if origin is tuple:
            return [0.25, 0.75]
        if origin is Literal:
            return typing.get_args(annotation)[0]
        return {int: 3, float: 0.5, str: "2020-01-01", bool: True}.get(annotation, 1.5)

    def _mapping(self, value: Any, name: str, depth: int) -> dict[str, Any]:
        keys = () if depth > DEPTH else KEYS.get(name, ("name",))
        if typing.get_origin(value) is not dict:
            return {key: self.of(value, name, depth + 1) for key in keys}
        inner = "models" if name == "slices" else "metrics"  # slices hold models, which hold metrics
        return {key: self._mapping(typing.get_args(value)[1], inner, depth + 1) for key in keys}

    def _section(self, section: type[BaseModel], depth: int) -> Any:
        if issubclass(section, RewardReport):
            return {key: self.of(Estimate, key, depth + 1) for key in ("before", "after", "difference")}
        return {
            field.serialization_alias or field.alias or key: self.of(field.annotation, key, depth + 1)
            for key, field in section.model_fields.items()
        }


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def report_of(undefined: set[str], blank: float | None = None) -> Report:
    """A report in which every field is set, and the named ones are undefined."""
    return Report.model_validate(Sample(undefined, blank).of(Report, "report"))


def optional_fields(section: type[BaseModel], found: set[str]) -> set[str]:
    """Names of all fields below a section that may be None."""
    for name, field in section.model_fields.items():
        stack = [field.annotation]
        while stack:
            annotation = stack.pop()
            if annotation is type(None):
                found.add(name)
            if _is_section(annotation) and annotation is not section:
                optional_fields(annotation, found)
            stack.extend(typing.get_args(annotation))
    return found


OPTIONAL = optional_fields(Report, set())


def shown(report: Report) -> str:
    """Everything that people read of a report: the page, the verdict, the console and the model card."""
    stages = {stage: {"metrics": {"log": [], "events": []}, "seconds": None} for stage in STAGES}
    texts = [render(report, "t", "name: t", stages), verdict(report), *remarks(report)]
    text = io.StringIO()
    console = Console(file=text, width=300)
    print_report(console, report)
    if report.reward_model is not None:
        print_reward(console, report.reward_model, Path("reward"))
    config = parse_config({"name": "t", "data": {"format": "movielens", "path": "ml"}, "model": {"base": "b"}})
    policy = SharedPolicy("a/t", config.model, config.catalogue, "b", {"license": "mit"})
    card = {"data": report.data} if report.data is not None else {}
    texts += [run_card(SharedRun(policy, config, adapter, report, **card)) for adapter in ("sft", "ppo")]
    assert headline(report) is not None
    return "\n".join([*texts, text.getvalue()])


# No field, all fields, the number of every measurement, and each field in one of six groups.
GROUPS = [set(), OPTIONAL, {"value", "rate", "count", "difference"}, *(set(sorted(OPTIONAL)[n::6]) for n in range(6))]


@pytest.mark.parametrize("undefined", GROUPS)
def test_undefined_numbers_are_shown(undefined: set[str]) -> None:
    report = report_of(undefined)
    found = re.findall(r".{40}\b(?:nan|NaN|None|inf)\b.{20}", shown(report))
    assert not found, found[:3]
    json.dumps(report.as_json(), allow_nan=False)


def test_the_walk_reaches_numbers_of_all_kinds() -> None:
    assert {"value", "rate", "count", "difference", "p_holm", "ci95", "n", "auc", "ece_floor", "sft_ndcg"} <= OPTIONAL
    full = report_of(set())
    assert full.splits["temporal"].models["ppo"]["ndcg@10"].value == 3
    assert full.splits["temporal"].slices["cold_items"]["ppo"]["ndcg@10"].value == 3
    assert "undefined" not in shown(full)
    assert shown(report_of({"value", "rate", "difference"})).count("undefined") > 50


def test_nan_is_undefined(tmp_path: Path) -> None:
    report = report_of(OPTIONAL, blank=math.nan)
    report.baselines = {"ease": BaselineReport(grid=[{"l2": 1, "valid_ndcg@10": math.nan}])}
    report.write(tmp_path / "report.json")
    read = Report.load(tmp_path / "report.json")
    assert read.baselines["ease"].grid == [{"l2": 1, "valid_ndcg@10": None}]
    assert not re.search(r"\bnan\b", shown(read), re.IGNORECASE)
