"""Trains the reward model on training events and exposures, calibrates it on validation, measures it on the test.

Launch: `llmrec reward CONFIG`, or `accelerate launch scripts/train_reward.py --config CONFIG`. Nothing held out is ever
trained on; validation chooses the epoch and the calibration numbers, the test is only measured.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import nn

from llmrec.config import RewardConfig
from llmrec.data.dataset import InteractionData, load_data
from llmrec.data.windows import cut_windows
from llmrec.distributed import is_main_process
from llmrec.errors import DataError, ModelError
from reward_models.click_purchase import ClickPurchaseConfig, ClickPurchaseModel
from reward_models.ensemble import RewardEnsemble
from reward_models.exposures import Exposures, exposure_logits, exposure_loss, exposures_of
from reward_models.features import profile_words
from reward_models.held_out import CHUNK, HELD_OUT_LIMIT, HeldOut, best_pool, calibrate, held_out, ndcg_and_hit, ranking
from reward_models.judge import EaseJudge, fit_judge
from reward_models.linear import LinearFit
from reward_models.losses import batch_loss, draw_negatives, is_sampled
from reward_models.plots import draw
from reward_models.quality import ItemRates, Measured, exposure_quality, measure_split
from reward_models.storage import fingerprint
from reward_models.training_events import TrainingEvents, collate, training_events

# Of the purchase head, as a share of the learning rate: it has one label a click and overfits first.
PURCHASE_LEARNING_RATE = 0.25
# Of the bias of a position: one number that has to go far, with all exposures to say where.
POSITION_LEARNING_RATE = 10.0
EXPOSURE_BATCH = 512  # exposures a step
LINEAR_STRENGTHS = (100.0, 300.0, 1000.0, 3000.0)  # l2 of the linear model, in events

Advance = Callable[[int, int, str], None]  # (steps done, steps in all, what to show)


def _learning_rate(step: int, total: int, peak: float) -> float:
    """Linear warm-up over 50 steps or a tenth of the run, then half a cosine to a twentieth."""
    warm = min(1.0, (step + 1) / min(50, max(1, total // 10)))
    return peak * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total))))


def _optimizer(model: ClickPurchaseModel, config: RewardConfig) -> torch.optim.Optimizer:
    """AdamW; each group's `share` is its part of the learning rate."""
    groups: dict[float, list[nn.Parameter]] = {1.0: [], PURCHASE_LEARNING_RATE: [], POSITION_LEARNING_RATE: []}
    for name, parameter in model.named_parameters():
        head = name.startswith("purchase_") and not name.startswith("purchase_state")
        share = PURCHASE_LEARNING_RATE if head else 1.0
        groups[POSITION_LEARNING_RATE if name.startswith("position_bias") else share].append(parameter)
    groups = [{"params": parameters, "share": share} for share, parameters in groups.items()]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay)


@dataclass(frozen=True)
class Sources:
    """What one model is trained and chosen on.

    Attributes:
        data: the prepared log, read only for the histories of exposures.
        events: training clicks.
        shown: training exposures, possibly none.
        profiles: profile words of all users of `data`, int64 [U, P].
        valid: held-out clicks on which the epoch is chosen.
        shown_valid: held-out exposures; if there are clicks among them, they choose the epoch instead.
    """

    data: InteractionData
    events: TrainingEvents
    shown: Exposures
    profiles: np.ndarray
    valid: HeldOut
    shown_valid: Exposures

    @classmethod
    def of(cls, data: InteractionData, users: np.ndarray | None, seed: int) -> "Sources":
        """Reads the log; raises as `training_events` and `exposures_of`."""
        return cls(
            data,
            training_events(data, users),
            exposures_of(data, "train", users),
            profile_words(data.users),
            held_out(data, "valid", HELD_OUT_LIMIT, seed),
            exposures_of(data, "valid"),
        )


def train_epochs(
    model: ClickPurchaseModel, sources: Sources, config: RewardConfig, seed: int, progress: Advance | None
) -> list[dict[str, float]]:
    """Trains `model` in place and leaves it at the epoch that is best on validation.

    Best is the highest NDCG@10 by P(click) on held-out clicks or, with exposures, their lowest weighted log-loss.

    Returns:
        One row an epoch: `epoch, loss` (nats an event) and, every second epoch, what was measured on validation.

    Raises:
        ModelError: the loss is not finite.
    """
    rng, optimizer, events = np.random.default_rng(seed), _optimizer(model, config), sources.events
    log_share = ItemRates.of(events).log_share
    # Cuts fall elsewhere in every epoch, so the number of windows varies a little: this is an estimate.
    per_epoch = len(_batches(sources, model.config.window, config, np.random.default_rng(seed)))
    total, step, curve, best, best_state = per_epoch * config.num_train_epochs, 0, [], -math.inf, None
    for epoch in range(1, config.num_train_epochs + 1):
        model.train()
        losses = []
        for pieces, shown in _batches(sources, model.config.window, config, rng):
            loss = torch.zeros((), device=model.device)
            if len(pieces):
                batch = collate(events, pieces, rng).to(model.device)
                negatives = draw_negatives(log_share, config, rng, model.device)
                loss = loss + batch_loss(model, batch, config.purchase_weight, negatives)
            if len(shown):
                logits = exposure_logits(model, sources.data, sources.profiles, sources.shown, shown)
                loss = loss + exposure_loss(logits, sources.shown, shown)
            for group in optimizer.param_groups:
                group["lr"] = group["share"] * _learning_rate(step, total, config.learning_rate)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            step += 1
            if progress is not None:
                progress(min(step, total), total, f"epoch {epoch}, loss {losses[-1]:.3f}")
        curve.append({"epoch": epoch, "loss": float(np.mean(losses))})
        if not math.isfinite(curve[-1]["loss"]):
            raise ModelError(f"The reward model's loss is {curve[-1]['loss']}: lower `reward.learning_rate`.")
        if epoch % 2 == 0 or epoch == config.num_train_epochs:
            score, measured = _selection(model.eval(), sources)
            curve[-1].update(measured)
            if score is not None and score > best:
                best, best_state = score, {k: v.detach().clone() for k, v in model.state_dict().items()}
    if best_state is not None:
        model.load_state_dict(best_state)
    return curve


def _batches(
    sources: Sources, window: int, config: RewardConfig, rng: np.random.Generator
) -> list[tuple[list[tuple[int, int, int]], np.ndarray]]:
    """One epoch: windows and exposure rows of every step; whichever is fewer is spread over the first steps."""
    size, pieces = config.per_device_train_batch_size, cut_windows(sources.events.histories, window, rng)
    shown = rng.permutation(len(sources.shown))
    steps = max(math.ceil(len(pieces) / size), math.ceil(len(shown) / EXPOSURE_BATCH))
    return [
        (pieces[n * size : (n + 1) * size], shown[n * EXPOSURE_BATCH : (n + 1) * EXPOSURE_BATCH]) for n in range(steps)
    ]


@torch.no_grad()
def _selection(model: ClickPurchaseModel, sources: Sources) -> tuple[float | None, dict[str, float]]:
    """What chooses the epoch, higher is better (None: nothing held out), and all that was measured for it."""
    measured = ranking(model, sources.valid) if len(sources.valid) else {}
    shown = sources.shown_valid
    if 0 < shown.clicked.sum() < len(shown):
        loss = 0.0
        for rows in np.split(np.arange(len(shown)), np.arange(EXPOSURE_BATCH, len(shown), EXPOSURE_BATCH)):
            logits = exposure_logits(model, sources.data, sources.profiles, shown, rows)
            loss += exposure_loss(logits, shown, rows).item() * len(rows) / len(shown)
        return -loss, measured | {"exposure_loss": loss}
    return measured.get("click_ndcg@10"), measured


def fit_member(
    sources: Sources, config: RewardConfig, seed: int, progress: Advance | None = None
) -> tuple[ClickPurchaseModel, list[dict[str, float]]]:
    """Fits and calibrates one model; the global torch generator is left as it was.

    Returns:
        The model in eval mode, and its learning curve (see `train_epochs`).
    """
    events = sources.events
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ClickPurchaseModel(
            ClickPurchaseConfig(
                num_items=events.num_items,
                items_sha256=fingerprint(sources.data.items["item_id"]),
                hidden_size=config.hidden_size,
                num_layers=config.num_layers,
                dropout=config.dropout,
                words=events.words.shape[1],
                purchases=events.has_purchases,
            )
        )
        model.item_words.copy_(torch.from_numpy(events.words))
        model.trained.zero_()
        model.trained[torch.from_numpy(np.concatenate([*events.histories, sources.shown.items]))] = True
        # A sampled item is seldom updated: popularity, once known, need not be learned. But exposures correct it.
        if is_sampled(events.num_items, config) and not len(sources.shown):
            log_share = torch.from_numpy(ItemRates.of(events).log_share)
            model.click_bias.data.copy_(log_share - log_share.min())
        if 0 < sources.shown.clicked.sum() < len(sources.shown):
            rate = float(np.average(sources.shown.clicked, weights=sources.shown.weights))
            nn.init.constant_(model.exposure_level.bias, math.log(rate / (1 - rate)))
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        curve = train_epochs(model, sources, config, seed, progress)
    model.eval()
    calibrate(model, sources.valid)
    return model, curve


def fit_click_purchase(
    data: InteractionData,
    config: RewardConfig,
    seed: int,
    progress: Advance | None = None,
    users: np.ndarray | None = None,
) -> tuple[ClickPurchaseModel | RewardEnsemble, dict[str, Any]]:
    """Fits and calibrates the click/purchase model, or `config.ensemble` of them, on training events.

    Args:
        data: the prepared log; only `train_histories` and training exposures of `users` are trained on.
        config: sizes and schedule.
        seed: of initialisation, windows, dropout and sampling; members count up from it.
        progress: called after every step, see `Advance`.
        users: user indices that may be trained on; None: all.

    Returns:
        The model in eval mode on the CPU (trained on a GPU if there is one), and its metrics as JSON values
        (see `measure`); `measured` in them holds what is drawn, and is no JSON.

    Raises:
        DataError: no training events, one class only, indices that are impossible, or a linear model without validation
            clicks to weigh it on, or with exposures.
        ModelError: training diverged.
    """
    started, sources = time.monotonic(), Sources.of(data, users, seed)
    if config.linear and not len(sources.valid):
        raise DataError(
            "`reward.linear` is weighed against the other models on validation clicks, and there are none: set it to "
            "false, or use a split that holds some out."
        )
    if config.linear and len(sources.shown):
        raise DataError(
            "`reward.linear` counts clicks and knows nothing of what was shown at which propensity, and this log has "
            "exposures: set it to false."
        )
    members, curves = [], []
    for number in range(config.ensemble):
        member, curve = fit_member(sources, config, seed + number, progress)
        members.append(member)
        curves.append(curve)
    model, linear = members[0], {}
    if len(members) > 1 or config.linear:
        model = RewardEnsemble(members, config.uncertainty_penalty).eval()
        if config.linear:
            linear = {"linear": pool_linear(model, sources)}
        calibrate(model, sources.valid)
    metrics = measure(model, sources, seed) | linear
    metrics["curve"] = curves[0] if len(curves) == 1 else curves
    metrics["seconds"] = round(time.monotonic() - started, 1)
    return model.cpu(), metrics


def pool_linear(model: RewardEnsemble, sources: Sources) -> dict[str, Any]:
    """Pools an ensemble with a linear model of the same training events.

    Returns:
        `l2` that was kept, `powers` in the pool of `members`, `linear` and `popularity`, and `cross_entropy` on
        validation of the pool by l2, nats.
    """
    fit = LinearFit(sources.events.histories, sources.events.num_items)
    candidates = (fit.solve(l2).to(model.device) for l2 in LINEAR_STRENGTHS)
    entropies = dict(zip(LINEAR_STRENGTHS, best_pool(model, candidates, sources.valid), strict=True))
    powers = dict(zip(("members", "linear", "popularity"), model.linear.powers.tolist(), strict=True))
    return {"l2": min(entropies, key=entropies.get), "powers": powers, "cross_entropy": entropies}


def measure(model: ClickPurchaseModel | RewardEnsemble, sources: Sources, seed: int) -> dict[str, Any]:
    """Metrics of a fitted model.

    `splits` holds, for every split, `click`, `purchase` and `ranking` on its test (validation if there is no test);
    `exposures`, if the log has any, the same for clicks on what was shown; `ranking` is on the validation on which
    the epoch was chosen; `calibration` holds the numbers fitted there.
    """
    events, data, shown = sources.events, sources.data, sources.shown
    metrics: dict[str, Any] = {
        "training": {
            "users": len(events.histories),
            "clicks": events.num_events,
            "purchases": int(sum(flags.sum() for flags in events.purchases)),
            "exposures": len(shown),
            "exposures_clicked": int(shown.clicked.sum()),
            "exposures_effective": round(shown.effective_sample_size, 1),
            "propensities_clipped": shown.clipped,
            "items_never_trained_on": int((~_members(model)[0].trained).sum()),
        },
        "calibration": {
            "click_temperature": model.click_temperature.item(),
            "purchase_scale": model.purchase_scale.item(),
            "purchase_offset": model.purchase_offset.item(),
        },
        "ensemble": {"members": len(_members(model)), "uncertainty_penalty": getattr(model, "penalty", 0.0)},
        "splits": {},
    }
    valid = sources.valid
    if len(valid):
        metrics["ranking"] = {"split": valid.split, "part": "valid", "n": len(valid), **ranking(model, valid)}
    measured: dict[str, Measured] = {}
    for split in data.targets:
        test = held_out(data, "test", HELD_OUT_LIMIT, seed, split)
        events_of = test if len(test) else valid
        if len(events_of):
            metrics["splits"][split], measured[split] = measure_split(model, events_of, events, seed)
            metrics["splits"][split]["part"] = "test" if len(test) else "valid"
    if len(shown):
        member = _members(model)[0]
        metrics["exposures"] = exposure_quality(member, data, sources.profiles, shown, exposures_of(data, "test"), seed)
    metrics["measured"] = measured
    return metrics


def _members(model: ClickPurchaseModel | RewardEnsemble) -> list[ClickPurchaseModel]:
    return list(model.members) if isinstance(model, RewardEnsemble) else [model]


def judge_split(num_users: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Disjoint users for the reward model and for the judge: (training users, judge users), ascending."""
    order = np.random.default_rng([seed, 1]).permutation(num_users)
    count = min(num_users - 1, max(2, round(share * num_users)))
    return np.sort(order[count:]), np.sort(order[:count])


def fit_reward(
    data: InteractionData, config: RewardConfig, seed: int, progress: Advance | None = None
) -> tuple[ClickPurchaseModel | RewardEnsemble, EaseJudge, dict[str, Any]]:
    """Fits reward model and judge on disjoint users; raises as `fit_click_purchase` and `fit_judge`."""
    if data.num_users < 4:
        raise DataError(f"A reward model and its judge need at least 4 users, found {data.num_users}.")
    users, judges = judge_split(data.num_users, config.judge_users, seed)
    model, metrics = fit_click_purchase(data, config, seed, progress, users)
    judge = fit_judge(
        [data.train_histories[u] for u in judges],
        [data.purchases[u][: data.train_lengths[u]] for u in judges],
        data.num_items,
        fingerprint(data.items["item_id"]),
    )
    metrics["judge"] = {"users": len(judges), "mix": judge.mix.tolist()}
    valid = held_out(data, "valid", HELD_OUT_LIMIT, seed)
    if len(valid):
        metrics["judge"] |= judge_quality(judge, model, valid)
    return model, judge, metrics


def judge_quality(judge: EaseJudge, model: ClickPurchaseModel | RewardEnsemble, valid: HeldOut) -> dict[str, float]:
    """How the judge ranks validation clicks, and its mean Pearson correlation with the reward model."""
    quality, agreement = [], []
    for start in range(0, len(valid), CHUNK):
        part = valid.take(np.arange(start, min(start + CHUNK, len(valid))))
        ours = judge.log_rewards(part.decisions.histories)
        theirs = model.log_rewards(part.decisions.histories, part.decisions.purchased, part.profiles)
        had = judge.features(part.decisions.histories)[1]
        quality.append(ndcg_and_hit(ours.masked_fill(had, float("-inf")), torch.from_numpy(part.decisions.targets)))
        for a, b, seen in zip(ours, theirs, had, strict=True):
            if (~seen).sum() > 2:
                agreement.append(torch.corrcoef(torch.stack([a[~seen], b[~seen]]))[0, 1].item())
    ndcg, hit = torch.cat(quality, 1).mean(1).tolist()
    return {"reward_ndcg@10": ndcg, "reward_hr@10": hit, "correlation_with_reward": float(np.mean(agreement))}


def train_reward(run: Any) -> dict[str, Any]:
    """The reward stage: reads `run.path("data")`, writes model, judge and metrics into `run.path("reward")`.

    Of several processes the first alone fits the click/purchase model, which is small; all train the text model.

    Args:
        run: has `config`, `path(stage)` and `finish(stage, metrics)`.

    Returns:
        The metrics, as handed to `run.finish`.
    """
    data = load_data(run.path("data"))
    text = {}
    if run.config.reward.text is not None:
        from reward_models.text.model import train_text_reward  # TRL takes seconds to import

        # First: the processes that wait in its collectives must not wait for the other model as well.
        text = {"text": train_text_reward(run, data)}
    metrics = (_train_click_purchase(run, data) if is_main_process() else {}) | text
    run.finish("reward", metrics)
    return metrics


def _train_click_purchase(run: Any, data: InteractionData) -> dict[str, Any]:
    config = run.config
    columns = (
        TextColumn("[bold]reward[/]"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns) as bar:
        task = bar.add_task("", total=None)
        model, judge, metrics = fit_reward(
            data,
            config.reward,
            config.seed,
            lambda step, total, text: bar.update(task, completed=step, total=total, description=text),
        )
    draw(metrics.pop("measured"), run.path("reward"))
    model.save_pretrained(run.path("reward"))
    judge.save_pretrained(run.path("reward"))
    return metrics
