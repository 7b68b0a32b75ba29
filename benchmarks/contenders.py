"""Stock TRL's PPO and llmrec's, each ready to run one update whenever it is asked for one.

A contender lives in a process of its own (`processes.Child`): its peak memory is its own, and it sleeps while another
is measured.
"""

import copy
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Literal, Protocol

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

PROMPTS = 256  # in each dataset; an update takes the next few
LEARNING_RATE = 1e-4

# Ends an update, reports it with facts and seconds by phase, if any, and waits until the next one is asked for.
Turn = Callable[..., None]


@dataclass(frozen=True)
class Workload:
    """What both trainers do in one update; lengths are in tokens."""

    base: str = "bundled:smollm2-135m-instruct"
    layers: int | None = 8
    prompt_tokens: int = 96
    completion_tokens: int = 24
    episodes: int = 32
    ppo_epochs: int = 2
    lora_r: int = 16

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(base=self.base, layers=self.layers, lora_r=self.lora_r, lora_alpha=2 * self.lora_r)


class Contender(Protocol):
    """A trainer with its models and data."""

    def run(self, turn: Turn) -> None:
        """Builds everything, then trains: one update after each call of `turn`, until `turn` raises SystemExit."""
        ...


@dataclass(frozen=True)
class Stock:
    """TRL's own `PPOTrainer`: LoRA on the policy; value and reward models are classifiers on the same base.

    The value model is trained whole, as TRL does it. A classifier is the cheapest reward that stock PPO takes: it wants
    a network with a backbone of its own. Prompts are as many tokens as ours, from the base's own vocabulary.

    Attributes:
        workload: of an update.
        micro_batch: episodes a forward pass of the update; a divisor of the batch.
    """

    workload: Workload
    micro_batch: int = 8

    def run(self, turn: Turn) -> None:
        work, base = self.workload, resolve_base(self.workload.model)
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
        classifier = partial(AutoModelForSequenceClassification.from_pretrained, base, num_labels=1)
        with tempfile.TemporaryDirectory() as directory:
            PPOTrainer(
                self._arguments(directory),
                processing_class=tokenizer,
                model=AutoModelForCausalLM.from_pretrained(base),
                ref_model=None,  # with LoRA, TRL's reference is the adapter switched off
                reward_model=classifier(),
                value_model=classifier(),
                train_dataset=self._prompts(len(tokenizer)),
                peft_config=LoraConfig(
                    task_type="CAUSAL_LM", r=work.lora_r, lora_alpha=2 * work.lora_r, target_modules="all-linear"
                ),
                callbacks=[_TakeTurns(turn)],
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

    def _prompts(self, vocabulary: int) -> Dataset:
        shape = (PROMPTS, self.workload.prompt_tokens)
        first_word = 100  # below are special tokens, of which one is padding
        return Dataset.from_dict({"input_ids": np.random.default_rng(0).integers(first_word, vocabulary, shape)})


class _TakeTurns(TrainerCallback):
    """Stops TRL's loop between batches until the next is asked for."""

    def __init__(self, turn: Turn):
        self.turn = turn

    def on_train_begin(self, *_, **__) -> None:
        self.turn()

    def on_step_end(self, *_, **__) -> None:
        self.turn()


@dataclass(frozen=True)
class Ours:
    """`RecPPOTrainer` on a synthetic catalogue of atomic items; all that the benchmark knows of the trainer is here.

    Attributes:
        workload: of an update.
        advantage: `gae` learns what stock learns; `exact` also learns from every item at every decision of the prompts.
        items: size of the catalogue.
        history: items that a prompt shows; None: as many as fill the workload's prompt.
        generations: rollouts a prompt.
        micro_batch: episodes a forward pass of the update.
        patch: changes the finished trainer, for an ablation.
    """

    workload: Workload
    advantage: Literal["gae", "exact"] = "gae"
    items: int = 1682
    history: int | None = None
    generations: int = 8
    micro_batch: int = 8
    patch: Callable[[RecPPOTrainer], None] | None = None

    def run(self, turn: Turn) -> None:
        with tempfile.TemporaryDirectory() as directory:
            trainer = self._trainer(directory)
            clock = Clock()
            self._time_phases(trainer, clock)
            turn()
            for update in count(1):
                experience, _ = trainer.collect(update)
                trainer.update(experience, update)
                turn(self._facts(trainer, experience), clock.take())

    @staticmethod
    def _facts(trainer: RecPPOTrainer, experience: Experience) -> dict[str, int]:
        return {
            "tokens_written": sum(len(one) for of_prompt in experience.completions for one in of_prompt),
            "items_shown": len(experience.decisions[0].items),
            "text_tokens": len(trainer.policy.decoder.tokens),
        }

    @staticmethod
    def _time_phases(trainer: RecPPOTrainer, clock: "Clock") -> None:
        """What a phase calls is timed alone: `advantages` and `update forward` are what is left of the two steps."""
        for owner, name, phase in (
            (trainer, "collect", "advantages"),
            (llmrec.ppo.rollout, "generate", "rollout"),
            (trainer, "reference", "reference"),
            (CompositeReward, "__call__", "reward"),
            (CompositeReward, "decisions", "reward"),
            (trainer, "update", "update forward"),
            (trainer.accelerator, "backward", "update backward"),
            (trainer.accelerator, "clip_grad_norm_", "optimiser"),
            (trainer.optimizer, "step", "optimiser"),
        ):
            clock.wrap(owner, name, phase)

    def _trainer(self, directory: str) -> RecPPOTrainer:
        torch.manual_seed(0)
        config = parse_config(self._config())
        data = catalogue(self.items)
        policy = RecPolicy.create(config, data)
        policy.add_rl_adapter()
        never_end(policy)
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

    def _config(self) -> dict:
        work = self.workload
        ppo = {
            "total_episodes": 1000 * work.episodes,
            "advantage": self.advantage,
            "per_device_train_batch_size": self.micro_batch,
            "gradient_accumulation_steps": work.episodes // self.micro_batch,
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
            rows.append(Decision(NEW_USER, [], items, generator.random(shown) < 0.5))
        return Decisions.from_decisions(rows, max_history=shown)


def catalogue(items: int) -> InteractionData:
    """A catalogue of titles of which nothing is known, so that a justification may be any text; one user."""
    table = pd.DataFrame(
        {
            "item_id": [f"i{n}" for n in range(items)],
            "title": [f"Film {n}" for n in range(items)],
            "categories": [[] for _ in range(items)],
            "year": pd.array([None] * items, dtype="Int64"),
        }
    )
    users, facts = pd.DataFrame({"user_id": ["u"]}), pd.DataFrame({"item": [], "relation": [], "tail": [], "named": []})
    history, length = [np.arange(2)], np.array([2])
    return InteractionData(table, users, facts, history, [np.array([True, False])], history, length, {})


def never_end(policy: RecPolicy) -> None:
    """Takes the end token out of free text: every completion has the full length."""
    distribution = policy.distribution
    distribution._free &= distribution.tokens != distribution.end


class Clock:
    """Splits time by phase; a phase inside another stops the outer one."""

    def __init__(self):
        self._seconds: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    def wrap(self, owner: object, name: str, phase: str) -> None:
        """Counts every call of `owner.name` for a phase."""
        function = getattr(owner, name)

        def timed(*arguments, **named):
            self._switch(lambda: self._running.append(phase))
            try:
                return function(*arguments, **named)
            finally:
                self._switch(self._running.pop)

        setattr(owner, name, timed)

    def _switch(self, change: Callable) -> None:
        now = time.perf_counter()
        if self._running:
            self._seconds[self._running[-1]] += now - self._since
        self._since = now
        change()

    def take(self) -> dict[str, float]:
        """Seconds of each phase since the last call."""
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds


# -- ablations: what each means is worth, by doing without it --


def whole_vocabulary(trainer: RecPPOTrainer) -> None:
    """Free text may use every token of the base: its head is evaluated over all of them."""
    policy, distribution = trainer.policy, trainer.policy.distribution
    words = policy.vocabulary.new_tokens[0]  # item tokens stand behind them
    embeddings = policy.model.get_base_model().get_output_embeddings().token_adapter.get_base_layer().weight[:words]
    distribution.tokens = torch.arange(words)
    distribution._free = distribution.tokens != distribution.end
    distribution._apart = torch.zeros(4, words, dtype=torch.bool)
    distribution._logits = lambda hidden, tokens: (
        hidden @ embeddings.T if len(tokens) == words else policy.logits(hidden, tokens)
    )


def reference_of_its_own(trainer: RecPPOTrainer) -> None:
    """The reference is a second model instead of the same one with another adapter."""
    network, score = trainer.model, trainer.reference
    second = copy.deepcopy(network)

    def scored(*arguments):
        trainer.model, trainer.policy = second, second.policy
        try:
            return score(*arguments)
        finally:
            trainer.model, trainer.policy = network, network.policy

    trainer.reference = scored
