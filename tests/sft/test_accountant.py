"""The privacy accountant against published budgets, the same bound computed anew, and the exact Gaussian one."""

import math

import pytest
from scipy.optimize import brentq
from scipy.special import gammaln, logsumexp
from scipy.stats import norm

from llmrec.errors import ConfigError
from llmrec.sft.accountant import noise_multiplier, spent

# Noise, epochs and epsilon of TensorFlow Privacy's MNIST tutorial: 60,000 images, 256 a step, delta 1e-5.
PUBLISHED = [(1.3, 15, 1.19), (1.1, 60, 3.01), (0.7, 45, 7.10)]


def renyi(noise: float, rate: float, order: int) -> float:
    """Renyi divergence of a step at a whole order (Mironov et al., 2019, section 3.3)."""
    terms = [
        gammaln(order + 1)
        - gammaln(k + 1)
        - gammaln(order - k + 1)
        + (order - k) * math.log1p(-rate)
        + k * math.log(rate)
        + (k * k - k) / (2 * noise**2)
        for k in range(order + 1)
    ]
    return float(logsumexp(terms)) / (order - 1)


@pytest.mark.parametrize(("noise", "epochs", "published"), PUBLISHED)
def test_published_budgets(noise: float, epochs: int, published: float) -> None:
    """The tutorial used a former, looser step from Renyi divergence to epsilon. Ours is that of Balle et al., 2020."""
    rate = 256 / 60_000
    steps = epochs * 60_000 // 256
    orders = range(2, 64)
    total = {order: steps * renyi(noise, rate, order) for order in orders}
    former = min(total[order] + math.log(1e5) / (order - 1) for order in orders)
    assert former == pytest.approx(published, rel=0.02)  # the tutorial rounds steps and tries fewer orders
    tighter = min(
        total[order] + math.log1p(-1 / order) - (math.log(1e-5) + math.log(order)) / (order - 1) for order in orders
    )
    found = spent(noise, 1e-5, rate, steps)
    assert found <= tighter + 1e-9  # it also tries some orders between whole numbers
    assert found == pytest.approx(tighter, rel=0.03)


def test_it_is_above_the_exact_bound_of_a_gaussian_and_near_it() -> None:
    """Twenty steps with everybody are one Gaussian mechanism, whose epsilon is exact (Balle and Wang, 2018)."""
    noise = 5.0
    ratio = noise / math.sqrt(20)

    def excess(epsilon: float) -> float:
        first = norm.cdf(1 / (2 * ratio) - epsilon * ratio)
        return float(first - math.exp(epsilon) * norm.cdf(-1 / (2 * ratio) - epsilon * ratio)) - 1e-5

    exact = brentq(excess, 0.1, 50)
    found = spent(noise, 1e-5, 1.0, 20)
    assert exact <= found <= 1.1 * exact


@pytest.mark.parametrize("epsilon", [0.1, 2.0, 50.0])
def test_the_noise_keeps_the_budget_and_uses_it_up(epsilon: float) -> None:
    noise = noise_multiplier(epsilon, 1e-5, 0.1, 100)
    assert spent(noise, 1e-5, 0.1, 100) <= epsilon < spent(0.995 * noise, 1e-5, 0.1, 100)
    assert spent(noise, 1e-5, 0.1, 101) > spent(noise, 1e-5, 0.1, 100) > spent(noise, 1e-5, 0.1, 50)
    assert spent(noise, 1e-5, 0.1, 0) == 0


def test_a_budget_below_what_can_be_accounted_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`privacy\.epsilon` of 1e-06 .* Raise epsilon"):
        noise_multiplier(1e-6, 1e-5, 0.1, 100)
