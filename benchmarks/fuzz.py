"""Feeds generated logs to `llmrec prepare` and requests to `llmrec recommend`; counts what must never happen.

    python benchmarks/fuzz.py --minutes 5 [--target logs|recommend] [--seed 0] [--keep DIR] [--json]

Each log has its own mixture of file syntax, ids, times, ratings, titles, attributes and damage. A log is either
prepared or refused by a message. Requests go to tiny runs that are trained on hostile titles, ids and attributes: one
run for each `INPUTS_PER_ROUND` requests. All inputs run in this process; one request of each round runs as a process
as well.
These outcomes are faults:

- traceback: an exception that is no `UserError`, or exit code 1
- hang: more than 60 seconds of CPU time, or of waiting (seen only while Python code runs)
- loss: events read is not the number of rows in the file, or not the sum of clicks kept and events counted as left out;
  a title of a request that is neither used nor refused
- wrong: a seen, excluded or repeated item; a title that does not lead back to its item; an untrue justification; scores
  that are no probabilities; JSON that cannot be read; a control character on the terminal; a right request refused

The exit code is 1 if there is a fault. `--keep` copies the first input of each kind of fault.
"""

import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import hypothesis
import typer
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script has only its own folder on the path

from benchmarks.fuzzing import logs, requests, shops
from benchmarks.fuzzing.outcomes import FAULTS, Outcome

INPUTS_PER_ROUND = 50  # the clock is read between rounds


class Target(StrEnum):
    """What is fed with generated inputs."""

    LOGS = "logs"
    RECOMMEND = "recommend"


@dataclass
class Tally:
    """Counts of outcomes.

    Attributes:
        seconds: time that was spent.
        counts: number of inputs by kind of outcome.
        faults: number of inputs by fault.
        refusals: number of inputs by the beginning of the message.
    """

    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> bool:
        """Counts an outcome; returns whether it is the first fault of its kind."""
        self.counts[outcome.kind] = self.counts.get(outcome.kind, 0) + 1
        if outcome.kind == "refused":
            self.refusals[outcome.about] = self.refusals.get(outcome.about, 0) + 1
        if outcome.kind not in FAULTS:
            return False
        name = f"{outcome.kind}: {outcome.about}"
        self.faults[name] = self.faults.get(name, 0) + 1
        return self.faults[name] == 1


def fuzz(minutes: float, seed: int, keep: Path | None = None, targets: tuple[Target, ...] = tuple(Target)) -> Tally:
    """Feeds generated inputs for some minutes, at least one round of `INPUTS_PER_ROUND` for each target.

    Args:
        minutes: time to spend.
        seed: seed of the inputs. Equal seeds give equal inputs.
        keep: directory that receives the first input of each kind of fault.
        targets: what is fed, in turns.
    """
    tally = Tally()
    started = time.monotonic()
    rounds = {Target.LOGS: fuzz_logs, Target.RECOMMEND: fuzz_requests}
    while True:
        for target in targets:
            rounds[target](tally, seed, keep)
        seed += 1
        tally.seconds = round(time.monotonic() - started, 1)
        if tally.seconds >= 60 * minutes:
            return tally


def fuzz_logs(tally: Tally, seed: int, keep: Path | None) -> None:
    """Prepares one round of logs."""

    def count(log: logs.Log) -> None:
        with tempfile.TemporaryDirectory() as name:
            if tally.add(logs.outcome_of(log, Path(name))):
                _keep(tally, keep, {"data": log.data}, Path(name))

    _draw(count, logs.logs(), seed)


def fuzz_requests(tally: Tally, seed: int, keep: Path | None) -> None:
    """Trains one run and gives it one round of requests; the last of them also to the command as a process."""
    last: list[requests.Request] = []
    with tempfile.TemporaryDirectory() as name:
        shop = shops.make_shop(Path(name), seed)

        def count(request: requests.Request) -> None:
            if tally.add(requests.outcome_of(shop, request)):
                _keep(tally, keep, {"seed": seed, "request": asdict(request)}, shop.directory.parent)
            last[:] = [request]

        _draw(count, requests.requests(shop), seed)
        if tally.add(requests.compared_with_process(shop, last[0])):
            _keep(tally, keep, {"seed": seed, "request": asdict(last[0])}, shop.directory.parent)


def _draw(count: Callable[[Any], None], strategy: st.SearchStrategy[Any], seed: int) -> None:
    """Gives one round of generated inputs to a function."""
    settings = hypothesis.settings(
        max_examples=INPUTS_PER_ROUND,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
    )
    hypothesis.seed(seed)(settings(hypothesis.given(strategy)(count)))()


def _keep(tally: Tally, keep: Path | None, found: dict[str, Any], folder: Path) -> None:
    """Copies the files of a fault and describes it."""
    if keep is None:
        return
    target = keep / f"fault-{len(tally.faults)}"
    shutil.copytree(folder, target)
    text = json.dumps(found | {"fault": list(tally.faults)[-1]}, indent=2)
    (target / "fault.json").write_text(text, encoding="utf-8")


def main(
    minutes: Annotated[float, typer.Option(min=0, help="Time to spend.")] = 5,
    target: Annotated[list[Target] | None, typer.Option(help="What to feed; both in turns if left out.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the inputs.")] = 0,
    keep: Annotated[Path | None, typer.Option(help="Directory for the first input of each kind of fault.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")] = False,
) -> None:
    """Count tracebacks, hangs, silent losses and wrong answers of `llmrec prepare` and `llmrec recommend`."""
    logging.disable(logging.WARNING)
    tally = fuzz(minutes, seed, keep, tuple(target or Target))
    if as_json:
        print(json.dumps(asdict(tally), indent=2))
    else:
        print(f"{sum(tally.counts.values())} inputs in {tally.seconds:.0f} s: {tally.counts}")
        for title, found in (("refusals", tally.refusals), ("faults", tally.faults)):
            print(f"{title}:")
            for text, number in sorted(found.items(), key=lambda pair: -pair[1]):
                print(f"{number:>6}  {text!r}")
    if tally.faults:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
