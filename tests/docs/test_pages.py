"""Pages point to what exists, and the README stays short."""

import importlib.util
import re
from pathlib import Path

import pytest

from llmrec.config import default_of
from tests.docs.markdown import PAGES, ROOT, WRITTEN, anchors, inline_code, links

FOLDERS = r"(llmrec|reward_models|configs|scripts|benchmarks|research|tests|docs)/"
SECTIONS = r"(data|catalogue|model|sft|reward|ppo|evaluation|hub)\."
# Keys of report.json, and files, that look like keys of the config.
NOT_KEYS = r"reward\.(before|after|difference|<)|reward_model\.|model\.(onnx|safetensors)"


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target}: there is no {file}"
        if anchor:
            assert anchor in anchors(file), f"{target}: {file.name} has no such heading"


@pytest.mark.parametrize("page", WRITTEN, ids=_name)
def test_named_paths_exist(page: Path) -> None:
    named = [
        code for code in inline_code(page) if re.match(FOLDERS, code) and not re.search(r"[{}<>* ]|[A-Z]{3}", code)
    ]
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", [page for page in WRITTEN if page.name != "CHANGELOG.md"], ids=_name)
def test_named_config_keys_exist(page: Path) -> None:
    found = [re.split(r"[:= ]", code)[0] for code in inline_code(page) if re.match(SECTIONS, code)]
    keys = [key for key in found if re.fullmatch(r"[a-z_0-9.]+", key) and not re.match(NOT_KEYS, key)]
    wrong = []
    for key in keys:
        try:
            default_of(key)
        except (KeyError, AttributeError):
            wrong.append(key)
    assert wrong == []


def test_format_numbers_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "reference" / "formats.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `[\w.]+` \| (\d+) \| `([\w.]+)` \|$", page, flags=re.MULTILINE)
    assert len(rows) == 4
    for number, module in rows:
        assert int(number) == importlib.import_module(module).FORMAT, module


@pytest.mark.parametrize("page", [page for page in WRITTEN if "research" not in page.parts], ids=_name)
def test_named_metrics_exist(page: Path) -> None:
    """Metrics of training, such as `objective/kl`, stand in the code as they are written here."""
    source = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "llmrec").rglob("*.py"))
    named = [code for code in inline_code(page) if re.fullmatch(r"(val|objective|eval|guard|policy)/[a-z_@0-9]+", code)]
    assert [name for name in named if f'"{name}"' not in source] == []


def test_modules_of_the_changelog_exist() -> None:
    """The second column of its tables names the modules of today."""
    rows = re.findall(r"^\| `.+` \| (.+) \|$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    modules = {name for row in rows for name in re.findall(r"`((?:llmrec|reward_models)(?:\.\w+)*)`", row)}
    assert len(modules) > 20
    assert [name for name in sorted(modules) if importlib.util.find_spec(name) is None] == []
