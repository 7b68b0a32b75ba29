"""PPO over several turns: the one-turn case, the first step, resuming, GAE over turns, and bad input."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from llmrec.data.decision import Decision
from llmrec.errors import ModelError, RewardError
from llmrec.policy.model import RecPolicy
from llmrec.policy.turns import Life, Outcomes, pack_lives
from llmrec.ppo.checkpoint import newest_checkpoint
from llmrec.ppo.experience import Experience
from llmrec.ppo.stage import batch_arguments, training_decisions
from llmrec.ppo.trainer import RecPPOTrainer
from llmrec.ppo.turns import TurnPPOTrainer
from llmrec.ppo.worlds import OneTurn, Turn
from tests.conftest import disturb, make_config
from tests.ppo.test_trainer import PreferItem, trl_arguments, weights


class Countdown:
    """Life n has n % 4 + 1 turns, of which the last is cut off if n is even. Item 9 is clicked and rewarded.

    Every second turn ends a session.
    """

    def reset(self, numbers: range) -> list[Decision]:
        self.lengths = np.array(numbers) % 4 + 1
        self.cut = np.array(numbers) % 2 == 0
        self.turn = 0
        return [Decision("20", [], [number % 9, (number + 3) % 9][: number % 3]) for number in numbers]

    def step(self, items: np.ndarray) -> Turn:
        self.turn += 1
        clicked = items == 9
        over = self.turn >= self.lengths
        gap = np.where(self.turn % 2 == 0, 1.5, 0.0) * ~over
        return Turn(clicked.astype(float), {"click": clicked.astype(float)}, clicked, gap, over, over & self.cut)


def options_of(base, data, scheme="atomic", **options):
    """The config, a policy with an RL adapter, and TRL's arguments."""
    section = {"advantage": "gae", "per_device_train_batch_size": 4, "batch_size": 8, "num_ppo_epochs": 2,
               "learning_rate": 1e-3, "total_episodes": 24, "missing_eos_penalty": 0.0, "ptx_coef": 0.0,
               "num_mini_batches": 2} | options  # fmt: skip
    config = make_config(base, scheme, ppo=section, model={"base": base, "lora_r": 4})
    torch.manual_seed(0)
    policy = RecPolicy.create(config, data)
    disturb(policy, 0.1)
    policy.add_rl_adapter()
    names = "total_episodes learning_rate num_ppo_epochs num_mini_batches save_steps gamma lam kl_coef temperature "
    names += "missing_eos_penalty"
    return config, policy, {name: getattr(config.ppo, name) for name in names.split()} | batch_arguments(config.ppo)


def turn_trainer(base, data, folder, world=None, turns=6, scheme="atomic", told=True, **options) -> TurnPPOTrainer:
    config, policy, values = options_of(base, data, scheme, **options)
    arguments = trl_arguments(folder, response_length=turns, **values)
    return TurnPPOTrainer(arguments, config.ppo, policy, world or Countdown(), Outcomes.of(policy, told))


def test_one_turn_is_one_step_ppo(tiny_base, data, tmp_path):
    """Same prompts, samples, advantages, losses and weights as the trainer of recommendations without text."""
    config, policy, values = options_of(tiny_base, data)
    arguments = trl_arguments(tmp_path / "a", response_length=1, **values)
    prompts = training_decisions(data, config)
    today = RecPPOTrainer(arguments, config.ppo, policy, PreferItem(), prompts)
    world = OneTurn(PreferItem(), prompts, arguments.seed)
    turns = turn_trainer(tiny_base, data, tmp_path / "b", world, turns=1)
    for trainer in (today, turns):
        trainer._begin()
    one, other = (trainer.collect(1)[0] for trainer in (today, turns))
    for field in fields(Experience):
        value = getattr(one, field.name)
        if isinstance(value, torch.Tensor):
            assert torch.allclose(value.float(), getattr(other, field.name).float(), atol=1e-6), field.name
    assert one.advantages.abs().max() > 0.5
    today.train()
    turns.train()
    expected = weights(today)
    for name, value in weights(turns).items():
        assert torch.allclose(value, expected[name], atol=1e-6), name
    for before, after in zip(today.state.log_history, turns.state.log_history, strict=True):
        shared = set(before) & set(after) - {"eps", "epoch"}  # an epoch counts other lives than prompts
        assert {"objective/kl", "objective/scores", "loss/policy_avg", "loss/value_avg", "val/ratio"} <= shared
        assert {key: after[key] for key in shared} == pytest.approx({key: before[key] for key in shared}, abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"told": False}], ids=str)
def test_the_first_step_starts_at_ratio_one_and_kl_zero(tiny_base, data, tmp_path, options):
    trainer = turn_trainer(tiny_base, data, tmp_path, **options)
    trainer._begin()
    experience, metrics = trainer.collect(1)
    assert experience.value_mask.sum(1).tolist() == [1, 2, 3, 4, 1, 2, 3, 4]
    assert metrics["rollout/steps"] == 20
    trainer.optimizer.step = lambda *_, **__: None
    metrics |= trainer.update(experience, 1)
    assert abs(metrics["objective/kl"]) < 1e-5
    assert metrics["val/ratio"] == pytest.approx(1.0, abs=1e-5) and metrics["policy/approxkl_avg"] < 1e-9
    assert metrics["policy/clipfrac_avg"] == 0.0


def test_what_was_shown_and_its_outcome_stand_in_the_prompt(tiny_base, data, tmp_path):
    trainer = turn_trainer(tiny_base, data, tmp_path)
    trainer._begin()
    life = max(trainer.play(1).lives, key=lambda life: len(life.shown))
    words = Outcomes.of(trainer.policy, told=True)
    expected = []
    for turn, item in enumerate(life.shown[:-1]):
        tokens = [*trainer.policy.vocabulary.sequences[item], *([] if item == 9 else words.refused)]
        expected += tokens + (words.later if turn % 2 == 1 else [])
    prompt = trainer.policy.prompts.prompt(life.decision.profile, life.decision.items)
    batch = pack_lives(trainer.policy, [life])
    assert batch.tokens[0].tolist() == prompt + expected
    assert batch.position[0].tolist()[0] == len(prompt) - 1
    assert trainer.policy.tokenizer.decode(words.refused) == " no"
    seen = {*life.decision.items, *(item for item in life.shown[:2] if item == 9)}
    assert [item for item in range(10) if not batch.available[0, 2, item]] == sorted(seen)
    assert life.shown.count(9) <= 1 and life.clicked == [item == 9 for item in life.shown]


def test_a_clicked_item_leaves_the_prompt_of_a_longer_history(tiny_base, data):
    """The prompt of plain recommendations is unchanged: it shows clicked items alone."""
    _, policy, _ = options_of(tiny_base, data)
    clicked = Outcomes.of(policy, told=True).tokens(4, True, 0.0)
    assert policy.prompts.prompt("20", [1, 2]) + clicked == policy.prompts.prompt("20", [1, 2, 4])
    clicks = Outcomes.of(policy, told=False)
    assert clicks.tokens(4, True, 2.0) == clicked and clicks.tokens(4, False, 2.0) == []


def test_advantages_are_gae_over_turns(tiny_base, data, tmp_path):
    """gamma .9, lambda .5, a critic of 2 everywhere, rewards of 0 and 1.

    Life 0 (1 turn, cut off): the return is r + .9 * 2. Life 1 (2 turns, ended): the last return is r_2, with error
    r_2 - 2; the first is 2 + (r_1 + .9 * 2 - 2) + .45 * (r_2 - 2).
    """
    trainer = turn_trainer(tiny_base, data, tmp_path, gamma=0.9, lam=0.5, kl_coef=0.0)
    trainer._begin()
    torch.nn.init.constant_(trainer.critic.head.bias, 2.0)
    experience, _ = trainer.collect(1)
    rewards = [[float(item == 9) for item in life.shown] for life in experience.lives]
    for b in (0, 4):
        assert experience.returns[b, 0] == pytest.approx(rewards[b][0] + 1.8)
    for b in (1, 5):
        first, last = rewards[b]
        assert experience.returns[b, 1] == pytest.approx(last)
        assert experience.returns[b, 0] == pytest.approx(2 + (first - 0.2) + 0.45 * (last - 2))


def test_a_life_longer_than_the_turns_is_cut_off(tiny_base, data, tmp_path):
    trainer = turn_trainer(tiny_base, data, tmp_path, turns=2, gamma=0.5, lam=1.0, kl_coef=0.0)
    trainer._begin()
    torch.nn.init.constant_(trainer.critic.head.bias, 2.0)
    experience, _ = trainer.collect(1)
    for b in (2, 3, 6, 7):  # lives of 3 and 4 turns
        first, last = (float(item == 9) for item in experience.lives[b].shown)
        assert experience.returns[b].tolist() == pytest.approx([first + 0.5 * (last + 1.0), last + 1.0])


def test_a_resumed_training_is_bit_identical(tiny_base, data, tmp_path):
    options = {"total_episodes": 32, "ema_decay": 0.5}
    whole = turn_trainer(tiny_base, data, tmp_path / "a", **options)
    whole.train()
    turn_trainer(tiny_base, data, tmp_path / "b", save_steps=3, **options).train()
    resumed = turn_trainer(tiny_base, data, tmp_path / "b", save_steps=3, **options)
    assert newest_checkpoint(tmp_path / "b").name == "checkpoint-3"
    resumed.train(resume_from_checkpoint=newest_checkpoint(tmp_path / "b"))
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())
    assert resumed.steps == whole.steps == 80


def test_the_policy_learns_to_show_what_is_clicked(tiny_base, data, tmp_path):
    trainer = turn_trainer(tiny_base, data, tmp_path, total_episodes=80, learning_rate=3e-3, kl_coef=0.0)
    trainer.train()
    scores = [entry["objective/scores"] for entry in trainer.state.log_history]
    assert np.mean(scores[-3:]) > np.mean(scores[:3]) + 0.2


def test_a_reward_that_is_not_finite_is_refused(tiny_base, data, tmp_path):
    class Broken(Countdown):
        def step(self, items):
            turn = super().step(items)
            turn.reward[1] = np.nan
            return turn

    trainer = turn_trainer(tiny_base, data, tmp_path, Broken())
    trainer._begin()
    with pytest.raises(RewardError, match="rewarded turn 1 with nan; expected finite"):
        trainer.collect(1)


def test_items_of_several_tokens_are_refused(tiny_base, data, tmp_path):
    with pytest.raises(ModelError, match=r"catalogue.scheme: title.*expected `atomic`"):
        turn_trainer(tiny_base, data, tmp_path, scheme="title")


def test_everything_may_be_shown_again_if_nothing_is_left(tiny_base, data, tmp_path):
    _, policy, _ = options_of(tiny_base, data)
    batch = pack_lives(policy, [Life(Decision("20", [], [0, 1]), [2, 3, 4, 5, 6, 7, 8, 9, 3], [True] * 9, [[7]] * 9)])
    hidden = policy(*batch.inputs())
    scores = batch.score(policy, hidden)
    assert scores.log_probs.isfinite().all() and not batch.available[0, 8].any()
