"""The ledger of a private training: every step that was begun is counted, also by a process that ends there."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llmrec.errors import RunError
from llmrec.sft.ledger import Ledger, Plan

PLAN = Plan(epsilon=8.0, delta=1e-3, clip=1.0, noise_multiplier=1.5, users=100, batch_size=20, steps=4)


def test_steps_are_counted_before_they_end(tmp_path: Path) -> None:
    path = tmp_path / "sft" / "ledger.jsonl"
    ledger = Ledger(path, PLAN)
    ledger.begin(1)
    ledger.end(1, users=18, clipped=17)
    ledger.begin(2)  # and the process is killed
    again = Ledger(path, PLAN)
    assert (again.begun, again.users, again.clipped, again.exhausted) == (2, 18, 17, False)
    again.begin(2)  # the step is run again
    again.end(2, users=22, clipped=3)
    again.begin(3)
    assert again.exhausted and Ledger(path, PLAN).begun == 4
    with pytest.raises(RunError, match="all 4 steps"):
        again.begin(4)
    assert [json.loads(line) for line in path.read_text().splitlines()][1] == {"begun": 1}


def test_a_line_that_was_cut_off_counts_as_a_step(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path, PLAN).begin(1)
    with path.open("a") as file:
        file.write('{"beg')
    assert Ledger(path, PLAN).begun == 2


@pytest.mark.parametrize("text", ["", "{", "[1]\n"])
def test_a_ledger_without_its_plan_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text(text)
    with pytest.raises(RunError, match="belongs to another training"):
        Ledger(path, PLAN)


def test_a_ledger_of_another_plan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path, PLAN).begin(1)
    with pytest.raises(RunError, match="noise_multiplier, users differ.*another budget"):
        Ledger(path, replace(PLAN, users=101, noise_multiplier=1.4))
    assert PLAN.sampling_rate == 0.2
