"""The whole config of one experiment."""

import re
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from llmrec.config.agents import AgentsConfig
from llmrec.config.catalogue import CatalogueConfig
from llmrec.config.data import EXPOSURE_COLUMNS, DataConfig
from llmrec.config.evaluation import DEFAULT_BASELINES, EvaluationConfig
from llmrec.config.hub import HubConfig
from llmrec.config.learn import LearnConfig
from llmrec.config.model import ModelConfig
from llmrec.config.ppo import PPOConfig
from llmrec.config.privacy import PrivacyConfig
from llmrec.config.reward import RewardConfig
from llmrec.config.section import Section
from llmrec.config.sft import SFTConfig
from llmrec.config.simulator import SimulatorConfig


def run_name(text: str, otherwise: str) -> str:
    """A text as `Config.name` may be, such as the name of a file; `otherwise` if nothing is left of it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._") or otherwise


class Config(Section):
    """One experiment. The defaults are the training settings of `configs/quickstart.yaml`."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the run and of its directory in `output_dir`: letters, digits, `.`, `_` and `-`, "
        "starting with a letter or digit.",
    )
    output_dir: str = Field(default="runs", description="Directory that holds the run directories.")
    seed: int = Field(default=0, ge=0, description="Seed of all training and of the bootstraps.")
    report_to: list[Literal["tensorboard", "trackio"]] = Field(
        default=["tensorboard"],
        description="Trackers that receive the metrics, samples and events of SFT and PPO. An empty list means none.",
    )
    data: DataConfig = Field(description="Event log, its clicks and purchases, and its splits.")
    catalogue: CatalogueConfig = Field(default=CatalogueConfig(), description="How items become tokens.")
    model: ModelConfig = Field(default=ModelConfig(), description="Base language model and its adapter.")
    sft: SFTConfig = Field(default=SFTConfig(), description="Supervised fine-tuning.")
    privacy: PrivacyConfig | None = Field(
        default=None,
        description="User-level differential privacy of SFT. The stages reward, ppo and evaluate are then refused. "
        "null: none.",
    )
    reward: RewardConfig = Field(
        default=RewardConfig(), description="Reward models, and the weights of the reward's parts."
    )
    ppo: PPOConfig = Field(default=PPOConfig(), description="Reinforcement learning with PPO.")
    evaluation: EvaluationConfig = Field(default=EvaluationConfig(), description="Evaluation and baselines.")
    simulator: SimulatorConfig = Field(
        default=SimulatorConfig(), description="Worlds that are fitted on held-out users, see `llmrec simulate`."
    )
    agents: AgentsConfig = Field(
        default=AgentsConfig(), description="Learners that act in those worlds, see `llmrec agents`."
    )
    learn: LearnConfig = Field(
        default=LearnConfig(), description="Learning from the feedback of a server, see `llmrec learn`."
    )
    hub: HubConfig | None = Field(
        default=None, description="Repository that the finished run is pushed to. null: no push."
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_across_sections(cls, values: Any) -> Any:
        """Fills in the defaults that depend on another section, where the config leaves them out."""
        if not isinstance(values, dict):
            return values
        if _given(values.get("catalogue"), "scheme") == "title":
            values = _with_default(values, "ppo", "advantage", "gae")
        if _names_exposures(values.get("data")):
            values = _with_default(values, "reward", "linear", False)
        if _given(values.get("data"), "repeats") == "keep":
            values = _with_default(values, "evaluation", "baselines", [*DEFAULT_BASELINES, "personal_popularity"])
        if values.get("privacy") is not None:
            values = _with_default(values, "catalogue", "cooccurrence_weight", 0.0)
            values = _with_default(values, "sft", "save_steps", 5)  # steps that a crash loses are paid for twice
        return values

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        scheme = self.catalogue.scheme
        if self.ppo.advantage == "exact" and scheme != "atomic":
            raise ValueError(
                f"ppo.advantage `exact` needs one token an item (catalogue.scheme: atomic), found `{scheme}`: set "
                "ppo.advantage to `gae`."
            )
        if self.hub is not None and not self.hub.titles and scheme == "title":
            raise ValueError(
                "hub.titles is false, but under catalogue.scheme `title` the model writes items by their titles: set "
                "hub.titles to true, or catalogue.scheme to `atomic`."
            )
        if self.privacy is not None:
            _refuse_unprotected(self)
        return self


def _refuse_unprotected(config: Config) -> None:
    """Refuses settings under which something that the section `privacy` does not protect enters the adapter or a push.

    Raises:
        ValueError: names the key.
    """
    weight = config.catalogue.cooccurrence_weight
    if weight > 0:
        raise ValueError(
            f"catalogue.cooccurrence_weight is {weight:g}, but under `privacy` item embeddings cannot start from the "
            "clicks of people: set it to 0."
        )
    if config.hub is not None and config.hub.include:
        raise ValueError(
            f"hub.include holds {', '.join(config.hub.include)}, but under `privacy` only the SFT adapter is protected "
            "and pushed: set it to []."
        )


def _given(section: Any, key: str) -> Any:
    """A value of a section that is a mapping or a `Section`; None if it is not there."""
    return section.get(key) if isinstance(section, dict) else getattr(section, key, None)


def _names_exposures(section: Any) -> bool:
    """Whether a `data` section tells that the log holds exposures: what was shown, clicked or not."""
    columns = _given(section, "columns")
    set_here = columns if columns is None or isinstance(columns, dict) else columns.model_fields_set
    named = any(key in (set_here or ()) and _given(columns, key) for key in EXPOSURE_COLUMNS)
    return named or _given(section, "format") == "open_bandit"


def _with_default(values: dict[str, Any], section: str, key: str, default: Any) -> dict[str, Any]:
    """The values with a default for a key of a section, unless the section is there and has the key."""
    given = values.get(section, {})
    return {**values, section: {key: default, **given}} if isinstance(given, dict) else values
