"""What a recommender may know of the people of a world, as numbers."""

import numpy as np

from llmrec.simulator.people import People
from llmrec.simulator.state import State

CLOCKS = 7  # numbers about time and activity


def observation_size(people: People) -> int:
    """Number F of features of an observation."""
    return 2 * people.population.categories.shape[1] + people.population.profiles.shape[1] + CLOCKS


def observe(people: People, state: State) -> np.ndarray:
    """Features of each life, between -10 and 10.

    In order: mean categories of the last clicks, categories shown lately, profile, steps of the session, number of the
    session, days since the start, days since the last visit, clicks so far, recent click rate, and purchases of the
    session. Counts are logarithms.

    Args:
        people: the people.
        state: n lives.

    Returns:
        float32 [n, F].
    """
    padded = np.concatenate([people.population.categories, np.zeros((1, people.population.categories.shape[1]))])
    liked = padded[state.recent].mean(axis=1)
    clocks = np.stack(
        [
            np.log1p(state.session_steps),
            np.log1p(state.sessions),
            state.day / people.behavior.horizon,
            np.log1p(state.last_gap),
            np.log1p(state.taken),
            state.click_rate,
            np.log1p(state.session_purchases),
        ],
        axis=1,
    )
    parts = [liked, state.fatigue, people.population.profiles[state.user], clocks]
    return np.clip(np.concatenate(parts, axis=1), -10.0, 10.0).astype(np.float32)
