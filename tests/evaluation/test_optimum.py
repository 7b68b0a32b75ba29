"""The exact optimum of KL-regularized RL, against its closed form and gradient ascent on the objective."""

import numpy as np
import pytest
import torch

from llmrec.config import PPOConfig
from llmrec.evaluation.optimum import (
    gap_closed,
    has_optimum,
    objective,
    optimum,
    optimum_log_probs,
    optimum_report,
)
from llmrec.evaluation.report import Estimate

BETA = 0.7
ALPHA = 0.4
REWARDS = torch.tensor([[1.0, -0.5, 0.3, 9.0], [0.0, 2.0, -1.0, 0.5]])
# Item 3 is not allowed for the first prompt, although its reward is the highest.
SFT = torch.tensor([[0.2, 0.5, 0.3, 0.0], [0.1, 0.2, 0.3, 0.4]]).log()


def test_the_optimum_is_the_closed_form():
    found = optimum_log_probs(SFT, REWARDS, BETA, 0.0)
    weights = SFT.exp() * (REWARDS / BETA).exp()
    assert found.exp() == pytest.approx(weights / weights.sum(1, keepdim=True))
    assert objective(found, SFT, REWARDS, BETA, 0.0) == pytest.approx(BETA * weights.sum(1).log(), abs=1e-6)


def test_an_entropy_bonus_flattens_the_optimum_without_changing_its_ranking():
    sharp, flat = (optimum_log_probs(SFT, REWARDS, BETA, alpha) for alpha in (0.0, ALPHA))
    assert flat[1].numpy() == pytest.approx((sharp[1] * BETA / (BETA + ALPHA)).log_softmax(-1).numpy(), abs=1e-6)
    assert torch.equal(sharp.argsort(1), flat.argsort(1)) and flat[0, 3] == -torch.inf
    support = SFT.exp() > 0
    total = ((REWARDS + BETA * SFT) / (BETA + ALPHA)).masked_fill(~support, -torch.inf).logsumexp(1)
    assert objective(flat, SFT, REWARDS, BETA, ALPHA) == pytest.approx((BETA + ALPHA) * total, abs=1e-6)


def test_the_start_has_no_kl():
    assert objective(SFT, SFT, REWARDS, BETA, 0.0) == pytest.approx((SFT.exp() * REWARDS).sum(1))


@pytest.mark.parametrize("alpha", [0.0, ALPHA])
def test_gradient_ascent_ends_at_the_optimum(alpha):
    start = SFT[1:].clone()
    logits = start.clone().requires_grad_()
    adam = torch.optim.Adam([logits], lr=0.05)
    for _ in range(400):
        loss = -objective(logits.log_softmax(-1), start, REWARDS[1:], BETA, alpha).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    best = objective(optimum_log_probs(start, REWARDS[1:], BETA, alpha), start, REWARDS[1:], BETA, alpha)
    assert -loss.item() == pytest.approx(best.item(), abs=1e-4) and -loss.item() <= best.item() + 1e-6


def test_the_objective_of_a_policy_is_reward_minus_kl():
    policy = torch.tensor([[0.6, 0.1, 0.3, 0.0]]).log()
    kl = 0.6 * np.log(3) + 0.1 * np.log(0.2)
    assert objective(policy, SFT[:1], REWARDS[:1], BETA, 0.0).item() == pytest.approx(0.6 - 0.05 + 0.09 - BETA * kl)


def test_the_optimum_uses_the_temperature_of_training():
    section = PPOConfig(item_kl_coef=BETA, item_entropy_coef=0.0, temperature=2.0)
    scores, values = optimum({"sft": SFT, "ppo": SFT}, REWARDS, section)
    flat = (SFT / 2).log_softmax(-1)
    assert scores.numpy() == pytest.approx(optimum_log_probs(flat, REWARDS, BETA, 0.0).numpy())
    assert values["ppo"] == pytest.approx(values["sft"]) and (values["optimum"] > values["sft"]).all()


def test_the_share_of_the_gap_that_ppo_closed():
    def gap(sft, ppo, optimum):
        values = {"sft": sft, "ppo": ppo, "optimum": optimum}
        return gap_closed({name: np.array(value) for name, value in values.items()}, samples=200, seed=0)

    assert gap([1.0, 1.0], [1.5, 1.5], [3.0, 3.0]) == Estimate(value=0.25, ci95=(0.25, 0.25), n=2)
    assert gap([1.0, 1.0], [0.5, 0.5], [3.0, 3.0]).value == -0.25
    assert gap([1.0], [1.5], [1.0]) == Estimate(value=None, ci95=None, n=1)
    assert gap([1.0, 0.0, 0.0], [1.5, 0.0, 0.0], [3.0, -1.0, 0.0]).value is None  # the interval of the gap holds 0
    # Two kinds of users: each closes all or nothing of a gap of 1, so the share is that of the drawn users.
    half = gap(np.zeros(400), np.tile([0.0, 1.0], 200), np.ones(400))
    assert half.value == 0.5 and half.ci95 == (pytest.approx(0.45, abs=0.01), pytest.approx(0.55, abs=0.01))


def test_the_report_of_the_optimum():
    ndcg = {"sft": np.array([0.1, 0.1]), "ppo": np.array([0.4, 0.4]), "optimum": np.array([0.5, 0.5])}
    values = {"sft": np.array([0.0, 2.0]), "ppo": np.array([2.0, 2.0]), "optimum": np.array([4.0, 6.0])}
    section = PPOConfig(item_kl_coef=BETA, item_entropy_coef=0.0)
    report = optimum_report(values, ndcg, section, samples=100, seed=0)
    found = {name: one.value for name, one in report.gap_closed.items()}
    assert found == {"objective": pytest.approx(1 / 4), "ndcg@10": pytest.approx(3 / 4)}
    assert report.objective["optimum"].value == 5.0 and report.objective["ppo"].n == 2
    assert (report.beta, report.alpha) == (BETA, 0.0)


@pytest.mark.parametrize("changes", [{"advantage": "gae"}, {"item_kl_coef": 0.0}, {"adaptive_kl_target": 0.1}])
def test_configs_without_a_fixed_objective_have_no_optimum(changes):
    section = PPOConfig(item_entropy_coef=0.0)
    assert has_optimum(section)
    assert not has_optimum(section.model_copy(update=changes))
