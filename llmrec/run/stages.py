"""The stages of a run: what runs each, what it requires and which config values its result depends on."""

import importlib
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmrec.config import Config, PenaltyConfig
from llmrec.distributed import is_main_process
from llmrec.errors import ConfigError, LlmrecError
from llmrec.run.lock import locked

if TYPE_CHECKING:
    from llmrec.run.run import Run


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        module: the module of the function that runs the stage. It is imported when the stage runs, because torch and
            transformers take seconds to import.
        function: name of that function. It takes the `Run` and ends with `run.finish`.
        requires: stages that must have finished before.
        config_keys: config sections, and single values outside of sections, that the result depends on.
        ignored_keys: dotted keys inside those sections that the result does not depend on.
    """

    module: str
    function: str
    requires: tuple[str, ...]
    config_keys: tuple[str, ...]
    ignored_keys: tuple[str, ...] = ()


# The reward stage fits models. These keys combine the fitted models into one reward, which only PPO reads.
_REWARD_WEIGHTS = (
    *(f"reward.{part}_weight" for part in ("item", "conversion", "popularity", "groundedness", "request")),
    *(f"reward.penalties.{key}" for key in PenaltyConfig.model_fields),
    "reward.text.weight",
    "reward.terms",
    "reward.parts",
)

STAGE_TABLE = {
    "data": Stage(
        module="llmrec.data.prepare",
        function="prepare_stage",
        requires=(),
        config_keys=("data",),
    ),
    "sft": Stage(
        module="llmrec.sft.stage",
        function="train_sft",
        requires=("data",),
        config_keys=("data", "catalogue", "model", "sft", "privacy", "seed"),
    ),
    "reward": Stage(
        module="llmrec.reward.stage",
        function="train_reward",
        requires=("data",),
        config_keys=("data", "reward", "seed"),
        ignored_keys=_REWARD_WEIGHTS,
    ),
    "ppo": Stage(
        module="llmrec.ppo.stage",
        function="train_ppo",
        requires=("data", "sft", "reward"),
        config_keys=("data", "catalogue", "model", "sft", "reward", "ppo", "seed"),
    ),
    "evaluate": Stage(
        module="llmrec.evaluation.evaluate",
        function="evaluate",
        requires=("data", "sft", "reward", "ppo"),
        config_keys=("data", "catalogue", "model", "sft", "reward", "ppo", "evaluation", "seed"),
    ),
}
STAGES = tuple(STAGE_TABLE)
ADAPTER_STAGES = ("sft", "ppo")  # the stages that train an adapter
# The command of each stage. Only the first differs from the name of the stage's folder.
VERBS = {stage: "prepare" if stage == "data" else stage for stage in STAGES}
PRIVATE_STAGES = ("data", "sft")  # the stages that run under the config section `privacy`


def check_stage(stage: str) -> None:
    """Raises ValueError if there is no such stage."""
    if stage not in STAGE_TABLE:
        raise ValueError(f"unknown stage {stage!r}; stages are {', '.join(STAGES)}")


def stages_of(config: Config) -> tuple[str, ...]:
    """The stages that `llmrec run` runs under a config, in order."""
    return STAGES if config.privacy is None else PRIVATE_STAGES


def refuse_unprotected(config: Config, what: str) -> None:
    """Refuses to train on people's data outside of the guarantee of the section `privacy`.

    Args:
        config: the config.
        what: the stage or command, as a user types it.

    Raises:
        ConfigError: the config has the section.
    """
    if config.privacy is not None:
        raise ConfigError(
            f"`privacy`: found with `{what}`, which trains on the same people without it, or needs a stage that does. "
            "Only the SFT adapter is protected. Use that adapter, or run this under another `name` without `privacy`."
        )


def run_stage(run: "Run", stage: str) -> None:
    """Runs one stage, whether it has finished before or not.

    Raises:
        RunError: a stage that it requires has not finished, or another process runs a stage in the run directory.
    """
    check_stage(stage)
    entry = STAGE_TABLE[stage]
    with locked(run.directory):
        run.require(*entry.requires)
        run.begin(stage)
        getattr(importlib.import_module(entry.module), entry.function)(run)
    if is_main_process() and not run.finished(stage):
        raise LlmrecError(f"{entry.module}.{entry.function} returned without finishing the stage.")


def run_all(run: "Run", *stages: str, say: Callable[[str], Any] = print) -> None:
    """Runs the stages that have not finished, in order.

    Args:
        run: the run.
        stages: names out of `STAGES`; none given means all that `stages_of` names.
        say: takes a line for people: which stage runs, which is skipped, how long each took, and the lines that the
            stage reports under `summary`.

    Raises:
        RunError: another process runs a stage in the run directory.
    """
    asked = stages or stages_of(run.config)
    to_do = any(not run.finished(stage) for stage in asked)
    with locked(run.directory) if to_do else nullcontext():  # nothing to do: only the results are read
        for stage in asked:
            if run.finished(stage):
                say(f"{stage}: finished before in {run.path(stage)}, skipped")
                for path in run.changed_inputs(stage):
                    say(
                        f"{stage}: warning: {path} was written to since. Its new rows are not used. To read it again, "
                        f"delete {run.directory}, or give the config another `name`."
                    )
                continue
            say(f"{stage}: running")
            started = time.monotonic()  # not read from metrics.json: the main process may not have written it yet
            run_stage(run, stage)
            say(f"{stage}: done in {time.monotonic() - started:.0f} s")
            if is_main_process():
                for line in run.metrics(stage).get("summary", []):
                    say(f"{stage}: {line}")
