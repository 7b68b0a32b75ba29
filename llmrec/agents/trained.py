"""The trained models of a run as policies of a world: the language model after SFT and after PPO, and its reward model.

They learned from the log alone, to look one step ahead. In a world they read what each life has clicked.
"""

from collections.abc import Callable

import numpy as np

from llmrec.agents.people_world import Prompts
from llmrec.catalogue.facts import FactBook
from llmrec.config import CatalogueConfig
from llmrec.data.dataset import InteractionData
from llmrec.data.decision import Decisions
from llmrec.distributed import own_device
from llmrec.language.adapter_files import same_weights
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import all_item_scores
from llmrec.reward.composite import CompositeReward
from llmrec.run import Run
from llmrec.simulator.people import People
from llmrec.simulator.policies import Scores
from llmrec.simulator.state import State
from llmrec.simulator.world import World

Score = Callable[[Decisions], np.ndarray]  # scores of all items at M decisions, float [M, N]


class TrainedModels:
    """The models of a run, by name.

    Args:
        scores: how each model scores the items.
        data: the prepared log.
        catalogue: which user attributes a prompt names and how many items it shows.
    """

    def __init__(self, scores: dict[str, Score], data: InteractionData, catalogue: CatalogueConfig) -> None:
        self.scores = scores
        self.data = data
        self.catalogue = catalogue

    @classmethod
    def from_run(cls, run: Run, data: InteractionData) -> "TrainedModels":
        """The models that the finished stages of a run have trained; none if it is prepared and no more.

        Args:
            run: the run.
            data: its prepared log.

        Raises:
            RunError: a stage was begun or finished under other values.
        """
        scores: dict[str, Score] = {}
        if run.finished("sft"):
            scores["sft"] = _language_model(run, "sft")
        if run.finished("ppo") and not same_weights(run.path("sft", "adapter"), run.path("ppo", "adapter")):
            scores["ppo, one step"] = _language_model(run, "ppo")
        if run.finished("sft") and run.finished("reward"):
            scores["reward model"] = _reward_model(run, data)
        return cls(scores, data, run.config.catalogue)

    def policies(self, world: World) -> dict[str, Scores]:
        """The models by name, for the users of a world."""
        prompts = Prompts.of_users(world.users, self.data, self.catalogue)
        return {name: _policy(score, prompts) for name, score in self.scores.items()}


def _policy(score: Score, prompts: Prompts) -> Scores:
    """Lets a model score the items for each life."""

    def scores(people: People, state: State) -> np.ndarray:
        return score(prompts.decisions(people, state))

    return scores


def _language_model(run: Run, stage: str) -> Score:
    policy = RecPolicy.from_pretrained(run.path(stage, "adapter")).eval().to(own_device())
    policy.merge()
    return lambda decisions: all_item_scores(policy, decisions).numpy()


def _reward_model(run: Run, data: InteractionData) -> Score:
    facts = FactBook.load(run.path("sft", "adapter"))
    reward = CompositeReward.from_pretrained(run.path("reward"), data, facts, run.config.reward)
    return lambda decisions: reward.newest_item_rewards(decisions).numpy()
