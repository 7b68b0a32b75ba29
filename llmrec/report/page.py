"""Writes `report.html`: one page that shows everything a run measured."""

import base64
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from llmrec.config import dump_yaml
from llmrec.evaluation.report import HEADLINE_METRIC, GuardReport, Report, RewardModelReport, SplitReport
from llmrec.files import read_json, write_text
from llmrec.report import charts, tables
from llmrec.report.format import number, typeset
from llmrec.report.glossary import label
from llmrec.report.verdict import remarks, sensitivity, verdict
from llmrec.run import STAGES, Run

# Keys of `reward_model` that the page shows in another section, or that are long.
SHOWN_ELSEWHERE = ("splits", "calibration", "curve", "training", "seconds")


def write_page(run: Run) -> Path:
    """Writes `report.html` into a run directory. The same run gives the same bytes.

    Raises:
        RunError: the run has not been evaluated, or was evaluated under another config.
    """
    run.require("evaluate")
    path = run.directory / "report.html"
    write_text(path, page_of(run, Report.load(run.report_path), run.config.model_dump(mode="json")))
    return path


def page_of(run: Run, report: Report, config: Mapping[str, Any]) -> str:
    """The page of an evaluated run as HTML.

    Args:
        run: the run, for its stages' metrics and its reliability diagram.
        report: the report to show; what it lacks is left out.
        config: the config to show, as JSON values.
    """
    reliability = run.path("reward", "reliability.png")
    return render(
        report,
        name=run.config.name,
        config=dump_yaml(dict(config)),
        stages={stage: _record(run, stage) for stage in STAGES},
        reliability=reliability.read_bytes() if reliability.is_file() else None,
    )


def _record(run: Run, stage: str) -> dict[str, Any]:
    file = run.path(stage, "metrics.json")
    return read_json(file) if file.is_file() else {}


def render(
    report: Report,
    name: str,
    config: str,
    stages: Mapping[str, Mapping[str, Any]],
    reliability: bytes | None = None,
) -> str:
    """The page as HTML.

    Args:
        report: the report; what it lacks is left out.
        name: name of the run.
        config: config of the run as YAML.
        stages: contents of each stage's `metrics.json`.
        reliability: reliability diagram as PNG. It is shown if the report has no numbers to draw one from.
    """
    diagrams = charts.reliability_charts(report.reward_model)
    guarantees, generation = tables.generation_tables(report.generation)
    image = None if diagrams or reliability is None else base64.b64encode(reliability).decode("ascii")
    return (
        templates()
        .get_template("page.html")
        .render(
            name=name,
            verdict=verdict(report),
            remarks=remarks(report),
            splits=[_split(split, results, report.best_rival) for split, results in report.splits.items()],
            requests=tables.requests_table(report.requests) if report.requests else None,
            reward=tables.reward_table(report.reward) if report.reward else None,
            curves=_curves(report, stages),
            events=_metrics(stages, "ppo").get("events", []),
            quality=_quality(report.reward_model),
            ranking=_ranking(report.reward_model),
            reliability=diagrams,
            reliability_image=image,
            guarantees=guarantees,
            generation=generation,
            examples=report.examples,
            card=tables.card_facts(report.data) if report.data else [],
            config=config,
            commands=report.commands,
            environment=tables.pairs(report.environment.as_json()) if report.environment else [],
            seconds=_seconds(report, stages),
            times=tables.times_table(report.parts) if report.parts else None,
            others=_others(report),
        )
    )


@cache
def templates() -> Environment:
    """The templates of all pages, with the filters and sizes that they use."""
    environment = Environment(
        loader=PackageLoader("llmrec.report"),
        autoescape=True,  # titles and justifications come from data and models
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "label": label,
        "number": lambda value, digits=3: typeset(number(value, digits)),
        "typeset": typeset,
    }
    environment.globals |= {"tick_label": charts.tick_label, "layout": charts}
    return environment


def _split(split: str, results: SplitReport, rival: str | None) -> dict[str, Any]:
    headline, more = tables.ranking_tables(split, results.models)
    title = f"{label(HEADLINE_METRIC)}, {label(split)}"
    return {
        "name": split,
        "targets": results.targets,
        "users": results.users,
        "users_with_training": results.users_with_training,
        "headline": headline,
        "more": more,
        "intervals": charts.interval_chart(title, results.models, HEADLINE_METRIC),
        "sensitivity": sensitivity(split, results),
        "comparisons": tables.comparisons_table(split, results.comparisons, rival) if results.comparisons else None,
        "purchases": tables.purchases_table(split, results.purchases) if results.purchases else None,
        "optimum": tables.optimum_table(split, results.optimum) if results.optimum else None,
        "slices": tables.slices_tables(split, results.slices),
    }


def _metrics(stages: Mapping[str, Mapping[str, Any]], stage: str) -> Mapping[str, Any]:
    return stages.get(stage, {}).get("metrics", {})


def _curves(report: Report, stages: Mapping[str, Mapping[str, Any]]) -> list[charts.LineChart]:
    ppo = _metrics(stages, "ppo")
    guard = report.guard or GuardReport.model_validate(ppo.get("guard") or {})
    return [
        *charts.guard_charts(guard.history),
        *charts.ppo_charts(ppo.get("log", [])),
        *charts.sft_charts(_metrics(stages, "sft").get("log", [])),
    ]


def _quality(reward_model: RewardModelReport | None) -> list[tables.Table]:
    """Tables of how well the reward model predicts clicks, purchases and clicks on exposures."""
    if reward_model is None:
        return []
    found = []
    for split, results in reward_model.splits.items():
        for what, quality in (("click", results.click), ("purchase", results.purchase)):
            if quality is not None:
                found += tables.quality_tables(f"{what}, {label(split)}", quality)
    exposures = reward_model.exposures
    if exposures is not None and exposures.n:
        found += tables.quality_tables("click on an exposure", exposures)
    return found


def _ranking(reward_model: RewardModelReport | None) -> list[tuple[str, str]]:
    """Ranking metrics of the reward model and its judge, and all other single numbers about them."""
    if reward_model is None:
        return []
    ranking = {split: results.ranking for split, results in reward_model.splits.items()}
    others = {key: value for key, value in reward_model.as_json().items() if key not in SHOWN_ELSEWHERE}
    return tables.pairs(ranking | others)


def _seconds(report: Report, stages: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Seconds of each stage and their sum."""
    reported = {stage: value for stage, value in report.seconds.items() if value is not None}
    recorded = {stage: record["seconds"] for stage, record in stages.items() if record.get("seconds") is not None}
    known = reported | recorded
    return [*known.items(), ("total", sum(known.values()))] if known else []


def _others(report: Report) -> str:
    """Parts of the report without a section of their own, as YAML; empty if there are none."""
    values = report.as_json()
    others = {key: values[key] for key in ("baselines", *report.unknown) if key in values}
    others |= {f"splits.{split}": results.unknown for split, results in report.splits.items() if results.unknown}
    return dump_yaml(others) if others else ""
