"""Measures what training the justifications costs: CPU seconds of PPO's updates with `ppo.text: on` and `off`.

    python benchmarks/research/text_cost.py runs/quickstart [--updates 3]

RUN is a run in which `sft` and `reward` have finished. Both trainers start from its SFT adapter and take the same
updates of the size that the config gives, in turn, on one thread. It also prints what `ppo.text: auto` decides there,
and the metrics of the text before and after the updates.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

sys.path.insert(0, str(Path(__file__).parents[2]))  # a script has only its own folder on the path

from benchmarks.arms.start import Start
from llmrec.ppo.stage import training_arguments, training_decisions
from llmrec.ppo.text import text_decision
from llmrec.ppo.trainer import RecPPOTrainer
from llmrec.run import Run


def main(
    run: Annotated[Path, typer.Argument(help="Run in which sft and reward have finished.")],
    updates: Annotated[int, typer.Option(min=1, help="Number of updates.")] = 3,
) -> None:
    """Measure what training the justifications costs."""
    torch.set_num_threads(1)  # CPU time of several threads adds up
    start = Start.of(Run.open(run))
    with tempfile.TemporaryDirectory() as folder:
        trained, alone = (trainer(start, text, Path(folder) / text) for text in ("on", "off"))
        began = time.monotonic()
        before = alone.measure_text()
        _, decision = text_decision(before["text/reward_std"], time.monotonic() - began, alone.num_updates)
        seconds: dict[str, list[float]] = {"on": [], "off": []}
        for update in range(1, updates + 1):
            seconds["on"].append(cpu_seconds(trained, update))
            seconds["off"].append(cpu_seconds(alone, update))
        ratio = sum(seconds["on"]) / sum(seconds["off"])
        report = {"cpu_seconds": seconds, "ratio": ratio, "auto": decision}
        after = {"on": trained.measure_text(), "off": alone.measure_text()}
        print(json.dumps(report | {"text_before": before, "text_after": after}, indent=2))


def trainer(start: Start, text: Literal["on", "off"], folder: Path) -> RecPPOTrainer:
    """PPO from the SFT adapter of a run."""
    config = start.run.config
    section = config.ppo.model_copy(update={"text": text})
    run = Run(config.model_copy(update={"ppo": section}), folder)
    windows = training_decisions(start.data, config)
    return RecPPOTrainer(training_arguments(run), section, start.policy(), start.reward(), windows)


def cpu_seconds(trainer: RecPPOTrainer, update: int) -> float:
    """CPU seconds of one update."""
    began = time.process_time()
    experience, _ = trainer.collect(update)
    trainer.update(experience, update)
    return time.process_time() - began


if __name__ == "__main__":
    typer.run(main)
