"""Claims of the pages: each stands in its page, README's first table is covered, and deviations are named."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.markdown import ROOT

NUMBER = re.compile(r"[+-]?\d*\.\d+")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


REPRODUCE = _load(ROOT / "docs" / "reproduce.py")
CLAIMS = REPRODUCE.read_claims()


def test_every_number_stands_in_its_page() -> None:
    for claim in CLAIMS:
        page = (ROOT / claim.page).read_text(encoding="utf-8")
        assert claim.text in page, f"{claim.page} no longer says: {claim.text}"
        assert claim.shown in claim.text
        assert claim.agrees(claim.value), claim


def test_the_first_table_of_the_readme_is_covered() -> None:
    """Every number of the table is the number or a bound of a claim about that row."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("|---"))
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        claims = [claim for claim in CLAIMS if claim.page == "README.md" and claim.text in line]
        covered = {value for claim in claims for value in (claim.value, *(claim.interval or ()))}
        assert {float(number) for number in NUMBER.findall(line)} <= covered, line


@pytest.fixture
def claim():
    return REPRODUCE.Claim("README.md", "true", "a.json", "splits/x/ndcg@10", "is 0.12", "0.12", (0.1, 0.14))


def test_deviations_are_named(claim, tmp_path: Path) -> None:
    assert "a.json is missing" in REPRODUCE.differences([claim], tmp_path)[0]
    for value, words in ((0.13, ""), (0.15, "measured 0.1500"), (None, "no number")):
        report = {"splits": {"x": {"ndcg@10": {"value": value}}}}
        (tmp_path / "a.json").write_text(json.dumps(report))
        assert words in "".join(REPRODUCE.differences([claim], tmp_path)) and (words == "") == (value == 0.13)


def test_percentages_and_tolerances() -> None:
    exact = REPRODUCE.Claim("p", "c", "f", "k", "72 %", "72%", tolerance=0.01)
    assert exact.agrees(0.725) and not exact.agrees(0.74)
    assert REPRODUCE.measured_number({"users": 943}, "users") == 943


@pytest.mark.parametrize(("arguments", "code"), [(["NOPAGE.md"], 2), (["--list"], 0), (["--check-only"], 1)])
def test_exit_codes(arguments: list[str], code: int, monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["reproduce.py", *arguments, "--runs", str(tmp_path)])
    assert REPRODUCE.main() == code
    printed = capsys.readouterr()
    shown = next(claim.shown for claim in CLAIMS if claim.interval)
    assert ("README.md" in printed.err) if code == 2 else (f"README.md: {shown}" in printed.out)
