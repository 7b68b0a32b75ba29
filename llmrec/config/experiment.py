"""The whole config of one experiment."""

from typing import Literal

from pydantic import Field

from llmrec.config.catalogue import CatalogueConfig
from llmrec.config.data import DataConfig
from llmrec.config.evaluation import EvaluationConfig
from llmrec.config.hub import HubConfig
from llmrec.config.model import ModelConfig
from llmrec.config.ppo import PPOConfig
from llmrec.config.reward import RewardConfig
from llmrec.config.section import Section
from llmrec.config.sft import SFTConfig


class Config(Section):
    """A whole experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="its folder in `output_dir`")
    output_dir: str = "runs"
    seed: int = Field(0, ge=0, description="of all training and of the bootstraps")
    report_to: list[Literal["tensorboard", "trackio"]] = Field(
        ["tensorboard"], description="where SFT and PPO report their metrics, samples and events; [] for nowhere"
    )
    data: DataConfig
    catalogue: CatalogueConfig = CatalogueConfig()
    model: ModelConfig = ModelConfig()
    sft: SFTConfig = SFTConfig()
    reward: RewardConfig = RewardConfig()
    ppo: PPOConfig = PPOConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    hub: HubConfig | None = Field(None, description="null: nothing is pushed")
