"""Versions of the software that results depend on."""

import importlib.metadata
import platform

import llmrec

_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "numpy", "pandas")


def library_versions() -> dict[str, str]:
    """Versions of llmrec, Python and the installed libraries that results depend on."""
    versions = {"llmrec": llmrec.__version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
