"""Import directions: every import must be allowed by the table in docs/design/architecture.md."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "design" / "architecture.md"
PACKAGES = ("llmrec", "reward_models")
EVERYTHING = "everything"


@dataclass(frozen=True)
class Part:
    """One row of the table.

    Attributes:
        name: its name in the table.
        modules: dotted names of its modules and packages.
        may_import: names of the parts that it may import.
    """

    name: str
    modules: tuple[str, ...]
    may_import: frozenset[str]


def read_table() -> dict[str, Part]:
    """Name of a part to its row, from the page."""
    parts = {}
    section = PAGE.read_text(encoding="utf-8").split("## Folders")[1].split("\n## ")[0]
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or len(cells) != 4 or cells[0] in ("name", "---"):
            continue
        name, paths, _, may_import = cells
        modules = tuple(module_name(Path(path)) for path in re.findall(r"`([^`]+)`", paths))
        parts[name] = Part(name, modules, frozenset(filter(None, map(str.strip, may_import.split(",")))))
    return parts


def module_name(path: Path) -> str:
    """`llmrec/run/run.py` is `llmrec.run.run`, `llmrec/run/` and its `__init__.py` are `llmrec.run`."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PARTS = read_table()
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
MODULES = {module_name(file.relative_to(ROOT)): file for file in FILES}


def part_of(module: str) -> str:
    """Name of the part that a module belongs to: the one with the longest path that contains the module."""
    found = [
        (len(prefix), part.name)
        for part in PARTS.values()
        for prefix in part.modules
        # The row of llmrec/__init__.py is about that one file, not about what lies below it.
        if module == prefix or (prefix != "llmrec" and module.startswith(f"{prefix}."))
    ]
    assert found, f"{module} is in no row of {PAGE}"
    return max(found)[1]


def imports(module: str) -> Iterator[str]:
    """Modules of this project that a module imports anywhere: at its top, in functions, or for type checkers."""
    is_package = MODULES[module].name == "__init__.py"
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in PACKAGES)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                above = module.split(".")[: len(module.split(".")) - node.level + is_package]
                source = ".".join([*above, *filter(None, [source])])
            if source.split(".")[0] in PACKAGES:
                for alias in node.names:
                    inner = f"{source}.{alias.name}"
                    yield inner if inner in MODULES else source


def is_allowed(importing: str, imported: str) -> bool:
    """Whether the table allows an import, by the names of the two parts."""
    if importing == imported:
        return True
    allowed = PARTS[importing].may_import
    if EVERYTHING in allowed or imported in allowed:
        return True
    # A folder may import its own parts that have a row of their own.
    return any(inner.startswith(f"{outer}.") for outer in PARTS[importing].modules for inner in PARTS[imported].modules)


def violations() -> set[tuple[str, str]]:
    """Importing module and name of the imported part, for every import that the table does not allow."""
    found = set()
    for module in MODULES:
        for imported in imports(module):
            # `import llmrec` is for `llmrec.__version__`, which every module may read.
            if imported != "llmrec" and not is_allowed(part_of(module), part_of(imported)):
                found.add((module, part_of(imported)))
    return found


@pytest.mark.parametrize("name", PARTS)
def test_the_table_names_what_exists(name: str) -> None:
    part = PARTS[name]
    assert part.modules
    for module in part.modules:
        assert module in MODULES, f"{module} is in {PAGE}, but does not exist"
    assert part.may_import <= {*PARTS, EVERYTHING}


def test_the_table_has_no_cycles() -> None:
    """Each part only imports parts that have been placed before it."""
    placed: set[str] = set()
    left = {name: part.may_import for name, part in PARTS.items() if EVERYTHING not in part.may_import}
    while left:
        next_ones = {name for name, may_import in left.items() if may_import <= placed}
        assert next_ones, f"a cycle among {sorted(left)}"
        placed |= next_ones
        left = {name: may_import for name, may_import in left.items() if name not in next_ones}


def test_no_import_leaves_the_table() -> None:
    found = sorted(f"{module} imports {part}" for module, part in violations())
    assert not found, f"{PAGE} does not allow:\n" + "\n".join(found)


def test_files_that_the_page_names_exist() -> None:
    paths = re.findall(r"`((?:llmrec|reward_models|docs|tests|scripts|benchmarks)/[\w/.]*)`", PAGE.read_text("utf-8"))
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_loop_is_where_the_page_says() -> None:
    from llmrec.run import STAGE_TABLE  # here: the other tests need no dependency of llmrec

    section = PAGE.read_text(encoding="utf-8").split("## The loop of each stage")[1]
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")] for line in section.splitlines() if "llmrec " in line
    ]
    stages = {cells[1]: module_name(Path(cells[2])) for cells in rows if len(cells) == 4}
    assert stages == {name: stage.module for name, stage in STAGE_TABLE.items()}
