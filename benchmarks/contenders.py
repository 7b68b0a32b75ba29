"""The two PPO trainers that `ppo_throughput.py` compares: TRL's and llmrec's, on the same workload.

Each contender runs in a process of its own (`processes.Child`), so its peak memory can be told apart. It runs one
update at a time, whenever it is asked for one.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig as TRLPPOConfig
from trl.experimental.ppo import PPOTrainer

import llmrec.ppo.rollout
from benchmarks.ablations import never_end
from benchmarks.clock import Clock
from llmrec.config import ModelConfig, parse_config
from llmrec.data.dataset import InteractionData
from llmrec.data.decision import Decision, Decisions
from llmrec.data.profiles import NEW_USER
from llmrec.language.base_model import resolve_base
from llmrec.policy.model import RecPolicy
from llmrec.ppo.experience import Experience
from llmrec.ppo.stage import training_arguments
from llmrec.ppo.trainer import RecPPOTrainer
from llmrec.reward.composite import CompositeReward
from llmrec.run import Run
from reward_models.click_purchase import ClickPurchaseConfig, ClickPurchaseModel

PROMPTS = 256  # prompts in each dataset; an update takes the next few
LEARNING_RATE = 1e-4
FIRST_WORD = 100  # smaller token ids are special tokens, one of which is padding


class EndOfUpdate(Protocol):
    """Reports an update with facts about it and seconds by phase, then waits until the next one is asked for.

    Raises SystemExit when no further update is wanted. The first call reports that the contender is ready.
    """

    def __call__(self, facts: dict[str, int] | None = None, phases: dict[str, float] | None = None) -> None: ...


@dataclass(frozen=True)
class Workload:
    """What both trainers do in one update.

    Attributes:
        base: hub id, directory or `bundled:NAME` of the language model.
        layers: number of its first layers that are kept; None keeps all.
        prompt_tokens: length of each prompt.
        completion_tokens: length of each completion.
        episodes: completions per update.
        ppo_epochs: passes over the episodes.
        lora_r: rank of LoRA.
    """

    base: str = "bundled:smollm2-135m-instruct"
    layers: int | None = 8
    prompt_tokens: int = 96
    completion_tokens: int = 24
    episodes: int = 32
    ppo_epochs: int = 2
    lora_r: int = 16

    @property
    def model(self) -> ModelConfig:
        """The config section of the language model."""
        return ModelConfig(base=self.base, layers=self.layers, lora_r=self.lora_r, lora_alpha=2 * self.lora_r)


class Contender(Protocol):
    """A trainer with its models and data."""

    def run(self, end_of_update: EndOfUpdate) -> None:
        """Builds the trainer, calls `end_of_update`, then runs one update before each further call of it."""
        ...


@dataclass(frozen=True)
class Stock:
    """TRL's own `PPOTrainer` with LoRA on the policy.

    The value model and the reward model are classifiers on the same base. The value model is trained whole, as TRL
    does it. A classifier is the cheapest reward that this trainer accepts, because it needs a network with a backbone.
    Prompts are random tokens of the base's vocabulary, as many as llmrec's.

    Attributes:
        workload: work of an update.
        micro_batch: episodes per forward pass of the update; a divisor of the episodes.
    """

    workload: Workload
    micro_batch: int = 8

    def run(self, end_of_update: EndOfUpdate) -> None:
        """See `Contender`."""
        work = self.workload
        base = resolve_base(work.model)
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
        classifier = partial(AutoModelForSequenceClassification.from_pretrained, base, num_labels=1)
        with tempfile.TemporaryDirectory() as directory:
            PPOTrainer(
                self._arguments(directory),
                processing_class=tokenizer,
                model=AutoModelForCausalLM.from_pretrained(base),
                ref_model=None,  # with LoRA, TRL's reference is the model with the adapter switched off
                reward_model=classifier(),
                value_model=classifier(),
                train_dataset=self._prompts(len(tokenizer)),
                peft_config=LoraConfig(
                    task_type="CAUSAL_LM", r=work.lora_r, lora_alpha=2 * work.lora_r, target_modules="all-linear"
                ),
                callbacks=[_PauseAfterEachUpdate(end_of_update)],
            ).train()

    def _arguments(self, directory: str) -> TRLPPOConfig:
        work = self.workload
        return TRLPPOConfig(
            output_dir=directory,
            total_episodes=1000 * work.episodes,
            per_device_train_batch_size=self.micro_batch,
            gradient_accumulation_steps=work.episodes // self.micro_batch,
            num_mini_batches=1,
            num_ppo_epochs=work.ppo_epochs,
            local_rollout_forward_batch_size=work.episodes,
            response_length=work.completion_tokens,
            stop_token=None,
            temperature=1.0,
            learning_rate=LEARNING_RATE,
            num_sample_generations=0,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )

    def _prompts(self, vocabulary_size: int) -> Dataset:
        shape = (PROMPTS, self.workload.prompt_tokens)
        return Dataset.from_dict({"input_ids": np.random.default_rng(0).integers(FIRST_WORD, vocabulary_size, shape)})


class _PauseAfterEachUpdate(TrainerCallback):
    """Stops TRL's loop between updates until the next one is asked for."""

    def __init__(self, end_of_update: EndOfUpdate) -> None:
        self.end_of_update = end_of_update

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.end_of_update()

    def on_step_end(self, *_: object, **__: object) -> None:
        self.end_of_update()


@dataclass(frozen=True)
class Ours:
    """`RecPPOTrainer` on a synthetic catalogue of one token per item.

    Attributes:
        workload: work of an update.
        advantage: `gae` learns from the sampled items, as TRL's trainer does. `exact` learns from the probability of
            every item at every decision of the prompts.
        items: size of the catalogue.
        history: items that a prompt shows; None shows as many as fill the workload's prompt.
        generations: completions per prompt.
        micro_batch: episodes per forward pass of the update.
        patch: changes the finished trainer, for an ablation.
    """

    workload: Workload
    advantage: Literal["gae", "exact"] = "gae"
    items: int = 1682
    history: int | None = None
    generations: int = 8
    micro_batch: int = 8
    patch: Callable[[RecPPOTrainer], None] | None = None

    def run(self, end_of_update: EndOfUpdate) -> None:
        """See `Contender`."""
        with tempfile.TemporaryDirectory() as directory:
            trainer = self.trainer(directory)
            clock = Clock()
            time_phases(trainer, clock)
            end_of_update()
            for update in count(1):
                experience, _ = trainer.collect(update)
                trainer.update(experience, update)
                end_of_update(_facts(trainer, experience), clock.take())

    def trainer(self, directory: str) -> RecPPOTrainer:
        """The trainer, patched, with random weights of the reward model. Completions always have the full length."""
        torch.manual_seed(0)
        config = parse_config(self._config())
        data = catalogue(self.items)
        policy = RecPolicy.create(config, data)
        policy.add_rl_adapter()
        never_end(policy.decoder)
        model = ClickPurchaseModel(ClickPurchaseConfig(num_items=self.items)).eval()
        trainer = RecPPOTrainer(
            training_arguments(Run(config, Path(directory))),
            config.ppo,
            policy,
            CompositeReward(model, policy.facts, config.reward, data),
            self._prompts(self.history or self.workload.prompt_tokens - len(policy.prompts.header(NEW_USER))),
        )
        if self.patch is not None:
            self.patch(trainer)
        return trainer

    def _config(self) -> dict[str, Any]:
        work = self.workload
        ppo = {
            "total_episodes": 1000 * work.episodes,
            "advantage": self.advantage,
            "per_device_train_batch_size": self.micro_batch,
            "batch_size": work.episodes,
            "num_generations": self.generations,
            "num_mini_batches": 1,
            "num_ppo_epochs": work.ppo_epochs,
            "ema_decay": 0.0,
            "response_length": work.completion_tokens,
            "learning_rate": LEARNING_RATE,
        }
        return {
            "name": "benchmark",
            "data": {"format": "table", "path": "synthetic"},
            "model": work.model.model_dump(),
            "ppo": ppo,
        }

    def _prompts(self, shown: int) -> Decisions:
        generator = np.random.default_rng(0)
        rows = []
        for _ in range(PROMPTS):
            items = generator.permutation(self.items)[:shown]
            purchased = generator.random(shown) < 0.5
            rows.append(Decision(profile=NEW_USER, prior=[], items=items.tolist(), purchased=purchased.tolist()))
        return Decisions.from_decisions(rows, max_history=shown)


def _facts(trainer: RecPPOTrainer, experience: Experience) -> dict[str, int]:
    return {
        "tokens_written": sum(len(one) for of_prompt in experience.completions for one in of_prompt),
        "items_shown": len(experience.decisions[0].items),
        "text_tokens": len(trainer.policy.decoder.tokens),
    }


def time_phases(trainer: RecPPOTrainer, clock: Clock) -> None:
    """Times the phases of an update.

    `advantages` is the time of `collect` outside of the phases inside it, and `update forward` that of `update`.
    """
    for owner, name, phase in (
        (trainer, "collect", "advantages"),
        (llmrec.ppo.rollout, "generate", "rollout"),
        (trainer, "reference", "reference"),
        (CompositeReward, "__call__", "reward"),
        (CompositeReward, "item_rewards_per_prefix", "reward"),
        (trainer, "update", "update forward"),
        (trainer.accelerator, "backward", "update backward"),
        (trainer.accelerator, "clip_grad_norm_", "optimizer"),
        (trainer.optimizer, "step", "optimizer"),
    ):
        clock.wrap(owner, name, phase)


def catalogue(items: int) -> InteractionData:
    """A catalogue of titles without facts, so that a justification may be any text, and one user."""
    table = pd.DataFrame(
        {
            "item_id": [f"i{n}" for n in range(items)],
            "title": [f"Film {n}" for n in range(items)],
            "categories": [[] for _ in range(items)],
            "year": pd.array([None] * items, dtype="Int64"),
        }
    )
    return InteractionData(
        items=table,
        users=pd.DataFrame({"user_id": ["u"]}),
        facts=pd.DataFrame({"item": [], "relation": [], "tail": [], "named": []}),
        histories=[np.arange(2)],
        purchases=[np.array([True, False])],
        timestamps=[np.arange(2)],
        train_lengths=np.array([2]),
        targets={},
    )
