"""Advantages, KL terms and losses equal numbers that are worked out by hand."""

import math

import pytest
import torch

from llmrec.language.grammar import DONE, ITEM, TEXT
from llmrec.ppo.advantages import (
    Trajectories,
    add_span_rewards,
    exact_item_advantages,
    gae,
    group_advantages,
    rloo_advantages,
    whiten,
)
from llmrec.ppo.kl import anchor_loss, categorical_kl, kl_estimate, kl_loss, kl_penalty, next_kl_coef
from llmrec.ppo.losses import distillation_loss, exact_item_loss, policy_loss, value_loss


def test_gae_by_hand():
    rewards, values = torch.tensor([[1.0, 0.0, 2.0, 9.0]]), torch.tensor([[0.5, 1.0, 1.5, 9.0]])
    mask = torch.tensor([[True, True, True, False]])
    # delta: 2 - 1.5 = 0.5; 0 + 0.9*1.5 - 1 = 0.35; 1 + 0.9*1 - 0.5 = 1.4; decay 0.9*0.8 = 0.72
    # advantages: 0.5; 0.35 + 0.72*0.5 = 0.71; 1.4 + 0.72*0.71 = 1.9112
    advantages, returns = gae(rewards, values, mask, gamma=0.9, lam=0.8)
    assert torch.allclose(advantages, torch.tensor([[1.9112, 0.71, 0.5, 0.0]]))
    assert torch.allclose(returns, torch.tensor([[2.4112, 1.71, 2.0, 0.0]]))


def test_whiten_by_hand():
    values, mask = torch.tensor([1.0, 2.0, 3.0, 50.0]), torch.tensor([True, True, True, False])
    assert torch.allclose(whiten(values, mask), torch.tensor([-1.0, 0.0, 1.0, 0.0]), atol=1e-6)  # variance 1
    assert torch.allclose(whiten(values, mask, shift_mean=False), torch.tensor([1.0, 2.0, 3.0, 0.0]), atol=1e-6)
    assert torch.equal(whiten(values, torch.tensor([True, False, False, False])), torch.zeros(4))
    assert torch.allclose(whiten(2 * values, mask, amplify=False), torch.tensor([-1.0, 0.0, 1.0, 0.0]), atol=1e-6)
    assert torch.allclose(whiten(0.1 * values, mask, amplify=False), torch.tensor([-0.1, 0.0, 0.1, 0.0]), atol=1e-6)


def test_policy_loss_by_hand():
    old = torch.zeros(1, 4)
    new = torch.tensor([[1.5, 0.5, 1.1, 1.0]]).log()
    advantages = torch.tensor([[1.0, -1.0, 2.0, 5.0]])
    mask = torch.tensor([[True, True, True, False]])
    # -min(1.5*1, 1.2*1) = -1.2; -min(-0.5, -0.8) = 0.8; -min(2.2, 2.2) = -2.2
    loss, clipped = policy_loss(new, old, advantages, mask, cliprange=0.2)
    assert loss.item() == pytest.approx(-1.2 + 0.8 - 2.2)
    assert clipped.item() == 2


def test_value_loss_by_hand():
    values, old, returns = torch.tensor([[1.0, 0.1]]), torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.5]])
    # max((1-2)^2, (0.2-2)^2) = 3.24; max(0.16, 0.16) = 0.16
    loss, clipped = value_loss(values, old, returns, torch.tensor([[True, True]]), cliprange=0.2)
    assert loss.item() == pytest.approx(0.5 * (3.24 + 0.16))
    assert clipped.item() == 1


def two_prompts() -> Trajectories:
    """Two episodes for each of two prompts: one item token, two text tokens. The last episode has one text token."""
    rewards = torch.tensor([[4.0, 0.0, 1.0], [2.0, 0.0, 3.0], [0.0, 0.0, 6.0], [8.0, 2.0, 99.0]])
    mask = torch.tensor([[True, True, True]] * 3 + [[True, True, False]])
    item = torch.tensor([[True, False, False]] * 4)
    return Trajectories(rewards=rewards, values=torch.zeros(4, 3), mask=mask, item_mask=item, policy_mask=mask)


def test_rloo_by_hand():
    # Returns from the item: 5, 5 | 6, 10; from the text: 1, 3 | 6, 2. The baseline is the return of the other episode.
    advantages, returns = rloo_advantages(two_prompts(), 2)
    assert advantages.tolist() == [[0, -2, -2], [0, 2, 2], [-4, 4, 4], [4, -4, 0]]
    assert returns is None


def test_group_advantages_by_hand():
    # Mean 8 and standard deviation 2 sqrt 2 (of 6 and 10): -+ 1 / sqrt 2; equal returns have advantage 0.
    advantages, _ = group_advantages(two_prompts(), 2)
    s = 1 / math.sqrt(2)
    expected = torch.tensor([[0, -s, -s], [0, s, s], [-s, s, s], [s, -s, 0]])
    assert torch.allclose(advantages, expected, atol=1e-4)


def test_the_expected_gradient_of_the_kl_loss_is_that_of_the_reverse_kl():
    """On samples of the policy, the expected gradient is that of KL(reference || policy)."""
    generator = torch.Generator().manual_seed(0)
    logits, ref = (
        torch.randn(7, generator=generator).requires_grad_(),
        torch.randn(7, generator=generator).log_softmax(0),
    )
    log_probs = logits.log_softmax(0)
    each = torch.stack([kl_loss(log_probs[t], ref[t], torch.tensor(True)) for t in range(7)])
    (expected,) = torch.autograd.grad((ref.exp() * (ref - log_probs)).sum(), logits, retain_graph=True)
    (found,) = torch.autograd.grad((log_probs.exp().detach() * each).sum(), logits)
    assert torch.allclose(found, expected, atol=1e-6)
    assert kl_loss(ref, ref, torch.ones(7, dtype=torch.bool)) == 0
    assert kl_loss(log_probs, ref, torch.zeros(7, dtype=torch.bool)) == 0


def test_the_anchor_loss_is_the_kl_from_samples_of_the_reference():
    """On samples of the reference, its expectation and expected gradient are those of KL(reference || policy)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, generator=generator).requires_grad_()
    reference = torch.randn(7, generator=generator).log_softmax(0)
    log_probs = logits.log_softmax(0)
    each = torch.stack([anchor_loss(log_probs[t], reference[t], torch.tensor(True)) for t in range(7)])
    expected = (reference.exp() * (reference - log_probs)).sum()
    found = (reference.exp() * each).sum()
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
    gradients = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (found, expected)]
    assert torch.allclose(*gradients, atol=1e-6)
    lost = torch.tensor([-20.0], requires_grad=True)  # exp(-19) - 1: the token does not dominate
    anchor_loss(lost, torch.tensor([-1.0]), torch.tensor(True)).backward()
    assert lost.grad is not None and lost.grad.item() == pytest.approx(-1)


def test_the_adaptive_kl_coefficient_by_hand():
    assert next_kl_coef(0.1, kl=1.1, target=1.0, episodes=100, horizon=1000) == pytest.approx(0.1 * 1.01)
    assert next_kl_coef(0.1, kl=9.0, target=1.0, episodes=100, horizon=1000) == pytest.approx(0.1 * 1.02)  # at most 0.2
    assert next_kl_coef(0.1, kl=0.0, target=1.0, episodes=100, horizon=1000) == pytest.approx(0.1 * 0.98)


def test_kl_estimators_by_hand():
    new, ref = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert kl_estimate(new, ref, "k1").item() == pytest.approx(math.log(2))
    assert kl_estimate(new, ref, "k3").item() == pytest.approx(0.5 - 1 + math.log(2))


def test_the_kl_penalty_by_hand():
    assert torch.allclose(kl_penalty(torch.tensor([[0.5, -0.1]]), 0.2), torch.tensor([[-0.1, 0.02]]))


def test_the_categorical_kl_by_hand():
    first = torch.tensor([[0.5, 0.5, 0.0]]).log()
    second = torch.tensor([[0.25, 0.75, 0.0]]).log()
    assert categorical_kl(first, second).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))


def test_rewards_are_added_at_the_ends_of_their_spans():
    region = torch.tensor([[ITEM, ITEM, TEXT, TEXT, DONE], [ITEM, TEXT, DONE, DONE, DONE]])
    span, mask = region == ITEM, region != DONE
    rewards = add_span_rewards(torch.zeros(2, 5), span, mask, torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0]))
    assert rewards.tolist() == [[0, 1, 0, 10, 0], [2, 20, 0, 0, 0]]


def test_exact_advantages_by_hand():
    log_probs = torch.tensor([[0.5, 0.25, 0.25, 0.0]]).log()
    reference = torch.tensor([[0.25, 0.5, 0.25, 0.0]]).log()
    rewards = torch.tensor([[1.0, 2.0, 3.0, 99.0]])
    # shaped with kl 1: 1 - ln 2; 2 + ln 2; 3. mean: .5 - .5 ln2 + .5 + .25 ln 2 + .75 = 1.75 - .25 ln 2
    mean, ln2 = 1.75 - 0.25 * math.log(2), math.log(2)
    advantages = exact_item_advantages(rewards, log_probs, reference, kl_coef=1.0)
    expected = torch.tensor([[1 - ln2 - mean, 2 + ln2 - mean, 3 - mean, 0.0]])
    assert torch.allclose(advantages, expected, atol=1e-6)
    assert (log_probs.exp() * advantages).sum().abs() < 1e-6


def exact_example():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, generator=generator)
    blocked = torch.rand(4, 6, generator=generator) < 0.3
    blocked[:, 0] = False
    old = (logits + 0.3 * torch.randn(4, 6, generator=generator)).masked_fill(blocked, -torch.inf).log_softmax(1)
    advantages = exact_item_advantages(torch.randn(4, 6, generator=generator), old, old, 0.0)
    return logits, blocked, old, advantages


def test_exact_loss_is_the_brute_force_sum():
    logits, blocked, old, advantages = exact_example()
    new = logits.masked_fill(blocked, -torch.inf).log_softmax(1)
    total = 0.0
    for row in range(4):
        for item in range(6):
            if not blocked[row, item]:
                ratio = float((new[row, item] - old[row, item]).exp())
                a, clipped = float(advantages[row, item]), min(max(ratio, 0.8), 1.2)
                total += float(old[row, item].exp()) * -min(ratio * a, clipped * a)
    assert exact_item_loss(new, old, advantages, 0.2)[0].item() == pytest.approx(total, abs=1e-5)


def test_exact_gradient_is_the_mean_of_sampled_gradients():
    logits, blocked, old, advantages = exact_example()
    logits.requires_grad_()

    def gradient(loss_of):
        new = logits.masked_fill(blocked, -torch.inf).log_softmax(1)
        return torch.autograd.grad(loss_of(new), logits)[0]

    exact = gradient(lambda new: exact_item_loss(new, old, advantages, 0.2)[0])
    assert exact.isfinite().all()
    items = torch.multinomial(old.exp(), 200_000, replacement=True, generator=torch.Generator().manual_seed(1))
    pick = {name: value.gather(1, items) for name, value in (("old", old), ("advantages", advantages))}
    everything = torch.ones_like(items, dtype=torch.bool)
    sampled = gradient(
        lambda new: policy_loss(new.gather(1, items), pick["old"], pick["advantages"], everything, 0.2)[0]
    )
    assert torch.allclose(sampled / items.shape[1], exact, atol=5e-3)


@pytest.mark.parametrize("entropy_coef", [0.0, 0.5])
def test_repeated_exact_steps_reach_the_regularized_optimum(entropy_coef):
    reference = torch.randn(1, 6, generator=torch.Generator().manual_seed(2)).log_softmax(1)
    rewards = torch.randn(1, 6, generator=torch.Generator().manual_seed(3))
    logits = reference.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(400):
        old = logits.detach().log_softmax(1)
        advantages = exact_item_advantages(rewards, old, reference, 0.7, entropy_coef)
        loss, _ = exact_item_loss(logits.log_softmax(1), old, advantages, 0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimum = ((0.7 * reference + rewards) / (0.7 + entropy_coef)).softmax(1)
    assert torch.allclose(logits.softmax(1), optimum, atol=0.02)


ALPHA, BETA = 1.0, 0.3


def item_decisions():
    """Logits with a gradient, reference and rewards of 4 decisions over 9 items, of which some are blocked; float64."""
    generator = torch.Generator().manual_seed(0)
    logits, reference, rewards = torch.randn(3, 4, 9, generator=generator, dtype=torch.float64)
    blocked = torch.rand(4, 9, generator=generator) < 0.3
    logits.requires_grad_()
    return (
        logits,
        logits.masked_fill(blocked, -torch.inf).log_softmax(1),
        reference.masked_fill(blocked, -torch.inf).log_softmax(1),
        3 * rewards,
    )


def optimum_of(reference, rewards):
    return ((rewards + BETA * reference) / (ALPHA + BETA)).log_softmax(1)


def gradient(loss, logits):
    return torch.autograd.grad(loss, logits, retain_graph=True)[0]


def test_the_gradient_of_the_exact_loss_is_that_of_distillation():
    """At ratio 1 it is (alpha + beta) times the gradient of KL(policy || optimum)."""
    logits, log_probs, reference, rewards = item_decisions()
    old = log_probs.detach()
    advantages = exact_item_advantages(rewards, old, reference, BETA, ALPHA)
    surrogate, _ = exact_item_loss(log_probs, old, advantages, 0.3)
    divergence = (ALPHA + BETA) * categorical_kl(log_probs, optimum_of(reference, rewards)).sum()
    assert gradient(surrogate, logits).abs().max() > 0.1
    assert (gradient(surrogate, logits) - gradient(divergence, logits)).abs().max() < 1e-12


@pytest.mark.parametrize("forward", [False, True])
def test_distillation_finds_the_optimum_in_the_advantages(forward):
    logits, log_probs, reference, rewards = item_decisions()
    old = torch.randn_like(reference).masked_fill(reference.isneginf(), -torch.inf).log_softmax(1)
    advantages = exact_item_advantages(rewards, old, reference, BETA, ALPHA)
    optimum = optimum_of(reference, rewards)
    loss, clipped = distillation_loss(log_probs, old, advantages, ALPHA + BETA, forward)
    expected = categorical_kl(optimum, log_probs) if forward else categorical_kl(log_probs, optimum)
    assert loss.item() == pytest.approx(1.3 * expected.sum().item(), abs=1e-12)
    assert clipped == 0 and gradient(loss, logits).isfinite().all()
    assert distillation_loss(optimum, old, advantages, ALPHA + BETA, forward)[0].abs() < 1e-12
