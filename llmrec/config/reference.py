"""What is known of each key."""

from typing import Any, get_args

from llmrec.config.experiment import Config
from llmrec.config.section import Section


def default_of(key: str) -> Any:
    """The default of a dotted key such as `sft.optim`; None for one that must be given."""
    section: Any = Config
    for name in key.split("."):
        field = section.model_fields[name]
        kinds = (field.annotation, *get_args(field.annotation))
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)
    return None if field.is_required() else field.get_default(call_default_factory=True)
