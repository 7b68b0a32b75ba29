"""Reads Markdown pages of the project: fenced blocks, inline code, links and headings."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Made by docs/generate.py from the code.
GENERATED = ("config.md", "cli.md", "metrics.md", "report_json.md")
PAGES = tuple(sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]))
WRITTEN = tuple(page for page in PAGES if page.name not in GENERATED)
_FENCE = re.compile(r"^```(\w*)\s*$")
_NOT_RUN = re.compile(r"^<!-- not run: (.+) -->$")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        page: the file, relative to the project.
        line: number of its first line.
        language: what follows the fence; empty for output.
        text: its lines.
        not_run: the reason why it cannot run, from a comment `<!-- not run: REASON -->` right before it; else None.
    """

    page: str
    line: int
    language: str
    text: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(language: str) -> list[Block]:
    """All fenced blocks of one language, of all pages that people write."""
    return [block for page in WRITTEN for block in _blocks(page) if block.language == language]


def _blocks(page: Path) -> Iterator[Block]:
    name = str(page.relative_to(ROOT))
    before = ""
    start: int | None = None
    language = ""
    reason: str | None = None
    lines: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        if start is None and fence:
            start = number + 1
            language = fence[1]
            marked = _NOT_RUN.match(before)
            reason = marked[1] if marked else None
            lines = []
        elif start is not None and line.startswith("```"):
            yield Block(name, start, language, "\n".join(lines) + "\n", reason)
            start = None
        elif start is not None:
            lines.append(line)
        before = line
    assert start is None, f"{name}: the block that begins at line {start} has no end"


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def inline_code(page: Path) -> list[str]:
    """Inline code of a page."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def links(page: Path) -> list[str]:
    """Targets of the links of a page that stay inside the project."""
    found = _LINK.findall(re.sub(r"`[^`\n]+`", "", prose(page)))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as mkdocs and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}
