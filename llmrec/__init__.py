"""llmrec fine-tunes a language model to recommend the items of a catalogue.

The names below are imported when they are first used, so `import llmrec` is instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmrec.config import load_config
    from llmrec.evaluation.evaluate import evaluate
    from llmrec.policy.model import RecPolicy
    from llmrec.recommend import Recommender
    from llmrec.run import Run

__version__ = "0.1.0"

__all__ = ["RecPolicy", "Recommender", "Run", "evaluate", "load_config"]

_MODULES = {
    "RecPolicy": "llmrec.policy.model",
    "Recommender": "llmrec.recommend",
    "Run": "llmrec.run",
    "evaluate": "llmrec.evaluation.evaluate",
    "load_config": "llmrec.config",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
