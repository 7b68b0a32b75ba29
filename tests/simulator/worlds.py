"""Small worlds and small logs for the tests of the simulator."""

from typing import Any

import numpy as np
import pandas as pd

from llmrec.data.dataset import InteractionData, Targets
from llmrec.simulator.behavior import Behavior
from llmrec.simulator.people import People
from llmrec.simulator.state import Population
from llmrec.simulator.tastes import TableTastes

ITEMS = 60
DAY = 86_400


def people(users: int = 3, items: int = 6, **behavior: Any) -> People:
    """People whose utilities are 0 everywhere, who buy half of what they click, with one category an item."""
    ones = np.ones((items, 1), np.float32)
    population = Population(
        tastes=TableTastes(np.zeros((users, items), np.float32)),
        purchase_logits=(np.zeros((users, 3), np.float32), np.concatenate([ones, ones, ones], axis=1)),
        known=[np.zeros(0, np.int64) for _ in range(users)],
        categories=np.eye(items, dtype=np.float32),
        values=np.arange(1.0, items + 1.0),
        profiles=np.zeros((users, 0), np.float32),
    )
    return People(population, Behavior(**{"position": 1.0, "item_satiation": 0.0, **behavior}))


def log(late_users: int = 60, seed: int = 0, timed: bool = True, sessions: int = 2) -> InteractionData:
    """A log of early users, who train everything else, and late users, who live in the worlds.

    There are two groups of users and of items. A user takes 24 items, nearly all of them from the own group, in
    `sessions` sessions that are 2 days apart.
    """
    rng = np.random.default_rng(seed)
    histories = []
    timestamps = []
    purchases = []
    users = 20 + late_users
    for user in range(users):
        weights = np.where(np.arange(ITEMS) % 2 == user % 2, 20.0, 1.0) * 0.985 ** np.arange(ITEMS)
        items = rng.choice(ITEMS, 24, replace=False, p=weights / weights.sum())
        start = (0 if user < 20 else 100 + 2 * (user - 20)) * DAY
        days = np.repeat(np.arange(sessions) * 2 * DAY, -(-24 // sessions))[:24]
        histories.append(items)
        timestamps.append(start + days + 60 * np.arange(24))
        purchases.append(rng.random(24) < np.where(items % 2 == user % 2, 0.8, 0.2))
    first = np.arange(users)
    return InteractionData(
        items=pd.DataFrame(
            {
                "item_id": [str(item) for item in range(ITEMS)],
                "title": [f"Film {item}" for item in range(ITEMS)],
                "categories": [["even" if item % 2 == 0 else "odd", f"third {item % 3}"] for item in range(ITEMS)],
            }
        ),
        users=pd.DataFrame({"user_id": [f"u{user}" for user in range(users)], "group": [user % 2 for user in first]}),
        facts=pd.DataFrame(),
        histories=histories,
        purchases=purchases,
        timestamps=timestamps,
        train_lengths=np.where(first < 20, 24, 0),
        targets={
            "temporal": {"valid": Targets(first[19:20], first[19:20]), "test": Targets(first[20:], first[20:] * 0)}
        },
        card={"time": {"first": "1970", "last": "1971"} if timed else {}, "rules": {"purchase": ["rating>=4"]}},
    )
