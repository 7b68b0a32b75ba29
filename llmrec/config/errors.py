"""Messages for a config that is wrong: the file, the key, what was found and what is allowed."""

from typing import Any, get_args

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from llmrec.config.former import REMOVED, RENAMED
from llmrec.config.section import Section, fields, section_of
from llmrec.errors import nearest


def describe(error: ErrorDetails, source: str, model: type[Section]) -> str:
    """One line for one error of pydantic's `ValidationError.errors()`.

    Args:
        error: an error of `model`.
        source: what the message calls the config, usually its file.
        model: class of the whole config.
    """
    known = dict(fields(model))
    path = ".".join(part for part in error["loc"] if isinstance(part, str))  # without places in lists
    shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).lstrip(".")
    field = known.get(path)
    if error["type"] == "extra_forbidden":
        return f"{source}: unknown key `{shown}`: {_expected_key(path, known)}"
    if error["type"] == "missing":
        meaning = f" {field.description}" if field else ""
        return f"{source}: the key `{shown}` is missing.{meaning}"
    rule = error.get("ctx", {}).get("error")  # what a validator of ours raised
    if rule is not None and (field is None or section_of(field.annotation)):
        return f"{source}: {rule}"  # a rule for several keys, which it names itself
    message = f"{rule or error['msg']}"
    message = message if message.endswith(".") else f"{message}."
    return f"{source}: `{shown}` is {_found(error['input'])}: {message}{_suggestion(error, field)}"


def _expected_key(path: str, known: dict[str, FieldInfo]) -> str:
    """What a key that does not exist should have been."""
    if path in RENAMED:
        return f"it is now called `{RENAMED[path]}`."
    if path in REMOVED:
        return REMOVED[path]
    section, _, name = path.rpartition(".")
    keys = [key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == section]
    near = nearest(name, keys)
    return f"did you mean `{near}`?" if near else f"expected one of {', '.join(keys)}."


def _suggestion(error: ErrorDetails, field: FieldInfo | None) -> str:
    """What to write instead, where pydantic's message does not say it."""
    if error["type"] == "literal_error" and field is not None:
        near = nearest(str(error["input"]), _choices(field.annotation))
        return f" Did you mean `{near}`?" if near else ""
    if error["type"] == "string_pattern_mismatch" and field is not None:
        return f" {field.description}"
    return ""


def _choices(annotation: Any) -> list[str]:
    """The texts in a type such as `Literal["a", "b"]`, also inside a list or an optional."""
    return [text for part in get_args(annotation) for text in ([part] if isinstance(part, str) else _choices(part))]


def _found(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
