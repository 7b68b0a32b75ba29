"""How good a reward model is on held-out events: ranking, discrimination, calibration, and baselines."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from llmrec.data.dataset import InteractionData
from reward_models.calibration import auc, calibration_error, fit_platt, fit_temperature, log_loss
from reward_models.click_purchase import ClickPurchaseModel

CHUNK = 128  # targets scored at once
SAMPLED_NEGATIVES = 20  # a target, for AUC only: no ranking metric is sampled


@dataclass(frozen=True)
class HeldOut:
    """M held-out events to predict.

    Attributes:
        histories: what the user had before, item indices.
        purchases: its purchase flags.
        targets: the item clicked next, int64 [M].
        bought: whether it was purchased, bool [M].
        split: the split that they come from, or "" if there are none.
    """

    histories: list[np.ndarray]
    purchases: list[np.ndarray]
    targets: np.ndarray
    bought: np.ndarray
    split: str

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: np.ndarray) -> "HeldOut":
        """The events of some rows."""
        histories, purchases = ([values[i] for i in rows] for values in (self.histories, self.purchases))
        return HeldOut(histories, purchases, self.targets[rows], self.bought[rows], self.split)


def held_out(data: InteractionData, part: str, limit: int, seed: int) -> HeldOut:
    """Held-out events of a part: leave-one-out's if there is such a split, else the temporal one's; for validation
    without what the temporal split tests on (`InteractionData.selection_targets`).

    Args:
        data: the prepared log.
        part: `valid` or `test`.
        limit: seeded random sample of at most so many.
        seed: of that sample.
    """
    splits = [name for name in ("leave_one_out", "temporal") if len(data.targets.get(name, {}).get(part, ()))]
    if not splits:
        return HeldOut([], [], np.zeros(0, np.int64), np.zeros(0, bool), "")
    split = splits[0]
    targets = data.selection_targets() if part == "valid" else data.targets[split][part]
    rows = np.arange(len(targets))
    if len(rows) > limit:
        rows = np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
    pairs = [(int(targets.users[i]), int(targets.positions[i])) for i in rows]
    return HeldOut(
        [data.histories[user][:position] for user, position in pairs],
        [data.purchases[user][:position] for user, position in pairs],
        np.array([data.histories[user][position] for user, position in pairs], dtype=np.int64),
        np.array([data.purchases[user][position] for user, position in pairs], dtype=bool),
        split,
    )


@torch.no_grad()
def _scored(model: ClickPurchaseModel, events: HeldOut) -> Iterator[tuple[slice, Tensor, Tensor, Tensor, Tensor]]:
    """Chunks of m events: rows, states [m, D], click logits [m, N] (-inf: had), had, targets [m]."""
    for start in range(0, len(events), CHUNK):
        rows = slice(start, start + CHUNK)
        states, had = model.last_states(events.histories[rows], events.purchases[rows])
        targets = torch.from_numpy(events.targets[rows]).to(states.device)
        logits = model.click_scores(states).masked_fill(had, float("-inf")) / model.click_temperature
        yield rows, states, logits, had, targets


def ndcg_and_hit(scores: Tensor, targets: Tensor, k: int = 10) -> Tensor:
    """NDCG@k and HR@k [2, m] of one target a row; a tie counts as half a place lost."""
    target = scores.gather(1, targets[:, None])
    rank = (scores > target).sum(1) + ((scores == target).sum(1) + 1) / 2
    hit = (rank <= k).double()
    return torch.stack([hit / torch.log2(1 + rank), hit])


def ranking(model: ClickPurchaseModel, events: HeldOut) -> dict[str, float]:
    """NDCG@10 and HR@10 over the whole catalogue, items had excluded: by P(click), and by the reward."""
    click, reward = [], []
    for _, states, logits, had, targets in _scored(model, events):
        click.append(ndcg_and_hit(logits, targets))
        reward.append(ndcg_and_hit(model.rewards_of_states(states, had), targets))
    names = ("click_ndcg@10", "click_hr@10", "reward_ndcg@10", "reward_hr@10")
    means = torch.cat([torch.cat(click, 1).mean(1), torch.cat(reward, 1).mean(1)])
    return dict(zip(names, means.tolist(), strict=True))


@torch.no_grad()
def calibrate(model: ClickPurchaseModel, events: HeldOut) -> None:
    """Sets the model's click temperature and purchase scale and offset by maximum likelihood on `events`."""
    if not len(events):
        return
    logits, purchase = [], []
    model.click_temperature.fill_(1.0)
    for _, states, click, _, targets in _scored(model, events):
        logits.append(click)
        purchase.append(model.purchase_scores(states, targets))
    targets, bought = torch.from_numpy(events.targets), torch.from_numpy(events.bought)
    device = model.device
    with torch.enable_grad():
        temperature = fit_temperature(torch.cat(logits), targets.to(device))
        scale, offset = fit_platt(torch.cat(purchase), bought.to(device))
    model.click_temperature.fill_(temperature)
    model.purchase_scale.fill_(scale)
    model.purchase_offset.fill_(offset)


@dataclass
class ItemRates:
    """What is known without a model: clicks [N] and purchases [N] of each item in training."""

    clicks: np.ndarray
    purchases: np.ndarray

    @property
    def click_share(self) -> np.ndarray:
        """Share of clicks of each item, one click added, float [N]."""
        return (self.clicks + 1) / (self.clicks.sum() + len(self.clicks))

    @property
    def purchase_rate(self) -> float:
        """Purchases a click."""
        return float(self.purchases.sum() / self.clicks.sum())

    @property
    def purchase_rates(self) -> np.ndarray:
        """Purchases a click of each item, ten average clicks added, float [N]."""
        return (self.purchases + 10 * self.purchase_rate) / (self.clicks + 10)


def click_quality(model: ClickPurchaseModel, events: HeldOut, rates: ItemRates, seed: int) -> dict:
    """Click metrics on held-out clicks; `loss` is in nats a click, among the items not had."""
    rng = np.random.default_rng(seed)
    share = torch.from_numpy(rates.click_share).to(model.device)
    labels, scores, popularity = [], {"uniform": [], "popularity": []}, {"uniform": [], "popularity": []}
    losses, calibration = [], []
    for _, _, logits, had, targets in _scored(model, events):
        log_p = logits.log_softmax(-1)
        prior = share.expand_as(had).masked_fill(had, 0)
        prior = prior / prior.sum(-1, keepdim=True)
        losses.append(_losses(log_p, prior, had, targets))
        labels.append(np.arange(1 + SAMPLED_NEGATIVES) == np.zeros((len(targets), 1)))
        for kind, weights in (("uniform", (~had).double()), ("popularity", prior)):
            items = torch.cat([targets[:, None], _sample(weights, targets, rng)], 1)
            # AUC pools rows, so a score must mean the same in every row: the log-probability does.
            scores[kind].append(log_p.gather(1, items).cpu().numpy())
            popularity[kind].append(share[items].cpu().numpy())
        calibration.append(_probability_bins(log_p, targets))
    label = np.concatenate(labels).ravel()
    model_loss, uniform_loss, popularity_loss = torch.cat(losses, 1).mean(1).tolist()
    result = {"n": len(events), "loss": model_loss, "ece": _ece(calibration)}
    for kind in scores:
        result[f"auc_{kind}_negatives"] = auc(np.concatenate(scores[kind]).ravel(), label)
    baseline = {"loss": popularity_loss}
    for kind in popularity:
        baseline[f"auc_{kind}_negatives"] = auc(np.concatenate(popularity[kind]).ravel(), label)
    result["baselines"] = {"uniform": {"loss": uniform_loss}, "item_popularity": baseline}
    return result


def _losses(log_p: Tensor, prior: Tensor, had: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy [3, m] in nats of model, uniform choice and popularity, all among items not had."""
    model = -log_p.gather(1, targets[:, None])[:, 0].double()
    uniform = (~had).sum(-1).double().log()
    return torch.stack([model, uniform, -prior.gather(1, targets[:, None])[:, 0].double().log()])


def _sample(weights: Tensor, targets: Tensor, rng: np.random.Generator) -> Tensor:
    """Items [m, SAMPLED_NEGATIVES], with replacement, probability ~ weights [m, N], never the target."""
    cumulative = weights.scatter(1, targets[:, None], 0.0).cumsum(-1)
    draws = torch.from_numpy(rng.random((len(targets), SAMPLED_NEGATIVES))).to(weights.device)
    draws = draws * cumulative[:, -1:]
    return torch.searchsorted(cumulative, draws, right=True).clamp(max=weights.shape[1] - 1)


def _probability_bins(log_p: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Items of at least a thousandth of a uniform share: probabilities, and whether clicked."""
    p = log_p.exp()
    clicked = torch.zeros_like(p, dtype=torch.bool).scatter(1, targets[:, None], True)
    keep = (p > 1e-3 / p.shape[1]) | clicked
    return p[keep].cpu().numpy(), clicked[keep].cpu().numpy()


def _ece(parts: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Calibration error of P(click) over all (event, item) pairs, in bins of equal predicted clicks."""
    probabilities, clicked = (np.concatenate(values) for values in zip(*parts, strict=True))
    return calibration_error(probabilities, clicked, by="probability")


@torch.no_grad()
def purchase_quality(model: ClickPurchaseModel, events: HeldOut, rates: ItemRates) -> dict:
    """Metrics of P(purchase | click) on held-out clicks; AUC is null if all or none of them are purchases."""
    logits = [model.calibrated_purchase(states, targets) for _, states, _, _, targets in _scored(model, events)]
    predictions = {
        "model": torch.cat(logits).sigmoid().double().cpu().numpy(),
        "constant_rate": np.full(len(events), rates.purchase_rate),
        "item_rate": rates.purchase_rates[events.targets],
    }
    both = 0 < events.bought.sum() < len(events)
    rows = {
        name: {
            "auc": auc(p, events.bought) if both else None,
            "loss": log_loss(p, events.bought),
            "ece": calibration_error(p, events.bought),
        }
        for name, p in predictions.items()
    }
    model_row = rows.pop("model")
    return {"n": len(events), "purchases": int(events.bought.sum()), **model_row, "baselines": rows}


def joint_loss(model: ClickPurchaseModel, events: HeldOut) -> float:
    """Entire-space log-loss in nats an event: of the click, and of whether it became a purchase."""
    total = 0.0
    with torch.no_grad():
        for rows, states, logits, _, targets in _scored(model, events):
            bought = torch.from_numpy(events.bought[rows]).float().to(states.device)
            total += F.cross_entropy(logits, targets, reduction="sum").item()
            purchase = model.calibrated_purchase(states, targets)
            total += F.binary_cross_entropy_with_logits(purchase, bought, reduction="sum").item()
    return total / len(events)
