"""The generated pages of the reference are those that the code makes today."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.markdown import ROOT


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = _load(ROOT / "docs" / "generate.py")


@pytest.mark.parametrize("page", GENERATE.PAGES)
def test_generated_pages_are_current(page: str) -> None:
    written = (ROOT / "docs" / "reference" / page).read_text(encoding="utf-8")
    assert written == GENERATE.page_text(page), "run `python docs/generate.py`"


def test_outdated_pages_are_found_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GENERATE, "FOLDER", tmp_path)
    monkeypatch.setattr(GENERATE, "PAGES", {"cli.md": GENERATE.PAGES["cli.md"]})
    monkeypatch.setattr("sys.argv", ["generate.py", "--check"])
    assert GENERATE.main() == 1
    monkeypatch.setattr("sys.argv", ["generate.py"])
    assert GENERATE.main() == 0
    monkeypatch.setattr("sys.argv", ["generate.py", "--check"])
    assert GENERATE.main() == 0
