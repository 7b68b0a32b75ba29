"""The config of an experiment: one class a section, and a loader for its YAML file."""

from llmrec.config.ab_test import ABMetricConfig, ABTestConfig, ABTestDataConfig
from llmrec.config.agents import LANGUAGE_MODEL, AgentsConfig, LanguageAgentConfig
from llmrec.config.catalogue import CatalogueConfig
from llmrec.config.data import ColumnsConfig, DataConfig
from llmrec.config.evaluation import BASELINES, BaselineName, EvaluationConfig, SASRecConfig
from llmrec.config.experiment import Config, run_name
from llmrec.config.hub import INCLUDABLE, HubConfig
from llmrec.config.learn import LearnConfig
from llmrec.config.loader import (
    dump_config,
    dump_yaml,
    load_config,
    load_saved_config,
    load_section,
    parse_config,
    parse_section,
    read_yaml,
)
from llmrec.config.model import LOCAL_BASE, ModelConfig
from llmrec.config.ppo import PPOConfig
from llmrec.config.privacy import PrivacyConfig
from llmrec.config.reference import all_defaults, default_of, explain, json_schema, reference_markdown
from llmrec.config.reward import PartConfig, PenaltyConfig, RewardConfig, TermConfig, TextRewardConfig
from llmrec.config.sft import SFTConfig
from llmrec.config.simulator import SimulatorConfig

__all__ = [
    "ABMetricConfig",
    "ABTestConfig",
    "ABTestDataConfig",
    "AgentsConfig",
    "BASELINES",
    "BaselineName",
    "CatalogueConfig",
    "ColumnsConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "HubConfig",
    "INCLUDABLE",
    "LANGUAGE_MODEL",
    "LOCAL_BASE",
    "LanguageAgentConfig",
    "LearnConfig",
    "ModelConfig",
    "PPOConfig",
    "PartConfig",
    "PenaltyConfig",
    "PrivacyConfig",
    "RewardConfig",
    "SASRecConfig",
    "SFTConfig",
    "SimulatorConfig",
    "TermConfig",
    "TextRewardConfig",
    "all_defaults",
    "default_of",
    "dump_config",
    "dump_yaml",
    "explain",
    "json_schema",
    "load_config",
    "load_saved_config",
    "load_section",
    "parse_config",
    "parse_section",
    "read_yaml",
    "reference_markdown",
    "run_name",
]
