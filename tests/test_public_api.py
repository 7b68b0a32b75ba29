"""The names that `llmrec` offers, and that importing it loads no heavy library."""

import inspect
import subprocess
import sys

import pytest

import llmrec

LIST_HEAVY_MODULES = """
import sys
import {module}
print(*sorted({{"torch", "transformers", "trl", "pandas", "matplotlib"}} & sys.modules.keys()))
"""


@pytest.mark.parametrize("module", ["llmrec", "llmrec.cli.app", "llmrec.run", "llmrec.progress.console"])
def test_importing_is_light(module: str) -> None:
    """A new process, because this one has imported torch."""
    command = [sys.executable, "-c", LIST_HEAVY_MODULES.format(module=module)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


@pytest.mark.parametrize("name", llmrec.__all__)
def test_every_public_name_exists_and_is_documented(name: str) -> None:
    value = getattr(llmrec, name)
    assert value.__name__ == name and inspect.getdoc(value)
    assert name in dir(llmrec)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Recomender'"):
        llmrec.Recomender  # noqa: B018
    with pytest.raises(ImportError):
        from llmrec import Recomender  # noqa: F401
