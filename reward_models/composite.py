"""The reward that PPO receives: weighted parts over parsed recommendations, each also reported alone."""

from collections.abc import Sequence

import numpy as np
import torch

from llmrec.catalogue.facts import FactBook
from llmrec.catalogue.prompt import Recommendation
from llmrec.config import RewardSection
from llmrec.errors import DataError
from llmrec.ppo.reward import RewardBatch
from reward_models.click_purchase import UNKNOWN, ClickPurchaseModel
from reward_models.groundedness import check


class CompositeReward:
    """`item_weight * log P(click and purchase) + groundedness_weight * groundedness`.

    The first part belongs to the item and is in nats, floored at `FLOOR` so that one absurd item cannot outweigh a
    batch; the second belongs to the justification and lies in [0, 1].
    """

    FLOOR = -12.0

    def __init__(self, model: ClickPurchaseModel, facts: FactBook, config: RewardSection):
        self.model = model
        self.facts = facts
        self.config = config

    def __call__(self, recommendations: Sequence[Recommendation], rows: Sequence[dict]) -> RewardBatch:
        """Scores recommendations.

        Args:
            recommendations: B parsed completions.
            rows: what each answers: `prior`, `items` and `purchased` (of `prior + items`) of the user.

        Raises:
            DataError: the reward model gives a reward that is not a number.
        """
        log_rewards = self.model.log_rewards(*_histories(rows)).clamp(min=self.FLOOR)
        items = torch.tensor([recommendation.item for recommendation in recommendations])
        item = log_rewards.cpu().gather(1, items.clamp(min=0)[:, None])[:, 0]
        item = torch.where(items >= 0, item, self.FLOOR)
        grounded = [
            check(self.facts, recommendation, {*row["prior"], *row["items"]}).score
            for recommendation, row in zip(recommendations, rows, strict=True)
        ]
        text = torch.tensor(grounded, dtype=torch.float32)
        if not item.isfinite().all():
            raise DataError("The reward model gave a reward that is not a number; fit it again.")
        return RewardBatch(
            self.config.item_weight * item,
            self.config.groundedness_weight * text,
            {"log_purchase": item, "groundedness": text},
        )

    def decisions(self, rows: Sequence[dict]) -> list[torch.Tensor]:
        """Weighted item rewards of all N items after each shown item of each row, per row [J, N]."""
        width = max(len(row["items"]) for row in rows)
        items = torch.zeros(len(rows), width, dtype=torch.int64)
        purchased = torch.full_like(items, UNKNOWN)
        had = torch.zeros(len(rows), self.model.config.num_items, dtype=torch.bool)
        for b, row in enumerate(rows):
            shown = len(row["items"])
            items[b, :shown] = torch.tensor(row["items"])
            purchased[b, :shown] = torch.tensor(row["purchased"][-shown:]).long()
            had[b, row["prior"]] = True
        lengths = torch.tensor([len(row["items"]) for row in rows])
        mask = torch.arange(width) < lengths[:, None]
        rewards = self.model.log_rewards_packed(items, purchased, mask, had).clamp(min=self.FLOOR)
        return [self.config.item_weight * r[:length] for r, length in zip(rewards, lengths.tolist(), strict=True)]


def _histories(rows: Sequence[dict]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    histories = [np.array([*row["prior"], *row["items"]], dtype=np.int64) for row in rows]
    return histories, [np.array(row["purchased"], dtype=bool) for row in rows]
