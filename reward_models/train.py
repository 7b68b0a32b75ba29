"""The training loop of the click/purchase model: `train_epochs`.

Each step predicts the clicks and purchases of some windows of training histories and, on logs with exposures, the
clicks on some training exposures. Validation chooses the epoch that is kept. Held-out events are never trained on.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from llmrec.config import RewardConfig
from llmrec.data.dataset import InteractionData
from llmrec.data.windows import cut_windows
from llmrec.errors import ModelError
from llmrec.recommenders.schedule import warmup_cosine
from reward_models.click_purchase import ClickPurchaseModel
from reward_models.exposures import Exposures, exposure_logits, exposure_loss, exposures_of
from reward_models.features import profile_words
from reward_models.held_out import HELD_OUT_LIMIT, HeldOut, chunks, held_out, ranking
from reward_models.item_rates import ItemRates
from reward_models.losses import batch_loss, draw_negatives
from reward_models.training_events import TrainingEvents, collate, training_events

# Learning-rate multiplier for the purchase head, which has one label a click and overfits first.
PURCHASE_LEARNING_RATE = 0.25
# Learning-rate multiplier for position biases: few parameters with a large range and plenty of data.
POSITION_LEARNING_RATE = 10.0
WARMUP_STEPS = 50  # at most; a short run warms up over a tenth of its steps
EXPOSURE_BATCH = 512  # exposures in one step
EVALUATE_EVERY = 2  # epochs

Advance = Callable[[int, int, str], None]  # (steps done, total steps, description)


@dataclass(frozen=True)
class Sources:
    """The events that a model is trained and chosen on.

    Attributes:
        data: the prepared log, of which only the histories before exposures are read.
        events: training clicks.
        shown: training exposures, possibly none.
        profiles: profile words of all users of `data`, int64 [U, P].
        valid: held-out clicks, which choose the epoch.
        shown_valid: held-out exposures. If both clicked and not clicked ones exist, they choose the epoch instead.
    """

    data: InteractionData
    events: TrainingEvents
    shown: Exposures
    profiles: np.ndarray
    valid: HeldOut
    shown_valid: Exposures

    @classmethod
    def from_data(cls, data: InteractionData, users: np.ndarray | None, seed: int) -> "Sources":
        """Reads the log; `users` may be trained on (None: all).

        Raises:
            DataError: as `training_events` and `exposures_of`.
        """
        return cls(
            data=data,
            events=training_events(data, users),
            shown=exposures_of(data, "train", users),
            profiles=profile_words(data.users),
            valid=held_out(data, "valid", HELD_OUT_LIMIT, seed),
            shown_valid=exposures_of(data, "valid"),
        )


class Step(NamedTuple):
    """What one step trains on.

    Attributes:
        pieces: user, start and end of windows of training histories, int32 [B, 3], possibly none.
        shown: row numbers of training exposures, possibly none.
    """

    pieces: np.ndarray
    shown: np.ndarray


@dataclass
class BestState:
    """The weights of the epoch with the highest validation score.

    Attributes:
        score: its validation score.
        state: its weights, None before the first evaluation.
    """

    score: float = -math.inf
    state: dict[str, Tensor] | None = field(default=None, repr=False)

    def update(self, score: float | None, model: nn.Module) -> None:
        """Keeps the weights of `model` if `score` is a new maximum. None means that there is no validation."""
        if score is not None and score > self.score:
            self.score = score
            self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def restore(self, model: nn.Module) -> None:
        """Gives `model` the kept weights, if there are any."""
        if self.state is not None:
            model.load_state_dict(self.state)


def train_epochs(
    model: ClickPurchaseModel, sources: Sources, config: RewardConfig, seed: int, progress: Advance | None
) -> list[dict[str, float]]:
    """Trains `model` in place and leaves it at the epoch with the best validation score (see `validate`).

    Args:
        model: the model.
        sources: training and validation events.
        config: sizes and schedule.
        seed: seed of windows, hidden features and negatives.
        progress: called after every step.

    Returns:
        a row an epoch: `epoch`, `loss` (nats an event) and, for evaluated epochs, the validation metrics.

    Raises:
        ModelError: the loss is not finite.
    """
    rng = np.random.default_rng(seed)
    log_share = ItemRates.from_events(sources.events).log_share
    total = sum(1 for _ in epoch_steps(sources, model.config.window, config, np.random.default_rng(seed)))
    total *= config.num_train_epochs  # an estimate, because the cuts and so the number of windows differ in every epoch
    optimizer, schedule = _optimizer(model, config, total)
    best = BestState()
    curve: list[dict[str, float]] = []
    done = 0
    for epoch in range(1, config.num_train_epochs + 1):
        model.train()
        losses = []
        for step in epoch_steps(sources, model.config.window, config, rng):
            loss = step_loss(model, sources, step, config, log_share, rng)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            done += 1
            if progress is not None:
                progress(min(done, total), total, f"epoch {epoch}, loss {losses[-1]:.3f}")
        curve.append({"epoch": epoch, "loss": float(np.mean(losses))})
        if not math.isfinite(curve[-1]["loss"]):
            raise ModelError(f"The reward model's loss is {curve[-1]['loss']}: lower `reward.learning_rate`.")
        if epoch % EVALUATE_EVERY == 0 or epoch == config.num_train_epochs:
            score, metrics = validate(model.eval(), sources)
            curve[-1].update(metrics)
            best.update(score, model)
    best.restore(model)
    return curve


def _optimizer(
    model: ClickPurchaseModel, config: RewardConfig, total_steps: int
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """AdamW with warm-up and cosine decay, and multiplied learning rates for purchase head and position biases."""
    groups: dict[float, list[nn.Parameter]] = {1.0: [], PURCHASE_LEARNING_RATE: [], POSITION_LEARNING_RATE: []}
    for name, parameter in model.named_parameters():
        multiplier = 1.0
        if name.startswith("purchase_") and not name.startswith("purchase_state"):
            multiplier = PURCHASE_LEARNING_RATE
        if name.startswith("position_bias"):
            multiplier = POSITION_LEARNING_RATE
        groups[multiplier].append(parameter)
    # `lr` holds the multipliers, because the schedule gives absolute learning rates.
    optimizer = torch.optim.AdamW(
        [{"params": parameters, "lr": multiplier} for multiplier, parameters in groups.items()],
        betas=(0.9, 0.98),
        weight_decay=config.weight_decay,
    )
    warmup_steps = min(WARMUP_STEPS, max(1, total_steps // 10))

    def learning_rate(step: int) -> float:
        return warmup_cosine(min(step, total_steps), total_steps, warmup_steps, peak=config.learning_rate)

    return optimizer, LambdaLR(optimizer, learning_rate)


def epoch_steps(sources: Sources, window: int, config: RewardConfig, rng: np.random.Generator) -> Iterator[Step]:
    """The steps of one epoch; if windows or exposures run out earlier, the last steps are without them."""
    size = config.batch_size
    pieces = cut_windows(sources.events.histories, window, rng)
    shown = rng.permutation(len(sources.shown))
    steps = max(math.ceil(len(pieces) / size), math.ceil(len(shown) / EXPOSURE_BATCH))
    for number in range(steps):
        yield Step(
            pieces=pieces[number * size : (number + 1) * size],
            shown=shown[number * EXPOSURE_BATCH : (number + 1) * EXPOSURE_BATCH],
        )


def step_loss(
    model: ClickPurchaseModel,
    sources: Sources,
    step: Step,
    config: RewardConfig,
    log_share: np.ndarray,
    rng: np.random.Generator,
) -> Tensor:
    """Loss of the windows of a step plus loss of its exposures, nats.

    Args:
        model: the model.
        sources: the events that the step refers to.
        step: the step.
        config: weights of the loss and number of negatives.
        log_share: log of each item's share of clicks, float [N], by which negatives are sampled.
        rng: draws hidden features and negatives.
    """
    loss = torch.zeros((), device=model.device)
    if len(step.pieces):
        batch = collate(sources.events, step.pieces, rng).to(model.device)
        negatives = draw_negatives(log_share, config, rng, model.device)
        weight = config.next_click_weight if len(sources.shown) else 1.0
        loss = loss + weight * batch_loss(model, batch, config.purchase_weight, negatives)
    if len(step.shown):
        logits = exposure_logits(model, sources.data, sources.profiles, sources.shown, step.shown)
        loss = loss + exposure_loss(logits, sources.shown, step.shown)
    return loss


@torch.no_grad()
def validate(model: ClickPurchaseModel, sources: Sources) -> tuple[float | None, dict[str, float]]:
    """Validation score of an epoch, higher is better, and the validation metrics.

    The score is NDCG@10 by P(click) on held-out clicks. With held-out exposures of both classes it is minus their
    propensity-weighted log-loss. It is None if nothing is held out.
    """
    metrics = ranking(model, sources.valid) if len(sources.valid) else {}
    shown = sources.shown_valid
    if not shown.has_both_classes:
        return metrics.get("click_ndcg@10"), metrics
    loss = 0.0
    for rows in chunks(len(shown), EXPOSURE_BATCH):
        logits = exposure_logits(model, sources.data, sources.profiles, shown, rows)
        loss += exposure_loss(logits, shown, rows).item() * len(rows) / len(shown)
    return -loss, metrics | {"exposure_loss": loss}
