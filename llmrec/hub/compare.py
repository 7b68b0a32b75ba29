"""Lists runs and pushed revisions with their headline metric, and compares two of them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field

from llmrec.config import read_yaml
from llmrec.errors import RunError, UserError
from llmrec.evaluation.report import COMPARED_METRICS, HEADLINE_METRIC, POLICIES, Estimate, Report, Section, SplitReport
from llmrec.hub.bundle import shareable_config
from llmrec.hub.client import check_name, fetch, history
from llmrec.run import STAGES, Run, flatten

Headline = dict[str, dict[str, Estimate]]  # NDCG@10 by split and policy


class RunEntry(Section):
    """A run of a directory."""

    name: str = Field(description="Name of the run's directory.")
    directory: str = Field(description="Path of the run's directory.")
    finished: list[str] = Field(description="Stages that have finished.")
    ndcg: Headline = Field(serialization_alias=HEADLINE_METRIC, description="NDCG@10 by split and policy.")
    report_readable: bool = Field(description="False if there is a report that cannot be read.")
    when: str | None = Field(description="Time at which the last stage finished; null if none has.")


class RevisionEntry(Section):
    """A commit of a hub repository."""

    branch: str = Field(description="Branch of the commit.")
    commit: str = Field(description="Id of the commit.")
    tags: list[str] = Field(description="Tags of the commit.")
    title: str = Field(description="First line of the commit message.")
    when: str = Field(description="Time of the commit.")
    ndcg: Headline = Field(serialization_alias=HEADLINE_METRIC, description="NDCG@10 by split and policy.")
    report_readable: bool = Field(description="False if there is a report that cannot be read.")


class ValuePair(Section):
    """A config value on both sides; null where a side lacks it."""

    a: Any
    b: Any


class EstimatePair(Section):
    """A metric on both sides; null where a side lacks it."""

    a: Estimate | None
    b: Estimate | None


class Difference(Section):
    """Two runs or pushed adapters side by side."""

    a: str = Field(description="The first, as it was given.")
    b: str = Field(description="The second, as it was given.")
    config: dict[str, ValuePair] = Field(description="Config keys whose values differ, apart from local paths.")
    metrics: dict[str, dict[str, dict[str, EstimatePair]]] = Field(
        description="Metrics by split, model and metric, of all models that either side evaluated."
    )


# --- lists ----------------------------------------------------------------------------------------


def list_runs(directory: Path) -> list[RunEntry]:
    """The runs of a directory in order of their names.

    Raises:
        RunError: the directory does not exist.
    """
    if not directory.is_dir():
        raise RunError(f"There is no directory {directory}. `llmrec run CONFIG` makes a run.")
    return [_run_entry(config.parent) for config in sorted(directory.glob("*/config.yaml"))]


def _run_entry(directory: Path) -> RunEntry:
    """The entry of a run. It is read from files, because `Run` refuses runs of older versions."""
    records = {stage: directory / stage / "metrics.json" for stage in STAGES}
    times = {stage: file.stat().st_mtime for stage, file in records.items() if file.is_file()}
    newest = datetime.fromtimestamp(max(times.values()), UTC).isoformat(timespec="seconds") if times else None
    report = directory / "report.json"
    ndcg, readable = _headline_of(report if report.is_file() else None)
    return RunEntry(
        name=directory.name,
        directory=str(directory),
        finished=list(times),
        ndcg=ndcg,
        report_readable=readable,
        when=newest,
    )


def list_revisions(repo: str) -> list[RevisionEntry]:
    """The commits of every branch of a repository, newest first.

    Args:
        repo: `OWNER/NAME` on the hub.

    Raises:
        UserError: the repository does not exist, or the hub refuses or cannot be reached.
    """
    headlines: dict[str, tuple[Headline, bool]] = {}  # branches share commits
    entries = []
    branches, tags = history(repo)
    for branch, commits in branches.items():
        for commit in commits:
            if commit.commit_id not in headlines:
                headlines[commit.commit_id] = _headline_of(fetch(repo, "report.json", commit.commit_id))
            ndcg, readable = headlines[commit.commit_id]
            entry = RevisionEntry(
                branch=branch,
                commit=commit.commit_id,
                tags=[tag for tag, target in tags.items() if target == commit.commit_id],
                title=commit.title,
                ndcg=ndcg,
                report_readable=readable,
                when=commit.created_at.isoformat(timespec="seconds"),
            )
            entries.append(entry)
    return entries


def _headline_of(file: Path | None) -> tuple[Headline, bool]:
    """NDCG@10 in a report file, and whether the file is readable. One broken report must not hide the other entries."""
    try:
        return (headline(Report.load(file)) if file else {}), True
    except RunError:
        return {}, False


def headline(report: Report) -> Headline:
    """NDCG@10 of the policies by split and policy, without those that were not measured."""
    return {
        name: {
            policy: estimate for policy in POLICIES if (estimate := split.metric(policy, HEADLINE_METRIC)) is not None
        }
        for name, split in report.splits.items()
    }


# --- differences ----------------------------------------------------------------------------------


def difference(a: str, b: str) -> Difference:
    """Compares two runs or pushed adapters.

    Args:
        a: a run directory, or `OWNER/NAME` or `OWNER/NAME@REVISION` on a hub.
        b: the other one, in the same form.

    Raises:
        UserError: one of them does not exist or is not readable, or the hub refuses or cannot be reached.
    """
    config_a, report_a = _config_and_report(a)
    config_b, report_b = _config_and_report(b)
    return Difference(
        a=a,
        b=b,
        config=_config_difference(config_a, config_b),
        metrics={
            name: _metrics_difference(report_a.splits.get(name), report_b.splits.get(name))
            for name in {**report_a.splits, **report_b.splits}
        },
    )


def _config_and_report(name: str) -> tuple[dict[str, Any], Report]:
    """Config as JSON values, and report. A pushed config may be of another version, with other keys."""
    if Path(name).is_dir():
        run = Run.open(name)
        return run.config.model_dump(mode="json"), Report.load(
            run.report_path
        ) if run.report_path.is_file() else Report()
    repo, _, revision = name.partition("@")
    try:
        check_name(repo)
    except UserError:
        raise RunError(
            f"{name} is neither a run directory nor a repository (OWNER/NAME or OWNER/NAME@REVISION)."
        ) from None
    config = _readable_config(fetch(repo, "config.yaml", revision or None))
    if config is None:
        raise RunError(f"`{name}` has no readable config.yaml. Compare runs uploaded by `llmrec push`.")
    file = fetch(repo, "report.json", revision or None)
    return config, Report.load(file) if file is not None else Report()


def _readable_config(file: Path | None) -> dict[str, Any] | None:
    """The config in a file as JSON values; None if it is missing or not readable."""
    try:
        config = read_yaml(file.read_text("utf-8")) if file is not None else None
    except ValueError:  # also a UnicodeDecodeError
        return None
    return config if isinstance(config, dict) else None


def _config_difference(config_a: dict[str, Any], config_b: dict[str, Any]) -> dict[str, ValuePair]:
    """Values that differ, by dotted key, without local paths."""
    flat_a = flatten(shareable_config(config_a))
    flat_b = flatten(shareable_config(config_b))
    pairs = {key: ValuePair(a=flat_a.get(key), b=flat_b.get(key)) for key in {**flat_a, **flat_b}}
    return {key: pair for key, pair in pairs.items() if pair.a != pair.b}


def _metrics_difference(split_a: SplitReport | None, split_b: SplitReport | None) -> dict[str, dict[str, EstimatePair]]:
    """Metrics of two reports on one split, by model and metric. Metrics that neither has are left out."""
    models_a: Mapping[str, Mapping[str, Estimate]] = split_a.models if split_a else {}
    models_b: Mapping[str, Mapping[str, Estimate]] = split_b.models if split_b else {}
    found: dict[str, dict[str, EstimatePair]] = {}
    for model in {**models_a, **models_b}:
        metrics_a = models_a.get(model, {})
        metrics_b = models_b.get(model, {})
        found[model] = {
            metric: EstimatePair(a=metrics_a.get(metric), b=metrics_b.get(metric))
            for metric in COMPARED_METRICS
            if metric in metrics_a or metric in metrics_b
        }
    return found
