"""Held-out events, what a model says of them, and the few numbers that are fitted on them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmrec.data.dataset import InteractionData, Targets
from llmrec.data.decision import Decisions
from llmrec.errors import ModelError
from reward_models.calibration import fit_platt, fit_powers, fit_temperature
from reward_models.ensemble import RewardEnsemble
from reward_models.features import profile_words
from reward_models.linear import LinearNextItem
from reward_models.reward_model import Prediction, Rewarder

CHUNK = 128  # events scored at once
HELD_OUT_LIMIT = 5_000  # held-out events measured; more change no digit that is reported
CALIBRATION_SCORES = 50_000_000  # events x items that the temperature is fitted on at most


@dataclass(frozen=True)
class HeldOut:
    """M held-out events to predict.

    Attributes:
        decisions: what was known before each event, and the item clicked.
        profiles: profile words of the users, int64 [M, P].
        bought: whether it was purchased, bool [M].
        split: the split that they come from, or "" if there are none.
    """

    decisions: Decisions
    profiles: np.ndarray
    bought: np.ndarray
    split: str

    def __len__(self) -> int:
        return len(self.decisions)

    def take(self, rows: np.ndarray) -> "HeldOut":
        """The events of some rows."""
        return HeldOut(self.decisions.select(rows), self.profiles[rows], self.bought[rows], self.split)


def held_out(data: InteractionData, part: str, limit: int, seed: int, split: str | None = None) -> HeldOut:
    """Held-out events of a part.

    Args:
        data: the prepared log.
        part: `valid` or `test`.
        limit: seeded random sample of at most so many.
        seed: of that sample.
        split: which; None: leave-one-out if there is such a split, else the first, and for validation
            without what the temporal split tests on (`InteractionData.selection_targets`).
    """
    names = [name for name, parts in data.targets.items() if len(parts.get(part, ()))]
    names.sort(key=lambda name: name != "leave_one_out")
    if split not in (None, *names) or not names:
        nothing = Decisions.from_targets(data, Targets(np.zeros(0, np.int64), np.zeros(0, np.int64)))
        return HeldOut(nothing, np.zeros((0, 1), np.int64), np.zeros(0, bool), "")
    choosing = split is None and part == "valid"
    split = split or names[0]
    targets = data.selection_targets() if choosing else data.targets[split][part]
    rows = np.arange(len(targets))
    if len(rows) > limit:
        rows = np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
    targets = Targets(targets.users[rows], targets.positions[rows])
    pairs = zip(targets.users.tolist(), targets.positions.tolist(), strict=True)
    return HeldOut(
        decisions=Decisions.from_targets(data, targets),
        profiles=profile_words(data.users)[targets.users],
        bought=np.array([data.purchases[user][position] for user, position in pairs], dtype=bool),
        split=split,
    )


@torch.no_grad()
def predictions(model: Rewarder, events: HeldOut) -> Iterator[tuple[slice, Prediction, Tensor]]:
    """Chunks of m events: rows, scores [m, N] of all items, targets [m]."""
    for start in range(0, len(events), CHUNK):
        rows = slice(start, start + CHUNK)
        part = events.decisions[rows]
        targets = torch.from_numpy(part.targets).to(model.device)
        yield rows, model.predict(part.histories, part.purchased, events.profiles[rows]), targets


def ndcg_and_hit(scores: Tensor, targets: Tensor, k: int = 10) -> Tensor:
    """NDCG@k and HR@k [2, m] of one target a row; a tie counts as half a place lost."""
    target = scores.gather(1, targets[:, None])
    rank = (scores > target).sum(1) + ((scores == target).sum(1) + 1) / 2
    hit = (rank <= k).double()
    return torch.stack([hit / torch.log2(1 + rank), hit])


def ranking(model: Rewarder, events: HeldOut) -> dict[str, float]:
    """NDCG@10 and HR@10 over the whole catalogue, items had excluded: by P(click), and by the reward."""
    click, reward = [], []
    for _, prediction, targets in predictions(model, events):
        click.append(ndcg_and_hit(prediction.log_click, targets))
        reward.append(ndcg_and_hit(prediction.rewards(), targets))
    names = ("click_ndcg@10", "click_hr@10", "reward_ndcg@10", "reward_hr@10")
    means = torch.cat([torch.cat(click, 1).mean(1), torch.cat(reward, 1).mean(1)])
    return dict(zip(names, means.tolist(), strict=True))


@torch.no_grad()
def best_pool(model: RewardEnsemble, candidates: Iterable[LinearNextItem], events: HeldOut) -> list[float]:
    """Gives an ensemble the linear model that pools best with it, its powers of maximum likelihood on `events`.

    Args:
        model: without a linear model.
        candidates: linear models of different regularisation.
        events: validation clicks.

    Returns:
        cross-entropy of the pool with each candidate, nats an event; the lowest was kept.
    """
    events = _at_most(events, CALIBRATION_SCORES // (3 * model.config.num_items))
    members = torch.cat([prediction.log_click for _, prediction, _ in predictions(model, events)])
    impossible, targets = members.isneginf(), torch.from_numpy(events.decisions.targets).to(model.device)
    entropies: list[float] = []
    best = None
    for candidate in candidates:
        model.linear = candidate
        parts = range(0, len(events), CHUNK)
        votes = torch.cat([model.votes(events.decisions.histories[start : start + CHUNK]) for start in parts])
        scores = torch.stack([members, votes, candidate.share.log().expand_as(votes)])
        with torch.enable_grad():
            powers, entropy = fit_powers(scores, impossible, targets)
        candidate.powers.copy_(powers)
        if entropy < min(entropies, default=np.inf):
            best = candidate
        entropies.append(entropy)
    model.linear = best
    return entropies


def _at_most(events: HeldOut, count: int) -> HeldOut:
    """A seeded sample of `count` events, one at least, in order."""
    return events.take(np.sort(np.random.default_rng(0).permutation(len(events))[: max(1, count)]))


@torch.no_grad()
def calibrate(model: Rewarder, events: HeldOut) -> None:
    """Sets the model's click temperature and purchase scale and offset by maximum likelihood on `events`.

    Raises:
        ModelError: the model gives all items of every event the same score: it has learned nothing to calibrate.
    """
    if not len(events):
        return
    events = _at_most(events, CALIBRATION_SCORES // model.config.num_items)
    model.click_temperature.fill_(1.0)
    model.purchase_scale.fill_(1.0)
    model.purchase_offset.fill_(0.0)
    clicks, purchase = [], []
    for _, prediction, targets in predictions(model, events):
        clicks.append(prediction.log_click)
        purchase.append(prediction.purchase.gather(1, targets[:, None])[:, 0])
    log_click = torch.cat(clicks)
    best, worst = log_click.amax(1), log_click.masked_fill(log_click.isneginf(), torch.inf).amin(1)
    if bool((best == worst).all()):
        raise ModelError(
            f"The reward model gives all items the same score for each of {len(events)} validation clicks: it has "
            "learned nothing. Train it longer (`reward.num_train_epochs`) or with another `reward.learning_rate`."
        )
    targets, bought = torch.from_numpy(events.decisions.targets), torch.from_numpy(events.bought)
    with torch.enable_grad():
        temperature = fit_temperature(log_click, targets.to(model.device))
        scale, offset = fit_platt(torch.cat(purchase), bought.to(model.device))
    model.click_temperature.fill_(temperature)
    model.purchase_scale.fill_(scale)
    model.purchase_offset.fill_(offset)
