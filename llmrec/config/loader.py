"""One YAML file describes one experiment. Unknown keys and wrong types are errors that name the key."""

import difflib
import json
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from llmrec.config.errors import describe
from llmrec.config.experiment import Config
from llmrec.errors import ConfigError


def parse_config(values: Any, source: str = "config") -> Config:
    """Validates a mapping.

    Args:
        values: the parsed YAML.
        source: what error messages call it, usually the file.

    Raises:
        ConfigError: names every wrong key and, for an unknown one, the nearest known.
    """
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise ConfigError(f"{source}: expected keys and values (`name: ...`), found {found}.")
    try:
        return Config.model_validate_json(yaml_to_json(values))
    except ValidationError as error:
        raise ConfigError("\n".join(describe(e, source, Config) for e in error.errors())) from None


def yaml_to_json(values: dict) -> str:
    """JSON text of parsed YAML; validating JSON lets pydantic be strict and still read lists as tuples."""
    return json.dumps(values, default=str)


class _YamlLoader(yaml.SafeLoader):
    """YAML with two traps removed: `5e-4` is a number here, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                twice = f"`{key.value}` is given twice"
                raise yaml.constructor.ConstructorError(None, None, twice, key.start_mark)
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, where a float needs a dot.
_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_config(path: str | Path) -> Config:
    """Reads and validates a YAML file.

    Raises:
        ConfigError: no such file, not YAML, or a key that is wrong.
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], n=1)
        hint = f" Did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError(f"There is no config file {path}.{hint}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_YamlLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not readable as YAML: {error}") from None
    return parse_config(values, str(path))
