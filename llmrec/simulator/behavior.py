"""`Behavior`: the numbers that say how people of a world click, get bored, leave and come back."""

from dataclasses import dataclass, field, fields
from typing import Self

import numpy as np

from llmrec.simulator.parameters import Parameters


@dataclass(frozen=True)
class Behavior:
    """Parameters of the people of a world. Log-odds and utilities are in nats, times in days.

    Attributes:
        no_click: utility of clicking nothing.
        noise: scale of the Gumbel noise of a choice. 1 is the multinomial logit that the tastes are fitted under.
        position: probability of examining position k of a slate, relative to position k - 1.
        category_satiation: utility that an item loses if everything shown lately shares all of its categories.
        category_memory: share of the fatigue of a category that remains after a step.
        category_recovery: days after which a fraction 1/e of the fatigue is left.
        item_satiation: utility that an item loses right after a click on it.
        item_recovery: days after which a fraction 1/e of that loss is left.
        click_rate: click rate at which patience neither grows nor shrinks.
        patience: log-odds of ending the session, for each unit by which the recent click rate is below `click_rate`,
            relative to it.
        end_intercept: log-odds of ending the session after its first step.
        end_log_step: change of these log-odds with the logarithm of the step.
        purchase_rate: mean share of clicks that are purchases.
        return_intercept: log-odds of coming back after a session of satisfaction 0.
        return_satisfaction: change of these log-odds with the satisfaction, see `satisfaction`.
        gap_satisfaction: change of the logarithm of the days until the return with the satisfaction.
        gap_quantiles: days between sessions at evenly spaced probabilities from 0 to 1.
        horizon: days after which a life is over.
        max_steps: steps after which a life is cut off.
    """

    no_click: float = 0.0
    noise: float = 1.0
    position: float = 0.85
    category_satiation: float = 0.0
    category_memory: float = 0.9
    category_recovery: float = 1.0
    item_satiation: float = 20.0
    item_recovery: float = 1e6
    click_rate: float = 0.1
    patience: float = 0.0
    end_intercept: float = -2.0
    end_log_step: float = 0.0
    purchase_rate: float = 0.5
    return_intercept: float = 0.0
    return_satisfaction: float = 0.0
    gap_satisfaction: float = 0.0
    gap_quantiles: list[float] = field(default_factory=lambda: [1.0, 1.0])
    horizon: float = 30.0
    max_steps: int = 200

    @classmethod
    def from_parameters(cls, parameters: Parameters) -> Self:
        """Picks the values of `parameters.json` that are about behavior."""
        names = {one.name for one in fields(cls)}
        values = {name: parameter.value for name, parameter in parameters.items() if name in names}
        return cls(**{name: int(value) if name == "max_steps" else value for name, value in values.items()})  # type: ignore[arg-type]


def satisfaction(purchases: np.ndarray, steps: np.ndarray, expected: np.ndarray | float) -> np.ndarray:
    """Satisfaction with a session: the logarithm of purchases a step relative to what is expected.

    It is 0 if there are as many purchases as expected, and at least log(1/11), so that one bad session stays finite.

    Args:
        purchases: purchases of each session, [n].
        steps: steps of each session, at least 1, [n].
        expected: purchases a step that count as average.

    Returns:
        float [n].
    """
    share = purchases / np.maximum(steps, 1)
    return np.log((share + 0.1 * expected) / (1.1 * expected))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Logistic function, without overflow."""
    return 1.0 / (1.0 + np.exp(-np.clip(x, -60.0, 60.0)))
