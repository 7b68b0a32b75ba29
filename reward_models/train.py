"""Trains the reward model on training events, calibrates it on validation, measures it on the test.

Launch: `llmrec reward CONFIG`, or `python scripts/train_reward.py CONFIG`. Nothing held out is ever trained
on;
validation chooses the epoch and the three calibration numbers, the test is only measured.
"""

import math
import time
from collections.abc import Callable
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
from torch import Tensor
from torch.nn import functional as F

from llmrec.config import RewardSection
from llmrec.data.dataset import InteractionData, load_data
from llmrec.errors import DataError, ModelError
from reward_models.click_purchase import ClickPurchaseConfig, ClickPurchaseModel
from reward_models.judge import EaseJudge, fit_judge
from reward_models.quality import (
    CHUNK,
    HeldOut,
    ItemRates,
    calibrate,
    click_quality,
    held_out,
    joint_loss,
    ndcg_and_hit,
    purchase_quality,
    ranking,
)
from reward_models.storage import fingerprint
from reward_models.windows import Batch, TrainingEvents, collate, cut_windows, training_events

FULL_SOFTMAX_ITEMS = 20_000  # a larger catalogue is trained with sampled negatives
HELD_OUT_LIMIT = 5_000  # held-out events measured; more change no digit that is reported
# Of the purchase head, as a share of the learning rate: it has one label a click and overfits first.
PURCHASE_LEARNING_RATE = 0.25
EXPOSURE_WEIGHT = 0.1  # of the exposures that were not clicked, beside the click loss

Advance = Callable[[int, int, str], None]  # (steps done, steps in all, what to show)


def click_loss(model: ClickPurchaseModel, states: Tensor, batch: Batch, negatives: Tensor | None) -> Tensor:
    """Mean cross-entropy of the next click among the items not yet had, in nats.

    Args:
        model: the reward model.
        states: states of the valid targets, [E, D].
        batch: where they come from.
        negatives: None: softmax over the whole catalogue. Item indices [S], sampled uniformly: sampled
            softmax, in which each stands for N / S items (Jean et al., ACL 2015).
    """
    rows, targets = batch.mask.nonzero()[:, 0], batch.targets[batch.mask]
    positions = batch.positions[batch.mask][:, None]
    if negatives is None:
        had = (batch.first[rows] < positions).scatter(1, targets[:, None], False)
        logits = model.click_scores(states).masked_fill(had, float("-inf"))
        return F.cross_entropy(logits, targets)
    others = model.click_scores(states, negatives) + math.log(model.config.num_items / len(negatives))
    taken = (batch.first[:, negatives][rows] < positions) | (negatives == targets[:, None])
    target = (states * model.items(targets)).sum(-1) + model.click_bias[targets]
    logits = torch.cat([target[:, None], others.masked_fill(taken, float("-inf"))], dim=1)
    return F.cross_entropy(logits, torch.zeros_like(targets))


def exposure_loss(model: ClickPurchaseModel, states: Tensor, batch: Batch) -> Tensor:
    """Pairwise logistic loss: what was taken next scores above what was shown before it and not clicked.

    The softmax already treats these items as negatives, but no more than items nobody saw; a logged exposure
    is the stronger evidence (BPR, Rendle et al., UAI 2009, with observed negatives).

    Args:
        model: the reward model.
        states: states of all targets, [B, T, D].
        batch: the batch; its `skipped` must not be empty.
    """
    row, column, item = batch.skipped.T
    state, taken = states[row, column], batch.targets[row, column]
    gap = (state * (model.items(taken) - model.items(item))).sum(-1)
    return F.softplus(-(gap + model.click_bias[taken] - model.click_bias[item])).mean()


def batch_loss(model: ClickPurchaseModel, batch: Batch, purchase_weight: float, negatives: Tensor | None) -> Tensor:
    """Click loss + `purchase_weight` x log-loss of purchases of clicked items (+ exposures), in nats."""
    states = model.states(batch.history, batch.purchased)
    valid = states[batch.mask]
    purchase = model.purchase_scores(valid, batch.targets[batch.mask])
    loss = click_loss(model, valid, batch, negatives)
    loss = loss + purchase_weight * F.binary_cross_entropy_with_logits(purchase, batch.bought[batch.mask])
    if len(batch.skipped):
        loss = loss + EXPOSURE_WEIGHT * exposure_loss(model, states, batch)
    return loss


def _learning_rate(step: int, total: int, peak: float) -> float:
    """Linear warm-up over 50 steps or a tenth of the run, then half a cosine to a twentieth."""
    warm = min(1.0, (step + 1) / min(50, max(1, total // 10)))
    return peak * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total))))


def _optimizer(model: ClickPurchaseModel, config: RewardSection) -> torch.optim.Optimizer:
    """AdamW; each group's `share` is its part of the learning rate."""
    heads, others = [], []
    for name, parameter in model.named_parameters():
        head = name.startswith("purchase_") and not name.startswith("purchase_state")
        (heads if head else others).append(parameter)
    groups = [{"params": others, "share": 1.0}, {"params": heads, "share": PURCHASE_LEARNING_RATE}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay)


def train_epochs(
    model: ClickPurchaseModel,
    events: TrainingEvents,
    valid: HeldOut,
    config: RewardSection,
    seed: int,
    progress: Advance | None,
) -> list[dict[str, float]]:
    """Trains `model` in place and leaves it at the epoch of best validation NDCG@10 by P(click).

    Returns:
        One row an epoch: `epoch, loss` (nats an event) and, every second epoch, the ranking on validation.

    Raises:
        ModelError: the loss is not finite.
    """
    rng, size = np.random.default_rng(seed), config.per_device_train_batch_size
    optimizer = _optimizer(model, config)
    sampled = events.num_items > FULL_SOFTMAX_ITEMS and config.negatives < events.num_items
    # Cuts fall elsewhere in every epoch, so the number of windows varies a little: this is an estimate.
    per_epoch = math.ceil(len(cut_windows(events.histories, model.config.window, np.random.default_rng(seed))) / size)
    total, step, curve, best, best_state = per_epoch * config.num_train_epochs, 0, [], -1.0, None
    for epoch in range(1, config.num_train_epochs + 1):
        model.train()
        pieces, losses = cut_windows(events.histories, model.config.window, rng), []
        for start in range(0, len(pieces), size):
            batch = collate(events, pieces[start : start + size], rng).to(model.device)
            negatives = None
            if sampled:
                negatives = torch.from_numpy(rng.integers(0, events.num_items, config.negatives)).to(model.device)
            for group in optimizer.param_groups:
                group["lr"] = group["share"] * _learning_rate(step, total, config.learning_rate)
            loss = batch_loss(model, batch, config.purchase_weight, negatives)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            step += 1
            if progress is not None:
                progress(
                    min(step, total),
                    total,
                    f"epoch {epoch}, loss {losses[-1]:.3f}, best NDCG@10 {max(best, 0):.4f}",
                )
        curve.append({"epoch": epoch, "loss": float(np.mean(losses))})
        if not math.isfinite(curve[-1]["loss"]):
            raise ModelError(f"The reward model's loss is {curve[-1]['loss']}: lower `reward.learning_rate`.")
        if len(valid) and (epoch % 2 == 0 or epoch == config.num_train_epochs):
            curve[-1].update(ranking(model.eval(), valid))
            if curve[-1]["click_ndcg@10"] > best:
                best, best_state = curve[-1]["click_ndcg@10"], _copy(model)
    if best_state is not None:
        model.load_state_dict(best_state)
    return curve


def _copy(model: ClickPurchaseModel) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def fit_click_purchase(
    data: InteractionData,
    config: RewardSection,
    seed: int,
    progress: Advance | None = None,
    users: np.ndarray | None = None,
) -> tuple[ClickPurchaseModel, dict[str, Any]]:
    """Fits and calibrates the click/purchase model on training events.

    Args:
        data: the prepared log; only `train_histories` of `users` are trained on.
        config: sizes and schedule.
        seed: of initialisation, windows, dropout and sampling; the global torch generator is left as it was.
        progress: called after every step, see `Advance`.
        users: user indices that may be trained on; None: all.

    Returns:
        The model in eval mode on the CPU (trained on a GPU if there is one), and its metrics as JSON values
        (see `measure`).

    Raises:
        DataError: no training events, one class only, or indices that are impossible.
        ModelError: training diverged.
    """
    started = time.monotonic()
    events = training_events(data, users)
    valid = held_out(data, "valid", HELD_OUT_LIMIT, seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ClickPurchaseModel(
            ClickPurchaseConfig(
                num_items=data.num_items,
                items_sha256=fingerprint(data.items["item_id"]),
                hidden_size=config.hidden_size,
                num_layers=config.num_layers,
                dropout=config.dropout,
            )
        ).to(device)
        curve = train_epochs(model, events, valid, config, seed, progress)
    model.eval()
    calibrate(model, valid)
    metrics = measure(model, data, events, valid, seed)
    metrics["curve"] = curve
    metrics["seconds"] = round(time.monotonic() - started, 1)
    return model.cpu(), metrics


def measure(
    model: ClickPurchaseModel, data: InteractionData, events: TrainingEvents, valid: HeldOut, seed: int
) -> dict[str, Any]:
    """Metrics of a fitted model.

    `click` and `purchase` are on held-out test events (validation if there is no test); `ranking` is on
    validation, where the epoch was chosen; `calibration` holds the three numbers fitted there.
    """
    test = held_out(data, "test", HELD_OUT_LIMIT, seed)
    measured, part = (test, "test") if len(test) else (valid, "valid")
    clicks, purchases = np.zeros(data.num_items), np.zeros(data.num_items)
    for history, bought in zip(events.histories, events.purchases, strict=True):
        np.add.at(clicks, history, 1.0)
        np.add.at(purchases, history, bought.astype(np.float64))
    rates = ItemRates(clicks, purchases)
    metrics: dict[str, Any] = {
        "training": {
            "users": len(events.histories),
            "clicks": events.num_events,
            "purchases": int(purchases.sum()),
            "exposures_not_clicked": events.num_skipped,
        },
        "calibration": {
            "click_temperature": model.click_temperature.item(),
            "purchase_scale": model.purchase_scale.item(),
            "purchase_offset": model.purchase_offset.item(),
        },
    }
    if len(valid):
        metrics["ranking"] = {"split": valid.split, "part": "valid", "n": len(valid), **ranking(model, valid)}
    if len(measured):
        where = {"split": measured.split, "part": part}
        metrics["click"] = where | click_quality(model, measured, rates, seed)
        metrics["purchase"] = where | purchase_quality(model, measured, rates)
        metrics["joint_loss"] = joint_loss(model, measured)
    return metrics


def judge_split(num_users: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Disjoint users for the reward model and for the judge: (training users, judge users), ascending."""
    order = np.random.default_rng([seed, 1]).permutation(num_users)
    count = min(num_users - 1, max(2, round(share * num_users)))
    return np.sort(order[count:]), np.sort(order[:count])


def fit_reward(
    data: InteractionData, config: RewardSection, seed: int, progress: Advance | None = None
) -> tuple[ClickPurchaseModel, EaseJudge, dict[str, Any]]:
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


def judge_quality(judge: EaseJudge, model: ClickPurchaseModel, valid: HeldOut) -> dict[str, float]:
    """How the judge ranks validation clicks, and its mean Pearson correlation with the reward model."""
    quality, agreement = [], []
    for start in range(0, len(valid), CHUNK):
        part = valid.take(np.arange(start, min(start + CHUNK, len(valid))))
        ours = judge.log_rewards(part.histories)
        theirs, had = model.log_rewards(part.histories, part.purchases), judge.features(part.histories)[1]
        quality.append(ndcg_and_hit(ours.masked_fill(had, float("-inf")), torch.from_numpy(part.targets)))
        for a, b, seen in zip(ours, theirs, had, strict=True):
            if (~seen).sum() > 2:
                agreement.append(torch.corrcoef(torch.stack([a[~seen], b[~seen]]))[0, 1].item())
    ndcg, hit = torch.cat(quality, 1).mean(1).tolist()
    return {"reward_ndcg@10": ndcg, "reward_hr@10": hit, "correlation_with_reward": float(np.mean(agreement))}


def train_reward(run: Any) -> dict[str, Any]:
    """The reward stage: reads `run.path("data")`, writes model, judge and metrics into `run.path("reward")`.

    Args:
        run: has `config`, `path(stage)` and `finish(stage, metrics)`.

    Returns:
        The metrics, as handed to `run.finish`.
    """
    data, config = load_data(run.path("data")), run.config
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
    model.save_pretrained(run.path("reward"))
    judge.save_pretrained(run.path("reward"))
    if config.reward.text is not None:
        from reward_models.text_reward import train_text_reward  # TRL takes seconds to import

        metrics["text"] = train_text_reward(run, data)
    run.finish("reward", metrics)
    return metrics
