"""The command `estimate`: catalogue size and table. The estimate itself is tested in `tests/test_estimate.py`."""

import json
from pathlib import Path

import pytest

from llmrec.cli.estimate import PARTS
from llmrec.run import Run


@pytest.fixture(autouse=True)
def stub_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    def estimate(config, items: int | None) -> dict:
        stage = dict.fromkeys(PARTS, 2_000_000)
        return {"items": items or 7, "window_tokens": 64, "trainable": {"sft": 5, "ppo": 6}, "sft": stage, "ppo": stage}

    monkeypatch.setattr("llmrec.estimate.estimate", estimate)


def test_the_table_has_every_part(llmrec, capsys, config: Path) -> None:
    assert llmrec("estimate", str(config), "--items", "1200") == 0
    out = capsys.readouterr().out
    for text in ("1,200 items", "windows of 64 tokens", "trainable parameters", *PARTS.values()):
        assert text in out


@pytest.mark.parametrize(("prepared", "items"), [(True, 50), (False, 7)])
def test_a_run_brings_its_catalogue_size(llmrec, capsys, run_directory: Path, prepared: bool, items: int) -> None:
    if prepared:
        Run.open(run_directory).finish("data", {"items": 50})
    assert llmrec("estimate", str(run_directory), "--json") == 0
    assert json.loads(capsys.readouterr().out)["items"] == items
