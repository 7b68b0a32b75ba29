"""Simple recommenders of the log whose scores an agent mixes. An agent that mixes them has few actions to learn."""

import numpy as np

from llmrec.data.dataset import InteractionData
from llmrec.simulator.people import People
from llmrec.simulator.policies import clicked_histories, log_recommenders
from llmrec.simulator.state import State

RANKERS = ("popularity", "ease", "markov", "bought", "fresh")
PRIOR_CLICKS = 10.0  # clicks with the average share of purchases that each item is given


class Rankers:
    """The rankers, fitted on the training clicks of the log. They know nothing of the world.

    `bought` ranks by the share of clicks that were purchases. `fresh` prefers categories that were not shown lately.

    Args:
        data: the prepared log.
    """

    def __init__(self, data: InteractionData) -> None:
        self.num_items = data.num_items
        self._fitted = log_recommenders(data)
        self._bought = _purchase_shares(data)

    def scores(self, people: People, state: State) -> np.ndarray:
        """Scores of all items by each ranker, with mean 0 and variance 1 over the items of a row, float32 [n, R, N]."""
        histories = clicked_histories(people, state)
        found = [self._fitted[name].scores(histories) for name in RANKERS if name in self._fitted]
        found.append(np.broadcast_to(self._bought, (len(histories), self.num_items)))
        found.append(-state.fatigue @ people.population.categories.T)
        scores = np.stack(found, axis=1).astype(np.float32)
        scores -= scores.mean(axis=2, keepdims=True)
        return scores / np.maximum(scores.std(axis=2, keepdims=True), 1e-6)


def _purchase_shares(data: InteractionData) -> np.ndarray:
    """Share of the training clicks on each item that were purchases, drawn towards the mean, float32 [N]."""
    lengths = data.train_lengths
    items = np.concatenate([items[:length] for items, length in zip(data.histories, lengths, strict=True)])
    bought = np.concatenate([bought[:length] for bought, length in zip(data.purchases, lengths, strict=True)])
    clicks = np.bincount(items, minlength=data.num_items)
    purchases = np.bincount(items, weights=bought, minlength=data.num_items)
    return ((purchases + PRIOR_CLICKS * bought.mean()) / (clicks + PRIOR_CLICKS)).astype(np.float32)
