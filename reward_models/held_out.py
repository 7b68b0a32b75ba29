"""Held-out events: what a model predicts for them, how well it ranks them, and its calibration on them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmrec.data.dataset import InteractionData, Targets
from llmrec.data.decision import Decisions
from llmrec.errors import ModelError
from llmrec.evaluation.metrics import hit_rate, ndcg, rank_of_target
from llmrec.recommenders.pool import fit_pool_weights
from reward_models.calibration import fit_platt, fit_temperature
from reward_models.ensemble import RewardEnsemble
from reward_models.features import profile_words
from reward_models.linear import LinearNextItem
from reward_models.reward_model import Prediction, RewardModel

CHUNK = 128  # events that are scored at once
HELD_OUT_LIMIT = 5_000  # largest number of measured events; more would change no reported digit
CALIBRATION_SCORES = 50_000_000  # largest number of scores (events x items) that the calibration is fitted on


@dataclass(frozen=True)
class HeldOut:
    """M held-out events to predict.

    Attributes:
        decisions: what was known before each event, and the clicked item as target.
        profiles: profile words of the users, int64 [M, P].
        purchased: whether the target was purchased, bool [M].
        split: name of the split that they come from, or "" if there are none.
    """

    decisions: Decisions
    profiles: np.ndarray
    purchased: np.ndarray
    split: str

    def __len__(self) -> int:
        return len(self.decisions)

    def select(self, rows: np.ndarray) -> "HeldOut":
        """The events of some rows."""
        return HeldOut(
            decisions=self.decisions.select(rows),
            profiles=self.profiles[rows],
            purchased=self.purchased[rows],
            split=self.split,
        )


def held_out(data: InteractionData, part: str, limit: int, seed: int, split: str | None = None) -> HeldOut:
    """Reads the held-out events of a part.

    Args:
        data: the prepared log.
        part: `valid` or `test`.
        limit: largest number of events. If there are more, a seeded random sample is taken.
        seed: seed of that sample.
        split: name of the split. None takes leave-one-out if there is such a split, else the first; and for
            validation, the targets of `InteractionData.selection_targets`.
    """
    names = [name for name, parts in data.targets.items() if len(parts.get(part, ()))]
    names.sort(key=lambda name: name != "leave_one_out")
    if split not in (None, *names) or not names:
        return _nothing(data)
    is_selection = split is None and part == "valid"
    targets = data.selection_targets() if is_selection else data.targets[split or names[0]][part]
    rows = np.arange(len(targets))
    if len(rows) > limit:
        rows = np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
    targets = Targets(targets.users[rows], targets.positions[rows])
    pairs = zip(targets.users.tolist(), targets.positions.tolist(), strict=True)
    return HeldOut(
        decisions=Decisions.from_targets(data, targets),
        profiles=profile_words(data.users)[targets.users],
        purchased=np.array([data.purchases[user][position] for user, position in pairs], dtype=bool),
        split=split or names[0],
    )


def _nothing(data: InteractionData) -> HeldOut:
    no_targets = Targets(np.zeros(0, np.int64), np.zeros(0, np.int64))
    return HeldOut(
        decisions=Decisions.from_targets(data, no_targets),
        profiles=np.zeros((0, 1), np.int64),
        purchased=np.zeros(0, bool),
        split="",
    )


def chunks(count: int, size: int = CHUNK) -> list[np.ndarray]:
    """Row numbers 0 to `count` - 1, at most `size` at a time."""
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]


@torch.no_grad()
def predictions(model: RewardModel, events: HeldOut) -> Iterator[tuple[slice, Prediction, Tensor]]:
    """Predictions for m events at a time.

    Yields:
        rows of the events, scores of all items [m, N], and targets [m].
    """
    for start in range(0, len(events), CHUNK):
        rows = slice(start, start + CHUNK)
        part = events.decisions[rows]
        targets = torch.from_numpy(part.targets).to(model.device)
        yield rows, model.predict(part.histories, part.purchased, events.profiles[rows]), targets


def ranks_of_targets(scores: Tensor, targets: Tensor) -> np.ndarray:
    """Rank of each target among all items, from 1, float64 [m]; a tie counts as half a rank lost."""
    return np.asarray(rank_of_target(scores, targets).cpu(), dtype=np.float64)


def ranking(model: RewardModel, events: HeldOut) -> dict[str, float]:
    """NDCG@10 and HR@10 over all unseen items of the catalogue, ranked by P(click) and by the reward."""
    by_click = [np.zeros(0)]
    by_reward = [np.zeros(0)]
    for _, prediction, targets in predictions(model, events):
        by_click.append(ranks_of_targets(prediction.log_click, targets))
        by_reward.append(ranks_of_targets(prediction.rewards(), targets))
    click = np.concatenate(by_click)
    reward = np.concatenate(by_reward)
    return {
        "click_ndcg@10": float(ndcg(click, 10).mean()),
        "click_hr@10": float(hit_rate(click, 10).mean()),
        "reward_ndcg@10": float(ndcg(reward, 10).mean()),
        "reward_hr@10": float(hit_rate(reward, 10).mean()),
    }


@torch.no_grad()
def best_pool(model: RewardEnsemble, candidates: Iterable[LinearNextItem], events: HeldOut) -> list[float]:
    """Adds to an ensemble the linear model that pools best with it, with pool weights of maximum likelihood.

    Args:
        model: an ensemble without a linear model; changed in place.
        candidates: linear models of different regularization.
        events: validation clicks.

    Returns:
        cross-entropy of the pool with each candidate, in nats an event. The candidate with the lowest is kept.
    """
    events = _sample(events, CALIBRATION_SCORES // (3 * model.num_items))
    members = torch.cat([prediction.log_click for _, prediction, _ in predictions(model, events)])
    impossible = members.isneginf()
    targets = torch.from_numpy(events.decisions.targets).to(model.device)
    entropies: list[float] = []
    best = None
    for candidate in candidates:
        model.linear = candidate
        histories = [events.decisions.histories[rows[0] : rows[-1] + 1] for rows in chunks(len(events))]
        linear_scores = torch.cat([model.linear_scores(part) for part in histories])
        scores = torch.stack([members, linear_scores, candidate.share.log().expand_as(linear_scores)])
        with torch.enable_grad():
            weights, entropy = fit_pool_weights(scores, impossible, targets)
        candidate.pool_weights.copy_(weights)
        if entropy < min(entropies, default=np.inf):
            best = candidate
        entropies.append(entropy)
    model.linear = best
    return entropies


def _sample(events: HeldOut, count: int) -> HeldOut:
    """A seeded sample of at most `count` events, at least one, in order."""
    return events.select(np.sort(np.random.default_rng(0).permutation(len(events))[: max(1, count)]))


@torch.no_grad()
def calibrate(model: RewardModel, events: HeldOut) -> None:
    """Fits the click temperature and the purchase scale and offset of a model by maximum likelihood on `events`.

    Raises:
        ModelError: the model gives all items of every event the same score, so there is nothing to calibrate.
    """
    if not len(events):
        return
    events = _sample(events, CALIBRATION_SCORES // model.num_items)
    model.set_calibration()
    clicks = []
    purchase_logits = []
    for _, prediction, targets in predictions(model, events):
        clicks.append(prediction.log_click)
        purchase_logits.append(prediction.purchase.gather(1, targets[:, None])[:, 0])
    log_click = torch.cat(clicks)
    highest = log_click.amax(1)
    lowest = torch.where(log_click.isneginf(), torch.inf, log_click).amin(1)
    if bool((highest == lowest).all()):
        raise ModelError(
            f"The reward model gives all items the same score for each of {len(events)} validation clicks: it has "
            "learned nothing. Train it longer (`reward.num_train_epochs`) or with another `reward.learning_rate`."
        )
    targets = torch.from_numpy(events.decisions.targets).to(model.device)
    purchased = torch.from_numpy(events.purchased).to(model.device)
    with torch.enable_grad():
        temperature = fit_temperature(log_click, targets)
        scale, offset = fit_platt(torch.cat(purchase_logits), purchased)
    model.set_calibration(temperature, scale, offset)
