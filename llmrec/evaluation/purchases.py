"""Purchases in a ranking: how many of them a list holds, and rankings that weight purchases.

The purchase rankings compare what PPO's objective would reach at other values of `reward.conversion_weight` with two
rankings that need no RL: SFT re-ranked by P(purchase | click)^weight, and the reward model with that weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llmrec.evaluation.comparisons import user_mean
from llmrec.evaluation.metrics import hit_rate, ndcg, paired_bootstrap, per_user
from llmrec.evaluation.ranking import LIST_LENGTH
from llmrec.evaluation.report import OPTIMUM, Comparison, PurchaseReport

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


def purchase_report(
    target_ranks: Mapping[float, Mapping[str, np.ndarray]],
    purchased: np.ndarray,
    users: np.ndarray,
    samples: int,
    seed: int,
) -> dict[str, PurchaseReport]:
    """The purchase rankings of one split, by weight.

    Args:
        target_ranks: rank of each of the split's M targets, by weight and model, [M].
        purchased: whether each target was purchased, bool [M].
        users: user of each target, [M].
        samples: bootstrap resamples.
        seed: seed of the bootstrap.
    """
    found: dict[str, PurchaseReport] = {}
    for weight, models in target_ranks.items():
        columns = {
            name: {"ndcg@10": ndcg(of_model, LIST_LENGTH), **purchase_columns(of_model, purchased)}
            for name, of_model in models.items()
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
