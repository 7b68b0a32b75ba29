"""Everything that the evaluation takes from the reward model at the test targets, in one pass of the model.

The reward model is slow, and one prediction serves many rankings: its own, the optimum of PPO's objective, and the
rankings for purchases at each weight.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmrec.config import PPOConfig
from llmrec.data.decision import Decisions
from llmrec.evaluation.metrics import ranks
from llmrec.evaluation.optimum import optimum, optimum_logits
from llmrec.evaluation.purchases import RERANKED, REWARD, WEIGHTS
from llmrec.evaluation.ranking import LogProbs, Ranked, chunks, rank_batch
from llmrec.evaluation.report import OPTIMUM
from llmrec.reward.composite import CompositeReward
from reward_models.reward_model import Prediction


@dataclass(frozen=True)
class RewardRankings:
    """What the reward model gives at M test targets.

    Attributes:
        ranked: rankings by `reward_model` and, if PPO's objective has a computable optimum, by `optimum`.
        objective: PPO's objective by policy, in nats, float64 [M] each; empty without a computable optimum.
        expected: probability that the next click is in the list of a model and becomes a purchase, by model, float [M]
            each; empty if no target was purchased.
        weighted: rank of each target by weight of purchases and ranking, float64 [M] each; empty if no target was
            purchased or there is no computable optimum.
    """

    ranked: dict[str, Ranked]
    objective: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]
    weighted: dict[float, dict[str, np.ndarray]]

    @classmethod
    def like(cls, part: Self, count: int) -> Self:
        """Arrays for `count` targets with the names of `part`, which `put` fills."""
        return cls(
            ranked={name: Ranked.empty(count) for name in part.ranked},
            objective={name: np.empty(count) for name in part.objective},
            expected={name: np.empty(count, np.float32) for name in part.expected},
            weighted={weight: {name: np.empty(count) for name in of} for weight, of in part.weighted.items()},
        )

    def put(self, rows: slice, part: Self) -> None:
        """Sets what was measured at some of the targets."""
        for name, ranked in part.ranked.items():
            self.ranked[name].put(rows, ranked)
        for mine, measured in (
            (self.objective, part.objective),
            (self.expected, part.expected),
            *((self.weighted[weight], part.weighted[weight]) for weight in self.weighted),
        ):
            for name, values in measured.items():
                mine[name][rows] = values


@dataclass(frozen=True)
class RewardPass:
    """One pass of the reward model over test targets.

    Attributes:
        reward: the reward that PPO maximized.
        section: weights of PPO's objective.
        lists: the ten best items of every other model at the M targets, by model, [M, 10]; empty if no target was
            purchased.
        log_probs: log-probability of every item under `sft` and `ppo`, [M, N], of which one batch is read at a time;
            empty without a computable optimum.
        seed: seed of the order among equal scores in lists.
    """

    reward: CompositeReward
    section: PPOConfig
    lists: Mapping[str, np.ndarray]
    log_probs: Mapping[str, LogProbs]
    seed: int

    @torch.no_grad()
    def measure(self, decisions: Decisions, advance: Callable[[int], None]) -> RewardRankings:
        """Measures all M targets.

        Args:
            decisions: the decisions at the M targets.
            advance: called after each batch with the number of its targets.
        """
        popularity = self.reward.popularity_at(WEIGHTS) if self.lists and self.log_probs else torch.empty(0)
        found: RewardRankings | None = None
        for chosen in chunks(len(decisions)):
            rows = slice(chosen.start, chosen.stop)
            part = self._measure(decisions.select(chosen), rows, popularity)
            found = RewardRankings.like(part, len(decisions)) if found is None else found
            found.put(rows, part)
            advance(len(chosen))
        assert found is not None, "an evaluation has at least one target"
        return found

    def _measure(self, part: Decisions, rows: slice, popularity: Tensor) -> RewardRankings:
        """Measures one batch of targets; `rows` are its rows in `lists` and `log_probs`."""
        shown = self.reward.predict(part)
        whole = shown if part.max_history >= self.reward.model.window else self._predict_whole(part)
        trained = self.reward.config.conversion_weight
        weights = list(dict.fromkeys([trained, *(WEIGHTS if len(popularity) else ())]))
        of_shown = dict(zip(weights, shown.rewards_at(weights), strict=True))
        of_whole = of_shown if whole is shown else dict(zip(weights, whole.rewards_at(weights), strict=True))
        ranked = {REWARD: rank_batch(of_whole[trained].cpu().numpy(), part, self.seed)}
        objective: dict[str, np.ndarray] = {}
        log_probs = self._read(rows)
        if log_probs:
            rewards = self.reward.item_rewards(of_shown[trained]).cpu()
            best, objective = optimum(log_probs, rewards, self.section)
            ranked[OPTIMUM] = rank_batch(best.numpy(), part, self.seed)
        expected: dict[str, np.ndarray] = {}
        if self.lists:
            lists = {name: values[rows] for name, values in self.lists.items()}
            expected = expected_purchases(whole, lists | {name: one.lists for name, one in ranked.items()})
        weighted: dict[float, dict[str, np.ndarray]] = {}
        log_purchase = F.logsigmoid(whole.purchase).cpu() if len(popularity) else torch.empty(0)
        for weight, average in zip(WEIGHTS, popularity, strict=False):
            scores = {
                OPTIMUM: self._optimum_logits(log_probs["sft"], self.reward.item_rewards(of_shown[weight], average)),
                RERANKED: torch.add(log_probs["sft"], log_purchase, alpha=weight),
                REWARD: of_whole[weight].cpu(),
            }
            weighted[weight] = {
                name: ranks(values.numpy(), part.targets, part.masked) for name, values in scores.items()
            }
        return RewardRankings(ranked=ranked, objective=objective, expected=expected, weighted=weighted)

    def _read(self, rows: slice) -> dict[str, Tensor]:
        """The log-probabilities at some targets; once if SFT and PPO are the same policy."""
        read: dict[int, Tensor] = {}
        for values in self.log_probs.values():
            if id(values) not in read:
                read[id(values)] = values[rows]
        return {name: read[id(values)] for name, values in self.log_probs.items()}

    def _optimum_logits(self, sft: Tensor, rewards: Tensor) -> Tensor:
        """Unnormalized log-probabilities of the optimal policy at `ppo.temperature`, [b, N]."""
        start = sft / self.section.temperature  # its constant of normalization changes no rank
        return optimum_logits(start, rewards.cpu(), self.section.item_kl_coef, self.section.item_entropy_coef)

    def _predict_whole(self, part: Decisions) -> Prediction:
        """What the model predicts from all that it can read, which is more than the prompts show."""
        return self.reward.model.predict(part.histories, part.purchased, self.reward.profiles[part.users])


def expected_purchases(prediction: Prediction, lists: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The probability, by the reward model, that the next click is in a list and becomes a purchase.

    Args:
        prediction: what the click/purchase model predicts at b decisions.
        lists: lists of items at these decisions, by model, int [b, K], filled up with -1.

    Returns:
        float [b], by model.
    """
    probability = (prediction.log_click + F.logsigmoid(prediction.purchase)).exp().cpu().numpy()  # [b, N]
    return {
        name: (np.take_along_axis(probability, np.maximum(items, 0), axis=1) * (items >= 0)).sum(1)
        for name, items in lists.items()
    }
