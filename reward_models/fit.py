"""Fits the click/purchase model and the judge: training, calibration on validation, and quality on the test part."""

import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmrec.config import RewardConfig
from llmrec.data.dataset import InteractionData
from llmrec.data.ragged import Ragged
from llmrec.distributed import own_device
from llmrec.errors import DataError
from llmrec.evaluation.metrics import hit_rate, ndcg
from llmrec.recommenders.linear import LinearFit
from llmrec.timing import timed
from reward_models.click_purchase import ClickPurchaseModel
from reward_models.encoder import ClickPurchaseConfig
from reward_models.ensemble import RewardEnsemble, click_purchase_models
from reward_models.exposures import exposures_of
from reward_models.held_out import (
    HELD_OUT_LIMIT,
    HeldOut,
    best_pool,
    calibrate,
    chunks,
    held_out,
    ranking,
    ranks_of_targets,
)
from reward_models.item_rates import ItemRates
from reward_models.judge import EaseJudge, fit_judge, judge_split
from reward_models.linear import LinearNextItem
from reward_models.losses import is_sampled
from reward_models.quality import Curves, Quality, exposure_quality, measure_split
from reward_models.storage import catalogue_hash
from reward_models.train import Advance, Sources, train_epochs

LINEAR_STRENGTHS = (100.0, 300.0, 1000.0, 3000.0)  # L2 regularization of the linear model, in events
MIN_USERS = 4  # two for the reward model and two for the judge

Fitted = ClickPurchaseModel | RewardEnsemble


def fit_reward(
    data: InteractionData, config: RewardConfig, seed: int, progress: Advance | None = None
) -> tuple[Fitted, EaseJudge, Quality]:
    """Fits the click/purchase model and the judge on disjoint users.

    Args:
        data: the prepared log.
        config: sizes, schedule and the share of users for the judge.
        seed: seed of the split and of the model.
        progress: called after every training step.

    Returns:
        the model, the judge, and the quality of both.

    Raises:
        DataError, ModelError: as `fit_click_purchase` and `fit_judge`.
    """
    if data.num_users < MIN_USERS:
        raise DataError(f"A reward model and its judge need at least {MIN_USERS} users, found {data.num_users}.")
    users, judge_users = judge_split(data.num_users, config.judge_users, seed)
    model, quality = fit_click_purchase(data, config, seed, progress, users)
    with timed("judge"):
        judge = fit_judge(
            data.train_histories.select(judge_users),
            Ragged.of(data.purchases).select(judge_users),
            data.num_items,
            catalogue_hash(data.items["item_id"]),
            repeats=data.repeats,
        )
    metrics: dict[str, Any] = {"users": len(judge_users), "mix": judge.mix.tolist()}
    valid = held_out(data, "valid", HELD_OUT_LIMIT, seed)
    if len(valid):
        metrics |= judge_quality(judge, model, valid, config.conversion_weight)
    return model, judge, Quality(metrics=quality.metrics | {"judge": metrics}, curves=quality.curves)


def fit_click_purchase(
    data: InteractionData,
    config: RewardConfig,
    seed: int,
    progress: Advance | None = None,
    users: np.ndarray | None = None,
) -> tuple[Fitted, Quality]:
    """Fits and calibrates the click/purchase model, or an ensemble of `config.ensemble` of them.

    Args:
        data: the prepared log. Only training events and training exposures of `users` are trained on.
        config: sizes and schedule.
        seed: seed of initialization, windows, dropout and sampling. The members of an ensemble use the seeds after it.
        progress: called after every training step.
        users: user indices that may be trained on; None means all.

    Returns:
        the model in eval mode on the CPU (it is trained on a GPU if there is one), and its quality.

    Raises:
        DataError: there are no training events, only one class of them, or impossible indices. Also if
            `reward.linear` is set for a log without validation clicks or with exposures.
        ModelError: training diverged.
    """
    started = time.monotonic()
    sources = Sources.from_data(data, users, seed)
    if config.linear:
        _check_linear(sources)
    members = []
    curves = []
    for number in range(config.ensemble):
        member, curve = fit_member(sources, config, seed + number, progress)
        members.append(member)
        curves.append(curve)
    model: Fitted = members[0]
    linear = {}
    if len(members) > 1 or config.linear:
        model = RewardEnsemble(members, config.uncertainty_penalty).eval()
        if config.linear:
            linear = {"linear": pool_linear(model, sources)}
        calibrate(model, sources.valid)
    with timed("quality"):
        quality = measure(model, sources, seed)
    curve = curves[0] if len(curves) == 1 else curves
    seconds = round(time.monotonic() - started, 1)
    metrics = quality.metrics | linear | {"curve": curve, "seconds": seconds}
    return model.cpu(), Quality(metrics=metrics, curves=quality.curves)


def _check_linear(sources: Sources) -> None:
    if not len(sources.valid):
        raise DataError(
            "`reward.linear` needs validation clicks, on which its weight is fitted, and there are none: set it to "
            "false, or use a split that holds some out."
        )
    if len(sources.shown):
        raise DataError(
            "`reward.linear` counts clicks without propensities, so it cannot be used for this log, which has "
            "exposures: set it to false."
        )


@timed("click/purchase models")
def fit_member(
    sources: Sources, config: RewardConfig, seed: int, progress: Advance | None = None
) -> tuple[ClickPurchaseModel, list[dict[str, float]]]:
    """Fits and calibrates one model; the state of torch's global generator is restored.

    Returns:
        the model in eval mode, and its learning curve (see `train_epochs`).
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = new_model(sources, config).to(own_device())
        curve = train_epochs(model, sources, config, seed, progress)
    model.eval()
    calibrate(model, sources.valid)
    return model, curve


def new_model(sources: Sources, config: RewardConfig) -> ClickPurchaseModel:
    """An untrained model for the events of `sources`, which start its biases."""
    events = sources.events
    model = ClickPurchaseModel(
        ClickPurchaseConfig(
            num_items=events.num_items,
            items_sha256=catalogue_hash(sources.data.items["item_id"]),
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            dropout=config.dropout,
            window=config.window,
            words=events.words.shape[1],
            purchases=events.has_purchases,
            repeats=sources.data.repeats,
        )
    )
    model.item_words.copy_(torch.from_numpy(events.words))
    rates = ItemRates.from_events(events)
    model.trained.copy_(torch.from_numpy(rates.clicks > 0))
    model.trained[torch.tensor(sources.shown.items)] = True
    # Sampled items are updated rarely, so their biases start from popularity. Exposures would correct that start.
    if is_sampled(events.num_items, config) and not len(sources.shown):
        log_share = torch.from_numpy(rates.log_share)
        model.click_bias.data.copy_(log_share - log_share.min())
    if sources.shown.has_both_classes:
        rate = float(np.average(sources.shown.clicked, weights=sources.shown.weights))
        nn.init.constant_(model.exposure_level.bias, math.log(rate / (1 - rate)))
    return model


@timed("linear model and pool")
def pool_linear(model: RewardEnsemble, sources: Sources) -> dict[str, Any]:
    """Pools an ensemble with the best of several linear models of the same training events.

    Args:
        model: an ensemble without a linear model; changed in place.
        sources: training events, and the validation clicks on which the pool is fitted.

    Returns:
        `l2` of the kept model, its exponents in the pool under `powers` (`members`, `linear` and `popularity`), and
        `cross_entropy` of the pool on validation by `l2`, in nats.
    """
    fit = LinearFit(sources.events.histories, sources.events.num_items)
    candidates = (LinearNextItem.from_weights(fit.solve(l2)).to(model.device) for l2 in LINEAR_STRENGTHS)
    entropies = dict(zip(LINEAR_STRENGTHS, best_pool(model, candidates, sources.valid), strict=True))
    assert model.linear is not None
    powers = dict(zip(("members", "linear", "popularity"), model.linear.pool_weights.tolist(), strict=True))
    return {"l2": min(entropies, key=lambda l2: entropies[l2]), "powers": powers, "cross_entropy": entropies}


def measure(model: Fitted, sources: Sources, seed: int) -> Quality:
    """Measures a fitted model.

    Returns:
        metrics with these keys, and the events to draw by split:

        * `training`: counts of what it was trained on.
        * `calibration`: temperature, scale and offset that were fitted on validation.
        * `ensemble`: number of members and penalty.
        * `splits`: for every split, `click`, `purchase` and `ranking` on its test part, or on its validation part if
          there is no test part.
        * `ranking`: ranking on the validation part that chose the epoch.
        * `exposures`: quality of clicks on shown items, if the log has exposures.
    """
    metrics: dict[str, Any] = {
        "training": _training_counts(model, sources),
        "calibration": {
            "click_temperature": model.click_temperature.item(),
            "purchase_scale": model.purchase_scale.item(),
            "purchase_offset": model.purchase_offset.item(),
        },
        "ensemble": {
            "members": len(click_purchase_models(model)),
            "uncertainty_penalty": getattr(model, "penalty", 0.0),
        },
        "splits": {},
    }
    valid = sources.valid
    if len(valid):
        metrics["ranking"] = {"split": valid.split, "part": "valid", "n": len(valid), **ranking(model, valid)}
    curves: dict[str, Curves] = {}
    training = sources.events
    item_item = None
    for split in sources.data.targets:
        test = held_out(sources.data, "test", HELD_OUT_LIMIT, seed, split)
        events = test if len(test) else valid
        if len(events):
            item_item = item_item or fit_judge(
                training.histories, training.purchases, training.num_items, repeats=sources.data.repeats
            )
            of_split, curves[split] = measure_split(model, events, training, item_item, seed)
            metrics["splits"][split] = of_split | {"part": "test" if len(test) else "valid"}
    if len(sources.shown):
        member = click_purchase_models(model)[0]
        test_exposures = exposures_of(sources.data, "test")
        metrics["exposures"] = exposure_quality(
            member, sources.data, sources.profiles, sources.shown, test_exposures, seed
        )
    return Quality(metrics=metrics, curves=curves)


def _training_counts(model: Fitted, sources: Sources) -> dict[str, Any]:
    events = sources.events
    shown = sources.shown
    return {
        "users": len(events.histories),
        "clicks": events.num_events,
        "purchases": int(ItemRates.from_events(events).purchases.sum()),
        "exposures": len(shown),
        "exposures_clicked": int(shown.clicked.sum()),
        "exposures_effective": round(shown.effective_sample_size, 1),
        "propensities_clipped": shown.clipped,
        "items_never_trained_on": int((~click_purchase_models(model)[0].trained).sum()),
    }


def judge_quality(judge: EaseJudge, model: Fitted, valid: HeldOut, conversion_weight: float) -> dict[str, float]:
    """Ranking metrics of the judge on validation clicks, and its mean Pearson correlation with the reward model.

    Args:
        judge: the judge.
        model: the reward model.
        valid: validation clicks.
        conversion_weight: weight of log P(purchase | click) in both rewards.
    """
    ranks = []
    correlations = []
    for rows in chunks(len(valid)):
        part = valid.select(rows)
        histories = part.decisions.histories
        by_judge = judge.log_rewards(histories, conversion_weight)
        by_model = model.log_rewards(histories, part.decisions.purchased, part.profiles, conversion_weight)
        seen = judge.features(histories)[1]
        targets = torch.from_numpy(part.decisions.targets)
        ranks.append(ranks_of_targets(torch.where(seen, -torch.inf, by_judge), targets))
        correlations += _correlations(by_judge, by_model, ~seen)
    rank = np.concatenate(ranks)
    return {
        "reward_ndcg@10": float(ndcg(rank, 10).mean()),
        "reward_hr@10": float(hit_rate(rank, 10).mean()),
        "correlation_with_reward": float(np.mean(correlations)),
    }


def _correlations(first: Tensor, second: Tensor, unseen: Tensor) -> list[float]:
    """Pearson correlation over the unseen items of each row that has at least three."""
    found = []
    for a, b, mask in zip(first, second, unseen, strict=True):
        if mask.sum() > 2:
            found.append(torch.corrcoef(torch.stack([a[mask], b[mask]]))[0, 1].item())
    return found
