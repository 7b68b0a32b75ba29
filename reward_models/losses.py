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

FULL_SOFTMAX_ITEMS = 20_000  # larger catalogues are trained with sampled negatives


@dataclass(frozen=True)
class Negatives:
    """S items sampled with replacement, which stand for the whole catalogue.

    Attributes:
        items: item indices, int64 [S].
        log_count: log of the number of times that each item is expected among S draws, float [S].
    """

    items: Tensor
    log_count: Tensor


def click_loss(model: ClickPurchaseModel, states: Tensor, batch: Batch, negatives: Negatives | None) -> Tensor:
    """Mean cross-entropy of the next click among the unseen items (with repeats, all items), in nats.

    Items without a training click are no candidates, because the model would only learn to give them low scores.

    Args:
        model: the model.
        states: states of the valid targets, [E, D].
        batch: the batch that the states come from.
        negatives: None uses the softmax over the whole catalogue. Otherwise sampled softmax: each sampled item counts
            as 1 / expected count items, so the sum over the catalogue is estimated without bias (Bengio & Senecal,
            2008; the logQ correction of Yi et al., RecSys 2019).
    """
    rows = batch.mask.nonzero()[:, 0]
    targets = batch.targets[batch.mask]
    positions = batch.positions[batch.mask][:, None]
    if model.config.repeats:
        positions = torch.zeros_like(positions)  # nothing stands before position 0
    if negatives is None:
        excluded = ((batch.first[rows] < positions) | ~model.trained).scatter(1, targets[:, None], False)
        logits = torch.where(excluded, -torch.inf, model.click_scores(states))
        return F.cross_entropy(logits, targets)
    items = negatives.items
    others = model.click_scores(states, items) - negatives.log_count
    excluded = (batch.first[:, items][rows] < positions) | (items == targets[:, None]) | ~model.trained[items]
    target, _ = model.pair_scores(states, targets)
    logits = torch.cat([target[:, None], others.masked_fill(excluded, float("-inf"))], dim=1)
    return F.cross_entropy(logits, torch.zeros_like(targets))


def batch_loss(model: ClickPurchaseModel, batch: Batch, purchase_weight: float, negatives: Negatives | None) -> Tensor:
    """Click loss + `purchase_weight` x log-loss of the purchases of clicked items, in nats."""
    states = model.states(batch.history, batch.purchased, batch.profiles)[batch.mask]
    loss = click_loss(model, states, batch, negatives)
    if not model.config.purchases:
        return loss
    _, purchase = model.pair_scores(states, batch.targets[batch.mask])
    purchased = batch.target_purchased[batch.mask]
    return loss + purchase_weight * F.binary_cross_entropy_with_logits(purchase, purchased)


def is_sampled(num_items: int, config: RewardConfig) -> bool:
    """Whether the click softmax uses sampled items instead of the whole catalogue."""
    return num_items > FULL_SOFTMAX_ITEMS and config.negatives < num_items


def draw_negatives(
    log_share: np.ndarray, config: RewardConfig, rng: np.random.Generator, device: torch.device
) -> Negatives | None:
    """Samples the negatives of one step.

    Items are sampled by their share of clicks. The estimate of the sum over the catalogue then has the least variance
    at the start of training, when every item's score is its log share.

    Args:
        log_share: log of each item's share of clicks, float [N].
        config: gives the number of negatives.
        rng: draws the items.
        device: device of the result.

    Returns:
        The sampled items, or None if the softmax is over the whole catalogue.
    """
    if not is_sampled(len(log_share), config):
        return None
    drawn = rng.choice(len(log_share), config.negatives, p=np.exp(log_share))
    log_count = math.log(config.negatives) + log_share[drawn]
    return Negatives(items=torch.from_numpy(drawn).to(device), log_count=torch.from_numpy(log_count).float().to(device))
