"""A small test of two arms, and logs for it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.ab_test_users import Effects, GeneratedUsers
from llmrec.ab_test.population import run_on
from llmrec.cli.app import main
from llmrec.config import ABTestConfig, parse_section
from llmrec.files import write_text
from tests.ab_test import EXAMPLE, config_of

COVARIATE_DAYS = 7


@pytest.fixture(scope="session")
def log() -> pd.DataFrame:
    """The log of 500 users over 17 days, in which the arm `new` raises clicks by half and nothing else."""
    users = GeneratedUsers(500, {"new": Effects(clicks=1.6)}, seed=3, joining_days=8)
    return run_on(users, config_of(), days=17, days_before=COVARIATE_DAYS + 10)


@pytest.fixture
def written(log: pd.DataFrame, tmp_path: Path) -> Callable[..., Path]:
    """Writes a log and its YAML file into the directory of the test; returns the path of the YAML file."""

    def write(frame: pd.DataFrame | None = None, **changes: Any) -> Path:
        file = tmp_path / "log.csv"
        (log if frame is None else frame).to_csv(file, index=False)
        values = (
            EXAMPLE | {"data": EXAMPLE["data"] | {"path": str(file)}, "output_dir": str(tmp_path / "runs")} | changes
        )
        path = tmp_path / "test.yaml"
        write_text(path, json.dumps(values | changes))  # JSON is YAML
        return path

    return write


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs `llmrec ab-test`; returns the exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["llmrec", "ab-test", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run


@pytest.fixture
def config() -> ABTestConfig:
    return parse_section(EXAMPLE, ABTestConfig)
