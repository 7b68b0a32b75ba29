"""One YAML file describes one experiment."""

from llmrec.config.catalogue import CatalogueConfig
from llmrec.config.data import ColumnsConfig, DataConfig
from llmrec.config.evaluation import EvaluationConfig, SASRecConfig
from llmrec.config.experiment import Config
from llmrec.config.hub import INCLUDABLE, HubConfig
from llmrec.config.loader import load_config, parse_config
from llmrec.config.model import LOCAL_BASE, ModelConfig
from llmrec.config.ppo import PPOConfig
from llmrec.config.reference import default_of
from llmrec.config.reward import PartConfig, PenaltyConfig, RewardConfig, TermConfig, TextRewardConfig
from llmrec.config.sft import SFTConfig

__all__ = [
    "CatalogueConfig",
    "ColumnsConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "HubConfig",
    "INCLUDABLE",
    "LOCAL_BASE",
    "ModelConfig",
    "PPOConfig",
    "PartConfig",
    "PenaltyConfig",
    "RewardConfig",
    "SASRecConfig",
    "SFTConfig",
    "TermConfig",
    "TextRewardConfig",
    "default_of",
    "load_config",
    "parse_config",
]
