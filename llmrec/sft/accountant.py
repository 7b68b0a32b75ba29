"""The privacy accountant: the noise that a budget needs, and the budget that a training has spent.

Renyi differential privacy of the Gaussian mechanism on Poisson samples (Mironov et al., 2019), as Opacus computes it.
It holds for a user more as for a user less. Tighter numerical accountants need up to 8 % less noise.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from llmrec.errors import ConfigError

NAME = "Renyi differential privacy, Opacus"
# Orders at which the bound is computed; the best one counts. Large budgets need small orders, which are slow unless
# they are whole numbers. Small budgets need large ones.
ORDERS = [1.1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, *range(4, 64), 64, 80, 96, 128, 192, 256, 512, 1024, 2048]
TOLERANCE = 0.001  # share of epsilon that the search for the noise may leave unspent
LARGEST_NOISE = 1e5


def noise_multiplier(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """Standard deviation of the noise, in units of the clipping norm, with which a training costs a budget.

    Args:
        epsilon: the budget.
        delta: its failure probability.
        rate: probability with which a user is drawn into a step.
        steps: optimizer steps.

    Raises:
        ConfigError: no noise up to `LARGEST_NOISE` is enough.
    """
    low = 0.0
    high = 1.0
    while spent(high, delta, rate, steps) > epsilon:
        low = high
        high *= 2
        if high > LARGEST_NOISE:
            raise ConfigError(
                f"`privacy.epsilon` of {epsilon:g} with `privacy.delta` {delta:g} needs noise of more than "
                f"{LARGEST_NOISE:g} x the clipping norm in {steps} steps. Raise epsilon, or train fewer epochs "
                "(`sft.num_train_epochs`)."
            )
    while high - low > TOLERANCE * high:  # bisection; `high` always keeps the budget
        middle = (low + high) / 2
        if spent(middle, delta, rate, steps) > epsilon:
            low = middle
        else:
            high = middle
    return high


def spent(noise: float, delta: float, rate: float, steps: int) -> float:
    """The epsilon that steps have cost.

    Args:
        noise: noise multiplier of each step.
        delta: failure probability.
        rate: probability with which a user is drawn into a step.
        steps: optimizer steps; 0 cost nothing.
    """
    if steps == 0:
        return 0.0
    with _quiet():
        from opacus.accountants import RDPAccountant  # here: it belongs to an extra

        accountant = RDPAccountant()
        accountant.history = [(noise, rate, steps)]
        return float(accountant.get_epsilon(delta=delta, alphas=ORDERS))


def description() -> str:
    """The accountant and the version of its library."""
    return f"{NAME} {version('opacus')}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning that the best order is the smallest or the largest one: the bound holds at any order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
