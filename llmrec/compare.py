"""What runs and pushed adapters came to, listed and side by side."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmrec import hub
from llmrec.config import Config, load_config
from llmrec.errors import RunError, UserError
from llmrec.files import read_json
from llmrec.push import shareable_config
from llmrec.run import STAGES, Run, flatten

HEADLINE = "ndcg@10"
POLICIES = ("sft", "ppo")
COMPARED = ("hr@10", HEADLINE)


def list_runs(directory: Path) -> list[dict]:
    """The runs of a directory, by name.

    Returns:
        one a run: `name`, `directory`, `finished` (stages), `ndcg@10` (see `headline`) and `when` its last stage ended,
        null if none has.

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
    results = headline(_json_or_nothing(directory / "report.json"))
    return {
        "name": directory.name,
        "directory": str(directory),
        "finished": list(ended),
        HEADLINE: results,
        "when": newest,
    }


def list_revisions(repo: str) -> list[dict]:
    """The commits of every branch of a repository, newest first.

    Returns:
        one a commit: `branch`, `commit`, `title`, `when`, and `ndcg@10` (see `headline`) of the report that it holds.

    Raises:
        UserError: the hub has no such repository, refuses, or cannot be reached.
    """
    known: dict[str, dict] = {}  # branches share commits
    entries = []
    for branch, commits in hub.history(repo).items():
        for commit in commits:
            if commit.commit_id not in known:
                file = hub.fetch(repo, "report.json", commit.commit_id)
                known[commit.commit_id] = headline(_json_or_nothing(file))
            entries.append(
                {
                    "branch": branch,
                    "commit": commit.commit_id,
                    "title": commit.title,
                    "when": commit.created_at.isoformat(timespec="seconds"),
                    HEADLINE: known[commit.commit_id],
                }
            )
    return entries


def headline(report: dict) -> dict:
    """NDCG@10 of the policies: `{split: {sft: {value, ci95, n}, ppo: ...}}`, of what there is."""
    return {
        split: {name: results["models"][name][HEADLINE] for name in POLICIES if name in results.get("models", {})}
        for split, results in report.get("splits", {}).items()
    }


def difference(a: str, b: str) -> dict:
    """Two runs or pushed adapters side by side.

    Args:
        a, b: each a run directory, or `OWNER/NAME` or `OWNER/NAME@REVISION` on a hub.

    Returns:
        `a` and `b` as given; `config`: of keys that differ (paths of a machine aside), `{key: {a, b}}`; `metrics`:
        `{split: {model: {metric: {a, b}}}}`, null where one has none.

    Raises:
        UserError: one of them is not there, or the hub refuses or cannot be reached.
    """
    (config_a, report_a), (config_b, report_b) = _side(a), _side(b)
    flat_a, flat_b = (flatten(shareable_config(config.model_dump(mode="json"))) for config in (config_a, config_b))
    keys = list(flat_a) + [key for key in flat_b if key not in flat_a]
    pairs = {key: {"a": flat_a.get(key), "b": flat_b.get(key)} for key in keys}
    return {
        "a": a,
        "b": b,
        "config": {key: pair for key, pair in pairs.items() if pair["a"] != pair["b"]},
        "metrics": _side_by_side(report_a.get("splits", {}), report_b.get("splits", {})),
    }


def _side(name: str) -> tuple[Config, dict]:
    if Path(name).is_dir():
        run = Run.open(name)
        return run.config, _json_or_nothing(run.report_path)
    repo, _, revision = name.partition("@")
    try:
        hub.check_name(repo)
    except UserError:
        raise RunError(f"There is no run directory {name}, and it cannot be OWNER/NAME[@REVISION] either.") from None
    config = hub.fetch(repo, "config.yaml", revision or None)
    if config is None:
        raise RunError(f"`{name}` has no config.yaml: only what `llmrec push` uploaded from a run can be compared.")
    return load_config(config), _json_or_nothing(hub.fetch(repo, "report.json", revision or None))


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


def _json_or_nothing(file: Path | None) -> Any:
    return read_json(file) if file is not None and file.is_file() else {}
