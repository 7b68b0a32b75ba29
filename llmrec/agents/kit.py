"""What a run offers to its learners, and the one place that trains and loads a learner of any kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmrec.agents.actions import Actions
from llmrec.agents.agent import policy_of
from llmrec.agents.environment import AgentVecEnv
from llmrec.agents.language import LanguageModels
from llmrec.agents.learners import Advance
from llmrec.agents.registry import LEARNERS, Contender, action_sets
from llmrec.config import LANGUAGE_MODEL, AgentsConfig
from llmrec.data.dataset import InteractionData
from llmrec.run import Run
from llmrec.simulator.people import People
from llmrec.simulator.policies import Scores
from llmrec.simulator.world import World


@dataclass(frozen=True)
class Kit:
    """What learners need of a run.

    Attributes:
        actions: the kinds of actions; see `registry.action_sets`.
        language: trains and loads language models; None if `agents.names` lacks `language_model`.
    """

    actions: Mapping[str, Actions]
    language: LanguageModels | None

    @classmethod
    def of(cls, run: Run, data: InteractionData) -> "Kit":
        """The kit of a run.

        Args:
            run: the run.
            data: its prepared log.

        Raises:
            ConfigError, RunError: see `LanguageModels`.
        """
        language = LanguageModels(run) if LANGUAGE_MODEL in run.config.agents.names else None
        return cls(action_sets(data), language)

    def train(
        self, one: Contender, world: World, people: People, config: AgentsConfig, seed: int, folder: Path, used: Advance
    ) -> Scores:
        """Trains a learner and saves it.

        Args:
            one: the learner with its discount factor.
            world: the world.
            people: its people for training.
            config: the budget.
            seed: seed of the training.
            folder: where the agent is saved.
            used: takes the steps of people that were made since the last call.
        """
        if one.learner == LANGUAGE_MODEL:
            return self._language.train(world, people, folder, one.gamma, seed, used)
        learner = LEARNERS[one.learner]
        actions = self.actions[learner.actions]
        env = AgentVecEnv(people, actions, config.num_envs, seed, world.slate)
        agent = learner.train(env, config.steps, one.gamma, seed, used)
        agent.save(folder)
        return policy_of(agent, actions)

    def load(self, one: Contender, world: World, folder: Path) -> Scores:
        """Reads the agent that `train` saved."""
        if one.learner == LANGUAGE_MODEL:
            return self._language.load(folder, world)
        learner = LEARNERS[one.learner]
        return policy_of(learner.load(folder), self.actions[learner.actions])

    @property
    def _language(self) -> LanguageModels:
        if self.language is None:
            raise ValueError("the kit was made for a run without `language_model` in `agents.names`")
        return self.language
