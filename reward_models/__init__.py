"""Rewards learned from clicks and purchases, and an independent judge."""

from reward_models.click_purchase import UNKNOWN, ClickPurchaseConfig, ClickPurchaseModel
from reward_models.ensemble import RewardEnsemble, load_reward_model
from reward_models.judge import EaseJudge, JudgeConfig, fit_judge
from reward_models.reward_model import Rewarder, lowest_for_had
from reward_models.storage import fingerprint
from reward_models.train import fit_click_purchase, fit_reward, train_reward

__all__ = [
    "UNKNOWN",
    "ClickPurchaseConfig",
    "ClickPurchaseModel",
    "EaseJudge",
    "JudgeConfig",
    "RewardEnsemble",
    "Rewarder",
    "fingerprint",
    "fit_click_purchase",
    "fit_judge",
    "fit_reward",
    "load_reward_model",
    "lowest_for_had",
    "train_reward",
]
