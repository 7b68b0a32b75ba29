"""The PPO trainer: its checks, its options, resuming, the weight average and the guard."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from trl.experimental.ppo import PPOConfig as TRLPPOConfig

from llmrec.errors import ConfigError, TrainingError
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import PackedBatch
from llmrec.ppo.checkpoint import newest_checkpoint, save_checkpoint
from llmrec.ppo.kl import next_kl_coef
from llmrec.ppo.stage import batch_arguments, training_decisions
from llmrec.ppo.trainer import RecPPOTrainer
from llmrec.progress import TrainingLog, Watcher
from llmrec.reward.protocol import RewardBatch
from llmrec.selection import guard as guard_module
from llmrec.selection.guard import JUDGE, NDCG, REWARD
from tests.conftest import disturb, make_config
from tests.selection.validation_sets import small_guard


class PreferItem:
    """Rewards one item and finished justifications."""

    def __init__(self, item: int = 9):
        self.item = item

    def __call__(self, recommendations, rows) -> RewardBatch:
        item = torch.tensor([float(r.item == self.item) for r in recommendations])
        text = torch.tensor([float(r.finished) for r in recommendations])
        return RewardBatch(item, text, {"liked": item, "finished": text})

    def item_rewards_per_prefix(self, decisions):
        values = torch.zeros(10)
        values[self.item] = 1.0
        return [values.expand(len(decision.items), 10) for decision in decisions]

    def newest_item_rewards(self, decisions):
        return torch.stack([rewards[-1] for rewards in self.item_rewards_per_prefix(decisions)])


def trl_arguments(directory, **options) -> TRLPPOConfig:
    """TRL's options for tiny models on the CPU."""
    return TRLPPOConfig(
        output_dir=str(directory),
        num_sample_generations=0,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to="none",
        logging_steps=1,
        disable_tqdm=True,
        **options,
    )


def make_trainer(base, data, directory, scheme="atomic", guard=None, model=None, **options) -> RecPPOTrainer:
    section = {
        "advantage": "exact" if scheme == "atomic" else "gae",
        "per_device_train_batch_size": 4,
        "batch_size": 8,
        "num_ppo_epochs": 1,
        "response_length": 24,
        "learning_rate": 1e-3,
        "total_episodes": 24,
        "ptx_coef": 0.0,
        "item_loss_weight": 1.0,
        "missing_eos_penalty": 0.1,
    } | options
    config = make_config(base, scheme, ppo=section, model={"base": base, "lora_r": 4} | (model or {}))
    torch.manual_seed(0)
    policy = RecPolicy.create(config, data)
    disturb(policy, 0.1)
    policy.add_rl_adapter()
    names = "total_episodes learning_rate optim num_ppo_epochs response_length missing_eos_penalty temperature "
    names += "save_steps max_grad_norm"
    values = {name: getattr(config.ppo, name) for name in names.split()} | batch_arguments(config.ppo)
    arguments = trl_arguments(directory, num_mini_batches=config.ppo.num_mini_batches, **values)
    return RecPPOTrainer(arguments, config.ppo, policy, PreferItem(), training_decisions(data, config), guard)


def first_step(trainer) -> dict:
    """Metrics of one batch and its loss, without changing any weight."""
    trainer._begin()
    experience, metrics = trainer.collect(1)
    trainer.optimizer.step = lambda *_, **__: None
    return metrics | trainer.update(experience, 1)


ATOMIC = [
    {},
    {"num_generations": 4},
    {"temperature": 0.7},
    {"advantage": "gae"},
    {"advantage": "rloo", "num_generations": 2},
    {"advantage": "group", "num_generations": 4},
    {"gradient_checkpointing": True, "num_generations": 2},
]
TITLE = [{}, {"num_generations": 4, "temperature": 0.7, "gradient_checkpointing": True}]


@pytest.mark.parametrize(
    ("scheme", "options"), [("atomic", o) for o in ATOMIC] + [("title", o) for o in TITLE], ids=str
)
def test_the_first_step_starts_at_ratio_one(tiny_base, data, tmp_path, scheme, options):
    metrics = first_step(make_trainer(tiny_base, data, tmp_path, scheme, **options))
    assert abs(metrics["objective/kl"]) < 1e-4
    assert metrics.get("objective/item_kl", 0.0) < 1e-4
    assert metrics["val/ratio"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["policy/clipfrac_avg"] == 0.0
    assert metrics["policy/approxkl_avg"] < 1e-8
    assert metrics["policy/item_entropy_avg"] <= np.log(10)


def without_the_mask(trainer, monkeypatch):
    trie = type(trainer.policy.vocabulary.trie)
    allowed = trie.allowed
    monkeypatch.setattr(trie, "allowed", lambda *arguments: torch.ones_like(allowed(*arguments)))


def another_temperature(trainer, monkeypatch):
    monkeypatch.setattr(trainer.args, "temperature", 0.9)


def citing_anything(trainer, monkeypatch):
    decoder = trainer.policy.distribution.decoder
    advance = decoder.advance

    def forgetful(state, tokens):
        state = advance(state, tokens)
        return replace(state, citable=state.history >= 0)

    monkeypatch.setattr(decoder, "advance", forgetful)


def without_branches(trainer, monkeypatch):
    monkeypatch.setattr(PackedBatch, "attention_mask", lambda batch: (batch.branch >= 0).long())


def misplaced_positions(trainer, monkeypatch):
    def inputs(batch):
        return batch.tokens, batch.positions + 3 * (batch.branch > 0), batch.attention_mask()

    monkeypatch.setattr(PackedBatch, "inputs", inputs)


def with_dropout(trainer, monkeypatch):
    for module in trainer.policy.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3


BREAKS = [
    ("atomic", without_the_mask, {"advantage": "gae"}),
    ("title", without_the_mask, {}),
    ("atomic", another_temperature, {}),
    ("atomic", citing_anything, {"response_length": 80, "temperature": 2.0}),
    ("atomic", without_branches, {"num_generations": 4}),
    ("title", without_branches, {"num_generations": 4}),
    ("atomic", misplaced_positions, {}),
    ("title", misplaced_positions, {}),
    ("atomic", with_dropout, {"gradient_checkpointing": True}),
]


@pytest.mark.parametrize(
    ("scheme", "fault", "options"), BREAKS, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_a_fault_between_sampling_and_scoring_is_detected(
    tiny_base, data, tmp_path, monkeypatch, scheme, fault, options
):
    trainer = make_trainer(tiny_base, data, tmp_path, scheme, model={"lora_dropout": 0.1}, **options)
    trainer._begin()
    experience, _ = trainer.collect(1)
    fault(trainer, monkeypatch)
    with pytest.raises(TrainingError, match="different probabilities"):
        trainer.update(experience, 1)


def padding_is_attended(trainer, monkeypatch):
    mask = PackedBatch.attention_mask
    monkeypatch.setattr(PackedBatch, "attention_mask", lambda batch: mask(batch) if len(batch.owner) else
                        torch.ones_like(batch.tokens))  # fmt: skip


def a_cache_one_step_off(trainer, monkeypatch):
    backbone = trainer.policy.backbone

    def shifted(embeddings, position_ids=None, past_key_values=None, **named):
        late = int(past_key_values is not None and past_key_values.get_seq_length() > 0)
        return backbone(embeddings, position_ids=position_ids + late, past_key_values=past_key_values, **named)

    monkeypatch.setattr(trainer.policy, "backbone", shifted)


@pytest.mark.parametrize("scheme", ["atomic", "title"])
@pytest.mark.parametrize("fault", [padding_is_attended, a_cache_one_step_off])
def test_a_fault_in_sampling_is_detected(tiny_base, data, tmp_path, monkeypatch, scheme, fault):
    trainer = make_trainer(tiny_base, data, tmp_path, scheme, advantage="gae")
    trainer._begin()
    fault(trainer, monkeypatch)
    with pytest.raises(TrainingError, match="different probabilities"):
        trainer.update(trainer.collect(1)[0], 1)


def test_a_reference_that_differs_from_the_policy_is_detected(tiny_base, data, tmp_path):
    trainer = make_trainer(tiny_base, data, tmp_path)
    disturb(trainer.policy, 0.1)  # of the RL adapter only
    trainer._begin()
    with pytest.raises(TrainingError, match="objective/kl is"):
        trainer.collect(1)


@pytest.mark.parametrize("advantage", ["exact", "gae"])
def test_the_split_into_micro_batches_does_not_change_the_step(tiny_base, data, tmp_path, advantage):
    options = {"advantage": advantage, "num_generations": 2, "learning_rate": 1e-2}
    whole = make_trainer(tiny_base, data, tmp_path / "a", per_device_train_batch_size=8, **options)
    cut = make_trainer(tiny_base, data, tmp_path / "b", per_device_train_batch_size=2, **options)
    one, other = first_step(whole), first_step(cut)
    assert one == pytest.approx(other, abs=1e-5)


def test_an_update_stops_at_the_target_kl(tiny_base, data, tmp_path):
    trainer = make_trainer(tiny_base, data, tmp_path, target_kl=1e-3, num_ppo_epochs=8, learning_rate=1e-2)
    trainer._begin()
    metrics = trainer.update(trainer.collect(1)[0], 1)
    assert metrics["guard/kl_stop"] == 1.0
    event = trainer.events[-1]["event"]
    assert event.startswith("KL stop: ") and "exceed ppo.target_kl 0.001; " in event and event.endswith("skipped")


def test_the_kl_coefficient_adapts_to_its_target(tiny_base, data, tmp_path):
    trainer = make_trainer(tiny_base, data, tmp_path, adaptive_kl_target=0.01, adaptive_kl_horizon=100)
    trainer.train()
    log = trainer.state.log_history
    for before, after in zip(log, log[1:], strict=False):
        expected = next_kl_coef(before["objective/kl_coef"], before["objective/item_kl"], 0.01, 8, 100)
        assert after["objective/kl_coef"] == pytest.approx(expected) != before["objective/kl_coef"]


def test_a_nan_reward_stops_training(tiny_base, data, tmp_path):
    trainer = make_trainer(tiny_base, data, tmp_path, save_steps=1)
    item_rewards = trainer.reward.item_rewards_per_prefix
    trainer.reward.item_rewards_per_prefix = lambda rows: [
        d * (float("nan") if trainer.state.global_step == 1 else 1.0) for d in item_rewards(rows)
    ]
    with pytest.raises(TrainingError, match="last checkpoint is safe"):
        trainer.train()
    assert newest_checkpoint(tmp_path).name == "checkpoint-1"


def test_samples_are_recorded_with_titles(tiny_base, data, tmp_path):
    class SampleList(Watcher):
        def __init__(self):
            self.samples = []

        def on_samples(self, samples):
            self.samples += samples

    trainer, watcher = make_trainer(tiny_base, data, tmp_path, sample_steps=2), SampleList()
    trainer.record = TrainingLog([watcher])
    trainer.train()
    assert [sample.step for sample in watcher.samples] == [1, 1, 1, 3, 3, 3]
    titles = trainer.policy.vocabulary.titles
    assert all(sample.item in titles and set(sample.history) <= set(titles) for sample in watcher.samples)
    assert all(set(sample.rewards) == {"liked", "finished"} for sample in watcher.samples)


def test_exact_training_raises_the_expected_item_reward(tiny_base, data, tmp_path):
    trainer = make_trainer(
        tiny_base, data, tmp_path, total_episodes=160, learning_rate=3e-3, item_kl_coef=0.1, num_ppo_epochs=2
    )
    trainer.train()
    rewards = [entry["objective/item_reward"] for entry in trainer.state.log_history]
    assert rewards[-1] > rewards[0] + 0.05


def test_gradients_are_clipped(tiny_base, data, tmp_path):
    trainer = make_trainer(tiny_base, data, tmp_path, max_grad_norm=1e-6)
    before = [p.detach().clone() for p in trainer.policy.parameters() if p.requires_grad]
    trainer._begin()
    experience, _ = trainer.collect(1)
    seen = []
    step = trainer.optimizer.step

    def spy(*arguments, **named):
        norms = [p.grad.norm() for g in trainer.optimizer.param_groups for p in g["params"] if p.grad is not None]
        seen.append(float(torch.stack(norms).norm()))
        return step(*arguments, **named)

    trainer.optimizer.step = spy
    trainer.update(experience, 1)
    assert min(seen) <= 1.1e-6
    assert len(before) == len([p for p in trainer.policy.parameters() if p.requires_grad])


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_resumed_run_is_bit_identical(tiny_base, data, tmp_path, ema_decay):
    whole = make_trainer(tiny_base, data, tmp_path / "a", ema_decay=ema_decay)
    whole.train()
    half = make_trainer(tiny_base, data, tmp_path / "b", save_steps=2, ema_decay=ema_decay)
    half.train()
    resumed = make_trainer(tiny_base, data, tmp_path / "b", save_steps=2, ema_decay=ema_decay)
    assert newest_checkpoint(tmp_path / "b").name == "checkpoint-2"
    resumed.train(resume_from_checkpoint=newest_checkpoint(tmp_path / "b"))
    expected = weights(whole)
    for name, value in weights(resumed).items():
        assert torch.equal(value, expected[name]), name
    timeless = [{k: v for k, v in entry.items() if k != "eps"} for entry in whole.state.log_history]
    again = [{k: v for k, v in entry.items() if k != "eps"} for entry in resumed.state.log_history]
    assert again == timeless


def test_the_guard_evaluates_and_training_returns_the_average(tiny_base, data, tmp_path, monkeypatch):
    guard = small_guard(tmp_path / "best")
    trainer = make_trainer(tiny_base, data, tmp_path / "c", guard=guard, eval_steps=1, ema_decay=0.25)
    start, own, seen, better = trained(trainer), [], [], iter(range(9))

    def measure(_):
        seen.append(trained(trainer))
        return {NDCG: next(better), REWARD: 0.0, JUDGE: 0.0}

    def remember(update, metrics, seconds, end=trainer._end_update):
        own.append(trained(trainer))
        end(update, metrics, seconds)
        assert all(torch.equal(weight, own[-1][name]) for name, weight in trained(trainer).items())

    monkeypatch.setattr(guard, "measure", measure)
    monkeypatch.setattr(guard_module, "_user_means", gains(1.0))
    monkeypatch.setattr(trainer, "_end_update", remember)
    trainer.train()
    assert len(own) == len(seen) - 1 == 3
    for name, weight in trained(trainer).items():
        # decay 2/11, then 3/12, then 4/13 capped at 1/4
        first = start[name] * 2 / 11 + own[0][name] * 9 / 11
        last = ((first + 3 * own[1][name]) / 4 + 3 * own[2][name]) / 4
        assert torch.allclose(weight, last, atol=1e-6) and torch.equal(weight, seen[-1][name])
    assert any(not torch.allclose(weight, own[-1][name], atol=1e-5) for name, weight in seen[-1].items())


def gains(gain: float):
    """A measurement of 30 deciding users in which each adapter is better than the one measured after it."""
    level = iter([gain, 0.0])

    def user_means(policy, validation):
        value = np.full(30, next(level))
        return {NDCG: value, REWARD: value, JUDGE: value}

    return user_means


def trained(trainer):
    """The trained weights of the policy."""
    return {name: p.detach().clone() for name, p in trainer.policy.named_parameters() if p.requires_grad}


def test_a_failed_save_leaves_no_checkpoint(tiny_base, data, tmp_path, monkeypatch):
    trainer = make_trainer(tiny_base, data, tmp_path)
    trainer._begin()
    trainer.state.global_step = 1
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(Exception, match="No space left"):
        save_checkpoint(trainer)
    assert newest_checkpoint(tmp_path) is None
    assert not [p for p in tmp_path.iterdir() if "checkpoint" in p.name]


def test_every_prompt_occurs_once_an_epoch(tiny_base, data, tmp_path):
    trainer = make_trainer(tiny_base, data, tmp_path)
    size = len(trainer.train_dataset)
    rows = [row for update in range(1, size + 1) for row in trainer.rollouts.decisions_of(update)]
    assert len(rows) == size * trainer.args.batch_size
    key = [(row.profile, tuple(row.prior), tuple(row.items)) for row in rows[:size]]
    assert len(set(key)) == size


def test_the_sft_start_is_restored_if_no_update_improves_on_it(tiny_base, data, tmp_path, monkeypatch):
    guard = small_guard(tmp_path / "best")
    trainer = make_trainer(tiny_base, data, tmp_path / "c", guard=guard, eval_steps=1)
    start = weights(trainer)
    values = iter([0.5, 0.4, 0.3, 0.2])
    monkeypatch.setattr(guard, "measure", lambda _: {NDCG: next(values), REWARD: 0.0, JUDGE: 0.0})
    trainer.train()
    assert guard.report()["fell_back_to_sft"] and guard.best_step == 0
    adapter = {name: value for name, value in weights(trainer).items() if "policy" in name}
    assert all(torch.equal(value, start[name]) for name, value in adapter.items())


def test_the_decision_of_the_guard_is_logged_and_a_refused_adapter_is_not_returned(
    tiny_base, data, tmp_path, monkeypatch
):
    guard = small_guard(tmp_path / "best")
    trainer = make_trainer(tiny_base, data, tmp_path / "c", guard=guard, eval_steps=1)
    start = weights(trainer)
    values = iter([0.1, 0.3, 0.2, 0.1])
    monkeypatch.setattr(guard, "measure", lambda _: {NDCG: next(values), REWARD: 1.0, JUDGE: 0.0})
    monkeypatch.setattr(guard_module, "_user_means", gains(-1.0))
    trainer.train()
    assert guard.best_step == 1 and guard.report()["fell_back_to_sft"]
    assert [entry["step"] for entry in trainer.events if entry["event"].startswith("guard")] == [0, 1, 2, 3, 3]
    assert "the SFT adapter stays" in trainer.events[-1]["event"]
    adapter = {name: value for name, value in weights(trainer).items() if "policy" in name}
    assert all(torch.equal(value, start[name]) for name, value in adapter.items())


@pytest.mark.parametrize(
    ("scheme", "section", "words"),
    [
        ("title", {"advantage": "exact"}, "set ppo.advantage to `gae`"),
        ("atomic", {"num_generations": 5}, "ppo.num_generations is 5"),
        ("atomic", {"num_mini_batches": 3}, r"ppo.num_mini_batches \(3\): change one of the three"),
        ("atomic", {"advantage": "rloo"}, "set it to 2 or more"),
        ("atomic", {"advantage": "gae", "item_entropy_coef": 1.0}, "entropy bonus, found `gae`"),
    ],
)
def test_options_that_contradict_each_other_are_rejected(scheme, section, words):
    with pytest.raises(ConfigError, match=words):
        make_config("base", scheme, ppo=section)
