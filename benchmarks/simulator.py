"""Speed of the simulator in user steps a second, beside SARDINE (Deffayet et al., 2023) in the same process.

    pip install --no-deps sardine-rec==1.0.8
    python benchmarks/simulator.py

Both choose random slates. Rounds of the two alternate, and the middle one is shown, in CPU seconds of one thread: other
work on the machine slows wall clocks. Our world has the shape of MovieLens-100K: 1,682 items and 19
categories.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from llmrec.simulator.behavior import Behavior
from llmrec.simulator.chain import ChainTastes
from llmrec.simulator.observations import observe
from llmrec.simulator.people import People
from llmrec.simulator.state import Population

USERS, ITEMS, CATEGORIES, WIDTH = 500, 1682, 19, 48
ROUNDS = 5


def movielens_shaped() -> People:
    """People with random tastes in a catalogue of the size of MovieLens-100K."""
    rng = np.random.default_rng(0)

    def table(rows: int) -> np.ndarray:
        return rng.normal(0, 0.3, (rows, WIDTH)).astype(np.float32)

    bias = rng.normal(-3, 1, ITEMS).astype(np.float32)
    categories = (rng.random((ITEMS, CATEGORIES)) < 0.1).astype(np.float32)
    ones = np.ones((ITEMS, 3), np.float32)
    population = Population(
        tastes=ChainTastes(
            table(USERS), table(ITEMS), np.concatenate([table(ITEMS), np.zeros((1, WIDTH), np.float32)]), table(ITEMS),
            bias, np.zeros(ITEMS, np.float32),
        ),
        purchase_logits=(np.zeros((USERS, 3), np.float32), ones),
        known=[rng.choice(ITEMS, 10, replace=False) for _ in range(USERS)],
        categories=categories / np.maximum(np.linalg.norm(categories, axis=1, keepdims=True), 1e-6),
        values=np.ones(ITEMS),
        profiles=np.zeros((USERS, 30), np.float32),
    )  # fmt: skip
    behavior = Behavior(category_satiation=1.0, patience=0.35, end_intercept=-2.8, end_log_step=-0.3)
    return People(population, behavior)


def our_steps(people: People, batch: int, slate: int, steps: int, observed: bool) -> int:
    """Plays `steps` steps of a batch of lives; finished lives are replaced. Returns the number of user steps."""
    rng = np.random.default_rng(1)
    slates = (rng.integers(0, ITEMS, (batch, 1)) + 7 * np.arange(slate)) % ITEMS
    state = people.reset(0, batch)
    lives = batch
    for step in range(steps):
        outcome = people.step(state, (slates + 13 * step) % ITEMS)
        if observed:
            observe(people, state)
        rows = np.flatnonzero(outcome.over)
        people.restart(state, rows, lives + np.arange(len(rows)))
        lives += len(rows)
    return batch * steps


def sardine_steps(env: Any, steps: int) -> int:
    """Plays `steps` steps of one environment of SARDINE."""
    env.reset(seed=0)
    for _ in range(steps):
        *_, ended, cut, _ = env.step(env.action_space.sample())
        if ended or cut:
            env.reset()
    return steps


def rate(play: Callable[[], int]) -> float:
    """User steps in a CPU second."""
    started = time.process_time()
    steps = play()
    return steps / (time.process_time() - started)


def contenders() -> dict[str, Callable[[], int]]:
    """Each contender by name: a function that plays and returns the number of user steps."""
    people = movielens_shaped()
    found: dict[str, Callable[[], int]] = {
        "ours, 1,024 lives, 1 item": lambda: our_steps(people, 1024, 1, 60, observed=False),
        "ours, 1,024 lives, 1 item, with observations": lambda: our_steps(people, 1024, 1, 60, observed=True),
        "ours, 1,024 lives, slates of 10": lambda: our_steps(people, 1024, 10, 30, observed=False),
        "ours, one life, 1 item": lambda: our_steps(people, 1, 1, 1000, observed=False),
    }
    if importlib.util.find_spec("sardine"):
        import gymnasium
        import sardine  # noqa: F401  # pyright: ignore[reportMissingImports]  # it registers its environments

        for name in ("SingleItem-BoredInf-v0", "SlateTopK-Bored-v0"):
            env = gymnasium.make(f"sardine/{name}", disable_env_checker=True).unwrapped
            found[f"SARDINE, one life, {name}"] = lambda env=env: sardine_steps(env, 1000)
    return found


def main() -> None:
    players = contenders()
    rates: dict[str, list[float]] = {name: [] for name in players}
    for _ in range(ROUNDS):
        for name, play in players.items():
            rates[name].append(rate(play))
    for name, values in rates.items():
        print(f"{name:50} {statistics.median(values):10,.0f} user steps a CPU second ({min(values):,.0f} to "
              f"{max(values):,.0f})")  # fmt: skip


if __name__ == "__main__":
    main()
