"""What to tell somebody whose config is wrong: the key, what was found, what is allowed or nearest."""

import difflib
import types
import typing
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

# pydantic's names of errors, in words.
_EXPECTED = {
    "string_type": "text was expected (put it in quotes)",
    "int_type": "a whole number was expected",
    "int_from_float": "a whole number was expected",
    "float_type": "a number was expected",
    "bool_type": "true or false was expected",
    "list_type": "a list was expected, for instance [a, b]",
    "tuple_type": "a list was expected, for instance [a, b]",
}

_CONTAINERS = (list, tuple, typing.Union, types.UnionType)


def describe(error: dict[str, Any], source: str, model: type[BaseModel]) -> str:
    """One line for one error of pydantic's `ValidationError.errors()`.

    Args:
        error: of `model`, with `type, loc, input, msg, ctx`.
        source: what the message calls the config, usually its file.
        model: the whole config's class.
    """
    location = error["loc"]
    key = _dotted(location)
    if error["type"] == "extra_forbidden":
        section = _section(model, location[:-1])
        return f"{source}: unknown key `{key}`: {_nearest(str(location[-1]), _keys(section), 'known keys here')}"
    if error["type"] == "missing" and isinstance(location[-1], int):
        return f"{source}: `{_dotted(location[:-1])}` has too few values."
    if error["type"] == "missing":
        return f"{source}: the key `{key}` is missing{_what_to_add(_field(model, location))}."
    return f"{source}: `{key}` is {_shown(error['input'])}: {_reason(error, _field(model, location))}"


def _reason(error: dict[str, Any], field: FieldInfo | None) -> str:
    if error["type"] == "literal_error":
        allowed = _literals(field.annotation) if field else []
        return _nearest(str(error["input"]), allowed, "allowed")
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return "keys and values were expected; to keep the defaults, leave it out."
    if error["type"] == "string_pattern_mismatch":
        return "letters, digits, `.`, `_` and `-` are allowed, the first a letter or digit."
    if error["type"] in _EXPECTED:
        return f"{_EXPECTED[error['type']]}."
    message = error["msg"]
    return f"{message[:1].lower()}{message[1:]}."


def _dotted(location: tuple) -> str:
    """`data.splits[0]` of ("data", "splits", 0)."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def _shown(value: Any) -> str:
    text = "empty" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _nearest(given: str, known: list[str], heading: str) -> str:
    nearest = difflib.get_close_matches(given, known, n=1)
    allowed = ", ".join(f"`{name}`" for name in known)
    if nearest:
        few = f" ({heading}: {allowed})" if len(known) <= 8 else ""
        return f"did you mean `{nearest[0]}`?{few}"
    return f"{heading}: {allowed}."


def _field(model: type[BaseModel], location: tuple) -> FieldInfo | None:
    """The field at a path; for an element of a list, the list's field."""
    field = None
    for part in location:
        if isinstance(part, int):
            continue
        section = model if field is None else _as_section(field.annotation)
        field = section.model_fields.get(part) if section else None
        if field is None:
            return None
    return field


def _section(model: type[BaseModel], location: tuple) -> type[BaseModel] | None:
    field = _field(model, location)
    return model if not location else _as_section(field.annotation) if field else None


def _as_section(annotation: Any) -> type[BaseModel] | None:
    """The section that a key holds, also in a list or where it may be left out."""
    if typing.get_origin(annotation) in _CONTAINERS:
        return next((s for value in typing.get_args(annotation) if (s := _as_section(value))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _keys(section: type[BaseModel] | None) -> list[str]:
    return list(section.model_fields) if section else []


def _literals(annotation: Any) -> list[str]:
    """The values of a `Literal`, also inside a list or an optional."""
    if typing.get_origin(annotation) is typing.Literal:
        return [str(value) for value in typing.get_args(annotation)]
    if typing.get_origin(annotation) in _CONTAINERS:
        return [value for part in typing.get_args(annotation) for value in _literals(part)]
    return []


def _what_to_add(field: FieldInfo | None) -> str:
    if field is None:
        return ""
    section = _as_section(field.annotation)
    if section:
        needed = [name for name, inner in section.model_fields.items() if inner.is_required()]
        return f": a section that has at least {', '.join(f'`{name}`' for name in needed)}"
    allowed = _literals(field.annotation)
    what = f"one of {', '.join(f'`{value}`' for value in allowed)}" if allowed else field.description
    return f": {what}" if what else ""
