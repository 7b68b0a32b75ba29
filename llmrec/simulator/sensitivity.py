"""How policies do in a world, whether their order is that of the log, and how much of it rests on assumptions."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmrec.config import SimulatorConfig
from llmrec.evaluation.metrics import bootstrap_ci, ndcg, paired_bootstrap, per_user, ranks
from llmrec.simulator.events import UserEvents
from llmrec.simulator.policies import BOUND, Lives, Scores, live, true_tastes
from llmrec.simulator.validation import state_in_log
from llmrec.simulator.world import World

# Each assumption is varied from half to twice its value, one at a time.
SWEPT = ("position", "category_satiation", "category_recovery", "patience", "return_satisfaction", "click_utility")
FACTORS = (0.5, 2.0)
CLICK_ODDS = np.log(2.0)  # change of the utility of no click that halves or doubles the odds of a click


def policy_table(world: World, policies: Mapping[str, Scores], config: SimulatorConfig) -> dict[str, Any]:
    """Lives under each policy, with intervals over lives, beside the bound of the true tastes.

    Args:
        world: the world.
        policies: policies by name.
        config: number of lives.

    Returns:
        for each policy `reward`, `clicks`, `click_rate`, `purchases`, `steps`, `sessions`, `back_after_1_day`,
        `back_after_7_days` and `items_shown`.
    """
    people = world.people()
    every = {**policies, BOUND: true_tastes}
    return {name: summary(live(people, one, config.lives, world.seed, world.slate)) for name, one in every.items()}


def summary(lives: Lives) -> dict[str, Any]:
    """Means over lives with 95 % intervals."""
    rows = {
        "reward": lives.reward,
        "clicks": lives.clicks,
        "click_rate": lives.clicks / lives.steps,
        "purchases": lives.purchases,
        "steps": lives.steps,
        "sessions": lives.sessions,
        "back_after_1_day": lives.back_after_1,
        "back_after_7_days": lives.back_after_7,
    }
    found: dict[str, Any] = {}
    for name, values in rows.items():
        value, low, high = bootstrap_ci(values.astype(np.float64))
        found[name] = {"value": value, "ci95": [low, high]}
    return {**found, "items_shown": lives.items, "lives": len(lives.reward)}


def offline_ndcg(world: World, events: UserEvents, policies: Mapping[str, Scores], seed: int) -> dict[str, float]:
    """NDCG@10 of the first test click of each user of the world, as the log has it."""
    people = world.people()
    users = np.flatnonzero(events.test_starts > 0)
    state = state_in_log(people, events, users, seed)
    targets = np.array([events.items[user][events.test_starts[user]] for user in users])
    seen = state.seen
    seen[np.arange(len(users)), targets] = False
    return {
        name: float(per_user(ndcg(ranks(one(people, state), targets, seen), 10), users)[1].mean())
        for name, one in policies.items()
    }


def kendall_tau(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Kendall's tau of the order of the same names by two values: 1 for the same order, -1 for the reverse."""
    names = list(first)
    signs = [
        np.sign(first[a] - first[b]) * np.sign(second[a] - second[b])
        for place, a in enumerate(names)
        for b in names[place + 1 :]
    ]
    return float(np.mean(signs))


def sweep(world: World, policies: Mapping[str, Scores], config: SimulatorConfig) -> list[dict[str, Any]]:
    """The rewards of the policies when one assumption at a time is halved or doubled.

    Returns:
        one row for each change: `assumption`, `value`, `rewards`, `best`, `tau` with the order under the assumptions of
        the config, and `best_is_certain`: whether the best is significantly above the second.
    """
    behavior = world.people().behavior
    base = _rewards(world, policies, config, {})
    order = {name: float(values.mean()) for name, values in base.items()}
    rows = [_row("none", None, base, order)]
    for name in SWEPT if world.slate > 1 else SWEPT[1:]:  # a slate of one item has one position
        for factor in FACTORS:
            if name == "click_utility":
                changes = {"no_click": behavior.no_click - np.log(factor) / np.log(2.0) * CLICK_ODDS}
            else:
                value = getattr(behavior, name) * factor
                changes = {name: min(value, 1.0) if name == "position" else value}
            rows.append(_row(name, next(iter(changes.values())), _rewards(world, policies, config, changes), order))
    return rows


def _rewards(
    world: World, policies: Mapping[str, Scores], config: SimulatorConfig, changes: dict[str, float]
) -> dict[str, np.ndarray]:
    people = world.people(**changes)
    count = max(20, config.lives // 3)
    return {name: live(people, one, count, world.seed, world.slate).reward for name, one in policies.items()}


def _row(name: str, value: float | None, rewards: dict[str, np.ndarray], order: dict[str, float]) -> dict[str, Any]:
    means = {policy: float(values.mean()) for policy, values in rewards.items()}
    best, second = sorted(means, key=lambda policy: -means[policy])[:2]
    difference = paired_bootstrap(rewards[best], rewards[second])
    return {
        "assumption": name,
        "value": value,
        "rewards": means,
        "best": best,
        "best_is_certain": difference[1] > 0,
        "tau": kendall_tau(order, means),
    }
