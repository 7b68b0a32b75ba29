"""The run directory: what each stage wrote, under which config, and which stages have finished.

A stage has finished when its `metrics.json` exists, which is written last. That file also records the config values
that the result depends on. A run never mixes the results of two configs: it raises a RunError instead.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmrec.config import Config, dump_config, load_saved_config
from llmrec.distributed import is_main_process
from llmrec.errors import RunError, nearest
from llmrec.files import FileState, plain, read_json, write_json, write_text
from llmrec.run.fingerprint import config_fingerprint, differences
from llmrec.run.lock import locked
from llmrec.run.records import (
    METRICS_FILE,
    STARTED_FILE,
    StageRecord,
    changed_inputs,
    read_record,
    result_mark,
)
from llmrec.run.requirements import check_installed
from llmrec.run.stages import (
    ADAPTER_STAGES,
    STAGE_TABLE,
    STAGES,
    VERBS,
    check_stage,
    refuse_unprotected,
    stages_of,
)
from llmrec.run.versions import library_versions
from llmrec.timing import spent, start_clock

CONFIG_FILE = "config.yaml"
SHOWN_RUNS = 10  # runs that an error message lists at most


class Run:
    """The directory `<output_dir>/<name>/` of one experiment.

    Attributes:
        config: the config with all defaults filled in.
        directory: path of the directory.
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
            ConfigError: a package that the config needs is not installed.
            RunError: a stage in the directory was run or begun under other values, or another process runs a stage
                there and the config differs. Nothing is changed then.
        """
        check_installed(config)
        directory = Path(config.output_dir) / config.name
        if directory.exists() and not directory.is_dir():
            raise RunError(f"{directory} is a file, not a run directory. Choose another `name` or `output_dir`.")
        run = cls(config, directory)
        run._refuse_conflicts(*STAGES)
        text = dump_config(config)
        target = directory / CONFIG_FILE
        if is_main_process() and not (target.is_file() and target.read_text(encoding="utf-8") == text):
            with locked(directory):
                write_text(target, text)
        return run

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> "Run":
        """Opens a run directory that exists.

        Raises:
            RunError: there is no run; the message lists runs in the neighborhood.
        """
        directory = Path(directory)
        if not (directory / CONFIG_FILE).is_file():
            raise RunError(f"{directory} is not a run directory (no {CONFIG_FILE} in it). {_runs_near(directory)}")
        return cls(load_saved_config(directory / CONFIG_FILE), directory)

    # --- paths ---

    def path(self, stage: str, *parts: str) -> Path:
        """A path inside the folder of a stage. The stage makes the folders that it needs."""
        check_stage(stage)
        return self.directory.joinpath(stage, *parts)

    @property
    def report_path(self) -> Path:
        """The JSON report of the evaluate stage."""
        return self.directory / "report.json"

    def adapter_stage(self, name: str | None = None) -> str:
        """The stage whose adapter is used: `name` if given, else `ppo` if that stage has finished, else `sft`."""
        if name is not None and name not in ADAPTER_STAGES:
            raise ValueError(f"unknown adapter {name!r}; adapters are {', '.join(ADAPTER_STAGES)}")
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

    # --- progress ---

    def begin(self, stage: str) -> None:
        """Starts the clock of a stage and records its config, so that another config cannot resume its checkpoints.

        Raises:
            RunError: the stage was begun or finished under other values.
            ConfigError: the section `privacy` does not cover the stage.
        """
        if stage not in stages_of(self.config):
            refuse_unprotected(self.config, VERBS[stage])
        self._refuse_conflicts(stage)
        if stage not in self._started:
            self._started[stage] = time.monotonic()
            start_clock()
        if is_main_process():
            record = {"fingerprint": config_fingerprint(self.config, stage), "built_on": self._built_on(stage)}
            write_json(self.path(stage, STARTED_FILE), record)

    def finish(self, stage: str, metrics: dict[str, Any], inputs: Mapping[Path, FileState] | None = None) -> None:
        """Marks a stage as finished by writing `<stage>/metrics.json`. A stage calls it last.

        Every process may call it; only the main process writes.

        Args:
            stage: the stage, after `begin` (which `run_stage` has called).
            metrics: values that `plain` converts to JSON.
            inputs: state of each file of the user's that the stage has read, see `changed_inputs`.
        """
        if not is_main_process():
            return
        started = self._started.pop(stage, None)
        record = {
            "stage": stage,
            "seconds": None if started is None else round(time.monotonic() - started, 3),
            "parts": None if started is None else spent(),
            "metrics": plain(metrics),
            "fingerprint": config_fingerprint(self.config, stage),
            "built_on": self._built_on(stage),
            "versions": library_versions(),
            "inputs": {str(path.absolute()): state for path, state in (inputs or {}).items()},
        }
        write_json(self.path(stage, METRICS_FILE), record)
        self.path(stage, STARTED_FILE).unlink(missing_ok=True)

    def finished(self, stage: str) -> bool:
        """Whether a stage has finished under this config.

        Raises:
            RunError: the stage was begun or finished under other values.
        """
        self._refuse_conflicts(stage)
        if stage == "evaluate" and not self.report_path.is_file():
            return False
        return self.path(stage, METRICS_FILE).is_file()

    def require(self, *stages: str) -> None:
        """Checks that stages have finished.

        Raises:
            RunError: a stage has not finished; the message names the command to run first.
        """
        missing = [stage for stage in stages if not self.finished(stage)]
        if missing:
            commands = "\n".join(f"  llmrec {VERBS[stage]} {self.directory}" for stage in missing)
            raise RunError(f"{self.directory} has no finished {', '.join(missing)} stage. Run first:\n{commands}")

    # --- results ---

    def record(self, stage: str) -> dict[str, Any]:
        """The content of `<stage>/metrics.json`: `stage, seconds, parts, metrics, fingerprint, built_on, versions,
        inputs`."""
        self.require(stage)
        return read_json(self.path(stage, METRICS_FILE))

    def metrics(self, stage: str) -> dict[str, Any]:
        """The metrics that a finished stage reported."""
        return self.record(stage)["metrics"]

    def changed_inputs(self, stage: str) -> list[str]:
        """Files of the user's that were written to since the stage read them."""
        return changed_inputs(self.record(stage).get("inputs", {}))  # older records have none

    # --- conflicts between results ---

    def _built_on(self, stage: str) -> dict[str, str | None]:
        """Marks of the present results of the stages that a stage requires."""
        return {required: result_mark(self.path(required)) for required in STAGE_TABLE[stage].requires}

    def _refuse_conflicts(self, *stages: str) -> None:
        """Checks that the recorded results of stages fit the config and the results that they were made from.

        Raises:
            RunError: a required stage was run again or deleted since, or the config has changed.
        """
        records = {stage: record for stage in stages if (record := read_record(self.path(stage))) is not None}
        rebuilt = {stage: self._rebuilt_since(stage, record) for stage, record in records.items()}
        if any(rebuilt.values()):
            raise RunError(self._rebuilt_message({stage: names for stage, names in rebuilt.items() if names}))
        changed = {
            stage: differences(record.fingerprint, config_fingerprint(self.config, stage))
            for stage, record in records.items()
        }
        if any(changed.values()):
            raise RunError(self._changed_message({stage: keys for stage, keys in changed.items() if keys}))

    def _rebuilt_since(self, stage: str, record: StageRecord) -> list[str]:
        """Required stages that were run again or deleted after this stage had used their results."""
        present = self._built_on(stage)
        return [required for required, mark in record.built_on.items() if present.get(required) != mark]

    def _rebuilt_message(self, rebuilt: dict[str, list[str]]) -> str:
        what = ", ".join(f"{stage} (from {', '.join(required)})" for stage, required in rebuilt.items())
        return (
            f"{self.directory} holds results made from stages that were since deleted or run again: {what}. "
            f"No files were changed. Delete these as well, and run the same command again: {self._folders(rebuilt)}"
        )

    def _changed_message(self, changed: dict[str, dict[str, str]]) -> str:
        keys = {key: change for changes in changed.values() for key, change in changes.items()}
        lines = "\n".join(f"  {key}: {change}" for key, change in keys.items())
        return (
            f"{self.directory} holds results of another config ({', '.join(changed)}). "
            f"Changed (old -> new):\n{lines}\nNo files were changed. "
            f"Give this config another `name`, or delete what it would replace: {self._folders(changed)}"
        )

    def _folders(self, stages: dict[str, Any]) -> str:
        return ", ".join(str(self.path(stage)) for stage in stages)


def _runs_near(directory: Path) -> str:
    """A sentence that lists the runs inside `directory`, beside it and in `runs/`, the best match by name first."""
    places = (directory, directory.parent, Path("runs"))
    found = sorted({file.parent for place in places for file in _configs_in(place)})
    if not found:
        return "`llmrec run CONFIG` makes one."
    best = nearest(directory.name, [run.name for run in found])
    found.sort(key=lambda run: run.name != best)
    more = f" and {len(found) - SHOWN_RUNS} more" if len(found) > SHOWN_RUNS else ""
    return f"Runs near it: {', '.join(map(str, found[:SHOWN_RUNS]))}{more}."


def _configs_in(place: Path) -> list[Path]:
    try:
        return list(place.glob(f"*/{CONFIG_FILE}"))
    except OSError:
        return []
