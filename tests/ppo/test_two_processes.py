"""Two processes take the same step as one process on the same global batch."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmrec.files import read_json
from tests.ppo.first_update import RUNS, main
from tests.processes import run_processes

FAST = ("exact", "rloo", "mini")
CASES = [run if run in FAST else pytest.param(run, marks=pytest.mark.slow) for run in RUNS]


@pytest.fixture(scope="module")
def outputs(tiny_base, tmp_path_factory) -> Callable[[str], tuple[Path, Path]]:
    """For a run, the output folders of one process and of two processes joined as a launcher does."""

    @cache
    def of(fast: bool) -> tuple[Path, Path]:
        runs = [run for run in RUNS if (run in FAST) == fast]
        one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
        main(tiny_base, one, runs)
        assert run_processes(2, main, tiny_base, two, runs) == [0, 0]
        return one, two

    return lambda run: of(run in FAST)


COMMON = {"objective/scores", "objective/kl", "objective/entropy", "loss/policy_avg", "loss/value_avg", "val/ratio",
          "policy/entropy_avg", "policy/approxkl_avg", "policy/grad_norm"}  # fmt: skip
EXACT = {"objective/item_reward", "objective/item_kl", "loss/item_avg", "loss/ptx_avg"}


@pytest.mark.parametrize("update", ["1", "2"])
@pytest.mark.parametrize("run", CASES)
def test_two_processes_have_the_metrics_of_one(outputs, run, update):
    one, first, second = (read_json(path)[update] for path in paths(outputs(run), run, "json"))
    assert first == second
    assert first == pytest.approx(one, abs=1e-4, rel=0)
    exact = RUNS[run].get("advantage", "exact") == "exact"
    text = RUNS[run].get("text") != "off"
    assert set(one) >= (COMMON if text else set()) | (EXACT if exact else set())
    assert one["policy/grad_norm"] > 0
    assert update == "1" or abs(one["objective/kl" if text else "objective/item_kl"]) > 1e-3


@pytest.mark.parametrize("run", CASES)
def test_two_processes_have_the_weights_of_one(outputs, run):
    one, first, second = (load_file(path) for path in paths(outputs(run), run, "safetensors"))
    assert set(first) == set(second) == set(one) and one
    for name, value in one.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def paths(outputs: tuple[Path, Path], run: str, suffix: str) -> list[Path]:
    one, two = outputs
    return [one / f"{run}-0.{suffix}", two / f"{run}-0.{suffix}", two / f"{run}-1.{suffix}"]
