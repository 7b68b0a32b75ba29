"""The base class of all config sections, and the keys that a section holds."""

import typing
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

# Names that transformers gives to optimizers; the first is its own default.
Optimizer = Literal["adamw_torch_fused", "adamw_bnb_8bit"]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, and text is never converted to a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def section_of(annotation: Any) -> type[Section] | None:
    """The section class inside a field's type, also inside a list or an optional; None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in typing.get_args(annotation) if (found := section_of(part))), None)


def fields(section: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """All keys of a section and of the sections inside it, each as a dotted key with its field, in order."""
    for name, field in section.model_fields.items():
        yield prefix + name, field
        inner = section_of(field.annotation)
        if inner is not None:
            yield from fields(inner, f"{prefix}{name}.")


def defaults(section: type[Section]) -> dict[str, Any]:
    """The default of every key of a section that has one; a default may depend on those of earlier keys."""
    values: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        if not field.is_required():
            values[name] = field.get_default(call_default_factory=True, validated_data=values)
    return values
