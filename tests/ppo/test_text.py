"""`ppo.text`: training of item decisions alone, how `auto` decides, and distillation by `ppo.item_loss`."""

import numpy as np
import pytest
import torch

import llmrec.ppo.rollout as rollout_module
from llmrec.errors import ConfigError
from llmrec.language.groundedness import check
from llmrec.ppo.checkpoint import newest_checkpoint
from llmrec.ppo.text import text_decision
from llmrec.reward.protocol import RewardBatch
from tests.conftest import make_config
from tests.ppo.test_trainer import PreferItem, first_step, make_trainer, weights
from tests.selection.validation_sets import small_guard


class EqualTexts(PreferItem):
    """Rewards one item, and all justifications alike."""

    def __call__(self, recommendations, rows) -> RewardBatch:
        batch = super().__call__(recommendations, rows)
        return RewardBatch(batch.item, torch.ones_like(batch.text), batch.parts)


def with_equal_texts(*arguments, **options):
    trainer = make_trainer(*arguments, missing_eos_penalty=0.0, **options)
    trainer.reward = EqualTexts()
    return trainer


def test_item_decisions_alone_need_no_rollout(tiny_base, data, tmp_path, monkeypatch):
    options = {"total_episodes": 160, "learning_rate": 3e-3, "item_kl_coef": 0.1, "num_ppo_epochs": 2}
    trainer = make_trainer(tiny_base, data, tmp_path, text="off", **options)

    def no_rollout(*_, **__):
        raise AssertionError("a rollout")

    monkeypatch.setattr(rollout_module, "generate", no_rollout)
    critic = [parameter.clone() for parameter in trainer.critic.parameters()]
    trainer.train()
    log = trainer.state.log_history
    assert log[-1]["objective/item_reward"] > log[0]["objective/item_reward"] + 0.05
    assert "objective/scores" not in log[0] and "loss/policy_avg" not in log[0]
    assert all(torch.equal(one, other) for one, other in zip(critic, trainer.critic.parameters(), strict=True))


def test_the_item_loss_does_not_depend_on_the_text(tiny_base, data, tmp_path):
    alone = first_step(make_trainer(tiny_base, data, tmp_path / "a", text="off"))
    beside = first_step(make_trainer(tiny_base, data, tmp_path / "b", text="on"))
    for name in ("objective/item_reward", "loss/item_avg", "policy/item_kl_avg"):
        assert alone[name] == pytest.approx(beside[name], abs=1e-5)


def test_the_text_is_trained_only_if_its_reward_varies(tiny_base, data, tmp_path):
    equal = with_equal_texts(tiny_base, data, tmp_path / "a")
    equal.train()
    assert equal.text["trained"] is False and equal.text["reward_std"] == 0
    assert equal.text["saved_seconds"] == 3 * equal.text["rollout_seconds"] > 0
    assert equal.events[0]["event"].startswith("text: not trained, because the standard deviation of its reward")
    varied = make_trainer(tiny_base, data, tmp_path / "b")  # some completions of the tiny model are truncated
    varied.train()
    assert varied.text["trained"] and varied.text["reward_std"] > 0.05
    assert varied.events[0]["event"].startswith("text: trained")
    assert "objective/scores" in varied.state.log_history[0]


def test_the_decision_about_the_text_by_hand():
    decision, event = text_decision(0.01, 2.0, 48)
    assert decision == {"trained": False, "reward_std": 0.01, "rollout_seconds": 2.0, "saved_seconds": 96.0}
    assert event.endswith("is 0.0100 nats, below 0.05; 48 updates need no rollout of 2.0 s each, 96 s in all")
    assert text_decision(0.05, 2.0, 48)[0] == {"trained": True, "reward_std": 0.05, "rollout_seconds": 2.0}


def test_evaluations_show_the_drift_of_a_text_that_is_not_trained(tiny_base, data, tmp_path):
    guard = small_guard(tmp_path / "best")
    trainer = make_trainer(
        tiny_base, data, tmp_path / "c", guard=guard, text="off", eval_steps=2, learning_rate=1e-2, ema_decay=0.0
    )
    trainer.train()
    log = trainer.state.log_history
    assert ["text/kl" in entry for entry in log] == [False, True, True]
    assert log[-1]["text/kl"] > 1e-4 and 0 < log[-1]["text/distinct_wordings"] <= 1
    with trainer.policy.reference():
        assert trainer.measure_text()["text/kl"] < 1e-6


def test_the_text_stays_near_that_of_sft(tiny_base, data, tmp_path):
    drift: list[float] = []
    for kl_coef in (0.0, 100.0):
        trainer = make_trainer(tiny_base, data, tmp_path / f"{kl_coef}", text="off", total_episodes=160, ema_decay=0.0)
        trainer.args.kl_coef = kl_coef
        trainer.train()
        drift.append(trainer.measure_text()["text/kl"])  # of all prompts; an update's loss is of two completions
    assert 0 < drift[1] < drift[0] / 2


def test_supervised_completions_are_true_and_allowed(tiny_base, data, tmp_path):
    trainer = make_trainer(tiny_base, data, tmp_path, text="off")
    policy = trainer.policy
    experience, _ = trainer.collect(1)
    assert [len(of_prompt) for of_prompt in experience.completions] == [1, 0, 0, 0] * 2
    written = {p: of_prompt[0] for p, of_prompt in enumerate(experience.completions) if of_prompt}
    for row, tokens in enumerate(written.values()):
        assert experience.anchor_mask[row].sum() > 0
        assert not experience.anchor_mask[row, 0]  # the item is learned exactly
        assert experience.ref_log_probs[row].isfinite().all() and len(tokens) <= experience.anchor_mask.shape[1]
    for p, tokens in written.items():
        recommendation = policy.prompts.parse(tokens)
        history = set(experience.decisions[p].history.tolist())
        assert recommendation.finished and recommendation.item not in history
        assert check(policy.facts, recommendation, history).grounded
    assert not experience.policy_mask.any() and not experience.value_mask.any()
    part = experience.select(np.array([4, 1]))
    assert part.completions == [experience.completions[4], []]
    width = len(experience.completions[4][0])
    assert torch.equal(part.ref_log_probs, experience.ref_log_probs[1:, :width])


def test_a_resumed_run_without_text_is_bit_identical(tiny_base, data, tmp_path):
    whole = with_equal_texts(tiny_base, data, tmp_path / "a")
    whole.train()
    with_equal_texts(tiny_base, data, tmp_path / "b", save_steps=2).train()
    resumed = with_equal_texts(tiny_base, data, tmp_path / "b", save_steps=2)
    resumed.train(resume_from_checkpoint=newest_checkpoint(tmp_path / "b"))
    assert resumed.text["trained"] is False
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())


def test_the_first_step_of_the_surrogate_is_that_of_reverse_distillation(tiny_base, data, tmp_path):
    options = {"text": "off", "item_entropy_coef": 1.0}
    clipped, reverse, forward = (
        first_step(make_trainer(tiny_base, data, tmp_path / loss, item_loss=loss, **options))
        for loss in ("clipped", "reverse_kl", "forward_kl")
    )
    assert clipped["policy/grad_norm"] == pytest.approx(reverse["policy/grad_norm"], rel=1e-3)
    assert clipped["policy/grad_norm"] != pytest.approx(forward["policy/grad_norm"], rel=1e-2)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"advantage": "gae", "text": "off"}, "ppo.text is `off`, which needs ppo.advantage `exact`"),
        ({"advantage": "gae", "item_loss": "reverse_kl"}, "set item_loss to `clipped`"),
        ({"item_loss": "forward_kl", "item_kl_coef": 0.0, "item_entropy_coef": 0.0}, "has no optimum to distill"),
    ],
)
def test_options_of_items_and_text_that_contradict_each_other_are_rejected(section, words):
    with pytest.raises(ConfigError, match=words):
        make_config("base", "atomic", ppo=section)
