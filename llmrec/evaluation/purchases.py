"""Purchases in a ranking: how many of them a list holds, and rankings that weight purchases.

The purchase rankings compare what PPO's objective would reach at other values of `reward.conversion_weight` with two
rankings that need no RL: SFT re-ranked by P(purchase | click)^weight, and the reward model with that weight.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmrec.config import PPOConfig
from llmrec.data.dataset import InteractionData
from llmrec.data.decision import Decisions
from llmrec.evaluation.comparisons import user_mean
from llmrec.evaluation.metrics import hit_rate, ndcg, paired_bootstrap, per_user
from llmrec.evaluation.optimum import item_rewards, optimum_log_probs
from llmrec.evaluation.ranking import BATCH, LIST_LENGTH, Ranked, rank_batches
from llmrec.evaluation.report import OPTIMUM, Comparison, PurchaseReport
from llmrec.reward.composite import CompositeReward
from reward_models.reward_model import Prediction

WEIGHTS = (0.0, 0.5, 1.0)  # values of `reward.conversion_weight` that are compared
RERANKED = "sft_reranked"  # SFT times P(purchase | click)^weight
REWARD = "reward_model"
NDCG = f"purchase_ndcg@{LIST_LENGTH}"


@dataclass(frozen=True)
class Purchases:
    """Purchases at M test targets.

    Attributes:
        purchased: whether the user purchased the target, bool [M].
        expected: purchases that the reward model expects in the list of each model, by model, float [M].
    """

    purchased: np.ndarray
    expected: dict[str, np.ndarray]

    def select(self, rows: np.ndarray) -> "Purchases":
        """The purchases at some of the targets, in the order of `rows`."""
        return Purchases(self.purchased[rows], {name: values[rows] for name, values in self.expected.items()})


def purchase_columns(ranks: np.ndarray, purchased: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of purchases at M targets.

    Args:
        ranks: rank of each target, [M].
        purchased: whether each target was purchased, bool [M].

    Returns:
        float [M] each: HR and NDCG of purchased targets, NaN at the others, and purchases per list: 1 if the target is
        in the list and was purchased, else 0.
    """
    hits = hit_rate(ranks, LIST_LENGTH)
    return {
        f"purchase_hr@{LIST_LENGTH}": np.where(purchased, hits, np.nan),
        NDCG: np.where(purchased, ndcg(ranks, LIST_LENGTH), np.nan),
        f"purchases@{LIST_LENGTH}": hits * purchased,
    }


def expected_purchases(
    reward: CompositeReward, decisions: Decisions, lists: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The probability, by the reward model, that the next click is in a list and becomes a purchase.

    Args:
        reward: the reward, whose click/purchase model predicts.
        decisions: M decisions.
        lists: lists of items at these decisions, by model, int [M, K], filled up with -1.

    Returns:
        float [M], by model.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in lists}
    start = 0
    for prediction in _predictions(reward, decisions):
        log_purchase = prediction.log_click + F.logsigmoid(prediction.purchase)  # [b, N]
        probability = log_purchase.exp().cpu().numpy()
        for name, values in lists.items():
            part = values[start : start + len(probability)]
            listed = np.take_along_axis(probability, np.maximum(part, 0), axis=1)
            found[name].append((listed * (part >= 0)).sum(1))
        start += len(probability)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def purchase_rankings(
    reward: CompositeReward, data: InteractionData, decisions: Decisions, sft: Tensor, section: PPOConfig, seed: int
) -> dict[float, dict[str, Ranked]]:
    """Rankings of M test targets at each weight of purchases.

    Args:
        reward: the reward of the run. Its `conversion_weight` is replaced.
        data: the prepared log.
        decisions: the M decisions.
        sft: log-probabilities of the SFT policy, [M, N].
        section: weights of PPO's objective.
        seed: seed of the order among equal scores in lists.

    Returns:
        By weight: the exact optimum of PPO's objective, SFT re-ranked, and the reward model.
    """
    found: dict[float, dict[str, Ranked]] = {}
    for weight in WEIGHTS:
        config = reward.config.model_copy(update={"conversion_weight": weight})
        weighted = CompositeReward(reward.model, reward.facts, config, data, reward.text)
        batches = {
            OPTIMUM: _optimum(weighted, decisions, sft, section),
            RERANKED: _reranked(reward, decisions, sft, weight),
            REWARD: (one.rewards(weight).cpu().numpy() for one in _predictions(reward, decisions)),
        }
        found[weight] = {name: rank_batches(scores, decisions, seed) for name, scores in batches.items()}
    return found


def purchase_report(
    rankings: Mapping[float, Mapping[str, Ranked]],
    purchased: np.ndarray,
    users: np.ndarray,
    samples: int,
    seed: int,
) -> dict[str, PurchaseReport]:
    """The purchase rankings of one split, by weight.

    Args:
        rankings: rankings of the split's M targets, by weight and model.
        purchased: whether each target was purchased, bool [M].
        users: user of each target, [M].
        samples: bootstrap resamples.
        seed: seed of the bootstrap.
    """
    found: dict[str, PurchaseReport] = {}
    for weight, models in rankings.items():
        columns = {
            name: {"ndcg@10": ndcg(one.ranks, LIST_LENGTH), **purchase_columns(one.ranks, purchased)}
            for name, one in models.items()
        }
        of_users = {name: per_user(values[NDCG][purchased], users[purchased])[1] for name, values in columns.items()}
        differences: dict[str, Comparison] = {}
        for rival in (RERANKED, REWARD) if purchased.any() else ():
            difference, low, high, _ = paired_bootstrap(of_users[OPTIMUM], of_users[rival], samples, seed)
            differences[rival] = Comparison(difference=difference, ci95=(low, high), n=len(of_users[rival]))
        found[f"{weight:g}"] = PurchaseReport(
            models={
                name: {metric: user_mean(column, users, samples, seed) for metric, column in values.items()}
                for name, values in columns.items()
            },
            differences=differences,
        )
    return found


@torch.no_grad()
def _predictions(reward: CompositeReward, decisions: Decisions) -> Iterator[Prediction]:
    """Predictions of the click/purchase model for each batch of decisions, in order."""
    for part in decisions.batches(BATCH):
        yield reward.model.predict(part.histories, part.purchased, reward.profiles[part.users])


def _optimum(reward: CompositeReward, decisions: Decisions, sft: Tensor, section: PPOConfig) -> Iterator[np.ndarray]:
    """Log-probabilities of the exact optimum under a reward, [b, N] for each batch of decisions."""
    for part, log_probs in zip(decisions.batches(BATCH), sft.split(BATCH), strict=True):
        start = (log_probs / section.temperature).log_softmax(-1)
        rewards = item_rewards(reward, part)
        yield optimum_log_probs(start, rewards, section.item_kl_coef, section.item_entropy_coef).numpy()


def _reranked(reward: CompositeReward, decisions: Decisions, sft: Tensor, weight: float) -> Iterator[np.ndarray]:
    """Scores of SFT times P(purchase | click)^weight, [b, N] for each batch of decisions."""
    for prediction, log_probs in zip(_predictions(reward, decisions), sft.split(BATCH), strict=True):
        yield (log_probs + weight * F.logsigmoid(prediction.purchase).cpu()).numpy()
