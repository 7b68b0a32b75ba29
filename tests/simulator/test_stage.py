"""`llmrec simulate`, run as its user runs it on a small log."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmrec.config import load_config
from llmrec.errors import UserError
from llmrec.run import Run, run_all
from llmrec.simulator.stage import simulate as fit_worlds
from llmrec.simulator.world import load_world
from tests import configs
from tests.simulator.worlds import log


def write_log(folder: Path, late_users: int) -> None:
    """The log of `worlds.log` as CSV files."""
    data = log(late_users=late_users)
    lengths = [len(items) for items in data.histories]
    pd.DataFrame(
        {
            "user_id": np.repeat(data.users["user_id"], lengths),
            "item_id": np.concatenate(data.histories),
            "timestamp": np.concatenate(data.timestamps) + 1_000_000_000,
            "rating": np.where(np.concatenate(data.purchases), 5, 2),
        }
    ).to_csv(folder / "log.csv", index=False)
    items = data.items.assign(categories=[";".join(names) for names in data.items["categories"]])
    items.to_csv(folder / "items.csv", index=False)


def write_config(folder: Path, **simulator: object) -> Path:
    return configs.write_config(
        folder,
        data={"splits": ["temporal"], "temporal_test": 0.45},
        simulator={"min_users": 20, "lives": 20, "permutations": 20, "max_steps": 20, **simulator},
    )


def simulate(config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmrec", "simulate", str(config), "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_three_worlds_come_out_of_one_command(tmp_path: Path) -> None:
    write_log(tmp_path, late_users=120)
    done = simulate(write_config(tmp_path))
    assert done.returncode == 0, done.stderr
    worlds = json.loads(done.stdout)
    assert list(worlds) == ["base", "other_users", "other_family"]
    assert [found["family"] for found in worlds.values()] == ["chain", "chain", "mixture"]
    users = {name: set(load_world(tmp_path / "runs" / "tiny" / "simulator" / name).users) for name in worlds}
    assert users["base"] == users["other_family"] and not users["base"] & users["other_users"]
    for found in worlds.values():
        assert set(found["policies"]) == {"random", "popularity", "ease", "markov", "true tastes"}
        assert found["sensitivity"][0]["assumption"] == "none" and len(found["sensitivity"]) == 11
    parameters = json.loads((tmp_path / "runs" / "tiny" / "simulator" / "base" / "parameters.json").read_text())
    assert {one["origin"] for one in parameters["parameters"].values()} == {"fitted", "assumed"}
    again = simulate(tmp_path / "tiny.yaml")
    assert json.loads(again.stdout) == worlds and "fitting" not in again.stderr
    changed = simulate(write_config(tmp_path, slate=2))
    assert changed.returncode == 2 and "simulator.slate: 1 -> 2" in changed.stderr


@pytest.mark.parametrize(
    ("users", "simulator", "message"),
    [
        (60, {"min_users": 500}, "expected at least 500"),
        (60, {"slate": 61}, "61 items, but the catalogue has 60"),
    ],
)
def test_bad_input_is_the_users_mistake_and_writes_no_world(
    tmp_path: Path, users: int, simulator, message: str
) -> None:
    write_log(tmp_path, users)
    run = Run.create(load_config(write_config(tmp_path, **simulator)))
    run_all(run, "data", say=lambda line: None)
    with pytest.raises(UserError, match=message) as found:
        fit_worlds(run, lambda line: None)
    assert found.value.exit_code == 2
    assert not list(run.directory.glob("simulator/*/*"))
