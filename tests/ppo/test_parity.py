"""Without a catalogue, `RecPPOTrainer` equals TRL's `PPOTrainer`: both learn the same from the same rollout.

Stock TRL gets the same model with the same two adapters (`rl` to train, `sft` as its reference) and a value head on the
policy's own backbone, as ours has. It samples; ours learns from what it sampled. Two PPO epochs, so that the second
one sees the first one's optimiser step: losses that agree but gradients that do not would show.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch
import trl.experimental.ppo.ppo_trainer as stock_module
from datasets import Dataset
from torch import nn
from transformers import LlamaConfig, LlamaForSequenceClassification
from trl.experimental.ppo import PPOConfig as TRLPPOConfig
from trl.experimental.ppo import PPOTrainer

from llmrec.language.grammar import DONE, TEXT
from llmrec.language.prompt import Recommendation
from llmrec.policy.decoding import Choice, Decoder, DecodingState
from llmrec.policy.distribution import MaskedDistribution
from llmrec.policy.generate import Completions
from llmrec.policy.model import RL_ADAPTER, SFT_ADAPTER, RecPolicy
from llmrec.policy.packing import pack
from llmrec.ppo import trainer as our_module
from llmrec.ppo.network import Critic
from llmrec.ppo.stage import training_decisions
from llmrec.ppo.trainer import RecPPOTrainer
from llmrec.reward.protocol import RewardBatch
from tests.conftest import disturb, make_config
from tests.ppo.test_trainer import trl_arguments

EPISODES, WIDTH, UPDATE = 8, 12, 2  # at update 1 our trainer requires the policy to equal its reference
OPTIONS = {
    "learning_rate": 3e-3,
    "weight_decay": 0.1,
    "max_grad_norm": 1e9,  # stock does not clip gradients
    "num_ppo_epochs": 2,
    "response_length": WIDTH,
    "total_episodes": EPISODES,
    "missing_eos_penalty": 0.3,
    "kl_coef": 0.2,
    "vf_coef": 0.5,
    "gamma": 0.97,
    "lam": 0.9,
    "temperature": 0.7,
}
COMPARED = [
    *(f"objective/{name}" for name in ("kl", "entropy", "non_score_reward", "rlhf_reward", "scores")),
    *("loss/policy_avg", "loss/value_avg", "val/clipfrac_avg", "val/ratio"),
    *("policy/entropy_avg", "policy/approxkl_avg", "policy/clipfrac_avg"),
]
CASES = {
    "adamw": ("title", {}, {}),
    # Stock can step once a mini-batch only with one micro-batch each. Plain SGD shows the scale of gradients too.
    "sgd": ("atomic", {"num_mini_batches": 2, "kl_estimator": "k3", "optim": "sgd", "learning_rate": 0.02}, {}),
    "ends": ("title", {"gamma": 1.0, "lam": 1.0}, {1: 3, 4: 0, 6: 8}),  # row: place of its end token
}


@dataclass(frozen=True)
class Outcome:
    """What one of the two trainers computed from a rollout.

    Attributes:
        advantages: [B, T].
        metrics: as logged.
        weights: of the RL adapter and the value head after training, by name.
    """

    advantages: torch.Tensor
    metrics: dict[str, float]
    weights: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Rollout:
    """Tokens that stock TRL sampled, padded after their end, [B, T], and the scores of its reward model, [B]."""

    tokens: torch.Tensor
    mask: torch.Tensor
    scores: torch.Tensor


class WholeVocabulary(Decoder):
    """A distribution without a catalogue: any token may follow, until the end token."""

    def __init__(self, policy: RecPolicy):
        super().__init__(policy.vocabulary.trie, policy.facts, policy.decoder.classes)
        self.end = policy.prompts.end
        self.tokens = torch.arange(policy.model.config.vocab_size)

    def start(self, available: torch.Tensor, history: torch.Tensor) -> DecodingState:
        state = super().start(available, history)
        return replace(state, region=torch.full_like(state.region, TEXT))

    def choice(self, state: DecodingState) -> Choice:
        allowed = (state.region == TEXT)[:, None] | (self.tokens == self.end)
        return Choice(self.tokens, state.shown[:, :0], state.prompt, allowed)

    def advance(self, state: DecodingState, tokens: torch.Tensor) -> DecodingState:
        return replace(state, step=state.step + 1, region=torch.where(tokens == self.end, DONE, state.region))


class StockCritic(nn.Module):
    """A value model for stock TRL: our value head on the policy's backbone, without gradients to the backbone."""

    base_model_prefix = "backbone"

    def __init__(self, backbone: nn.Module, hidden_size: int):
        super().__init__()
        self.backbone = backbone
        self.head = move_head(Critic(hidden_size)).head

    def score(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head(hidden.detach())


class Recorded:
    """A reward that returns the recorded scores of stock TRL's reward model."""

    def __init__(self, scores: torch.Tensor):
        self.scores = scores

    def __call__(self, recommendations, rows) -> RewardBatch:
        return RewardBatch(torch.zeros(len(rows)), self.scores, {})


def move_head(critic: Critic) -> Critic:
    """Gives a value head random weights. Before training every value is 0."""
    nn.init.normal_(critic.head.weight, std=0.3, generator=torch.Generator().manual_seed(2))
    nn.init.constant_(critic.head.bias, 0.1)
    return critic


def make_policy(base, data, scheme: str) -> RecPolicy:
    """A policy that differs from its reference; every call makes the same one."""
    torch.manual_seed(0)
    policy = RecPolicy.create(make_config(base, scheme), data)
    disturb(policy, 0.1)
    policy.add_rl_adapter()
    disturb(policy, 0.02)
    return policy


def arguments(directory, **options) -> TRLPPOConfig:
    return trl_arguments(directory, save_strategy="no", **OPTIONS | options)


def trained(trainer) -> dict[str, torch.Tensor]:
    adapter = {n: p.detach().clone() for n, p in trainer.policy_model.named_parameters() if p.requires_grad}
    return adapter | {n: p.detach().clone() for n, p in trainer.value_model.named_parameters() if n.startswith("head")}


def run_stock(base, data, directory, scheme: str, ends: dict[int, int], **options) -> tuple[Rollout, Outcome]:
    """Trains stock TRL on one batch whose completions end exactly at the positions in `ends`."""
    policy = make_policy(base, data, scheme)
    tokenizer, end = policy.tokenizer, policy.prompts.end
    tokenizer.pad_token, tokenizer.padding_side = "<|endoftext|>", "left"  # stock takes every pad token for padding
    rows = training_decisions(data, make_config(base, scheme))
    assert len(rows) == EPISODES
    prompts = pack(policy, rows)
    lengths = prompts.prompt_length.tolist()
    assert len(set(lengths)) > 1 and not (prompts.tokens == tokenizer.pad_token_id).any()
    numbered = [{"number": n, "input_ids": prompts.tokens[n, :length].tolist()} for n, length in enumerate(lengths)]

    def in_order(batch: list[dict]):
        batch = sorted(batch, key=lambda row: row["number"])
        return tokenizer.pad({"input_ids": [row["input_ids"] for row in batch]}, return_tensors="pt")

    config = LlamaConfig.from_pretrained(base, num_labels=1, vocab_size=len(tokenizer))
    torch.manual_seed(5)
    reward_model = LlamaForSequenceClassification(config).eval()
    nn.init.normal_(reward_model.score.weight)
    stock = PPOTrainer(
        args=arguments(
            directory, per_device_train_batch_size=EPISODES, model_adapter_name=RL_ADAPTER,
            ref_adapter_name=SFT_ADAPTER, stop_token="eos" if ends else None, **options,
        ),
        processing_class=tokenizer,
        model=policy.model,
        ref_model=None,
        reward_model=reward_model,
        train_dataset=Dataset.from_list(numbered),
        value_model=StockCritic(policy.model.get_base_model().base_model, policy.hidden_size),
        data_collator=in_order,
    )  # fmt: skip
    sampled, scores, advantages = [], [], []
    generation, get_reward = stock_module.batch_generation, stock_module.get_reward
    masked_whiten = stock_module.masked_whiten

    def sample(model, queries, *rest):
        special = torch.tensor([end, tokenizer.pad_token_id])
        while True:
            tokens, logits = generation(model, queries, *rest)
            answers = tokens[:, queries.shape[1] :]  # a view
            if not torch.isin(answers, special).any():
                break
        for row, place in ends.items():
            answers[row, place], answers[row, place + 1 :] = end, tokenizer.pad_token_id
        sampled.append(answers.clone())
        return tokens, logits

    def score(model, *rest):
        result = get_reward(model, *rest)
        if model is reward_model:
            scores.append(result[1].clone())
        return result

    def whiten(*rest):
        advantages.append(masked_whiten(*rest))
        return advantages[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stock_module, "batch_generation", sample)
        patch.setattr(stock_module, "get_reward", score)
        patch.setattr(stock_module, "masked_whiten", whiten)
        patch.setattr(np.random, "permutation", our_order(stock.args))
        stock.train()
    # Accelerate's state is shared: until stock is garbage, our micro-batches would count as a last batch and each step.
    stock.dataloader.end()
    (tokens,), (whitened,) = sampled, advantages
    mask = tokens != tokenizer.pad_token_id
    outcome = Outcome(whitened * mask, stock.state.log_history[-1], trained(stock))
    return Rollout(tokens, mask, torch.cat(scores)), outcome


def our_order(args: TRLPPOConfig) -> Callable[[int], np.ndarray]:
    """The order of our mini-batches: each has one of every `num_mini_batches` consecutive episodes."""
    draws = np.random.default_rng((args.seed, UPDATE))
    parts = args.num_mini_batches

    def permutation(size: int) -> np.ndarray:
        blocks = np.arange(size).reshape(-1, parts)
        return np.take_along_axis(blocks, draws.random(blocks.shape).argsort(1), 1).T.ravel()

    return permutation


def our_trainer(base, data, directory, scheme: str, rollout: Rollout, **options) -> RecPPOTrainer:
    """Our trainer with the rollout of stock TRL in place of its own. Micro-batches have two episodes."""
    section = make_config(base, scheme, ppo={"advantage": "gae", "sample_steps": 0}).ppo
    policy = make_policy(base, data, scheme)
    policy.decoder = WholeVocabulary(policy)
    policy.distribution = MaskedDistribution(policy.decoder, policy.logits)
    rows = training_decisions(data, make_config(base, scheme))[: len(rollout.tokens)]
    sizes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": len(rows) // 2}
    args = arguments(directory, **sizes, **options)
    trainer = RecPPOTrainer(args, section, policy, Recorded(rollout.scores), rows)
    move_head(trainer.value_model)

    def replay(prompts, update) -> Completions:
        answers = [row[real].tolist() for row, real in zip(rollout.tokens, rollout.mask, strict=True)]
        batch = pack(policy, rows, [[answer] for answer in answers])
        hidden = policy(*batch.inputs())
        scores = batch.score(policy, hidden, args.temperature)
        states = batch.completion_states(hidden)
        return Completions(batch.completion, scores.log_probs, batch.completion_mask, states, hidden)

    trainer.rollouts.generate = replay
    trainer.rollouts.decisions_of = lambda update: list(rows)
    return trainer


def run_ours(*where, **options) -> Outcome:
    trainer = our_trainer(*where, **options)
    experience, metrics = collect(trainer)
    metrics |= trainer.update(experience, UPDATE)
    return Outcome(experience.advantages, metrics, trained(trainer))


def collect(trainer: RecPPOTrainer):
    def parse(policy, completions):  # without a catalogue there is no item, only an end
        return [Recommendation(-1, (), tokens[-1] == policy.prompts.end) for tokens in completions.lists()]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(our_module, "parse", parse)
        return trainer.collect(UPDATE)


def differences(ours: Outcome, stock: Outcome) -> set[str]:
    """Names of results that differ by more than 1e-5, absolute and relative."""
    pairs = {"advantages": (ours.advantages, stock.advantages)}
    pairs |= {name: (torch.tensor(ours.metrics[name]), torch.tensor(stock.metrics[name])) for name in COMPARED}
    pairs |= {name: (weight, stock.weights[name]) for name, weight in ours.weights.items()}
    return {name for name, pair in pairs.items() if not torch.allclose(*pair, rtol=1e-5, atol=1e-5)}


@pytest.fixture(scope="module")
def stock_of(tiny_base, data, tmp_path_factory):
    """Runs stock TRL once for each case."""

    @cache
    def run(case: str) -> tuple[Rollout, Outcome]:
        scheme, options, ends = CASES[case]
        return run_stock(tiny_base, data, tmp_path_factory.mktemp("stock"), scheme, ends, **options)

    return run


@pytest.mark.parametrize("case", ["adamw", "sgd"])
def test_without_a_catalogue_our_trainer_equals_stock_trl(tiny_base, data, tmp_path, stock_of, case):
    scheme, options, _ = CASES[case]
    rollout, stock = stock_of(case)
    assert stock.metrics["objective/kl"] > 0.1  # the policy has left its reference
    assert stock.metrics["policy/approxkl_avg"] > 1e-3  # and the one that sampled, after the first step
    assert stock.metrics["policy/clipfrac_avg"] > 0 and stock.metrics["val/clipfrac_avg"] > 0
    ours = run_ours(tiny_base, data, tmp_path, scheme, rollout, **options)
    assert differences(ours, stock) == set()


@pytest.mark.parametrize(
    ("wrong", "shows"),
    [
        ({"gamma": 0.9}, "advantages"),
        ({"lam": 0.8}, "advantages"),
        ({"temperature": 0.71}, "objective/entropy"),
        ({"kl_estimator": "k1"}, "objective/kl"),
        ({"kl_coef": 0.19}, "objective/non_score_reward"),
        ({"missing_eos_penalty": 0.2}, "objective/scores"),
        ({"cliprange": 0.1}, "policy/clipfrac_avg"),
        ({"cliprange_value": 0.1}, "val/clipfrac_avg"),
        ({"vf_coef": 0.4}, "head.weight"),
        ({"learning_rate": 0.021}, "policy/approxkl_avg"),
    ],
    ids=lambda wrong: next(iter(wrong)) if isinstance(wrong, dict) else "",
)
def test_the_comparison_detects_a_wrong_option(tiny_base, data, tmp_path, stock_of, wrong, shows):
    scheme, options, _ = CASES["sgd"]
    rollout, stock = stock_of("sgd")
    assert shows in differences(run_ours(tiny_base, data, tmp_path, scheme, rollout, **options | wrong), stock)


def test_completions_that_end_equal_stock_trl_without_discount(tiny_base, data, tmp_path, stock_of):
    """With gamma = lambda = 1 the advantages of real tokens are equal. The critic's loss and means over tokens differ.

    Stock TRL puts the reward on the padding after the end token, so its critic learns one more value. Our trainer puts
    the reward on the end token, and the state after it has value 0. If pad and end token are the same, as in our
    tokenizers, stock TRL also masks the end token itself.
    """
    scheme, options, _ = CASES["ends"]
    rollout, stock = stock_of("ends")
    ours = run_ours(tiny_base, data, tmp_path, scheme, rollout, **options)
    # Stock's means of ratio, KL and entropy are over padding too.
    real = rollout.mask.float().mean().item()
    assert ours.metrics["policy/approxkl_avg"] == pytest.approx(stock.metrics["policy/approxkl_avg"] / real, rel=1e-5)
    assert ours.metrics["val/ratio"] - 1 == pytest.approx((stock.metrics["val/ratio"] - 1) / real, rel=1e-3)
    critic = {"loss/value_avg", "val/clipfrac_avg", "head.weight", "head.bias"}
    means = {"policy/approxkl_avg", "policy/entropy_avg", "val/ratio"}
    assert differences(ours, stock) <= critic | means


def test_completions_that_end_by_hand(tiny_base, data, tmp_path):
    policy = make_policy(tiny_base, data, "title")
    end = policy.prompts.end
    tokens = torch.tensor([[10, 11, end, end], [10, 11, 12, 13]])
    rollout = Rollout(tokens, torch.tensor([[True] * 3 + [False], [True] * 4]), torch.tensor([1.0, 2.0]))
    trainer = our_trainer(
        tiny_base, data, tmp_path, "title", rollout,
        gamma=0.9, lam=0.8, kl_coef=0.0, missing_eos_penalty=0.1, num_ppo_epochs=1,
    )  # fmt: skip
    nn.init.zeros_(trainer.value_model.head.weight)
    nn.init.constant_(trainer.value_model.head.bias, 0.5)
    experience, metrics = collect(trainer)
    # Every value is 0.5. First row: 1 - 0.5 = 0.5 at the end token; before it 0.9*0.5 - 0.5 = -0.05, decay 0.72:
    # -0.05 + 0.72*0.5 = 0.31; -0.05 + 0.72*0.31 = 0.1732. Second row, which did not end: 2 - 0.1 - 0.5 = 1.4; then
    # -0.05 + 0.72*1.4 = 0.958; -0.05 + 0.72*0.958 = 0.63976; -0.05 + 0.72*0.63976 = 0.4106272.
    raw = torch.tensor([[0.1732, 0.31, 0.5, 0.0], [0.4106272, 0.63976, 0.958, 1.4]])
    assert torch.allclose(experience.returns, (raw + 0.5) * rollout.mask, atol=1e-6)
    real = raw[rollout.mask]
    assert torch.allclose(experience.advantages[rollout.mask], (real - real.mean()) / real.std(), atol=1e-5)
    assert experience.advantages[0, 3] == 0
    assert torch.equal(experience.policy_mask, rollout.mask) and torch.equal(experience.value_mask, rollout.mask)
    assert metrics["objective/scores"] == pytest.approx((1 + 1.9) / 2)
    # Half the mean of the seven squares, 3.8317698 in all.
    assert trainer.update(experience, UPDATE)["loss/value_avg"] == pytest.approx(3.8317698 / 14)
