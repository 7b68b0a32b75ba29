"""Parts of the reward that the config names: columns of the item table, and Python functions of the user."""

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from llmrec.data.decision import Decision
from llmrec.errors import ConfigError, RewardError, nearest
from llmrec.language.prompt import Recommendation

LIMIT = 3.0  # standard deviations at which a column's values are clipped, because prices have long tails
SHOWN_CHARACTERS = 80  # length to which a returned value is cut in an error message

PartFunction = Callable[[Sequence[Recommendation], Sequence[Decision]], Any]


def standardized(items: pd.DataFrame, column: str) -> Tensor:
    """A column of the item table with mean 0 and standard deviation 1, clipped at +-`LIMIT`.

    Args:
        items: the item table, N rows.
        column: name of the column.

    Returns:
        float32 [N]; 0 for an empty cell.

    Raises:
        ConfigError: the column does not exist, is not numeric, or holds the same number for every item.
    """
    if column not in items.columns:
        near = nearest(column, items.columns)
        hint = f"did you mean `{near}`? It" if near else "the table"
        raise ConfigError(
            f"reward.terms: the item table has no column `{column}`; {hint} has {', '.join(items.columns)}."
        )
    values = items[column].mask(items[column].astype(object) == "")
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    wrong = values[numbers.isna() & values.notna()]
    if len(wrong):
        raise ConfigError(
            f"reward.terms: column `{column}` of the item table is not numeric: it holds {wrong.iloc[0]!r}. Name a "
            "column of numbers, or remove the term."
        )
    known = numbers.to_numpy()[np.isfinite(numbers)]
    if not len(known) or known.min() == known.max():
        found = "empty" if not len(known) else f"{known[0]:g} for every item that has it"
        raise ConfigError(f"reward.terms: column `{column}` is {found}, so it has no effect: remove the term.")
    scaled = (numbers.to_numpy() - known.mean()) / known.std()
    scaled = np.where(np.isfinite(scaled), scaled, 0.0).clip(-LIMIT, LIMIT)
    return torch.from_numpy(scaled).float()


def load_callable(path: str) -> PartFunction:
    """Imports the function that `module:function` names. The current directory is searched for modules as well.

    Raises:
        ConfigError: the module or function does not exist, or importing the module fails.
    """
    module_name, _, name = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's module may raise anything
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        is_missing = missing is not None and module_name.startswith(missing)
        reason = f"there is no module `{missing}`" if is_missing else f"importing it failed: {_described(error)}"
        raise ConfigError(
            f"reward.parts: `{path}` cannot be used: {reason}. Expected a module that is "
            f"installed, on PYTHONPATH or in {os.getcwd()}."
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = nearest(name, functions)
        hint = f"did you mean `{module_name}:{near}`?" if near else f"it has {', '.join(functions) or 'none'}."
        raise ConfigError(f"reward.parts: module `{module_name}` has no function `{name}`; {hint}")
    return function


def call(
    name: str, function: PartFunction, recommendations: Sequence[Recommendation], decisions: Sequence[Decision]
) -> Tensor:
    """Calls a function of the user and checks what it returns.

    Args:
        name: name of the part, for errors.
        function: the function.
        recommendations: B parsed completions.
        decisions: the decision that each one answers. The function sees them without their targets.

    Returns:
        float32 [B], on the CPU.

    Raises:
        RewardError: the function raises, or does not return B finite numbers.
    """
    rows = [replace(decision, target=None) for decision in decisions]  # a reward must not know the answer
    try:
        values = function(recommendations, rows)
    except Exception as error:  # the user's function may raise anything
        raise RewardError(f"The reward part `{name}` failed: {_described(error)}.") from error
    expected = f"expected {len(recommendations)} numbers, one for each recommendation"
    try:
        found = torch.as_tensor(values, dtype=torch.float32).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise RewardError(f"The reward part `{name}` returned {_shortened(values)}; {expected}.") from None
    if found.shape != (len(recommendations),):
        raise RewardError(f"The reward part `{name}` returned values of shape {list(found.shape)}; {expected}.")
    return finite(name, found)


def finite(name: str, values: Tensor) -> Tensor:
    """Returns the values of a part if all are finite.

    Raises:
        RewardError: a value is NaN or infinite.
    """
    wrong = values[~values.isfinite()]
    if len(wrong):
        raise RewardError(f"The reward part `{name}` gave {wrong[0].item()}; expected a finite number.")
    return values


def _described(error: Exception) -> str:
    """The error, and the file and line that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({os.path.basename(frame.filename)}, line {frame.lineno})"


def _shortened(value: object) -> str:
    text = f"{type(value).__name__} {value!r}"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."
