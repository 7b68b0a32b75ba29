"""The language model as an agent: PPO over several turns trains it in a world, and it reads what it has shown.

It starts from the SFT adapter of the run. Each life has its prompt, to which every turn appends what was shown and what
came of it.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmrec.agents.people_world import PeopleWorld, Prompts
from llmrec.config import AgentsConfig, LanguageAgentConfig, PPOConfig
from llmrec.data.dataset import load_data
from llmrec.distributed import own_device
from llmrec.errors import ConfigError, ModelError
from llmrec.files import plain, write_json
from llmrec.policy.model import RecPolicy
from llmrec.policy.turns import Outcomes, TurnReader
from llmrec.ppo.checkpoint import newest_checkpoint
from llmrec.ppo.stage import trl_arguments
from llmrec.ppo.turns import TurnPPOTrainer
from llmrec.progress import Watcher, attached
from llmrec.run import Run
from llmrec.simulator.people import People
from llmrec.simulator.policies import Scores, top_slates
from llmrec.simulator.state import State
from llmrec.simulator.world import World

ADAPTER = "adapter"
CHECKPOINTS = "checkpoints"
LOG_FILE = "log.json"
NO_CLIP = 1e6  # of the critic's values: it starts at 0, and the values of lives are far from it
FORWARD = 16  # lives in one forward pass of an update


class LanguagePolicy:
    """Scores the items for each life with a language model that reads the outcomes of what it has shown.

    A call goes on where the last one ended if its lives are those of the last call, one step later. Otherwise it reads
    the prompts anew, without earlier outcomes; so it does after `turns` turns, which is how long training lives last.

    Args:
        policy: the model.
        prompts: what prompts say of the users.
        turns: turns after which prompts are read anew.
        told: whether refused items and new sessions stand in the prompt.
    """

    def __init__(self, policy: RecPolicy, prompts: Prompts, turns: int, told: bool) -> None:
        self.policy = policy
        self.prompts = prompts
        self.turns = turns
        self.told = told
        self.outcomes = Outcomes.of(policy, told)
        self._before: State | None = None

    def alone(self, profile: str) -> "LanguagePolicy":
        """The same model for one person, of whom the prompt says `profile`."""
        prompts = Prompts([profile], np.array([-1]), self.prompts.max_history)
        return LanguagePolicy(self.policy, prompts, self.turns, self.told)

    @torch.no_grad()
    def __call__(self, people: People, state: State) -> np.ndarray:
        """Log-probabilities of all items, float [n, N]; -inf for items that were clicked."""
        rows = self._rows(state)
        if rows is None:
            self._reader = TurnReader(self.policy, list(self.prompts.decisions(people, state)))
            self._read = 0
        else:
            self._append(state, rows)
        scores = self._reader.log_probs()[:, self.policy.vocabulary.trie.rank].cpu().numpy()
        self._shown = top_slates(scores, state.seen, 1)[:, 0]
        self._before = state
        return scores

    def _rows(self, state: State) -> np.ndarray | None:
        """Row of each life in the last call, int64 [n]; None if the prompts must be read anew."""
        if self._before is None or self._read + 1 >= self.turns:
            return None
        places = {life: row for row, life in enumerate(self._before.life.tolist())}
        rows = np.array([places.get(life, -1) for life in state.life.tolist()], dtype=np.int64)
        if (rows < 0).any() or (state.steps != self._before.steps[rows] + 1).any():
            return None
        return rows

    def _append(self, state: State, rows: np.ndarray) -> None:
        """Reads what came of the last turn."""
        shown = self._shown[rows]
        clicked = state.seen[np.arange(len(rows)), shown]
        gaps = np.where(state.sessions > self._before.sessions[rows], state.last_gap, 0.0)  # pyright: ignore[reportOptionalMemberAccess]
        outcomes = [self.outcomes.tokens(*turn) for turn in zip(shown.tolist(), clicked.tolist(), gaps, strict=True)]
        self._reader.select(torch.from_numpy(rows).to(self.policy.device))
        self._reader.append(torch.from_numpy(shown).to(self.policy.device), clicked, outcomes)
        self._read += 1


class LanguageModels:
    """Trains and loads the language models of a run.

    Args:
        run: a run whose stage `sft` has finished.

    Raises:
        ConfigError: the worlds show more than one item at a time.
        RunError: `sft` has not finished.
    """

    def __init__(self, run: Run) -> None:
        run.require("data", "sft")
        if run.config.simulator.slate > 1:
            raise ConfigError(
                f"`simulator.slate` is {run.config.simulator.slate}, but `language_model` in `agents.names` shows one "
                "item at a time. Set `simulator.slate` to 1, or take `language_model` out of `agents.names`."
            )
        self.run = run
        self.config = run.config.agents
        self.told = self.config.language_model.outcomes == "words"
        self.data = load_data(run.path("data"))

    def before_training(self, world: World) -> Scores:
        """The SFT model with the prompts of training: where training starts."""
        return self._policy(self.run.path("sft", ADAPTER), world)

    def load(self, folder: Path, world: World) -> Scores:
        """The trained model in the folder of an agent."""
        return self._policy(folder / ADAPTER, world)

    def _policy(self, adapter: Path, world: World) -> Scores:
        policy = self._loaded(adapter)
        policy.merge()
        return LanguagePolicy(policy.eval(), self._prompts(world), self.config.language_model.turns, self.told)

    def train(
        self, world: World, people: People, folder: Path, gamma: float, seed: int, advance: Callable[[int], Any]
    ) -> Scores:
        """Trains the model, or goes on from the newest checkpoint, and saves it.

        Args:
            world: the world.
            people: its people for training.
            folder: folder of the agent.
            gamma: discount factor of a turn.
            seed: seed of the training.
            advance: takes the steps of people that were made since the last call.
        """
        policy = self._loaded(self.run.path("sft", ADAPTER))
        policy.add_rl_adapter()
        section = training_section(self.config, gamma)
        torch.manual_seed(seed)
        trainer = TurnPPOTrainer(
            trl_arguments(section, folder / CHECKPOINTS, seed),
            section,
            policy,
            PeopleWorld(people, self._prompts(world), seed),
            Outcomes.of(policy, self.told),
        )
        with attached(trainer, [_Steps(trainer, advance)]) as trainer.record:
            trainer.train(resume_from_checkpoint=newest_checkpoint(folder / CHECKPOINTS))
        policy.save_pretrained(folder / ADAPTER)
        write_json(folder / LOG_FILE, plain(trainer.state.log_history))
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        return self.load(folder, world)

    def _prompts(self, world: World) -> Prompts:
        return Prompts.of_users(world.users, self.data, self.run.config.catalogue)

    def _loaded(self, adapter: Path) -> RecPolicy:
        policy = RecPolicy.from_pretrained(adapter).to(own_device())
        if list(policy.vocabulary.item_ids) != self.data.items["item_id"].astype(str).tolist():
            raise ModelError(
                f"{adapter} recommends {len(policy.vocabulary.item_ids)} items, but the worlds offer the "
                f"{len(self.data.items)} items of {self.run.path('data')}; expected the same catalogue. Run "
                "`llmrec sft` on this data again."
            )
        return policy


def training_section(config: AgentsConfig, gamma: float) -> PPOConfig:
    """Options of PPO for a budget of steps.

    Args:
        config: the budget, and the options of the language model.
        gamma: discount factor of a turn.

    Raises:
        ConfigError: the budget is too small for one update.
    """
    model: LanguageAgentConfig = config.language_model
    updates = config.steps // (model.lives * model.turns)
    if updates < 1:
        raise ConfigError(
            f"`agents.steps` is {config.steps}, but one update of `language_model` takes `agents.language_model.lives` "
            f"({model.lives}) times `turns` ({model.turns}) steps. Raise `agents.steps`, or lower one of the two."
        )
    return PPOConfig(
        advantage="gae",
        text="on",
        total_episodes=updates * model.lives,
        batch_size=model.lives,
        per_device_train_batch_size=min(FORWARD, model.lives),
        num_mini_batches=2,
        num_ppo_epochs=2,
        response_length=model.turns,
        learning_rate=model.learning_rate,
        kl_coef=model.kl_coef,
        cliprange=0.2,
        cliprange_value=NO_CLIP,
        gamma=gamma,
        lam=0.95,
        save_steps=4,
    )


class _Steps(Watcher):
    """Reports the steps of people after each update."""

    def __init__(self, trainer: TurnPPOTrainer, advance: Callable[[int], Any]) -> None:
        self.trainer = trainer
        self.advance = advance
        self.counted = 0

    def on_step_end(self, *arguments: Any, **named: Any) -> None:
        """Counts the steps since the last update; after a resumption, also those of the earlier process."""
        self.advance(self.trainer.steps - self.counted)
        self.counted = self.trainer.steps
