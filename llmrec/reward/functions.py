"""The parts of the composite reward that are not models: faults, columns of the item table, any Python function."""

import difflib
import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from llmrec.config import PenaltyConfig
from llmrec.data.dataset import InteractionData
from llmrec.data.decision import Decision
from llmrec.errors import ConfigError, RewardError
from llmrec.language.prompt import Recommendation
from reward_models.features import profile_words

FAULTS = ("had", "too_short", "too_long", "repeated")
EXTREME = 3.0  # standard deviations beyond which a column has no further effect: prices have long tails


def log_odds(log_probability: Tensor) -> Tensor:
    """log(p / (1 - p)) of log p, any shape; at most 13.8, where p is 1 - 1e-6."""
    log_probability = log_probability.clamp(max=-1e-6)
    return log_probability - torch.log(-torch.expm1(log_probability))


def places(data: InteractionData, sample: int = 1000) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Training histories up to a random place, their purchase flags, and the profile words, of at most `sample` seeded
    random users.
    """
    generator = np.random.default_rng(0)
    users = generator.permutation(np.flatnonzero(data.train_lengths))[:sample]
    cuts = [(user, int(generator.integers(data.train_lengths[user]))) for user in users]
    histories, purchases = ([values[u][:cut] for u, cut in cuts] for values in (data.histories, data.purchases))
    return histories, purchases, profile_words(data.users)[users]


@torch.no_grad()
def item_log_odds(
    log_rewards: Callable[[slice], Tensor], histories: Sequence[np.ndarray], num_items: int, batch: int = 64
) -> Tensor:
    """Log-odds of each item as what anybody takes next who has not had it: [N].

    The log of the model's *mean* probability over users. Of the model, not of the log: where it overrates rare items,
    this does as well, and nothing is gained by them.

    Args:
        log_rewards: of the model, after some of the U histories, [b, N]; see `Rewarder.log_rewards`.
        histories: of U users.
        num_items: size N of the catalogue.
        batch: histories a forward pass.
    """
    total = torch.zeros(num_items, dtype=torch.float64)
    users = torch.zeros(num_items)
    for start in range(0, len(histories), batch):
        rows = slice(start, start + batch)
        part = histories[rows]
        probabilities = log_rewards(rows).cpu().exp()
        had = torch.zeros(probabilities.shape, dtype=torch.bool)
        for row, history in enumerate(part):
            had[row, torch.tensor(history, dtype=torch.int64)] = True
        total += probabilities.masked_fill(had, 0.0).sum(0)
        users += (~had).sum(0)
    # One user more, to whom all items are alike, for items that all of these have had.
    mean = (total + total.sum() / users.sum()) / (users + 1.0)
    return log_odds(mean.log()).float()


def standardised(items: pd.DataFrame, column: str) -> Tensor:
    """A column of the item table less its mean, in standard deviations within +-`EXTREME`: [N]; 0 where it is empty.

    Raises:
        ConfigError: there is no such column, or it holds no numbers, or the same number for every item.
    """
    if column not in items.columns:
        near = difflib.get_close_matches(column, items.columns, n=1)
        hint = f"did you mean `{near[0]}`? It" if near else "the table"
        raise ConfigError(
            f"reward.terms: the item table has no column `{column}`; {hint} has {', '.join(items.columns)}."
        )
    values = items[column].mask(items[column].astype(object) == "")
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    wrong = values[numbers.isna() & values.notna()]
    if len(wrong):
        raise ConfigError(
            f"reward.terms: column `{column}` of the item table is not numeric: it holds {wrong.iloc[0]!r}. Name a "
            "column of numbers, or take the term out."
        )
    known = numbers.to_numpy()[np.isfinite(numbers)]
    if not len(known) or known.min() == known.max():
        found = "empty" if not len(known) else f"{known[0]:g} for every item that has it"
        raise ConfigError(f"reward.terms: column `{column}` is {found}, so it tells no items apart: take the term out.")
    scaled = (numbers.to_numpy() - known.mean()) / known.std()
    scaled = np.where(np.isfinite(scaled), scaled, 0.0).clip(-EXTREME, EXTREME)
    return torch.from_numpy(scaled).float()


def faults(recommendation: Recommendation, history: Collection[int], limits: PenaltyConfig) -> dict[str, float]:
    """How far a recommendation shows each of `FAULTS`, from 0, not at all, to 1; see `PenaltyConfig`."""
    words: list[str | int] = []
    for segment in recommendation.segments:
        words += [segment] if isinstance(segment, int) else re.findall(r"[\w'-]+", segment.lower())
    pairs = list(zip(words, words[1:], strict=False))
    return {
        "had": float(recommendation.item in history),
        "too_short": max(0.0, 1.0 - len(words) / limits.min_words),
        "too_long": min(1.0, max(0.0, len(words) / limits.max_words - 1.0)),
        "repeated": 1.0 - len(set(pairs)) / len(pairs) if pairs else 0.0,
    }


def load_callable(path: str) -> Callable:
    """The function that `module:function` names; modules are also looked for in the current directory.

    Raises:
        ConfigError: there is no such module or function, or importing the module fails.
    """
    module_name, _, name = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the module's own code raises
        absent = isinstance(error, ModuleNotFoundError) and module_name.startswith(error.name or " ")
        what = f"there is no module `{error.name}`" if absent else f"importing it failed: {_described(error)}"
        raise ConfigError(
            f"reward.parts: `{path}` cannot be used: {what}. Expected a module that is "
            f"installed, on PYTHONPATH or in {os.getcwd()}."
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = difflib.get_close_matches(name, functions, n=1)
        hint = f"did you mean `{module_name}:{near[0]}`?" if near else f"it has {', '.join(functions) or 'none'}."
        raise ConfigError(f"reward.parts: module `{module_name}` has no function `{name}`; {hint}")
    return function


def call(
    name: str, function: Callable, recommendations: Sequence[Recommendation], decisions: Sequence[Decision]
) -> Tensor:
    """Values [B] of a function over B recommendations and the decisions that they answer.

    Raises:
        RewardError: it raises, or does not return B finite numbers.
    """
    try:
        values = function(recommendations, decisions)
    except Exception as error:  # whatever the user's code raises
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
    """The same values, all finite.

    Raises:
        RewardError: one is not.
    """
    wrong = values[~values.isfinite()]
    if len(wrong):
        raise RewardError(f"The reward part `{name}` gave {wrong[0].item()}; expected a finite number.")
    return values


def _described(error: Exception) -> str:
    """The error, and the line of code that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({os.path.basename(frame.filename)}, line {frame.lineno})"


def _shortened(value: object) -> str:
    text = f"{type(value).__name__} {value!r}"
    return text if len(text) <= 80 else f"{text[:77]}..."
