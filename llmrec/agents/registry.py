"""Which learners there are, what their actions mean, and which twin is their control."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmrec.agents.actions import Actions, Arms, NearestItem, Weights
from llmrec.agents.agent import Agent, ConstantAgent, LinearAgent, TableAgent
from llmrec.agents.deep import Deep
from llmrec.agents.learners import blend_search, linucb, q_learning, thompson
from llmrec.agents.rankers import Rankers
from llmrec.config.agents import LANGUAGE_MODEL, AgentName
from llmrec.data.dataset import InteractionData


@dataclass(frozen=True)
class Learner:
    """A learner.

    Attributes:
        actions: what its actions mean, a key of `action_sets`.
        train: takes environment, steps, gamma, seed and a function that counts steps; returns the agent.
        load: reads the saved agent from its folder.
        sequential: whether it looks further than one step, so that it has a twin with gamma 0.
    """

    actions: Literal["weights", "arms", "item"]
    train: Callable[..., Agent]
    load: Callable[[Path], Agent]
    sequential: bool = True


def _deep(name: str, actions: Literal["weights", "arms", "item"]) -> Learner:
    deep = Deep(name)
    return Learner(actions, deep, deep.load)


# `language_model` is missing: it acts by its prompt instead of an observation; see `language.LanguageModels`.
LEARNERS: dict[AgentName, Learner] = {
    "blend_search": Learner("weights", blend_search, ConstantAgent.load, sequential=False),
    "linucb": Learner("arms", linucb, LinearAgent.load, sequential=False),
    "thompson": Learner("arms", thompson, LinearAgent.load, sequential=False),
    "q_learning": Learner("arms", q_learning, TableAgent.load),
    "dqn": _deep("dqn", "arms"),
    "qr_dqn": _deep("qr_dqn", "arms"),
    "ppo": _deep("ppo", "weights"),
    "a2c": _deep("a2c", "weights"),
    "ddpg": _deep("ddpg", "weights"),
    "td3": _deep("td3", "weights"),
    "ddpg_item": _deep("ddpg", "item"),
    "td3_item": _deep("td3", "item"),
}


def action_sets(data: InteractionData) -> dict[str, Actions]:
    """The kinds of actions, made from the log.

    Args:
        data: the prepared log.
    """
    rankers = Rankers(data)
    return {"weights": Weights(rankers), "arms": Arms(rankers), "item": NearestItem(data)}


@dataclass(frozen=True)
class Contender:
    """A learner with a discount factor.

    Attributes:
        learner: name of the learner.
        gamma: discount factor; 0 for a learner that looks one step ahead, and for a twin.
        name: name in tables and of its folder.
    """

    learner: AgentName
    gamma: float
    name: str


def contenders(names: list[AgentName], gamma: float) -> list[Contender]:
    """Each learner, followed by its twin if it is sequential."""
    found = []
    for name in names:
        sequential = name == LANGUAGE_MODEL or LEARNERS[name].sequential
        found.append(Contender(name, gamma if sequential else 0.0, name))
        if sequential:
            found.append(Contender(name, 0.0, twin(name)))
    return found


def twin(name: Any) -> str:
    """Name of the twin of a sequential learner."""
    return f"{name}_gamma0"
