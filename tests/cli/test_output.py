"""Output that several commands share."""

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmrec.cli.output import line_printer, measured_cell, measured_text, print_json, print_line, print_table
from llmrec.evaluation.report import Comparison, Estimate
from llmrec.progress.console import console_for


def test_json_of_numpy_values_and_paths(capsys) -> None:
    print_json({"é": np.float32(0.5), "n": np.arange(2), "nan": float("nan"), "path": Path("a/b")})
    out = capsys.readouterr().out
    assert "é" in out and json.loads(out) == {"é": 0.5, "n": [0, 1], "nan": None, "path": "a/b"}


def test_no_title_commands_the_terminal(capsys) -> None:
    """Escape sequences, in their 7-bit and their 8-bit form, and characters that move the cursor."""
    title = "a\x1b[31mb\x9b2Jc\x7f\rd"
    print_line(console_for(), title)
    one_cell = Table("title")
    one_cell.add_row(Text(title))
    print_table(console_for(), one_cell)
    print_json({"title": title})
    out = capsys.readouterr().out
    assert out.startswith("a\\x1b[31mb\\x9b2Jc\\x7f")
    assert all(character.isprintable() or character == "\n" for character in out)
    assert json.loads(out[out.index("{") :]) == {"title": title}


@pytest.mark.parametrize(("rank", "printed"), [("0", "a [line] of text\n"), ("1", "")])
def test_only_the_main_process_prints_lines(monkeypatch, capsys, rank: str, printed: str) -> None:
    monkeypatch.setenv("RANK", rank)
    line_printer(console_for())("a [line] of text")
    assert capsys.readouterr().out == printed


def test_measurements() -> None:
    estimate = Estimate(value=0.25, ci95=(0.2, 0.3), seeds=[0.2, 0.3])
    assert measured_text(estimate) == "0.250 [0.200, 0.300] (seeds: 0.200, 0.300)"
    assert measured_cell(estimate) == "0.250 [0.200, 0.300]\n0.200, 0.300"
    assert measured_cell(estimate, interval_below=True) == "0.250\n[0.200, 0.300]\n0.200, 0.300"
    assert measured_cell(Comparison(difference=0.1), " better") == "+0.100 better"
    assert measured_cell(None) == "-"


def table() -> Table:
    table = Table(title="clicks")
    for heading in ("model", "HR@10", "NDCG@10", "coverage"):
        table.add_column(heading)
    table.add_row(Text("[b]"), "0.250\n[0.200, 0.300]", "-", "")
    return table


def test_a_wide_console_shows_a_table(capsys) -> None:
    print_table(Console(width=60), table())
    out = capsys.readouterr().out
    assert "┃ HR@10" in out and "[b]" in out


def test_a_narrow_console_shows_every_value_on_its_line(capsys) -> None:
    print_table(Console(width=32), table())
    expected = ["clicks", "[b]", "  HR@10: 0.250 [0.200, 0.300]", "  NDCG@10: -"]
    assert capsys.readouterr().out.splitlines() == expected
