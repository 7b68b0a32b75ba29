"""The people of a world, as the language model meets them: what a prompt says of each life, and what came of a turn."""

import numpy as np

from llmrec.config import CatalogueConfig
from llmrec.data.dataset import InteractionData
from llmrec.data.decision import Decision, Decisions
from llmrec.data.profiles import profile_texts
from llmrec.ppo.worlds import Turn
from llmrec.simulator.people import People
from llmrec.simulator.policies import clicked_histories
from llmrec.simulator.state import REWARD_PARTS, State


class Prompts:
    """What prompts say of the users of a world.

    Args:
        profiles: what the prompt says of each user of the world, [U].
        users: index of each user of the world in the log, int64 [U].
        max_history: how many items a prompt shows.
    """

    def __init__(self, profiles: list[str], users: np.ndarray, max_history: int) -> None:
        self.profiles = profiles
        self.users = users
        self.max_history = max_history

    @classmethod
    def of_users(cls, names: list[str], data: InteractionData, catalogue: CatalogueConfig) -> "Prompts":
        """The prompts of users of the log.

        Args:
            names: ids of the users of a world.
            data: the prepared log.
            catalogue: which user attributes a prompt names and how many items it shows.
        """
        users = np.array([data.user_index[name] for name in names], dtype=np.int64)
        texts = profile_texts(data.users, catalogue.user_attributes)
        return cls([texts[user] for user in users], users, catalogue.max_history)

    def decisions(self, people: People, state: State) -> Decisions:
        """The decision that each life asks for; the purchases in its history are not remembered by a state."""
        histories = clicked_histories(people, state)
        return Decisions(
            profiles=[self.profiles[user] for user in state.user],
            histories=histories,
            purchased=[np.zeros(len(history), bool) for history in histories],
            users=self.users[state.user],
            targets=np.full(len(histories), -1),
            max_history=self.max_history,
        )


class PeopleWorld:
    """People as a world of several turns; see `ppo.worlds.World`.

    Args:
        people: the people.
        prompts: what prompts say of them.
        seed: seed of the world.
    """

    def __init__(self, people: People, prompts: Prompts, seed: int) -> None:
        self.people = people
        self.prompts = prompts
        self.seed = seed

    def reset(self, numbers: range) -> list[Decision]:
        """Starts the lives of these numbers."""
        self.state = self.people.reset(self.seed, len(numbers), first=numbers.start)
        return list(self.prompts.decisions(self.people, self.state))

    def step(self, items: np.ndarray) -> Turn:
        """Shows each life an item."""
        outcome = self.people.step(self.state, items)
        return Turn(
            reward=outcome.reward,
            parts=dict(zip(REWARD_PARTS, outcome.parts.T, strict=True)),
            clicked=outcome.clicked >= 0,
            gap=outcome.gap,
            over=outcome.over,
            truncated=outcome.truncated,
        )
