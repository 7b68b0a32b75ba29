"""Reward models that are learned from clicks and purchases, and an independent judge.

| module | what it holds |
|---|---|
| `reward_model` | the interface: scores of all items after a history, and the reward that they combine to |
| `click_purchase`, `encoder` | the click/purchase model and its transformer block |
| `linear` | a linear next-item model in closed form |
| `ensemble` | several click/purchase models, and the linear model, as one |
| `judge` | the judge, fitted on other users |
| `text/` | the text reward model, which reads titles and justifications |
| `train` | the training loop of the click/purchase model |
| `fit` | training, calibration and measurement of click/purchase model and judge |
| `training_events`, `exposures`, `held_out` | the events that models are trained and measured on |
| `features`, `losses`, `calibration` | hashed words, training losses, probability calibration |
| `quality`, `binary_metrics`, `item_rates`, `plots` | metrics, baselines without a model, figures |
| `storage` | saving and loading |
"""

from reward_models.click_purchase import UNKNOWN, ClickPurchaseModel
from reward_models.encoder import ClickPurchaseConfig
from reward_models.ensemble import RewardEnsemble, load_reward_model
from reward_models.fit import fit_click_purchase, fit_reward
from reward_models.judge import EaseJudge, JudgeConfig, fit_judge, judge_split
from reward_models.quality import Quality
from reward_models.reward_model import RewardModel, mask_seen
from reward_models.storage import catalogue_hash

__all__ = [
    "UNKNOWN",
    "ClickPurchaseConfig",
    "ClickPurchaseModel",
    "EaseJudge",
    "JudgeConfig",
    "Quality",
    "RewardEnsemble",
    "RewardModel",
    "catalogue_hash",
    "fit_click_purchase",
    "fit_judge",
    "fit_reward",
    "judge_split",
    "load_reward_model",
    "mask_seen",
]
