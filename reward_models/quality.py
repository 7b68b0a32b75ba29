"""Quality of a click/purchase model on held-out events: discrimination, calibration, slices and baselines.

Clicks are measured on pairs (event, item): the clicked item and `NEGATIVES` items drawn from the unseen ones.

* `auc` pools all pairs with uniformly drawn negatives and compares log P(click) over the whole catalogue.
* `auc_popularity_matched` draws negatives by their share of clicks, so that popularity does not help on average.
  Popularity still moves every score: if it varies more than personal preference, this AUC mostly measures popularity.
* `lift_auc_popularity_matched` is the AUC of log P(click) minus log item share, with the same negatives. No score has a
  higher expected AUC if P(click) is correct.
* `log_loss`, `brier` and `ece` are of P(click | C), the probability in the docstring of `click_purchase`, with the
  clicked item and the uniformly drawn items as C. With uniform draws the formula is exact for a calibrated model.

Purchases are measured on the clicked items. Intervals and `ece_floor` are explained in `binary_metrics`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmrec.data.dataset import InteractionData
from reward_models.binary_metrics import LabeledEvents, auc_with_interval, binary_quality, reliability
from reward_models.calibration import calibration_error
from reward_models.click_purchase import ClickPurchaseModel
from reward_models.exposures import Exposures, exposure_logits
from reward_models.held_out import HeldOut, chunks, predictions, ranking
from reward_models.item_rates import SHRINKAGE, ItemRates
from reward_models.judge import EaseJudge
from reward_models.reward_model import Prediction, RewardModel
from reward_models.training_events import TrainingEvents

NEGATIVES = 20  # negatives for each click in AUC and calibration; ranking metrics use the whole catalogue
EXPOSURE_SHRINKAGE = 1000.0  # exposures with the average click rate that are added to an item's own; clicks are rare


@dataclass(frozen=True)
class Curves:
    """Labeled events from which ROC curves and reliability diagrams are drawn, by name of the model or baseline.

    Attributes:
        clicks: events of clicks.
        purchases: events of purchases given a click; empty for a log without purchases.
    """

    clicks: dict[str, LabeledEvents]
    purchases: dict[str, LabeledEvents]


@dataclass(frozen=True)
class Quality:
    """Quality of a fitted model.

    Attributes:
        metrics: values that JSON can hold; see `fit.measure` for the keys.
        curves: events to draw, by split.
    """

    metrics: dict[str, Any]
    curves: dict[str, Curves]


@dataclass(frozen=True)
class References:
    """What a model is compared with, and in which slices.

    Attributes:
        rates: clicks and purchases of each item in training.
        item_item: an item-item model of the same training events.
        slices: slices of the held-out events by name, bool [M] each.
    """

    rates: ItemRates
    item_item: EaseJudge
    slices: dict[str, np.ndarray]


def measure_split(
    model: RewardModel, events: HeldOut, training: TrainingEvents, item_item: EaseJudge, seed: int
) -> tuple[dict[str, Any], Curves]:
    """Measures clicks and purchases of one split, with baselines and slices.

    Args:
        model: the fitted model.
        events: held-out events of the split.
        training: the training events, for the baselines.
        item_item: an item-item model of the same training events.
        seed: seed of negatives and bootstrap.

    Returns:
        metrics with the keys `n`, `ranking`, `click` and `purchase` (None for a log without purchases), and the events
        to draw.
    """
    rates = ItemRates.from_events(training)
    references = References(
        rates=rates,
        item_item=item_item,
        slices=_slices(events, rates),
    )
    click, click_events = click_quality(model, events, references, seed)
    purchase = None
    purchase_events: dict[str, LabeledEvents] = {}
    if training.has_purchases:
        purchase, purchase_events = purchase_quality(model, events, references, seed)
    metrics = {"n": len(events), "ranking": ranking(model, events), "click": click, "purchase": purchase}
    return metrics, Curves(clicks=click_events, purchases=purchase_events)


def _slices(events: HeldOut, rates: ItemRates) -> dict[str, np.ndarray]:
    """Thirds of the events by the clicks of their user and by the training clicks of their item: name to bool [M]."""
    clicks_of_user = np.array([len(history) for history in events.decisions.histories])
    clicks_of_item = rates.clicks[events.decisions.targets]
    result = {}
    for name, values in (("user_activity", clicks_of_user), ("item_popularity", clicks_of_item)):
        low, high = np.floor(np.quantile(values, [1 / 3, 2 / 3]))
        thirds = (
            (f"<={low:g}", values <= low),
            (f"<={high:g}", (values > low) & (values <= high)),
            (f">{high:g}", values > high),
        )
        result |= {f"{name} {bound}": rows for bound, rows in thirds if rows.any()}
    return result


# --- clicks ---------------------------------------------------------------------------------------


@dataclass
class _ClickScores:
    """Scores of the clicked item and of drawn negatives, by name of the model or baseline, collected over chunks.

    Attributes:
        uniform: log P(click) with uniform negatives, [m, 1 + NEGATIVES] a chunk, the clicked item first.
        popularity: the same with negatives drawn by popularity.
        lift: the same minus the log share of clicks.
        losses: -log P(click) of the clicked item among all unseen items, nats, [m] a chunk.
        confidence: probability of the model's first choice, [m] a chunk.
        is_correct: whether that was the clicked item, [m] a chunk.
    """

    uniform: dict[str, list[Tensor]] = field(default_factory=dict)
    popularity: dict[str, list[Tensor]] = field(default_factory=dict)
    lift: dict[str, list[Tensor]] = field(default_factory=dict)
    losses: dict[str, list[Tensor]] = field(default_factory=dict)
    confidence: list[Tensor] = field(default_factory=list)
    is_correct: list[Tensor] = field(default_factory=list)

    def add(self, log_p: dict[str, Tensor], popular: Tensor, uniform: Tensor, matched: Tensor) -> None:
        """Adds the scores of one chunk.

        Args:
            log_p: log P(click) of all items by name, [m, N].
            popular: log share of clicks among unseen items, [m, N].
            uniform: the clicked item and uniform negatives, int64 [m, 1 + NEGATIVES].
            matched: the clicked item and negatives drawn by popularity.
        """
        for name, values in log_p.items():
            at_matched = values.gather(1, matched)
            self.uniform.setdefault(name, []).append(values.gather(1, uniform))
            self.popularity.setdefault(name, []).append(at_matched)
            self.lift.setdefault(name, []).append(at_matched - popular.gather(1, matched))
            self.losses.setdefault(name, []).append(-values.gather(1, uniform[:, :1])[:, 0])
        best, item = log_p["model"].exp().max(1)
        self.confidence.append(best)
        self.is_correct.append(item == uniform[:, 0])


def _collect_click_scores(model: RewardModel, events: HeldOut, references: References, seed: int) -> _ClickScores:
    rng = np.random.default_rng(seed)
    share = torch.from_numpy(references.rates.log_share)
    scores = _ClickScores()
    for rows, prediction, targets_on_device in predictions(model, events):
        targets = targets_on_device.cpu()
        unseen = (~prediction.seen.cpu()).double()
        popular = share.expand_as(unseen).masked_fill(unseen == 0, float("-inf")).log_softmax(-1)
        histories = events.decisions.histories[rows]
        log_p = _log_probabilities(prediction, unseen, popular, references.item_item, histories)
        uniform = torch.cat([targets[:, None], _sample(unseen, targets, rng)], 1)
        matched = torch.cat([targets[:, None], _sample(popular.exp(), targets, rng)], 1)
        scores.add(log_p, popular, uniform, matched)
    return scores


def _log_probabilities(
    prediction: Prediction, unseen: Tensor, popular: Tensor, item_item: EaseJudge, histories: Sequence[np.ndarray]
) -> dict[str, Tensor]:
    """log P(click) of the model and of the baselines, float64 [m, N] each."""
    return {
        "model": prediction.log_click.cpu().double(),
        "constant": unseen.log().log_softmax(-1),
        "item_popularity": popular,
        "item_item": item_item.click(histories)[0].double(),
    }


def click_quality(
    model: RewardModel, events: HeldOut, references: References, seed: int
) -> tuple[dict[str, Any], dict[str, LabeledEvents]]:
    """Quality of P(click).

    Returns:
        metrics of the model, with those of the baselines under `baselines`, and the pairs with uniform negatives by
        name. `catalogue_loss` is in nats a click, among all unseen items.
    """
    scores = _collect_click_scores(model, events, references, seed)
    users = events.decisions.users
    metrics = {}
    labeled = {}
    for name, losses in scores.losses.items():
        labeled[name] = _pairs(torch.cat(scores.uniform[name]), users)
        matched = _pairs(torch.cat(scores.popularity[name]), users)
        lift = _pairs(torch.cat(scores.lift[name]), users)
        metrics[name] = {
            **binary_quality(labeled[name], seed),
            "auc_popularity_matched": auc_with_interval(matched, seed),
            "lift_auc_popularity_matched": auc_with_interval(lift, seed),
            "catalogue_loss": float(torch.cat(losses).mean()),
        }
    result = metrics.pop("model")
    confidence = torch.cat(scores.confidence).numpy()
    is_correct = torch.cat(scores.is_correct).numpy()
    result["ece_of_first_choice"] = calibration_error(confidence, is_correct)
    result["reliability"] = reliability(labeled["model"])
    result["slices"] = {
        name: binary_quality(labeled["model"].select(np.repeat(rows, 1 + NEGATIVES)), seed)
        for name, rows in references.slices.items()
    }
    return result | {"baselines": metrics}, labeled


def _pairs(scores: Tensor, users: np.ndarray) -> LabeledEvents:
    """Pairs (event, item) from the scores [m, 1 + S] of the clicked item, which is first, and S negatives."""
    labels = np.zeros(scores.shape, dtype=bool)
    labels[:, 0] = True
    return LabeledEvents(
        probabilities=scores.softmax(-1).numpy().ravel(),
        labels=labels.ravel(),
        users=np.repeat(users, scores.shape[1]),
        scores=scores.numpy().ravel(),
    )


def _sample(weights: Tensor, targets: Tensor, rng: np.random.Generator) -> Tensor:
    """Draws items [m, NEGATIVES] with replacement, with probability ~ `weights` [m, N], and never the target."""
    cumulative = weights.scatter(1, targets[:, None], 0.0).cumsum(-1)
    draws = torch.from_numpy(rng.random((len(targets), NEGATIVES))) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, draws, right=True).clamp(max=weights.shape[1] - 1)


# --- purchases ------------------------------------------------------------------------------------


def purchase_quality(
    model: RewardModel, events: HeldOut, references: References, seed: int
) -> tuple[dict[str, Any], dict[str, LabeledEvents]]:
    """Quality of P(purchase | click) on held-out clicks.

    Returns:
        metrics of the model, with those of the baselines under `baselines`, and the labeled events by name. AUC is
        None if all or none of the clicks are purchases.
    """
    logits = [p.purchase.gather(1, targets[:, None])[:, 0] for _, p, targets in predictions(model, events)]
    predicted = {
        "model": torch.cat(logits).sigmoid().double().cpu().numpy(),
        "constant": np.full(len(events), references.rates.purchase_rate),
        "item_rate": references.rates.purchase_rates[events.decisions.targets],
        "item_item": item_item_purchases(events, references.rates, references.item_item),
    }
    users = events.decisions.users
    labeled = {
        name: LabeledEvents(probabilities=p, labels=events.purchased, users=users, scores=p)
        for name, p in predicted.items()
    }
    metrics = {name: binary_quality(events_of, seed) for name, events_of in labeled.items()}
    result = metrics.pop("model")
    result["reliability"] = reliability(labeled["model"])
    result["slices"] = {
        name: binary_quality(labeled["model"].select(rows), seed) for name, rows in references.slices.items()
    }
    return result | {"baselines": metrics}, labeled


def item_item_purchases(events: HeldOut, rates: ItemRates, item_item: EaseJudge) -> np.ndarray:
    """P(purchase | click) from the user's purchases of similar items, float [M].

    It is the item's purchase rate plus the mean excess of the user's purchases of similar items over their rates,
    weighted by the positive EASE weights.
    """
    row_of_item = np.full(len(rates.clicks), -1)
    row_of_item[item_item.covered.numpy()] = np.arange(len(item_item.covered))
    weights = item_item.weights.clamp(min=0)
    expected = rates.purchase_rates
    shrinkage = SHRINKAGE * weights.mean(0).numpy() + 1e-9
    decisions = events.decisions
    result = expected[decisions.targets].copy()
    events_of = zip(decisions.histories, decisions.purchased, decisions.targets, strict=True)
    for event, (history, purchased, target) in enumerate(events_of):
        known = row_of_item[history] >= 0
        column = row_of_item[target]
        if column < 0 or not known.any():
            continue
        similarity = weights[row_of_item[history[known]], column].numpy()
        excess = similarity @ (purchased[known] - expected[history[known]])
        result[event] += excess / (similarity.sum() + shrinkage[column])
    return np.clip(result, 0.01, 0.99)


# --- exposures ------------------------------------------------------------------------------------


@torch.no_grad()
def exposure_quality(
    model: ClickPurchaseModel,
    data: InteractionData,
    profiles: np.ndarray,
    training: Exposures,
    test: Exposures,
    seed: int,
) -> dict[str, Any]:
    """Quality of P(click | shown) on held-out exposures.

    Args:
        model: a model that was trained on exposures.
        data: the prepared log.
        profiles: profile words of all users, int64 [U, P].
        training: training exposures, for the baselines.
        test: held-out exposures.
        seed: seed of the bootstrap.

    Returns:
        metrics of the model, with those of the baselines under `baselines`. `log_loss_weighted` estimates the log-loss
        under a policy that shows all items equally often. `position_bias` is in log-odds, relative to the first rank.
    """
    if not len(test):
        return {"n": 0}
    logits = torch.cat([exposure_logits(model, data, profiles, test, rows) for rows in chunks(len(test))])
    rate = (training.weights * training.clicked).sum() / training.weights.sum()
    shown = np.bincount(training.items, training.weights, data.num_items)
    clicked = np.bincount(training.items, training.weights * training.clicked, data.num_items)
    item_rates = (clicked + EXPOSURE_SHRINKAGE * rate) / (shown + EXPOSURE_SHRINKAGE)
    predicted = {
        "model": logits.sigmoid().double().cpu().numpy(),
        "constant": np.full(len(test), rate),
        "item_rate": item_rates[test.items],
    }
    metrics = {}
    for name, p in predicted.items():
        labeled = LabeledEvents(probabilities=p, labels=test.clicked, users=test.users, scores=p)
        losses = -np.where(test.clicked, np.log(p), np.log1p(-p))
        weighted = float((test.weights * losses).sum() / test.weights.sum())
        metrics[name] = binary_quality(labeled, seed) | {"log_loss_weighted": weighted}
    ranks = np.unique(training.positions[training.positions > 0])
    bias = model.position_bias.weight[ranks, 0]
    return metrics.pop("model") | {
        "effective_sample_size": test.effective_sample_size,
        "propensities_clipped": test.clipped,
        "position_bias": {str(k): (b - bias[0]).item() for k, b in zip(ranks.tolist(), bias, strict=True)},
        "baselines": metrics,
    }
