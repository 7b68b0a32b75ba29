"""Clipped and noisy sums of users' gradients: numbers worked by hand, sensitivity, and the spread of the noise."""

import math

import pytest
import torch
from torch import nn

from llmrec.sft.user_gradients import NoisySum


def two_parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([[2.0]]))]


def loss(weights: list[nn.Parameter], first: float, second: float) -> torch.Tensor:
    """Its gradient is (first, second)."""
    return first * weights[0].sum() + second * weights[1].sum()


def test_gradients_are_clipped_by_user_and_averaged_over_the_expected_batch() -> None:
    """(3, 4) has norm 5 and becomes (1.2, 1.6) at clip 2; (0, 1) stays; the sum is (1.2, 2.6); divided by 4."""
    weights = two_parameters()
    gradients = NoisySum(weights, clip=2.0)
    gradients.add(loss(weights, 3.0, 4.0))
    gradients.add(loss(weights, 0.0, 1.0))
    assert gradients.total.tolist() == pytest.approx([1.2, 2.6])
    assert (gradients.users, gradients.clipped) == (2, 1)
    gradients.set_gradients(0.0, 4.0, torch.Generator())
    found = [weight.grad for weight in weights]
    assert [one.shape for one in found if one is not None] == [(1,), (1, 1)]
    assert [float(one) for one in found if one is not None] == pytest.approx([0.3, 0.65])


def test_a_weight_without_gradient_and_a_gradient_of_zero_add_nothing() -> None:
    weights = two_parameters()
    gradients = NoisySum(weights, clip=1.0)
    gradients.add(weights[0].sum() * 0.5)
    gradients.add(weights[0].sum() * 0.0)
    assert gradients.total.tolist() == [0.5, 0.0] and gradients.clipped == 0


def test_noise_has_the_standard_deviation_of_multiplier_times_clip_over_the_batch() -> None:
    """1.5 x 2 / 10 = 0.3. The sample deviation of 200,000 numbers is within 1 % of it (six standard errors)."""
    weights = [nn.Parameter(torch.zeros(200_000))]
    gradients = NoisySum(weights, clip=2.0)  # nobody was drawn: the noise comes all the same
    gradients.set_gradients(1.5, 10.0, torch.Generator().manual_seed(0))
    noise = weights[0].grad
    assert noise is not None and noise.dtype == torch.float32
    assert float(noise.std()) == pytest.approx(0.3, rel=0.01)
    assert abs(float(noise.mean())) < 6 * 0.3 / math.sqrt(200_000)
    other = torch.Generator().manual_seed(1)
    gradients.set_gradients(1.5, 10.0, other)
    assert weights[0].grad is not None and not torch.equal(weights[0].grad, noise)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_adds_nothing(broken: float) -> None:
    weights = two_parameters()
    gradients = NoisySum(weights, clip=1.0)
    gradients.add(loss(weights, broken, 1.0))
    gradients.add(loss(weights, 0.0, 0.25))
    assert gradients.total.tolist() == [0.0, 0.25] and gradients.clipped == 1
