"""The reference of all config keys: as a JSON schema, as a markdown page, and for one key at a time."""

import json
from typing import Any

from pydantic.fields import FieldInfo

from llmrec.config.experiment import Config
from llmrec.config.section import Section, defaults, fields, section_of
from llmrec.errors import ConfigError, nearest

_BOUNDS = {
    "exclusiveMinimum": "above {}",
    "minimum": "at least {}",
    "exclusiveMaximum": "below {}",
    "maximum": "at most {}",
    "multipleOf": "a multiple of {}",
}
_TYPES = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false", "null": "null"}


def json_schema() -> dict[str, Any]:
    """The JSON schema of a config file, with the meaning of every key. Editors complete and check keys with it."""
    schema = Config.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def default_of(key: str) -> Any:
    """The default of a dotted key such as `sft.optim`; None for a key that must be given.

    Raises:
        ConfigError: there is no such key.
    """
    _field(key)
    section, name = _section_and_name(key)
    return defaults(section).get(name)


def all_defaults() -> str:
    """All keys that are no sections, each with its default, one a line; `(required)` for a key without a default."""
    keys = [key for key, field in fields(Config) if section_of(field.annotation) is None]
    width = max(map(len, keys))
    return "\n".join(f"{key:<{width}}  {_default(key)}" for key in keys)


def explain(key: str) -> str:
    """The type, default and meaning of a dotted key, one a line; for a section, also the keys inside it.

    Raises:
        ConfigError: there is no such key; the message names the nearest.
    """
    field = _field(key)
    lines = [key, f"  type:     {_type(key)}", f"  default:  {_default(key)}", f"  meaning:  {field.description}"]
    inner = section_of(field.annotation)
    if inner is not None:
        lines.append(f"  keys:     {', '.join(f'{key}.{name}' for name in inner.model_fields)}")
    return "\n".join(lines)


def reference_markdown() -> str:
    """A markdown page with a table for every section: each key with its type, default and meaning."""
    known = dict(fields(Config))
    sections = [("", Config)]
    sections += [(key, inner) for key, field in known.items() if (inner := section_of(field.annotation)) is not None]
    parts = [
        "# Config reference",
        "Every key of a config file. `llmrec config --explain KEY` prints the entry of one key, and\n"
        "`llmrec config --schema` prints all of them as a JSON schema, with which editors complete keys.",
    ]
    for key, section in sections:
        parts.append(f"## `{key}`" if key else "## Top level")
        parts.append(" ".join((section.__doc__ or "").split()))
        rows = [_row(f"{key}.{name}" if key else name, name) for name in section.model_fields]
        parts.append("\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _row(key: str, name: str) -> str:
    meaning = _field(key).description or ""
    cells = [f"`{name}`", _type(key), _default(key, "`"), meaning]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _field(key: str) -> FieldInfo:
    known = dict(fields(Config))
    if key in known:
        return known[key]
    of_that_name = [path for path in known if path.rpartition(".")[2] == key]
    near = of_that_name or [path for path in [nearest(key, known)] if path is not None]
    hint = f"Did you mean {' or '.join(f'`{path}`' for path in near)}?" if near else "`llmrec config` lists all keys."
    raise ConfigError(f"There is no config key `{key}`. {hint}")


def _section_and_name(key: str) -> tuple[type[Section], str]:
    """The class of the section that a key lies in, and the key's name in it."""
    path, _, name = key.rpartition(".")
    section = section_of(_field(path).annotation) if path else Config
    assert section is not None
    return section, name


def _default(key: str, quote: str = "") -> str:
    """The default of a key in YAML's words."""
    if _field(key).is_required():
        return "(required)"
    value = default_of(key)
    return "defaults of its keys" if isinstance(value, Section) else f"{quote}{json.dumps(value)}{quote}"


def _type(key: str) -> str:
    """The type of a key in words, with bounds and choices."""
    section, name = _section_and_name(key)
    return _words(section.model_json_schema()["properties"][name])


def _words(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return "section"
    if "anyOf" in schema:
        return " or ".join(_words(option) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        *choices, last = (f"`{choice}`" for choice in schema.get("enum", [schema.get("const")]))
        return f"{', '.join(choices)} or {last}" if choices else last
    if "prefixItems" in schema:
        return f"[{', '.join(_words(item) for item in schema['prefixItems'])}]"
    if schema.get("type") == "array":
        items = _words(schema["items"])
        return f"list of {'sections' if items == 'section' else items}{', not empty' if schema.get('minItems') else ''}"
    bounds = [text.format(f"{schema[bound]:g}") for bound, text in _BOUNDS.items() if bound in schema]
    return _TYPES[schema["type"]] + (f" ({', '.join(bounds)})" if bounds else "")
