"""How far a reward model can be trusted on held-out events: discrimination, calibration, slices, baselines.

Clicks are measured on pairs (event, item): the item clicked and `NEGATIVES` items drawn uniformly from those not had.
AUC pools all pairs and compares log P(click) over the whole catalogue. `auc_popularity_matched` draws the 20 items by
their share of clicks instead, so that popularity tells nothing on average, but it still moves every score: where it
moves them more than taste does, taste drowns. `lift_auc_popularity_matched` compares log P(click) less the log of that
share, the best score against such draws if P(click) is right (a density ratio). Log-loss, Brier score and calibration
error are of P(click | C), the probability of the module docstring of `click_purchase`, with C the event's uniformly
drawn items and the one clicked. Uniform draws make that formula exact for a calibrated model, whatever their number.

All intervals are percentile bootstraps over users, 95 %. `ece_floor` is the calibration error that a *perfectly*
calibrated model with the same probabilities would show on so many events: an error near it is noise.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from llmrec.data.dataset import InteractionData
from reward_models.calibration import Bins, auc, calibration_error, weighted_auc
from reward_models.click_purchase import ClickPurchaseModel
from reward_models.exposures import Exposures, exposure_logits
from reward_models.held_out import CHUNK, HeldOut, predictions, ranking
from reward_models.judge import EaseJudge, fit_judge
from reward_models.reward_model import Rewarder
from reward_models.training_events import TrainingEvents

NEGATIVES = 20  # a click; for these metrics only: no ranking metric is sampled
BOOTSTRAP = 300
SHRINKAGE = 10.0  # average clicks added to an item's own in purchase rates
EXPOSURE_SHRINKAGE = 1000.0  # average exposures added to an item's own in click rates, which are rarer


@dataclass(frozen=True)
class Labelled:
    """Probabilities of events that happened or not; the scores that order them, if those are other numbers.

    Attributes:
        p: probabilities [M].
        y: bool [M].
        users: whom each belongs to, int64 [M].
        scores: for AUC, [M].
    """

    p: np.ndarray
    y: np.ndarray
    users: np.ndarray
    scores: np.ndarray

    def take(self, rows: np.ndarray) -> "Labelled":
        """Some rows, bool or int64."""
        return Labelled(self.p[rows], self.y[rows], self.users[rows], self.scores[rows])


@dataclass
class Measured:
    """What is drawn: by model name, the labelled probabilities of clicks and of purchases."""

    clicks: dict[str, Labelled] = field(default_factory=dict)
    purchases: dict[str, Labelled] = field(default_factory=dict)


def _interval(value: float, draws: np.ndarray) -> dict:
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return {"value": float(value), "ci95": [float(low), float(high)]}


def binary_quality(labelled: Labelled, seed: int, auc_only: bool = False) -> dict:
    """AUC, log-loss (nats), Brier score and calibration error (ten bins of equal count), each with its interval.

    AUC is null with one class only.
    """
    p, y, rng = np.clip(labelled.p, 1e-12, 1 - 1e-12), labelled.y, np.random.default_rng(seed)
    names, owner = np.unique(labelled.users, return_inverse=True)
    level = np.unique(labelled.scores, return_inverse=True)[1]
    log_losses, squares, bins = -np.where(y, np.log(p), np.log1p(-p)), np.square(p - y), Bins.of(p)
    draws = []
    for times in rng.multinomial(len(names), np.full(len(names), 1 / len(names)), BOOTSTRAP):
        w = times[owner].astype(np.float64)
        row = [weighted_auc(level, y, w)]
        draws.append(row if auc_only else [*row, w @ log_losses / w.sum(), w @ squares / w.sum(), bins.error(p - y, w)])
    columns, both = np.array(draws).T, 0 < y.sum() < len(y)
    result = {"n": len(y), "positives": int(y.sum())}
    result["auc"] = _interval(auc(labelled.scores, y), columns[0]) if both else None
    if auc_only:
        return result
    values = (log_losses.mean(), squares.mean(), bins.error(p - y, np.ones(len(p))))
    for name, value, column in zip(("log_loss", "brier", "ece"), values, columns[1:], strict=True):
        result[name] = _interval(value, column)
    floor = [bins.error(p - (rng.random(len(p)) < p), np.ones(len(p))) for _ in range(30)]
    return result | {"ece_floor": float(np.mean(floor))}


def reliability(labelled: Labelled) -> dict[str, list]:
    """The reliability diagram in ten bins of equal count: `predicted` (mean probability), `observed` (share that
    happened) and `count`, each [10], or shorter where there are fewer examples.
    """
    bins = Bins.of(labelled.p).of_example
    count = np.bincount(bins)
    predicted, observed = np.bincount(bins, labelled.p) / count, np.bincount(bins, labelled.y) / count
    return {"predicted": predicted.tolist(), "observed": observed.tolist(), "count": count.tolist()}


@dataclass(frozen=True)
class ItemRates:
    """What is known without a model: clicks [N] and purchases [N] of each item in training."""

    clicks: np.ndarray
    purchases: np.ndarray

    @classmethod
    def of(cls, events: TrainingEvents) -> "ItemRates":
        """Counts of the training events."""
        items = np.concatenate(events.histories)
        bought = np.concatenate(events.purchases).astype(np.float64)
        count = events.num_items
        return cls(np.bincount(items, minlength=count), np.bincount(items, bought, minlength=count))

    @property
    def log_share(self) -> np.ndarray:
        """Log of the share of clicks of each item, one click added, float [N]."""
        return np.log((self.clicks + 1) / (self.clicks.sum() + len(self.clicks)))

    @property
    def purchase_rate(self) -> float:
        """Purchases a click."""
        return float(self.purchases.sum() / self.clicks.sum())

    @property
    def purchase_rates(self) -> np.ndarray:
        """Purchases a click of each item, ten average clicks added, float [N]."""
        return (self.purchases + SHRINKAGE * self.purchase_rate) / (self.clicks + SHRINKAGE)


@dataclass(frozen=True)
class Yardsticks:
    """What a model is measured beside: rates of items, an item-item model, and slices of the events, bool [M]."""

    rates: ItemRates
    item_item: EaseJudge
    slices: dict[str, np.ndarray]


def measure_split(model: Rewarder, events: HeldOut, training: TrainingEvents, seed: int) -> tuple[dict, Measured]:
    """Metrics of the clicks and purchases of one split, with baselines and slices, and what is drawn of them."""
    rates, measured = ItemRates.of(training), Measured()
    item_item = fit_judge(training.histories, training.purchases, training.num_items)
    beside = Yardsticks(rates, item_item, _slices(events, rates))
    metrics = {
        "n": len(events),
        "ranking": ranking(model, events),
        "click": click_quality(model, events, beside, seed, measured),
        "purchase": None,
    }
    if training.has_purchases:
        metrics["purchase"] = purchase_quality(model, events, beside, seed, measured)
    return metrics, measured


def _slices(events: HeldOut, rates: ItemRates) -> dict[str, np.ndarray]:
    """Thirds of the events by how much their user, and their item, had been clicked: name -> bool [M]."""
    result = {}
    for name, values in (
        ("user_activity", np.array([len(history) for history in events.decisions.histories])),
        ("item_popularity", rates.clicks[events.decisions.targets]),
    ):
        low, high = np.floor(np.quantile(values, [1 / 3, 2 / 3]))
        thirds = {"low": values <= low, "middle": (values > low) & (values <= high), "high": values > high}
        bounds = {"low": f"<={low:g}", "middle": f"<={high:g}", "high": f">{high:g}"}
        result |= {f"{name} {bounds[third]}": rows for third, rows in thirds.items() if rows.any()}
    return result


def _pairs(scores: Tensor, users: np.ndarray) -> Labelled:
    """Scores [m, 1 + S] of log P(click), the clicked item first, as pairs with P(click | C)."""
    labels = np.zeros(scores.shape, dtype=bool)
    labels[:, 0] = True
    owner = np.repeat(users, scores.shape[1])
    return Labelled(scores.softmax(-1).numpy().ravel(), labels.ravel(), owner, scores.numpy().ravel())


def click_quality(model: Rewarder, events: HeldOut, beside: Yardsticks, seed: int, measured: Measured) -> dict:
    """Click metrics; `catalogue_loss` is in nats a click among all items not had."""
    rng, share = np.random.default_rng(seed), torch.from_numpy(beside.rates.log_share)
    scores: dict[str, dict[str, list[Tensor]]] = {kind: {} for kind in ("uniform", "popularity", "lift")}
    losses: dict[str, list[Tensor]] = {}
    top: list[Tensor] = []
    for rows, prediction, targets in predictions(model, events):
        had, targets = prediction.had.cpu(), targets.cpu()
        popular = share.expand_as(had).masked_fill(had, float("-inf")).log_softmax(-1)
        log_p = {
            "model": prediction.log_click.cpu().double(),
            "constant": (~had).double().log().log_softmax(-1),
            "item_popularity": popular,
            "item_item": beside.item_item.click(events.decisions.histories[rows])[0].double(),
        }
        for kind, weights in (("uniform", (~had).double()), ("popularity", popular.exp())):
            items = torch.cat([targets[:, None], _sample(weights, targets, rng)], 1)
            for name, values in log_p.items():
                scores[kind].setdefault(name, []).append(values.gather(1, items))
                if kind == "popularity":
                    scores["lift"].setdefault(name, []).append(values.gather(1, items) - popular.gather(1, items))
        for name, values in log_p.items():
            losses.setdefault(name, []).append(-values.gather(1, targets[:, None])[:, 0])
        best, item = log_p["model"].exp().max(1)
        top.append(torch.stack([best, (item == targets).double()]))
    rows_of = {}
    for name in losses:
        pairs, popular, lift = (_pairs(torch.cat(of_kind[name]), events.decisions.users) for of_kind in scores.values())
        measured.clicks[name] = pairs
        quality = binary_quality(pairs, seed)
        rows_of[name] = {
            **quality,
            "auc_popularity_matched": binary_quality(popular, seed, auc_only=True)["auc"],
            "lift_auc_popularity_matched": binary_quality(lift, seed, auc_only=True)["auc"],
            "catalogue_loss": float(torch.cat(losses[name]).mean()),
        }
    confidence, correct = torch.cat(top, 1).numpy()
    result = rows_of.pop("model")
    result["ece_of_first_choice"] = calibration_error(confidence, correct.astype(bool))
    result["reliability"] = reliability(measured.clicks["model"])
    result["slices"] = {
        name: binary_quality(measured.clicks["model"].take(np.repeat(rows, 1 + NEGATIVES)), seed)
        for name, rows in beside.slices.items()
    }
    return result | {"baselines": rows_of}


def _sample(weights: Tensor, targets: Tensor, rng: np.random.Generator) -> Tensor:
    """Items [m, NEGATIVES], with replacement, probability ~ weights [m, N], never the target."""
    cumulative = weights.scatter(1, targets[:, None], 0.0).cumsum(-1)
    draws = torch.from_numpy(rng.random((len(targets), NEGATIVES))) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, draws, right=True).clamp(max=weights.shape[1] - 1)


def item_item_purchases(events: HeldOut, rates: ItemRates, item_item: EaseJudge) -> np.ndarray:
    """P(purchase | click) [M] from how the user treated similar items: the item's rate, moved by how far the user's
    purchases of what is similar to it (positive EASE weights) lay above those items' rates.
    """
    position = torch.full((len(rates.clicks),), -1)
    position[item_item.covered] = torch.arange(len(item_item.covered))
    weights, place, expected = item_item.weights.clamp(min=0), position.numpy(), rates.purchase_rates
    result = expected[events.decisions.targets].copy()
    shrink = SHRINKAGE * weights.mean(0).numpy() + 1e-9
    events_of = zip(events.decisions.histories, events.decisions.purchased, events.decisions.targets, strict=True)
    for row, (history, bought, target) in enumerate(events_of):
        known = place[history] >= 0
        if place[target] < 0 or not known.any():
            continue
        similar = weights[place[history[known]], place[target]].numpy()
        moved = similar @ (bought[known] - expected[history[known]])
        result[row] += moved / (similar.sum() + shrink[place[target]])
    return np.clip(result, 0.01, 0.99)


def purchase_quality(model: Rewarder, events: HeldOut, beside: Yardsticks, seed: int, measured: Measured) -> dict:
    """Metrics of P(purchase | click) on held-out clicks; AUC is null if all or none of them are purchases."""
    logits = [p.purchase.gather(1, targets[:, None])[:, 0] for _, p, targets in predictions(model, events)]
    predicted = {
        "model": torch.cat(logits).sigmoid().double().cpu().numpy(),
        "constant": np.full(len(events), beside.rates.purchase_rate),
        "item_rate": beside.rates.purchase_rates[events.decisions.targets],
        "item_item": item_item_purchases(events, beside.rates, beside.item_item),
    }
    for name, p in predicted.items():
        measured.purchases[name] = Labelled(p, events.bought, events.decisions.users, p)
    rows_of = {name: binary_quality(labelled, seed) for name, labelled in measured.purchases.items()}
    result = rows_of.pop("model")
    result["reliability"] = reliability(measured.purchases["model"])
    result["slices"] = {
        name: binary_quality(measured.purchases["model"].take(rows), seed) for name, rows in beside.slices.items()
    }
    return result | {"baselines": rows_of}


@torch.no_grad()
def exposure_quality(
    model: ClickPurchaseModel,
    data: InteractionData,
    profiles: np.ndarray,
    training: Exposures,
    test: Exposures,
    seed: int,
) -> dict:
    """P(click | shown) on held-out exposures: as logged, and the log-loss under the weights of the training.

    `position_bias` is in log-odds, beside the first position. `log_loss_weighted` estimates the log-loss under a
    policy that shows all items alike.
    """
    if not len(test):
        return {"n": 0}
    parts = np.split(np.arange(len(test)), np.arange(CHUNK, len(test), CHUNK))
    logits = torch.cat([exposure_logits(model, data, profiles, test, rows) for rows in parts])
    rate = (training.weights * training.clicked).sum() / training.weights.sum()
    shown = np.bincount(training.items, training.weights, data.num_items)
    clicked = np.bincount(training.items, training.weights * training.clicked, data.num_items)
    item = (clicked + EXPOSURE_SHRINKAGE * rate) / (shown + EXPOSURE_SHRINKAGE)
    predicted = {
        "model": logits.sigmoid().double().cpu().numpy(),
        "constant": np.full(len(test), rate),
        "item_rate": item[test.items],
    }
    rows_of = {}
    for name, p in predicted.items():
        rows_of[name] = binary_quality(Labelled(p, test.clicked, test.users, p), seed)
        losses = -np.where(test.clicked, np.log(p), np.log1p(-p))
        rows_of[name]["log_loss_weighted"] = float((test.weights * losses).sum() / test.weights.sum())
    seen = np.unique(training.positions[training.positions > 0])
    bias = model.position_bias.weight[seen, 0]
    return rows_of.pop("model") | {
        "effective_sample_size": test.effective_sample_size,
        "propensities_clipped": test.clipped,
        "position_bias": {str(k): (b - bias[0]).item() for k, b in zip(seen.tolist(), bias, strict=True)},
        "baselines": rows_of,
    }
