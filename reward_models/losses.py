"""Losses of the click/purchase model, over the whole catalogue or over sampled negatives."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from llmrec.config import RewardConfig
from reward_models.click_purchase import ClickPurchaseModel
from reward_models.training_events import Batch

FULL_SOFTMAX_ITEMS = 20_000  # a larger catalogue is trained with sampled negatives


@dataclass(frozen=True)
class Negatives:
    """S items sampled with replacement, in the place of the whole catalogue.

    Attributes:
        items: item indices, int64 [S].
        log_count: log of how often each is expected among S draws, float [S].
    """

    items: Tensor
    log_count: Tensor


def click_loss(model: ClickPurchaseModel, states: Tensor, batch: Batch, negatives: Negatives | None) -> Tensor:
    """Mean cross-entropy of the next click among the items not yet had, in nats.

    Items that were never clicked in training are no candidates: as negatives they would only learn to be avoided.

    Args:
        model: the reward model.
        states: states of the valid targets, [E, D].
        batch: where they come from.
        negatives: None: softmax over the whole catalogue. Else sampled softmax: each stands for 1 / expected count
            items, so that the sum over the catalogue is estimated without bias (Bengio & Senecal, 2008; the logQ
            correction of Yi et al., RecSys 2019).
    """
    rows, targets = batch.mask.nonzero()[:, 0], batch.targets[batch.mask]
    positions = batch.positions[batch.mask][:, None]
    if negatives is None:
        had = ((batch.first[rows] < positions) | ~model.trained).scatter(1, targets[:, None], False)
        logits = model.click_scores(states).masked_fill(had, float("-inf"))
        return F.cross_entropy(logits, targets)
    items = negatives.items
    others = model.click_scores(states, items) - negatives.log_count
    taken = (batch.first[:, items][rows] < positions) | (items == targets[:, None]) | ~model.trained[items]
    target, _ = model.pair_scores(states, targets)
    logits = torch.cat([target[:, None], others.masked_fill(taken, float("-inf"))], dim=1)
    return F.cross_entropy(logits, torch.zeros_like(targets))


def batch_loss(model: ClickPurchaseModel, batch: Batch, purchase_weight: float, negatives: Negatives | None) -> Tensor:
    """Click loss + `purchase_weight` x log-loss of purchases of clicked items, in nats."""
    states = model.states(batch.history, batch.purchased, batch.profiles)[batch.mask]
    loss = click_loss(model, states, batch, negatives)
    if not model.config.purchases:
        return loss
    _, purchase = model.pair_scores(states, batch.targets[batch.mask])
    return loss + purchase_weight * F.binary_cross_entropy_with_logits(purchase, batch.bought[batch.mask])


def is_sampled(num_items: int, config: RewardConfig) -> bool:
    """Whether the click softmax is over sampled items, not over the whole catalogue."""
    return num_items > FULL_SOFTMAX_ITEMS and config.negatives < num_items


def draw_negatives(
    log_share: np.ndarray, config: RewardConfig, rng: np.random.Generator, device: torch.device
) -> Negatives | None:
    """Items sampled for this step by their share of clicks, or None for a softmax over all.

    By share, because the sum over the catalogue is then estimated with the least variance at the start, where every
    item's score is its log share.
    """
    if not is_sampled(len(log_share), config):
        return None
    drawn = rng.choice(len(log_share), config.negatives, p=np.exp(log_share))
    log_count = math.log(config.negatives) + log_share[drawn]
    return Negatives(torch.from_numpy(drawn).to(device), torch.from_numpy(log_count).float().to(device))
