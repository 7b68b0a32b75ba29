"""The bait world as people: the same trap inside the simulator's own core, with its optimum in closed form.

Items of even number are good, items of odd number are bait. Bait is clicked more and hardly ever bought. A session has
one step. Whoever bought nothing comes back less often.
"""

import numpy as np

from llmrec.simulator.behavior import Behavior, satisfaction
from llmrec.simulator.people import People
from llmrec.simulator.state import Population
from llmrec.simulator.tastes import TableTastes

CLICK = (0.6, 0.8)  # probability of a click on a good item and on bait
PURCHASE = (0.9, 0.05)  # probability that such a click is a purchase
RETURN = (0.99, 0.4)  # probability of coming back after a purchase and after none


def bait_people(num_items: int = 4, max_steps: int = 200) -> People:
    """People of whom all have the same tastes. The reward is the click alone."""
    kinds = np.arange(num_items) % 2
    expected = 0.5
    pleased, displeased = satisfaction(np.array([1.0, 0.0]), np.ones(2), expected)
    slope = (_log_odds(RETURN[0]) - _log_odds(RETURN[1])) / (pleased - displeased)
    behavior = Behavior(
        no_click=0.0,
        position=1.0,
        item_satiation=0.0,
        click_rate=0.5,
        purchase_rate=1.0,
        end_intercept=60.0,
        return_intercept=float(_log_odds(RETURN[0]) - slope * pleased),
        return_satisfaction=float(slope),
        gap_quantiles=[0.0, 0.0],
        horizon=1.0,
        max_steps=max_steps,
    )
    bought = np.array([_log_odds(p) for p in PURCHASE])[kinds]
    ones = np.ones(num_items)
    population = Population(
        tastes=TableTastes(np.array([_log_odds(p) for p in CLICK], np.float32)[kinds][None, :]),
        purchase_logits=(np.array([[0.0, 1.0, 0.0]], np.float32), np.stack([ones, bought, ones], 1).astype(np.float32)),
        known=[np.zeros(0, np.int64)],
        categories=np.eye(2, dtype=np.float32)[kinds],
        values=ones,
        profiles=np.zeros((1, 0), np.float32),
    )
    return People(population, behavior, weights=(1.0, 0.0, 0.0))


def bait_values(gamma: float) -> tuple[float, float]:
    """Values of always showing a good item and of always showing bait: V = c / (1 - gamma r).

    c is the probability of a click, and r that of coming back: c l r_1 + (1 - c l) r_0, where l is the probability that
    a click is a purchase, and r_1 and r_0 are those of coming back after a purchase and after none. As all steps of a
    life are alike, the better of the two is the optimum.
    """
    values = []
    for click, purchase in zip(CLICK, PURCHASE, strict=True):
        back = click * purchase * RETURN[0] + (1 - click * purchase) * RETURN[1]
        values.append(click / (1 - gamma * back))
    return values[0], values[1]


def _log_odds(p: float) -> float:
    return float(np.log(p / (1 - p)))
