"""A small log in which the next item and the purchase can be learned."""

import numpy as np
import pandas as pd
import pytest

from llmrec.data.dataset import InteractionData, Targets


def make_data(num_users: int = 60, num_items: int = 24, length: int = 12, seed: int = 0) -> InteractionData:
    """Users walk along the circle of items in steps of one or two and purchase even items."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, num_items, num_users)
    steps = rng.integers(1, 3, (num_users, length)).cumsum(1)
    histories = [
        np.unique((start + step) % num_items, return_index=True) for start, step in zip(starts, steps, strict=True)
    ]
    histories = [items[np.argsort(order)] for items, order in histories]
    users = np.arange(num_users)
    lengths = np.array([len(history) for history in histories])
    return InteractionData(
        items=pd.DataFrame({"item_id": [f"item{i}" for i in range(num_items)]}),
        users=pd.DataFrame({"user_id": [f"user{u}" for u in users]}),
        facts=pd.DataFrame(),
        histories=histories,
        purchases=[history % 2 == 0 for history in histories],
        timestamps=[np.arange(len(history)) for history in histories],
        train_lengths=lengths - 2,
        targets={"leave_one_out": {"valid": Targets(users, lengths - 2), "test": Targets(users, lengths - 1)}},
    )


@pytest.fixture(scope="session")
def data() -> InteractionData:
    return make_data()
