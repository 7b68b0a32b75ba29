"""Fixtures for the tests of the command line: a config, a run and a recommender without a model."""

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

from llmrec.cli.app import main
from llmrec.config import parse_config
from llmrec.errors import CatalogueError
from llmrec.run import STAGE_TABLE, Run

CATALOGUE = ["Toy Story (1995)", "Aladdin (1992)", "Heat (1995)", "Alien [Director's cut] (1979)"]

RunCommand = Callable[..., int]
StubStage = Callable[[str, Callable[[Run], None]], None]


@dataclass
class Item:
    """One recommendation, with the fields of `llmrec.recommend.RankedItem`."""

    item_id: str
    title: str
    score: float
    justification: str
    grounded: bool
    satisfies: bool | None = None


class FakeRecommender:
    """Recommends the remaining items of a catalogue of four films."""

    @classmethod
    def from_run(cls, run: Run, adapter: str | None = None, quantized: bool = True) -> "FakeRecommender":
        return cls()

    def resolve_titles(self, titles: list[str]) -> list[int]:
        unknown = [title for title in titles if title not in CATALOGUE]
        if unknown:
            raise CatalogueError(f"{unknown[0]} is not in the catalogue. Nearest: Heat (1995).")
        return [CATALOGUE.index(title) for title in titles]

    def resolve_ids(self, item_ids: list[str]) -> list[int]:
        return [int(item_id) for item_id in item_ids]

    def understand(self, request: str) -> types.SimpleNamespace:
        if "opera" in request:
            raise CatalogueError("No item satisfies it.")
        return types.SimpleNamespace(conditions=[word for word in request.split() if word.islower()])

    def recommend(self, history=None, user=None, top_k=5, exclude=(), request=None) -> list[Item]:
        print("a library prints this on stdout")
        if request is not None:
            return [Item("9", f"Answer to: {request}", 0.5, "", True, self.understand(request) and len(request) > 12)]
        left = [i for i in range(len(CATALOGUE)) if i not in (history or []) and i not in exclude]
        return [Item(str(i), CATALOGUE[i], 0.5, f"because of {CATALOGUE[0]}", True) for i in left[:top_k]]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A YAML config whose stages are not run."""
    file = tmp_path / "x.yaml"
    file.write_text(f"name: a\noutput_dir: {tmp_path}/runs\ndata: {{format: movielens, path: x}}\n")
    return file


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    """An empty run directory."""
    data = {"format": "movielens", "path": "x"}
    return Run.create(parse_config({"name": "a", "output_dir": str(tmp_path / "runs"), "data": data})).directory


@pytest.fixture
def fake_recommender(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces `llmrec.recommend.Recommender`."""
    monkeypatch.setitem(sys.modules, "llmrec.recommend", types.SimpleNamespace(Recommender=FakeRecommender))


@pytest.fixture
def stub_stage(monkeypatch: pytest.MonkeyPatch) -> StubStage:
    """Replaces the function of a stage: `stub_stage("data", function)`."""

    def stub(stage: str, function: Callable[[Run], None]) -> None:
        monkeypatch.setitem(sys.modules, f"stub_{stage}", types.SimpleNamespace(run=function))
        entry = replace(STAGE_TABLE[stage], module=f"stub_{stage}", function="run")
        monkeypatch.setitem(STAGE_TABLE, stage, entry)

    return stub


@pytest.fixture
def llmrec(monkeypatch: pytest.MonkeyPatch) -> RunCommand:
    """Runs the command in this process and returns its exit code: `llmrec("sft", "x.yaml")`."""
    # The command sets variables, warning filters and a method of rich, which must not outlive a test.
    monkeypatch.setattr("llmrec.cli.process.silence_libraries", lambda: None)
    monkeypatch.setattr(Console, "on_broken_pipe", Console.on_broken_pipe)

    def run_command(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["llmrec", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        code = stopped.value.code
        return code if isinstance(code, int) else 0

    return run_command
