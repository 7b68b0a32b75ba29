"""Fixtures of the export tests."""

from pathlib import Path

import pytest

from llmrec.run import Run
from tests.export.runs import finished_run


@pytest.fixture
def run(tiny_base, data, tmp_path: Path) -> Run:
    """A run with a trained SFT adapter."""
    return finished_run(tiny_base, data, tmp_path / "runs")
