"""Entry point of `scripts/train_*.py`, which `accelerate launch` starts in one or more processes."""

import argparse
import os
from pathlib import Path

from llmrec.cli.hub import push_if_configured
from llmrec.cli.process import exit_with
from llmrec.cli.stages import run_one_stage
from llmrec.distributed import is_main_process, leave_processes
from llmrec.progress.console import console_for


def stage_main(stage: str) -> None:
    """Runs one stage from the arguments of a script, with the error messages and exit codes of `llmrec`.

    Args:
        stage: One of `llmrec.run.STAGES`.
    """
    exit_with(lambda: _stage_from_arguments(stage))


def _stage_from_arguments(stage: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True, help="YAML config or run directory.")
    parser.add_argument("--json", action="store_true", help="Print the metrics as JSON on stdout.")
    arguments = parser.parse_args()
    join_cpu_processes()
    run = run_one_stage(arguments.config, stage, arguments.json)
    leave_processes()
    if stage == "ppo" and is_main_process():
        push_if_configured(run, console_for(stderr=arguments.json))


def join_cpu_processes() -> None:
    """Makes accelerate connect launched processes over gloo on a machine without accelerator.

    `accelerate launch` starts the processes but does not set this variable for them.
    """
    if "LOCAL_RANK" in os.environ:
        import torch

        if not torch.accelerator.is_available():
            os.environ.setdefault("ACCELERATE_USE_CPU", "true")
