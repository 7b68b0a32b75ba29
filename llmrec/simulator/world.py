"""A world: people with a record of where each of their parameters comes from. Fitted, saved and loaded here."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from llmrec.config import SimulatorConfig
from llmrec.data.dataset import InteractionData
from llmrec.errors import ModelError
from llmrec.files import read_versioned, write_json, write_with
from llmrec.simulator.behavior import Behavior, sigmoid
from llmrec.simulator.chain import ChainTastes, fit_chain
from llmrec.simulator.events import Choices, LogFacts, UserEvents, choices, first_positions, has_purchases
from llmrec.simulator.mixture import MixtureTastes, fit_mixture
from llmrec.simulator.parameters import Parameter, Parameters
from llmrec.simulator.people import People, check_slate_size
from llmrec.simulator.regression import purchase_factors
from llmrec.simulator.sessions import session_parameters
from llmrec.simulator.state import Population
from llmrec.simulator.tastes import TableTastes, Tastes

FORMAT = 1
MODEL_FILE = "model.safetensors"
PARAMETERS_FILE = "parameters.json"
HISTORY = 8  # clicks that the tastes remember
MAX_LEVELS = 30  # attributes with more values are left out of profiles
POPULAR = 50  # items whose click rate sets the utility of no click
FAMILIES: dict[str, Callable[[Choices, Choices, LogFacts, int], Tastes]] = {
    "chain": fit_chain,
    "mixture": fit_mixture,
}
_CLASSES: dict[str, Callable[..., Tastes]] = {"chain": ChainTastes, "mixture": MixtureTastes, "table": TableTastes}


@dataclass(frozen=True)
class World:
    """People, where their parameters come from, and whether the log agrees.

    Attributes:
        name: `base`, `other_users` or `other_family`.
        seed: seed that it was fitted with.
        population: who lives in it.
        parameters: each parameter with its origin.
        weights: weights of the reward's parts.
        slate: number of items shown in one step.
        users: ids of its users in the log.
        items_sha256: hash of the item ids in catalogue order.
        validated: whether it passed its gate; None before the check.
    """

    name: str
    seed: int
    population: Population
    parameters: Parameters
    weights: tuple[float, float, float]
    slate: int
    users: list[str]
    items_sha256: str
    validated: bool | None = None

    def checked(self, validated: bool) -> "World":
        """The world with the result of its check."""
        return replace(self, validated=validated)

    def people(self, users: np.ndarray | None = None, /, **changes: float) -> People:
        """Its people.

        Args:
            users: users whose lives are lived; None for all of them.
            **changes: parameters of `Behavior` that replace those of the world.
        """
        behavior = {**Behavior.from_parameters(self.parameters).__dict__, **changes}
        return People(self.population, Behavior(**behavior), self.weights, HISTORY, users)


# --- fit ------------------------------------------------------------------------------------------


def fit_world(
    name: str, family: str, seed: int, events: UserEvents, data: InteractionData, config: SimulatorConfig
) -> World:
    """Fits a world on the first clicks of its users; the last ones remain for the check.

    Args:
        name: name of the world.
        family: family of the tastes, a key of `FAMILIES`.
        seed: seed of the fit.
        events: clicks of its users.
        data: the prepared log.
        config: horizon, slate, assumptions and rewards.

    Raises:
        CatalogueError: the slate is larger than the catalogue.
        DataError, RewardError: see `People`.
    """
    check_slate_size(config.slate, events.num_items)
    assumed = config.assumptions
    categories = category_rows(data.items)
    train, valid, _ = split_choices(events, categories, assumed.category_recovery)
    facts = LogFacts(first_positions(events), np.float32(assumed.category_satiation / assumed.noise) * categories)
    tastes = FAMILIES[family](train, valid, facts, seed)
    population = Population(
        tastes=tastes,
        purchase_logits=_purchase_logits(events),
        known=[items[: min(config.known_items, length)]
               for items, length in zip(events.items, events.train_lengths, strict=True)],
        categories=categories,
        values=item_values(data.items, config.assumptions.margin) * has_purchases(data),
        profiles=profile_features(data.users)[events.users],
    )  # fmt: skip
    behavior_events = events.subset(np.flatnonzero(fits_behavior(len(events), seed)))
    parameters = {
        **session_parameters(behavior_events, assumed, config.horizon_days),
        **_assumed_parameters(config),
        **_repeat_parameters(data, config),
    }
    parameters["no_click"] = _no_click(population, parameters, train, config)
    return World(
        name=name,
        seed=seed,
        population=population,
        parameters=parameters,
        weights=(config.rewards.click, config.rewards.purchase, config.rewards.return_visit),
        slate=config.slate,
        users=[str(user) for user in data.users["user_id"].iloc[events.users]],
        items_sha256=items_hash(data.items["item_id"]),
    )


def split_choices(events: UserEvents, categories: np.ndarray, recovery: float) -> tuple[Choices, Choices, Choices]:
    """Choices that fit the tastes, that choose their settings, and that test them, by position in each history.

    Args:
        events: the log.
        categories: categories of each item, float32 [N, C].
        recovery: days after which a fraction 1/e of the fatigue of a category is left.
    """
    found = choices(events, HISTORY, categories, Behavior.category_memory, recovery)
    train_ends = events.train_lengths[found.users]
    test_starts = events.test_starts[found.users]
    return (
        found.part(found.positions < train_ends),
        found.part((found.positions >= train_ends) & (found.positions < test_starts)),
        found.part(found.positions >= test_starts),
    )


def fits_behavior(num_users: int, seed: int) -> np.ndarray:
    """Which users fit sessions and returns, two thirds of them; the others test them. bool [U]."""
    fits = np.ones(num_users, bool)
    fits[np.random.default_rng([seed, 2]).permutation(num_users)[: num_users // 3]] = False
    return fits


def _purchase_logits(events: UserEvents) -> tuple[np.ndarray, np.ndarray]:
    """Factors of the log-odds of a purchase, from the clicks of each user before the test clicks."""
    lengths = events.test_starts
    users = np.repeat(np.arange(len(events)), lengths)
    items = np.concatenate([items[:length] for items, length in zip(events.items, lengths, strict=True)])
    bought = np.concatenate([bought[:length] for bought, length in zip(events.purchases, lengths, strict=True)])
    positions = np.concatenate([np.arange(length) for length in lengths])
    return purchase_factors(users, items, positions, bought, (len(events), events.num_items))


def _assumed_parameters(config: SimulatorConfig) -> Parameters:
    assumed = config.assumptions
    names = ("click_rate", "noise", "position", "category_satiation", "category_recovery", "patience",
             "gap_satisfaction")  # fmt: skip
    values = {name: Parameter(getattr(assumed, name), "assumed", f"simulator.assumptions.{name}") for name in names}
    values["horizon"] = Parameter(config.horizon_days, "assumed", "simulator.horizon_days")
    values["max_steps"] = Parameter(config.max_steps, "assumed", "simulator.max_steps")
    return values


def _repeat_parameters(data: InteractionData, config: SimulatorConfig) -> Parameters:
    """Satiation by item: endless in a log without repeated clicks, otherwise assumed."""
    left_out = data.card.get("losses", {}).get("events_left_out", {})
    repeats = int(left_out.get("repeated click on an item", 0))
    total = repeats + sum(map(len, data.histories))
    if repeats < 0.001 * total:
        source = f"{repeats} of {total} clicks of the log are on an item that the user had clicked before"
        return {
            "item_satiation": Parameter(20.0, "fitted", source, n=total),
            "item_recovery": Parameter(1e6, "fitted", source, n=total),
        }
    names = ("item_satiation", "item_recovery")
    return {
        name: Parameter(getattr(config.assumptions, name), "assumed", f"simulator.assumptions.{name}") for name in names
    }


def _no_click(population: Population, parameters: Parameters, train: Choices, config: SimulatorConfig) -> Parameter:
    """The utility of no click at which popular items get the assumed click rate at the start of a life."""
    people = People(population, Behavior.from_parameters(parameters), history=HISTORY)
    state = people.reset(0, 2000)
    popular = np.argsort(-np.bincount(train.items, minlength=people.num_items), kind="stable")[:POPULAR]
    utility = people.utilities(state, np.tile(popular, (len(state.life), 1)))
    utility = utility[~np.take_along_axis(state.seen, np.tile(popular, (len(state.life), 1)), axis=1)]
    noise = config.assumptions.noise
    low, high = float(utility.min()) - 20.0, float(utility.max()) + 20.0
    for _ in range(60):
        middle = (low + high) / 2
        if sigmoid((utility - middle) / noise).mean() > config.assumptions.click_rate:
            low = middle
        else:
            high = middle
    return Parameter((low + high) / 2, "assumed", f"click rate of the {POPULAR} most popular items, see click_rate")


# --- what the item table and the user table say ---------------------------------------------------


def category_rows(items: pd.DataFrame) -> np.ndarray:
    """Categories of each item, rows of length 1, or 0 for an item without categories, float32 [N, C], C at least 1."""
    names = sorted({name for row in items["categories"] for name in row}) if "categories" in items else []
    place = {name: number for number, name in enumerate(names)}
    rows = np.zeros((len(items), max(1, len(names))), np.float32)
    for item, row in enumerate(items["categories"] if names else []):
        rows[item, [place[name] for name in row]] = 1.0
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def item_values(items: pd.DataFrame, margin: float) -> np.ndarray:
    """What a purchase of each item is worth: its price times the margin, 1 without a price, float64 [N]."""
    if "price" not in items:
        return np.ones(len(items))
    prices = pd.to_numeric(items["price"], errors="coerce")
    return prices.fillna(1.0 / margin).to_numpy(dtype=np.float64) * margin


def profile_features(users: pd.DataFrame) -> np.ndarray:
    """Attributes of each user as zeros and ones, float32 [U, F].

    An attribute of more than `MAX_LEVELS` values is cut into five quantiles if it is a number, otherwise left out.
    """
    columns = [np.zeros((len(users), 0), np.float32)]
    for name in users.columns.drop("user_id", errors="ignore"):
        values = users[name].astype(str).fillna("")
        if values.nunique() > MAX_LEVELS:
            numbers = pd.to_numeric(values, errors="coerce")
            if numbers.isna().mean() > 0.5:
                continue
            values = pd.qcut(numbers, 5, duplicates="drop").astype(str).fillna("")
        levels = sorted(values.unique())
        columns.append((values.to_numpy()[:, None] == np.array(levels)[None, :]).astype(np.float32))
    return np.concatenate(columns, axis=1)


def items_hash(item_ids: Sequence[Any] | pd.Series) -> str:
    """SHA-256 of the item ids in catalogue order."""
    return sha256(json.dumps([str(item) for item in item_ids]).encode()).hexdigest()


# --- files ----------------------------------------------------------------------------------------


def save_world(world: World, directory: Path) -> None:
    """Writes `model.safetensors` and `parameters.json` into a directory."""
    population = world.population
    lengths = [len(items) for items in population.known]
    arrays = {f"tastes.{name}": array for name, array in population.tastes.arrays().items()}
    arrays |= {
        "purchase.users": population.purchase_logits[0],
        "purchase.items": population.purchase_logits[1],
        "known.items": np.concatenate([np.zeros(0, np.int64), *population.known]),
        "known.lengths": np.array(lengths, dtype=np.int64),
        "categories": population.categories,
        "values": population.values,
        "profiles": population.profiles,
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_with(directory / MODEL_FILE, lambda path: save_file(arrays, path))
    write_json(
        directory / PARAMETERS_FILE,
        {
            "format": FORMAT,
            "name": world.name,
            "family": population.tastes.family,
            "seed": world.seed,
            "validated": world.validated,
            "items_sha256": world.items_sha256,
            "slate": world.slate,
            "reward_weights": list(world.weights),
            "users": world.users,
            "parameters": {name: parameter.as_json() for name, parameter in world.parameters.items()},
        },
    )


def load_world(directory: str | Path) -> World:
    """Reads what `save_world` wrote.

    Raises:
        ModelError: a file is missing or damaged.
    """
    directory = Path(directory)
    values = read_versioned(directory / PARAMETERS_FILE, FORMAT, dict, "a world")
    try:
        arrays = load_file(directory / MODEL_FILE)
        tastes = {name.removeprefix("tastes."): array for name, array in arrays.items() if name.startswith("tastes.")}
        population = Population(
            tastes=_CLASSES[values["family"]](**tastes),
            purchase_logits=(arrays["purchase.users"], arrays["purchase.items"]),
            known=np.split(arrays["known.items"], np.cumsum(arrays["known.lengths"])[:-1]),
            categories=arrays["categories"],
            values=arrays["values"],
            profiles=arrays["profiles"],
        )
        return World(
            name=values["name"],
            seed=values["seed"],
            population=population,
            parameters={name: Parameter.from_json(one) for name, one in values["parameters"].items()},
            weights=tuple(values["reward_weights"]),
            slate=values["slate"],
            users=values["users"],
            items_sha256=values["items_sha256"],
            validated=values["validated"],
        )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{directory} does not hold a whole world ({error}). Delete it and run `llmrec simulate` again."
        ) from None
