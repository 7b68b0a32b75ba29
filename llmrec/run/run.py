"""A run directory: what each stage wrote, under which config, and which stage is next.

A stage is finished when its `metrics.json` exists, which is written last. The file also holds the config
values that the stage depended on, so a run never mixes results of two configs: `Run` refuses instead.
"""

import difflib
import hashlib
import importlib
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import llmrec
from llmrec.config import Config, PenaltyConfig, default_of, load_config
from llmrec.config.checks import check_options
from llmrec.distributed import is_main_process
from llmrec.errors import LlmrecError, RunError
from llmrec.files import plain, read_json, write_json, write_text


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        module, function: what runs it; called with the `Run`. Imported only when needed: torch takes seconds.
        needs: stages that must have finished.
        depends_on: config sections and single values that its result depends on.
        ignores: keys inside those sections that do not change its result.
    """

    module: str
    function: str
    needs: tuple[str, ...]
    depends_on: tuple[str, ...]
    ignores: tuple[str, ...] = ()


# How the parts of the reward are weighed changes PPO, not the fit of the reward models.
_REWARD_WEIGHTS = (
    *(f"reward.{part}_weight" for part in ("item", "conversion", "popularity", "groundedness")),
    *(f"reward.penalties.{key}" for key in PenaltyConfig.model_fields),
    "reward.text.weight",
    "reward.terms",
    "reward.parts",
)

STAGE_TABLE = {
    "data": Stage("llmrec.data.prepare", "prepare_stage", (), ("data",)),
    "sft": Stage("llmrec.sft.stage", "train_sft", ("data",), ("data", "catalogue", "model", "sft", "seed")),
    "reward": Stage(
        "reward_models.train", "train_reward", ("data",), ("data", "reward", "seed"), ignores=_REWARD_WEIGHTS
    ),
    "ppo": Stage(
        "llmrec.ppo.stage",
        "train_ppo",
        ("data", "sft", "reward"),
        ("data", "catalogue", "model", "sft", "reward", "ppo", "seed"),
    ),
    "evaluate": Stage(
        "llmrec.evaluation.evaluate",
        "evaluate",
        ("data", "sft", "reward", "ppo"),
        ("data", "catalogue", "model", "sft", "reward", "ppo", "evaluation", "seed"),
    ),
}
STAGES = tuple(STAGE_TABLE)
# The CLI verb of each stage; only the first differs from the stage's folder.
VERBS = {stage: "prepare" if stage == "data" else stage for stage in STAGES}

ADAPTER_STAGES = ("sft", "ppo")
NOT_SET = "(not set)"
_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "numpy", "pandas")


class Run:
    """The directory `<output_dir>/<name>/` of one experiment.

    Attributes:
        config: the resolved config.
        directory: where it lies.
    """

    def __init__(self, config: Config, directory: Path):
        self.config = config
        self.directory = directory
        self._started: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r})"

    @classmethod
    def create(cls, config: Config) -> "Run":
        """Makes the run directory of a config, or opens it if it exists.

        Raises:
            RunError: a stage there was run, or begun, under other values; nothing has been touched.
        """
        check_options(config)
        directory = Path(config.output_dir) / config.name
        if directory.exists() and not directory.is_dir():
            raise RunError(f"{directory} is a file, not a run directory. Choose another `name` or `output_dir`.")
        run = cls(config, directory)
        run._refuse_other_config(*STAGES)
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        target = directory / "config.yaml"
        if is_main_process() and not (target.is_file() and target.read_text(encoding="utf-8") == text):
            write_text(target, text)
        return run

    @classmethod
    def open(cls, directory: str | os.PathLike) -> "Run":
        """Opens a run directory that exists.

        Raises:
            RunError: there is no run there; the message lists the runs near it.
        """
        directory = Path(directory)
        if not (directory / "config.yaml").is_file():
            raise RunError(f"{directory} is not a run directory (no config.yaml in it). {_runs_near(directory)}")
        return cls(load_config(directory / "config.yaml"), directory)

    def path(self, stage: str, *parts: str) -> Path:
        """A path inside the folder of a stage; the stage creates what it needs."""
        _check_stage(stage)
        return self.directory.joinpath(stage, *parts)

    @property
    def report_path(self) -> Path:
        """Where the evaluate stage writes its report, for programs."""
        return self.directory / "report.json"

    def begin(self, stage: str) -> None:
        """Starts the clock of a stage and records its config: no other config may resume its checkpoints.

        Raises:
            RunError: the stage was begun or finished under other values.
        """
        self._refuse_other_config(stage)
        self._started.setdefault(stage, time.monotonic())
        if is_main_process():
            record = {"fingerprint": fingerprint(self.config, stage), "built_on": self._built_on(stage)}
            write_json(self.path(stage, "started.json"), record)

    def finish(self, stage: str, metrics: dict) -> None:
        """Marks a stage as finished. Call it last: after this the stage is not run again.

        Writes `<stage>/metrics.json`. Only the main process writes, so every process may call it.

        Args:
            stage: the stage, after `begin` (which `run_stage` has called).
            metrics: JSON values; numpy numbers are converted and NaN becomes null.
        """
        if not is_main_process():
            return
        started = self._started.pop(stage, None)
        record = {
            "stage": stage,
            "seconds": None if started is None else round(time.monotonic() - started, 3),
            "metrics": plain(metrics),
            "fingerprint": fingerprint(self.config, stage),
            "built_on": self._built_on(stage),
            "versions": library_versions(),
        }
        write_json(self.path(stage, "metrics.json"), record)
        self.path(stage, "started.json").unlink(missing_ok=True)

    def finished(self, stage: str) -> bool:
        """Whether a stage has finished under this config.

        Raises:
            RunError: it finished, or was begun, under other values.
        """
        self._refuse_other_config(stage)
        if stage == "evaluate" and not self.report_path.is_file():
            return False
        return self.path(stage, "metrics.json").is_file()

    def adapter_stage(self, name: str | None = None) -> str:
        """The stage whose adapter is used: `name` if it is given, else `ppo` if that stage has finished, else `sft`."""
        if name is not None and name not in ADAPTER_STAGES:
            raise ValueError(f"there is no adapter {name!r}; adapters are {', '.join(ADAPTER_STAGES)}")
        return name or ("ppo" if self.finished("ppo") else "sft")

    def adapter(self, name: str | None = None) -> Path:
        """The directory of a trained adapter.

        Args:
            name: `ppo` or `sft`; None for `ppo` if that stage has finished, else `sft`.

        Raises:
            RunError: the stage that trains the adapter has not finished.
        """
        stage = self.adapter_stage(name)
        self.require("data", stage)
        return self.path(stage, "adapter")

    def record(self, stage: str) -> dict:
        """All of `<stage>/metrics.json`: `stage, seconds, metrics, fingerprint, built_on, versions`."""
        self.require(stage)
        return read_json(self.path(stage, "metrics.json"))

    def metrics(self, stage: str) -> dict:
        """The metrics that a finished stage reported."""
        return self.record(stage)["metrics"]

    def require(self, *stages: str) -> None:
        """Checks that stages have finished.

        Raises:
            RunError: one has not; the message names the command to run first.
        """
        missing = [stage for stage in stages if not self.finished(stage)]
        if missing:
            commands = "\n".join(f"  llmrec {VERBS[stage]} {self.directory}" for stage in missing)
            raise RunError(f"{self.directory} has no finished {', '.join(missing)} stage. Run first:\n{commands}")

    def _refuse_other_config(self, *stages: str) -> None:
        """Raises RunError if a stage was begun or finished under values other than this config's, or from results of
        earlier stages that are no longer there.
        """
        changed: dict[str, str] = {}
        stale: list[str] = []
        self._refuse_rebuilt(*stages)
        for stage in stages:
            recorded = self._recorded(stage)
            differences = _differences(recorded["fingerprint"], fingerprint(self.config, stage)) if recorded else {}
            if differences:
                stale.append(stage)
                changed.update(differences)
        if not stale:
            return
        lines = "\n".join(f"  {key}: {change}" for key, change in changed.items())
        folders = ", ".join(str(self.path(stage)) for stage in stale)
        raise RunError(
            f"{self.directory} holds results of another config ({', '.join(stale)}). "
            f"Changed (old -> new):\n{lines}\nNothing was touched. "
            f"Give this config another `name`, or delete what it would replace: {folders}"
        )

    def _refuse_rebuilt(self, *stages: str) -> None:
        """Raises RunError if a stage stands on an earlier one that was since run again, or deleted."""
        gone: dict[str, list[str]] = {}
        for stage in stages:
            then, now = (self._recorded(stage) or {}).get("built_on", {}), self._built_on(stage)
            changed = [needed for needed, mark in then.items() if now.get(needed) != mark]
            if changed:
                gone[stage] = changed
        if gone:
            what = ", ".join(f"{stage} (from {', '.join(needed)})" for stage, needed in gone.items())
            folders = ", ".join(str(self.path(stage)) for stage in gone)
            raise RunError(
                f"{self.directory} holds results made from stages that were since deleted or run again: {what}. "
                f"Nothing was touched. Delete these as well, and run the same command again: {folders}"
            )

    def _built_on(self, stage: str) -> dict[str, str | None]:
        """A mark of each needed stage's result: it changes when that stage is run again; None if it is not there."""
        marks = {}
        for needed in STAGE_TABLE[stage].needs:
            file = self.path(needed, "metrics.json")
            marks[needed] = hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else None
        return marks

    def _recorded(self, stage: str) -> dict | None:
        """The record under which a stage finished, or left something to resume; None if neither."""
        for name in ("metrics.json", "started.json"):
            file = self.path(stage, name)
            try:
                record = read_json(file)
                recorded = {"fingerprint": record["fingerprint"], "built_on": record.get("built_on", {})}
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, TypeError):
                raise RunError(f"{file} was not written by llmrec. Delete {file.parent} to run it again.") from None
            # A stage that failed before it wrote anything, on a wrong path for instance, binds nobody.
            if name == "metrics.json" or _holds_more_than(file):
                return recorded
        return None


def run_stage(run: Run, stage: str) -> None:
    """Runs one stage, finished or not. The stage calls `run.finish`, and `run.begin` if it likes.

    Raises:
        RunError: a stage that it needs has not finished.
    """
    _check_stage(stage)
    entry = STAGE_TABLE[stage]
    run.require(*entry.needs)
    run.begin(stage)
    getattr(importlib.import_module(entry.module), entry.function)(run)
    if is_main_process() and not run.finished(stage):
        raise LlmrecError(f"{entry.module}.{entry.function} returned without finishing the stage.")


def run_all(run: Run, *stages: str, say: Callable[[str], Any] = print) -> None:
    """Runs the unfinished ones of `stages` (default: all) in order and says which it skipped.

    Args:
        run: the run.
        stages: names out of `STAGES`.
        say: where a line for people goes.
    """
    for stage in stages or STAGES:
        _check_stage(stage)
        if run.finished(stage):
            say(f"{stage}: finished before in {run.path(stage)}, skipped")
            continue
        say(f"{stage}: running")
        started = time.monotonic()  # not from metrics.json: another process may not have written it yet
        run_stage(run, stage)
        say(f"{stage}: done in {time.monotonic() - started:.0f} s")


def fingerprint(config: Config, stage: str) -> dict[str, Any]:
    """The config values that a stage's result depends on: dotted key to JSON value."""
    entry = STAGE_TABLE[stage]
    values = config.model_dump(mode="json")
    # The text reward model stands on the policy's base and reads the same profiles.
    text = ("model", "catalogue") if stage == "reward" and config.reward.text else ()
    flat = flatten({section: values[section] for section in (*entry.depends_on, *text)})
    return {key: value for key, value in flat.items() if key not in entry.ignores}


def library_versions() -> dict[str, str]:
    """Versions of llmrec, Python and the libraries that results depend on."""
    versions = {"llmrec": llmrec.__version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _holds_more_than(file: Path) -> bool:
    return any(entry != file and not entry.name.startswith(".") for entry in file.parent.iterdir())


def _check_stage(stage: str) -> None:
    if stage not in STAGE_TABLE:
        raise ValueError(f"unknown stage {stage!r}; stages are {', '.join(STAGES)}")


def flatten(values: dict, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, under dotted keys."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _differences(old: dict, new: dict) -> dict[str, str]:
    """Dotted key to `old -> new`, for every value that differs."""
    keys = list(new) + [key for key in old if key not in new]
    pairs = {key: (_value_then(old, key), new.get(key, NOT_SET)) for key in keys}
    return {key: f"{before} -> {after}" for key, (before, after) in pairs.items() if before != after}


def _value_then(recorded: dict, key: str) -> Any:
    """A recorded config value; for a key that is newer than the record its default, which is what held then.

    Inside a section that was off (`reward.text: null`) nothing held.
    """
    if key in recorded:
        return recorded[key]
    parts = key.split(".")
    off = any(".".join(parts[:depth]) in recorded for depth in range(1, len(parts)))
    return NOT_SET if off else plain(default_of(key))


def _runs_near(directory: Path) -> str:
    """A sentence that lists runs inside `directory`, beside it or in `runs/`."""
    found = sorted(
        {file.parent for place in (directory, directory.parent, Path("runs")) for file in _configs_in(place)}
    )
    if not found:
        return "`llmrec run CONFIG` makes one."
    nearest = difflib.get_close_matches(directory.name, [run.name for run in found], n=1)
    found.sort(key=lambda run: run.name not in nearest)
    more = f" and {len(found) - 10} more" if len(found) > 10 else ""
    return f"Runs near it: {', '.join(map(str, found[:10]))}{more}."


def _configs_in(place: Path) -> list[Path]:
    try:
        return list(place.glob("*/config.yaml"))
    except OSError:
        return []
