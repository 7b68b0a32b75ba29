"""Makes `report.html` of a run from `report.json`, the stages' metrics and the config."""

import base64
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from llmrec.files import read_json, write_text
from llmrec.report import charts, tables
from llmrec.report.verdict import remarks, verdict
from llmrec.run import STAGES, Run

# Keys of report.json that have a section of their own; what else is there is shown as it is.
SECTIONS = ("splits", "generation", "reward", "reward_model", "guard", "examples", "data", "environment", "commands")
SPLIT_SECTIONS = ("models", "comparisons", "slices", "optimum", "targets", "users")
SUMMED_UP = ("splits", "calibration", "curve", "training", "seconds")  # of the reward model, shown elsewhere or long


def write_page(run: Run) -> Path:
    """Writes `report.html` into a run directory; the same run gives the same bytes.

    Raises:
        RunError: the run has not been evaluated, or was evaluated under another config.
    """
    run.require("evaluate")
    path = run.directory / "report.html"
    write_text(path, page_of(run, read_json(run.report_path), run.config.model_dump(mode="json")))
    return path


def page_of(run: Run, report: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The page of an evaluated run as HTML, with as much of its report and config as is given."""
    reliability = run.path("reward", "reliability.png")
    return render(
        report,
        name=run.config.name,
        config=yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True),
        stages={stage: _record(run, stage) for stage in STAGES},
        reliability=reliability.read_bytes() if reliability.is_file() else None,
    )


def _record(run: Run, stage: str) -> dict:
    file = run.path(stage, "metrics.json")
    return read_json(file) if file.is_file() else {}


def render(
    report: Mapping[str, Any],
    name: str,
    config: str,
    stages: Mapping[str, Mapping],
    reliability: bytes | None = None,
) -> str:
    """The page as HTML.

    Args:
        report: `report.json`; what it lacks is left out.
        name: of the run.
        config: as YAML.
        stages: by stage, what it left in `metrics.json`.
        reliability: a reliability diagram as PNG, shown where the report has no numbers to draw one from.
    """
    reward_model = report.get("reward_model") or {}
    diagrams = charts.reliability_charts(reward_model)
    return (
        _templates()
        .get_template("page.html")
        .render(
            name=name,
            verdict=verdict(report),
            remarks=remarks(report),
            splits=[_split(split, results) for split, results in report.get("splits", {}).items()],
            reward=tables.reward_table(report["reward"]) if report.get("reward") else None,
            curves=_curves(report, stages),
            events=_metrics(stages, "ppo").get("events", []),
            trust=_trust(reward_model),
            ranking=_ranking(reward_model),
            reliability=diagrams,
            reliability_image=None
            if diagrams or reliability is None
            else base64.b64encode(reliability).decode("ascii"),
            generation=tables.generation_table(report["generation"]) if report.get("generation") else None,
            examples=report.get("examples", []),
            card=tables.pairs(report.get("data", {})),
            config=config,
            commands=report.get("commands", []),
            environment=tables.pairs(report.get("environment", {})),
            seconds=_seconds(report, stages),
            others=_others(report),
        )
    )


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("llmrec.report"),
        autoescape=True,  # titles and justifications are other people's text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"label": tables.label, "number": tables.number}
    environment.globals |= {"tick_label": charts.tick_label, "layout": charts}
    return environment


def _split(split: str, results: Mapping) -> dict:
    models, comparisons = results.get("models", {}), results.get("comparisons", {})
    headline, more = tables.ranking_tables(split, models)
    return {
        "name": split,
        "targets": results.get("targets"),
        "users": results.get("users"),
        "headline": headline,
        "more": more,
        "intervals": charts.interval_chart(f"NDCG@10, {tables.label(split)}", models, "ndcg@10", tables.OURS),
        "comparisons": tables.comparisons_table(split, comparisons) if comparisons else None,
        "optimum": tables.optimum_table(split, results["optimum"]) if results.get("optimum") else None,
        "slices": tables.slices_tables(split, results.get("slices", {})),
    }


def _metrics(stages: Mapping[str, Mapping], stage: str) -> Mapping:
    return stages.get(stage, {}).get("metrics", {})


def _curves(report: Mapping, stages: Mapping[str, Mapping]) -> list[charts.LineChart]:
    ppo = _metrics(stages, "ppo")
    guard = report.get("guard") or ppo.get("guard", {})
    return [
        *charts.guard_charts(guard.get("history", [])),
        *charts.ppo_charts(ppo.get("log", [])),
        *charts.sft_charts(_metrics(stages, "sft").get("log", [])),
    ]


def _trust(reward_model: Mapping) -> list[tables.Table]:
    found = []
    for split, results in reward_model.get("splits", {}).items():
        for what in ("click", "purchase"):
            if results.get(what):
                found += tables.trust_tables(f"{what}, {tables.label(split)}", results[what])
    exposures = reward_model.get("exposures") or {}
    return found + (tables.trust_tables("click on what was shown", exposures) if exposures.get("n") else [])


def _ranking(reward_model: Mapping) -> list[tuple[str, str]]:
    """What the reward model and its judge do as rankers, and whatever else is known of them in single numbers."""
    ranking = {split: results.get("ranking", {}) for split, results in reward_model.get("splits", {}).items()}
    return tables.pairs(ranking | {key: value for key, value in reward_model.items() if key not in SUMMED_UP})


def _seconds(report: Mapping, stages: Mapping[str, Mapping]) -> list[tuple[str, float]]:
    known = {stage: record["seconds"] for stage, record in stages.items() if record.get("seconds") is not None}
    known = {**report.get("seconds", {}), **known}
    return list(known.items()) + ([("together", sum(known.values()))] if known else [])


def _others(report: Mapping) -> str:
    """What the report holds beside the page's sections, as YAML; empty if nothing."""
    others = {key: value for key, value in report.items() if key not in (*SECTIONS, "seconds")}
    for split, results in report.get("splits", {}).items():
        more = {key: value for key, value in results.items() if key not in SPLIT_SECTIONS}
        others |= {f"splits.{split}": more} if more else {}
    return yaml.safe_dump(others, sort_keys=False, allow_unicode=True) if others else ""
