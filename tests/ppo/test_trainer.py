import numpy as np
import pytest
import torch
from trl.experimental.ppo import PPOConfig

from llmrec.config import check_options
from llmrec.errors import ConfigError
from llmrec.policy.model import RecPolicy
from llmrec.policy.packed import Window
from llmrec.policy.ranking import item_scores
from llmrec.ppo.checkpoint import newest_checkpoint, save_checkpoint
from llmrec.ppo.guard import JUDGE, NDCG, REWARD, Guard, Validation
from llmrec.ppo.reward import RewardBatch
from llmrec.ppo.stage import training_rows
from llmrec.ppo.trainer import RecPPOTrainer
from tests.conftest import disturb, make_config


class PreferItem:
    """Likes one item, and justifications that ended."""

    def __init__(self, item: int = 9):
        self.item = item

    def __call__(self, recommendations, rows) -> RewardBatch:
        item = torch.tensor([float(r.item == self.item) for r in recommendations])
        text = torch.tensor([float(r.finished) for r in recommendations])
        return RewardBatch(item, text, {"liked": item, "finished": text})

    def decisions(self, rows):
        values = torch.zeros(10)
        values[self.item] = 1.0
        return [values.expand(len(row["items"]), 10) for row in rows]


def validation(windows, targets) -> Validation:
    reward = torch.arange(10.0).expand(len(windows), 10)
    return Validation(windows, targets, reward, -reward)


def make_trainer(base, data, directory, scheme="atomic", guard=None, **options) -> RecPPOTrainer:
    section = {
        "advantage": "exact" if scheme == "atomic" else "gae",
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_ppo_epochs": 1,
        "response_length": 24,
        "learning_rate": 1e-3,
        "total_episodes": 24,
        "ptx_coef": 0.0,
        "item_loss_weight": 1.0,
        "missing_eos_penalty": 0.1,
    } | options
    config = make_config(base, scheme, ppo=section)
    torch.manual_seed(0)
    policy = RecPolicy.create(config, data)
    disturb(policy, 0.1)
    policy.add_rl_adapter()
    names = "total_episodes learning_rate per_device_train_batch_size gradient_accumulation_steps num_ppo_epochs "
    names += "response_length missing_eos_penalty temperature save_steps max_grad_norm"
    arguments = PPOConfig(
        output_dir=str(directory),
        **{name: getattr(config.ppo, name) for name in names.split()},
        local_rollout_forward_batch_size=4,
        num_sample_generations=0,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        num_mini_batches=config.ppo.num_mini_batches,
        report_to="none",
        logging_steps=1,
        disable_tqdm=True,
    )
    return RecPPOTrainer(arguments, config.ppo, policy, PreferItem(), training_rows(data, config), guard)


@pytest.mark.parametrize(
    "options",
    [{}, {"num_generations": 4}, {"temperature": 0.7}, {"advantage": "gae"}],
    ids=["exact", "generations", "temperature", "gae"],
)
def test_the_first_step_starts_at_ratio_one(tiny_base, data, tmp_path, options):
    trainer = make_trainer(tiny_base, data, tmp_path, num_mini_batches=1, **options)
    trainer.args.learning_rate = 0.0
    first_step(trainer)


def test_the_first_step_of_titles(tiny_base, data, tmp_path):
    first_step(make_trainer(tiny_base, data, tmp_path, "title"))


def first_step(trainer) -> dict:
    trainer._begin()
    experience, metrics = trainer.collect(1)
    assert abs(metrics["objective/kl"]) < 1e-4
    assert metrics.get("objective/item_kl", 0.0) < 1e-4
    trainer.optimizer.step = lambda *_, **__: None  # measure the whole batch before anything changes
    metrics |= trainer.update(experience, 1)
    assert metrics["val/ratio"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["policy/clipfrac_avg"] == 0.0
    assert metrics["policy/approxkl_avg"] < 1e-8
    return metrics


def test_a_mask_that_scoring_lacks_is_noticed(tiny_base, data, tmp_path, monkeypatch):
    """What the mask protects from: sampling under it, scoring without it."""
    trainer = make_trainer(tiny_base, data, tmp_path, advantage="gae")
    trainer._begin()
    experience, _ = trainer.collect(1)
    unmasked = type(trainer.policy.vocabulary.trie).allowed
    monkeypatch.setattr(
        type(trainer.policy.vocabulary.trie),
        "allowed",
        lambda self, nodes, available: torch.ones_like(unmasked(self, nodes, available)),
    )
    assert abs(trainer.update(experience, 1)["val/ratio"] - 1) > 1e-3


def test_exact_training_raises_the_liked_item(tiny_base, data, tmp_path):
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


def test_a_resumed_run_is_bit_identical(tiny_base, data, tmp_path):
    whole = make_trainer(tiny_base, data, tmp_path / "a")
    whole.train()
    half = make_trainer(tiny_base, data, tmp_path / "b", save_steps=2)
    half.train()
    resumed = make_trainer(tiny_base, data, tmp_path / "b", save_steps=2)
    assert newest_checkpoint(tmp_path / "b").name == "checkpoint-2"
    resumed.train(resume_from_checkpoint=newest_checkpoint(tmp_path / "b"))
    expected = weights(whole)
    for name, value in weights(resumed).items():
        assert torch.equal(value, expected[name]), name
    timeless = [{k: v for k, v in entry.items() if k != "eps"} for entry in whole.state.log_history]
    again = [{k: v for k, v in entry.items() if k != "eps"} for entry in resumed.state.log_history]
    assert again == timeless


def test_half_written_checkpoints_are_not_seen(tiny_base, data, tmp_path, monkeypatch):
    trainer = make_trainer(tiny_base, data, tmp_path)
    trainer._begin()
    trainer.state.global_step = 1
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(Exception, match="No space left"):
        save_checkpoint(trainer)
    assert newest_checkpoint(tmp_path) is None
    assert not [p for p in tmp_path.iterdir() if "checkpoint" in p.name]


def test_every_prompt_comes_once_an_epoch(tiny_base, data, tmp_path):
    trainer = make_trainer(tiny_base, data, tmp_path)
    size = len(trainer.train_dataset)
    rows = [row for update in range(1, size + 1) for row in trainer.rows_of(update)]
    assert len(rows) == size * trainer.args.batch_size
    key = [(row["profile"], tuple(row["prior"]), tuple(row["items"])) for row in rows[:size]]
    assert len(set(key)) == size


def test_the_guard_keeps_the_best_and_has_a_floor(tiny_base, data, tmp_path, monkeypatch):
    guard = Guard(validation([Window("20", [], [0, 1])], [5]), tmp_path / "best")
    trainer = make_trainer(tiny_base, data, tmp_path / "c", guard=guard, eval_steps=1)
    start = weights(trainer)
    values = iter([0.5, 0.4, 0.3, 0.2])
    monkeypatch.setattr(guard, "measure", lambda _: {NDCG: next(values), REWARD: 0.0, JUDGE: 0.0})
    trainer.train()
    assert guard.report()["fell_back_to_sft"] and guard.best_step == 0
    adapter = {name: value for name, value in weights(trainer).items() if "policy" in name}
    assert all(torch.equal(value, start[name]) for name, value in adapter.items())


def test_the_guard_measures_ndcg(tiny_base, data, tmp_path):
    policy = RecPolicy.create(make_config(tiny_base), data).eval()
    windows = [Window("20", [], [0, 1]), Window("20", [], [2])]
    scores = torch.cat(list(item_scores(policy, windows)))
    best, second = int(scores[0].argmax()), int(scores[1].topk(2).indices[1])
    seen = Guard(validation(windows, [best, second]), tmp_path).measure(policy)
    assert seen[NDCG] == pytest.approx((1 + 1 / np.log2(3)) / 2)
    expected = (scores.exp() * torch.arange(10.0)).sum(1).mean()
    assert seen[REWARD] == pytest.approx(expected.item(), abs=1e-5) and seen[JUDGE] == -seen[REWARD]


@pytest.mark.parametrize(
    "scheme, section, words",
    [
        ("title", {"advantage": "exact"}, "set ppo.advantage to `gae`"),
        ("atomic", {"num_generations": 5}, "ppo.num_generations is 5"),
        ("atomic", {"num_mini_batches": 3}, "ppo.num_mini_batches is 3"),
    ],
)
def test_options_that_do_not_fit(scheme, section, words):
    with pytest.raises(ConfigError, match=words):
        check_options(make_config("base", scheme, ppo=section))
