"""Config section `agents`: learners that act in the worlds of `llmrec simulate`."""

from typing import Literal

from pydantic import Field, field_validator

from llmrec.config.section import Section

AgentName = Literal[
    "blend_search", "linucb", "thompson", "q_learning", "dqn", "qr_dqn", "ppo", "a2c", "ddpg", "td3", "ddpg_item",
    "td3_item", "language_model",
]  # fmt: skip

AGENTS: dict[AgentName, str] = {  # how each learns: llmrec/agents/registry.py
    "blend_search": "constant weights of the rankers, the best of a random search",
    "linucb": "LinUCB, a contextual bandit over mixtures of rankers",
    "thompson": "linear Thompson sampling over mixtures of rankers",
    "q_learning": "tabular Q-learning over mixtures of rankers",
    "dqn": "DQN over mixtures of rankers",
    "qr_dqn": "QR-DQN over mixtures of rankers",
    "ppo": "PPO with an MLP over the weights of the rankers",
    "a2c": "A2C, the synchronous form of A3C, over the weights of the rankers",
    "ddpg": "DDPG over the weights of the rankers",
    "td3": "TD3 over the weights of the rankers",
    "ddpg_item": "DDPG over item vectors, with lookup of the nearest item",
    "td3_item": "TD3 over item vectors, with lookup of the nearest item",
    "language_model": "PPO over several turns of the language model after `sft`, with items as actions",
}
LANGUAGE_MODEL: AgentName = "language_model"


class LanguageAgentConfig(Section):
    """PPO of the language model over several turns. An update plays `lives` lives of at most `turns` turns."""

    lives: int = Field(default=32, ge=2, multiple_of=2, description="Lives that an update learns from.")
    turns: int = Field(
        default=16,
        ge=2,
        description="Turns of a life after which training cuts it off. The critic's value stands for what follows.",
    )
    outcomes: Literal["clicks", "words"] = Field(
        default="clicks",
        description="What the prompt tells of earlier turns. `clicks`: clicked items, as in any history. `words`: also "
        "items without a click and new sessions, in words that SFT has never seen there.",
    )
    learning_rate: float = Field(
        default=1e-4, gt=0, description="Peak learning rate of the adapter, which falls linearly to 0."
    )
    kl_coef: float = Field(
        default=0.2, ge=0, description="KL coefficient of each turn, relative to the SFT model, in units of reward."
    )


class AgentsConfig(Section):
    """Learners that act in the worlds of `llmrec simulate`, all on the same number of steps."""

    names: list[AgentName] = Field(
        default=[name for name in AGENTS if name != LANGUAGE_MODEL],
        min_length=1,
        description="Learners: "
        + "; ".join(f"`{name}`: {text}" for name, text in AGENTS.items())
        + ". All but the last are the default.",
    )
    steps: int = Field(
        default=20_000, ge=1000, description="Steps of people that each learner may use for training, in each world."
    )
    seeds: int = Field(default=3, ge=1, description="Number of trainings of each learner in each world.")
    gamma: float = Field(
        default=0.95,
        gt=0,
        lt=1,
        description="Discount factor of sequential learners. Each has a twin with gamma 0, its control.",
    )
    num_envs: int = Field(default=64, ge=1, description="Lives that a learner meets at a time.")

    language_model: LanguageAgentConfig = Field(
        default=LanguageAgentConfig(), description="PPO of the language model over several turns."
    )

    @field_validator("names")
    @classmethod
    def _names_once(cls, names: list[AgentName]) -> list[AgentName]:
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{', '.join(sorted(repeated))} is listed twice; expected each learner once")
        return names
