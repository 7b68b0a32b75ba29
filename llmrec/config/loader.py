"""Reads and writes the YAML file of an experiment."""

import io
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from llmrec.config.errors import describe
from llmrec.config.experiment import Config
from llmrec.config.former import upgraded
from llmrec.config.section import Section
from llmrec.errors import ConfigError, nearest

SectionT = TypeVar("SectionT", bound=Section)


def load_config(path: str | Path) -> Config:
    """Reads and checks a YAML file.

    Raises:
        ConfigError: the file does not exist or is not YAML, or a key is wrong.
    """
    return parse_config(_read(Path(path)), str(path))


def load_saved_config(path: str | Path) -> Config:
    """Reads the config.yaml of a run directory, also one that an earlier version wrote.

    Raises:
        ConfigError: as `load_config`.
    """
    values = _read(Path(path))
    return parse_config(upgraded(values) if isinstance(values, dict) else values, str(path))


def load_section(path: str | Path, section: type[SectionT]) -> SectionT:
    """Reads and checks a YAML file that holds one section alone.

    Raises:
        ConfigError: as `load_config`.
    """
    return parse_section(_read(Path(path)), section, str(path))


def parse_config(values: Any, source: str = "config") -> Config:
    """Checks the keys and values of an experiment; see `parse_section`."""
    return parse_section(values, Config, source)


def parse_section(values: Any, section: type[SectionT], source: str = "config") -> SectionT:
    """Checks a mapping of keys to values.

    Args:
        values: the content of a YAML file.
        section: class of its keys.
        source: what error messages call it, usually the file.

    Raises:
        ConfigError: names every wrong key and, for an unknown one, the nearest that exists.
    """
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise ConfigError(f"{source}: expected keys and values (`name: ...`), found {found}.")
    try:
        return section.model_validate(values)
    except ValidationError as error:
        # A default that depends on a wrong key is reported as well; the wrong key alone is of use.
        errors = [e for e in error.errors() if e["type"] != "default_factory_not_called"]
        raise ConfigError("\n".join(describe(e, source, section) for e in errors)) from None


def dump_config(config: Config) -> str:
    """The YAML text of a config with all its keys; `load_config` reads it back as the same config."""
    return dump_yaml(config.model_dump(mode="json"))


def read_yaml(text: str) -> Any:
    """The value of a YAML 1.2 text.

    Raises:
        ValueError: it is not YAML, or has a key twice; the message names the line.
    """
    try:
        return _yaml().load(text)
    except DuplicateKeyError as error:
        raise ValueError(f"line {_line(error)}: {str(error.problem).partition(' with value')[0]}.") from None
    except MarkedYAMLError as error:
        raise ValueError(f"line {_line(error)}: {error.problem}.") from None
    except YAMLError as error:
        raise ValueError(str(error)) from None


def dump_yaml(values: Any) -> str:
    """YAML text of JSON values, mappings in their own order."""
    text = io.StringIO()
    _yaml().dump(values, text)
    return text.getvalue()


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]
    yaml.allow_unicode = True
    return yaml


def _line(error: MarkedYAMLError) -> int | str:
    return error.problem_mark.line + 1 if error.problem_mark is not None else "?"


def _read(path: Path) -> Any:
    if not path.is_file():
        near = nearest(path.name, [file.name for file in path.parent.glob("*.y*ml")])
        hint = f" Did you mean {path.parent / near}?" if near else ""
        raise ConfigError(f"There is no config file {path}.{hint}")
    try:
        return read_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also a UnicodeDecodeError
        raise ConfigError(f"{path} is not readable as YAML: {error}") from None
