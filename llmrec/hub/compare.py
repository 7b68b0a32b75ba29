"""What runs and pushed adapters came to, listed and side by side."""

from datetime import UTC, datetime
from pathlib import Path

from llmrec.config import read_yaml
from llmrec.errors import RunError, UserError
from llmrec.files import read_json
from llmrec.hub import client as hub
from llmrec.hub.push import shareable_config
from llmrec.run import STAGES, Run, flatten

HEADLINE = "ndcg@10"
POLICIES = ("sft", "ppo")
COMPARED = ("hr@10", HEADLINE)


def list_runs(directory: Path) -> list[dict]:
    """The runs of a directory, by name.

    Returns:
        one a run: `name`, `directory`, `finished` (stages), `ndcg@10` (see `headline`), `report_readable` (true also
        where there is none yet) and `when` its last stage ended, null if none has.

    Raises:
        RunError: there is no such directory.
    """
    if not directory.is_dir():
        raise RunError(f"There is no directory {directory} to list the runs of. `llmrec run CONFIG` makes one.")
    return [_run_entry(config.parent) for config in sorted(directory.glob("*/config.yaml"))]


def _run_entry(directory: Path) -> dict:
    """Whatever is there: a run of an older version, which `Run` would refuse, is listed too."""
    records = {stage: directory / stage / "metrics.json" for stage in STAGES}
    ended = {stage: file.stat().st_mtime for stage, file in records.items() if file.is_file()}
    newest = datetime.fromtimestamp(max(ended.values()), UTC).isoformat(timespec="seconds") if ended else None
    return {
        "name": directory.name,
        "directory": str(directory),
        "finished": list(ended),
        **_results(directory / "report.json"),
        "when": newest,
    }


def list_revisions(repo: str) -> list[dict]:
    """The commits of every branch of a repository, newest first.

    Returns:
        one a commit: `branch`, `commit`, `tags`, `title`, `when`, and of the report that it holds `ndcg@10` (see
        `headline`) and `report_readable`.

    Raises:
        UserError: the hub has no such repository, refuses, or cannot be reached.
    """
    known: dict[str, dict] = {}  # branches share commits
    entries = []
    branches, tags = hub.history(repo)
    for branch, commits in branches.items():
        for commit in commits:
            if commit.commit_id not in known:
                known[commit.commit_id] = _results(hub.fetch(repo, "report.json", commit.commit_id))
            entries.append(
                {
                    "branch": branch,
                    "commit": commit.commit_id,
                    "tags": [tag for tag, target in tags.items() if target == commit.commit_id],
                    "title": commit.title,
                    "when": commit.created_at.isoformat(timespec="seconds"),
                    **known[commit.commit_id],
                }
            )
    return entries


def headline(report: dict) -> dict:
    """NDCG@10 of the policies: `{split: {sft: {value, ci95, n}, ppo: ...}}`, of what there is."""
    return {
        split: {name: metrics[HEADLINE] for name, metrics in results.get("models", {}).items()
                if name in POLICIES and HEADLINE in metrics}
        for split, results in report.get("splits", {}).items()
    }  # fmt: skip


def _results(file: Path | None) -> dict:
    """What a list shows of a report: one that is broken must not hide the others."""
    try:
        return {HEADLINE: headline(_report(file)), "report_readable": True}
    except RunError:
        return {HEADLINE: {}, "report_readable": False}


def difference(a: str, b: str) -> dict:
    """Two runs or pushed adapters side by side.

    Args:
        a, b: each a run directory, or `OWNER/NAME` or `OWNER/NAME@REVISION` on a hub.

    Returns:
        `a` and `b` as given; `config`: of keys that differ (paths of a machine aside), `{key: {a, b}}`; `metrics`:
        `{split: {model: {metric: {a, b}}}}`, null where one has none.

    Raises:
        UserError: one of them is not there or not readable, or the hub refuses or cannot be reached.
    """
    (config_a, report_a), (config_b, report_b) = _side(a), _side(b)
    flat_a, flat_b = (flatten(shareable_config(config)) for config in (config_a, config_b))
    keys = list(flat_a) + [key for key in flat_b if key not in flat_a]
    pairs = {key: {"a": flat_a.get(key), "b": flat_b.get(key)} for key in keys}
    return {
        "a": a,
        "b": b,
        "config": {key: pair for key, pair in pairs.items() if pair["a"] != pair["b"]},
        "metrics": _side_by_side(report_a.get("splits", {}), report_b.get("splits", {})),
    }


def _side(name: str) -> tuple[dict, dict]:
    """Config and report. What was pushed may be of another version, whose config has other keys."""
    if Path(name).is_dir():
        run = Run.open(name)
        return run.config.model_dump(mode="json"), _report(run.report_path)
    repo, _, revision = name.partition("@")
    try:
        hub.check_name(repo)
    except UserError:
        raise RunError(f"There is no run directory {name}, and it cannot be OWNER/NAME[@REVISION] either.") from None
    file = hub.fetch(repo, "config.yaml", revision or None)
    try:
        config = read_yaml(file.read_text("utf-8")) if file is not None else None
    except ValueError:  # also a UnicodeDecodeError
        config = None
    if not isinstance(config, dict):
        raise RunError(
            f"`{name}` has no readable config.yaml: only what `llmrec push` uploaded from a run can be compared."
        )
    return config, _report(hub.fetch(repo, "report.json", revision or None))


def _side_by_side(a: dict, b: dict) -> dict:
    """Values of both reports by split, model and metric."""
    result: dict[str, dict] = {}
    for split in {**a, **b}:
        models_a, models_b = (side.get(split, {}).get("models", {}) for side in (a, b))
        result[split] = {
            model: {
                metric: {"a": models_a.get(model, {}).get(metric), "b": models_b.get(model, {}).get(metric)}
                for metric in COMPARED
            }
            for model in {**models_a, **models_b}
        }
    return result


def _report(file: Path | None) -> dict:
    """A report; empty if there is none.

    Raises:
        RunError: it is truncated, or no report.
    """
    if file is None or not file.is_file():
        return {}
    try:
        report = read_json(file)
        headline(report)
        return report
    except (ValueError, AttributeError, TypeError):
        raise RunError(f"{file} cannot be read as a report: `llmrec evaluate` writes it again.") from None
