"""Simple policies that act in a world, and the lives that people live under a policy."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmrec.data.dataset import InteractionData
from llmrec.recommenders.ease import EASE
from llmrec.recommenders.markov import Markov
from llmrec.recommenders.popularity import Popularity
from llmrec.recommenders.protocol import Fitted
from llmrec.simulator.draws import Purpose, keys, uniforms
from llmrec.simulator.people import People
from llmrec.simulator.state import State

Scores = Callable[[People, State], np.ndarray]  # scores of all items for each life, float [n, N]
BOUND = "true tastes"  # the policy that reads people's minds: no recommender can be compared with it


@dataclass(frozen=True)
class Lives:
    """What n lives came to under a policy.

    Attributes:
        reward: sum of the rewards, float64 [n].
        clicks: number of clicks, int64 [n].
        purchases: number of purchases, int64 [n].
        steps: number of steps, int64 [n].
        sessions: number of sessions, int64 [n].
        back_after_1: whether the user came back within a day of the first session, bool [n].
        back_after_7: the same within 7 days, bool [n].
        items: number of different items that were shown to all lives together.
    """

    reward: np.ndarray
    clicks: np.ndarray
    purchases: np.ndarray
    steps: np.ndarray
    sessions: np.ndarray
    back_after_1: np.ndarray
    back_after_7: np.ndarray
    items: int


def log_policies(data: InteractionData) -> dict[str, Scores]:
    """Policies that know the training clicks of the log alone, and nothing of the world.

    Args:
        data: the prepared log.
    """
    return {"random": random_scores, **{name: of_recommender(one) for name, one in log_recommenders(data).items()}}


def log_recommenders(data: InteractionData) -> dict[str, Fitted]:
    """Recommenders that are fitted on the training clicks of the log.

    Args:
        data: the prepared log.
    """
    return {
        "popularity": Popularity().fit(data.train_histories, data.num_items),
        "ease": EASE(l2=300.0).fit(data.train_histories, data.num_items),
        "markov": Markov().fit(data.train_histories, data.num_items),
    }


def random_scores(people: People, state: State) -> np.ndarray:
    """Independent random numbers, functions of life and step."""
    key = keys(0, state.life, state.steps)
    items = np.arange(people.num_items, dtype=np.uint64)
    return uniforms((key[:, None] + items[None, :]).ravel(), Purpose.EXPLORE).reshape(len(key), -1)


def true_tastes(people: People, state: State) -> np.ndarray:
    """The utilities at present: the best that a myopic recommender could know."""
    return people.all_utilities(state)


def of_recommender(fitted: Fitted) -> Scores:
    """Lets a recommender score the items after what each life has clicked."""

    def scores(people: People, state: State) -> np.ndarray:
        return fitted.scores(clicked_histories(people, state))

    return scores


def clicked_histories(people: People, state: State) -> list[np.ndarray]:
    """Clicked items of each life, oldest first, int64 arrays.

    The order is that of the last click on each item, to the day. Only the newest clicks are remembered exactly.
    """
    histories = []
    for row, seen in enumerate(state.seen):
        newest = state.recent[row][state.recent[row] < people.num_items]
        known = people.population.known[int(state.user[row])]
        items = np.concatenate([known, np.setdiff1d(np.flatnonzero(seen), known)])
        by_day = items[np.argsort(state.last_click[row, items], kind="stable")]
        histories.append(np.concatenate([by_day[~np.isin(by_day, newest)], newest]))
    return histories


def top_slates(scores: np.ndarray, seen: np.ndarray, size: int) -> np.ndarray:
    """The best unseen items of each row, best first, int64 [n, K].

    Args:
        scores: float [n, N].
        seen: items that are only shown if nothing else is left, bool [n, N].
        size: number K of items in a slate.
    """
    ranked = np.where(seen, -np.inf, scores)
    if size == 1:
        return ranked.argmax(axis=1)[:, None]
    best = np.argpartition(-ranked, size - 1, axis=1)[:, :size]
    order = np.argsort(-np.take_along_axis(ranked, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)


def live(people: People, scores: Scores, lives: int, seed: int, slate: int = 1) -> Lives:
    """Plays whole lives under a policy. The same seed gives every policy the same people and the same luck.

    Args:
        people: the people.
        scores: the policy.
        lives: number n of lives.
        seed: seed of the world.
        slate: number K of items in a slate.
    """
    state = people.reset(seed, lives)
    totals = np.zeros((4, lives))
    first_gap = np.full(lives, np.inf)
    shown = np.zeros(people.num_items, bool)
    while not state.over.all():
        alive = np.flatnonzero(~state.over)
        part = state.rows(alive)
        slates = np.zeros((lives, slate), np.int64) + np.arange(slate)
        slates[alive] = top_slates(scores(people, part), part.seen, slate)
        shown[slates[alive]] = True
        in_first = state.sessions == 1
        outcome = people.step(state, slates)
        totals[:, alive] += np.stack([outcome.reward, outcome.clicked >= 0, outcome.purchased, np.ones(lives)])[
            :, alive
        ]
        came_back = outcome.returned & in_first
        first_gap[came_back] = outcome.gap[came_back]
    reward, clicks, purchases, steps = totals
    return Lives(
        reward=reward,
        clicks=clicks.astype(np.int64),
        purchases=purchases.astype(np.int64),
        steps=steps.astype(np.int64),
        sessions=state.sessions.copy(),
        back_after_1=first_gap <= 1.0,
        back_after_7=first_gap <= 7.0,
        items=int(shown.sum()),
    )
