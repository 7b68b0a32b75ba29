"""Stock TRL 1.12 and ours on the same rollout, without a catalogue: the same numbers.

Two things of stock's are kept out of it. Padding must not be a token of the prompt: stock does not attend to any token
that looks like padding, and in chat models the end of a turn does. And no completion ends: stock puts the reward one
token after the end, with a value of its own for it. Ours attends to every real token and puts the reward on the end
token; `test_a_completion_that_ended` works that by hand.
"""

import copy
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from torch import nn
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from llmrec.policy.constraint import DONE, TEXT, Scores
from llmrec.policy.generate import Completions
from llmrec.policy.model import RecPolicy
from llmrec.policy.packed import Window, pack
from llmrec.ppo.reward import RewardBatch
from llmrec.ppo.trainer import RecPPOTrainer
from tests.conftest import disturb, make_config

LENGTH = 12
OPTIONS = {
    "total_episodes": 8, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "num_ppo_epochs": 2,
    "response_length": LENGTH, "learning_rate": 3e-3, "temperature": 0.7, "kl_coef": 0.3, "vf_coef": 0.5,
    "gamma": 0.95, "lam": 0.9, "cliprange": 0.1, "cliprange_value": 0.05, "missing_eos_penalty": 0.5,
}  # fmt: skip
ROWS = [
    {"profile": profile, "prior": [], "items": items, "purchased": [True, False]}
    for profile in ("20", "31", "42", "64")
    for items in ([1, 2], [4, 3])
]


class AnyText:
    """A distribution without a catalogue: every token may come, until the end."""

    def __init__(self, policy: RecPolicy):
        self.policy = policy

    def start(self, available, history):
        return self

    def select(self, rows):
        return self

    def score(self, hidden, tokens, start, temperature=1.0):
        every = torch.arange(len(self.policy.tokenizer))
        logits = self.policy.logits(hidden.flatten(0, 1), every).unflatten(0, tokens.shape) / temperature
        log_probs = logits.log_softmax(-1)
        ended = (tokens == self.policy.prompts.end).long()
        real = ended.cumsum(1) - ended == 0
        entropy = -(log_probs.exp() * log_probs).sum(-1).detach()
        chosen = log_probs.gather(2, tokens[..., None])[..., 0] * real
        return Scores(chosen, entropy * real, torch.where(real, TEXT, DONE), real)


class SharedValue(nn.Module):
    """Stock's value model, on the policy's own hidden states as our critic is."""

    base_model_prefix = "backbone"

    def __init__(self, model, head: nn.Linear):
        super().__init__()
        self.score = copy.deepcopy(head)
        self.__dict__["backbone"] = self.hidden  # not a submodule: the policy's weights are not the critic's
        self.__dict__["model"] = model

    @torch.no_grad()
    def hidden(self, **inputs):
        inputs["output_hidden_states"] = True
        return self.model(**inputs)


class TokenReward(nn.Module):
    """Stock's reward model: the value of the last token."""

    base_model_prefix = "backbone"

    def __init__(self, tokens: int):
        super().__init__()
        self.values = nn.Embedding(tokens, 3)
        self.score = nn.Linear(3, 1)

    def backbone(self, input_ids, **_):
        return SimpleNamespace(hidden_states=[self.values(input_ids)])


class Recorded:
    """The same rewards for ours."""

    def __init__(self, scores: torch.Tensor):
        self.scores = scores

    def __call__(self, recommendations, rows):
        return RewardBatch(torch.zeros_like(self.scores), self.scores, {})


def make_policy(base, data) -> RecPolicy:
    torch.manual_seed(0)
    policy = RecPolicy.create(make_config(base), data)
    disturb(policy, 0.05)
    policy.add_rl_adapter()
    disturb(policy, 0.05)  # of the RL adapter: the KL to the reference is not 0
    policy.distribution = AnyText(policy)
    return policy.eval()


def arguments(directory, **options) -> PPOConfig:
    return PPOConfig(
        output_dir=str(directory), **OPTIONS | options, num_mini_batches=1, num_sample_generations=0,
        local_rollout_forward_batch_size=8, gradient_checkpointing=False, bf16=False, use_cpu=True, report_to="none",
        logging_steps=1, save_strategy="no", disable_tqdm=True, max_grad_norm=1e9, model_adapter_name="rl",
        ref_adapter_name="sft", lr_scheduler_type="linear", seed=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def stock(tiny_base, data, tmp_path_factory) -> SimpleNamespace:
    """One batch of stock PPO: what it wrote, earned, computed and logged."""
    policy = make_policy(tiny_base, data)
    model, head = copy.deepcopy(policy.model), nn.Linear(policy.hidden_size, 1)
    nn.init.normal_(head.weight, std=0.1)
    prompts = [policy.prompts.prompt(row["profile"], row["items"]) for row in ROWS]
    assert len({len(prompt) for prompt in prompts}) == 1
    reward_model, seen = TokenReward(len(policy.tokenizer)), SimpleNamespace(head=head, scores=[])
    with pytest.MonkeyPatch.context() as patch:
        generation, reward, whiten = ppo_trainer.batch_generation, ppo_trainer.get_reward, ppo_trainer.masked_whiten

        def generated(*inputs):
            seen.written, logits = generation(*inputs)
            return seen.written, logits

        def scored(model, *inputs):
            result = reward(model, *inputs)
            if model is reward_model:
                seen.scores.append(result[1].clone())
            return result

        def whitened(values, mask, **named):
            seen.advantages = whiten(values, mask, **named)
            return seen.advantages

        for name, spy in (("batch_generation", generated), ("get_reward", scored), ("masked_whiten", whitened)):
            patch.setattr(ppo_trainer, name, spy)
        tokenizer = copy.deepcopy(policy.tokenizer)
        tokenizer.pad_token = "<|endoftext|>"
        trainer = PPOTrainer(
            args=arguments(tmp_path_factory.mktemp("stock")), processing_class=tokenizer, model=model,
            ref_model=None, reward_model=reward_model, value_model=SharedValue(model, head),
            train_dataset=Dataset.from_dict({"input_ids": prompts}),
        )  # fmt: skip
        trainer.train()
    assert not (seen.written == tokenizer.pad_token_id).any()
    seen.log = trainer.state.log_history[0]
    seen.adapter = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return seen


def ours(base, data, directory, stock, **options) -> SimpleNamespace:
    """The same batch."""
    policy = make_policy(base, data)
    section = make_config(base, ppo=OPTIONS | {"advantage": "gae"} | options).ppo
    reward = Recorded(torch.cat(stock.scores))
    trainer = RecPPOTrainer(arguments(directory, **options), section, policy, reward, Dataset.from_list(ROWS))
    trainer.value_model.head.load_state_dict(stock.head.state_dict())
    by_prompt = {tuple(policy.prompts.prompt(row["profile"], row["items"])): row for row in ROWS}
    width = stock.written.shape[1] - LENGTH
    rows = [by_prompt[tuple(prompt)] for prompt in stock.written[:, :width].tolist()]
    end = policy.prompts.end
    written = [row[: row.index(end) + 1] if end in row else row for row in stock.written[:, width:].tolist()]
    trainer.rows_of = lambda update: rows

    def rollout(prompts, update):
        windows = [Window(r["profile"], r["prior"], r["items"], [c]) for r, c in zip(rows, written, strict=True)]
        batch = pack(policy, windows)
        hidden = policy(*batch.inputs())
        log_probs = batch.score(policy, hidden, trainer.args.temperature).log_probs
        states = batch.completion_states(hidden)
        return Completions(batch.completion, log_probs, batch.completion_mask, states, hidden)

    trainer.rollout = rollout
    trainer._begin()
    experience, metrics = trainer.collect(2)  # the first update expects a policy that is its reference
    metrics |= trainer.update(experience, 2)
    adapter = {name: p for name, p in policy.model.named_parameters() if p.requires_grad}
    return SimpleNamespace(experience=experience, log=metrics, adapter=adapter)


COMPARED = [
    *("objective/kl", "objective/entropy", "objective/non_score_reward", "objective/rlhf_reward", "objective/scores"),
    *("loss/policy_avg", "loss/value_avg", "policy/entropy_avg", "policy/approxkl_avg", "policy/clipfrac_avg"),
    *("val/clipfrac_avg", "val/ratio"),
]


def test_stock_and_ours_compute_the_same(tiny_base, data, tmp_path, stock):
    end = stock.written[:, -LENGTH:] == make_policy(tiny_base, data).prompts.end
    assert not end.any()  # see the module's docstring
    mine = ours(tiny_base, data, tmp_path, stock)
    assert torch.allclose(mine.experience.advantages, stock.advantages, atol=1e-5)
    for name in COMPARED:
        assert mine.log[name] == pytest.approx(stock.log[name], abs=1e-5), name
    assert mine.log["policy/approxkl_avg"] > 1e-4 and mine.log["policy/clipfrac_avg"] > 0  # the second epoch moved
    assert mine.adapter.keys() == stock.adapter.keys()
    for name, value in mine.adapter.items():
        assert torch.allclose(value, stock.adapter[name], atol=1e-4), name


@pytest.mark.parametrize("option", [{"gamma": 0.9}, {"kl_coef": 0.4}, {"cliprange": 0.2}, {"missing_eos_penalty": 1.0}])
def test_another_option_is_noticed(tiny_base, data, tmp_path, stock, option):
    mine = ours(tiny_base, data, tmp_path, stock, **option)
    assert any(abs(mine.log[name] - stock.log[name]) > 1e-4 for name in COMPARED)


def test_a_completion_that_ended(tiny_base, data, tmp_path, stock):
    """Two tokens and the end: the reward at the end token, nothing learned or valued beyond it."""
    policy = make_policy(tiny_base, data)
    short = copy.copy(stock)
    short.written = stock.written.clone()
    short.written[0, -LENGTH + 2 :] = policy.prompts.end
    experience = ours(tiny_base, data, tmp_path, short, gamma=1.0, lam=1.0, kl_coef=0.0).experience
    assert experience.learned[0].tolist() == [True] * 3 + [False] * (LENGTH - 3)
    reward = float(torch.cat(stock.scores)[0]) - 0.5  # it began with no item, so it counts as broken off
    assert torch.allclose(experience.returns[0, :3], torch.full((3,), reward), atol=1e-5)
    assert (experience.returns[0, 3:] == 0).all() and (experience.advantages[0, 3:] == 0).all()
