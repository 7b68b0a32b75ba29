"""Trains the text reward model by TRL's `RewardTrainer` on preference pairs from the log.

A pair is a clicked over a skipped item, or a purchased over a clicked item. Both completions of a pair carry a true
justification, so the words alone do not decide the pair. The loss is Bradley-Terry (`pairwise`) or binary cross-entropy
on the same completions (`pointwise`). A scale and an offset, fitted on users outside the training set, turn the score
into log-odds, the unit of the composite reward.
"""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import Trainer
from trl.trainer.reward_config import RewardConfig as TRLRewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from llmrec.catalogue.facts import Fact, FactBook
from llmrec.config import Config
from llmrec.config.batch import text_reward_share
from llmrec.config.reward import TextRewardConfig
from llmrec.data.dataset import InteractionData
from llmrec.data.profiles import profile_texts
from llmrec.distributed import settle_mixed_precision
from llmrec.errors import DataError
from llmrec.language.prompt import Recommendation
from llmrec.language.templates import sample_justification
from reward_models.calibration import fit_platt
from reward_models.storage import catalogue_hash
from reward_models.text.model import TextModelConfig, TextRewardModel, load_classifier
from reward_models.text.pairs import Pair, preference_pairs, skipped_exposures
from reward_models.training_events import TrainingEvents, training_events

HELD_OUT_USERS = 0.1  # share of the users that is held out for calibration and accuracy
HELD_OUT_PAIRS = 400
KINDS = ("clicked", "purchased")

Watching = Callable[[Trainer], AbstractContextManager[Any]]
Row = dict[str, list[int]]  # a pair as TRL reads it: `chosen_ids` and `rejected_ids`


class PointwiseTrainer(RewardTrainer):
    """TRL's trainer with binary cross-entropy of each completion instead of a comparison of the two of a pair."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Loss of a batch whose first half are chosen completions and whose second half are rejected ones."""
        outputs: Any
        _, outputs = super().compute_loss(model, inputs, return_outputs=True)  # also computes TRL's metrics
        scores = outputs.logits.squeeze(-1)
        labels = torch.arange(len(scores), device=scores.device) < len(scores) // 2
        loss = F.binary_cross_entropy_with_logits(scores, labels.to(scores.dtype))
        return (loss, outputs) if return_outputs else loss


def fit_text_reward(
    data: InteractionData, config: Config, users: np.ndarray, directory: Path, watching: Watching = nullcontext
) -> tuple[TextRewardModel, dict[str, Any]]:
    """Trains and calibrates the text reward model on training events.

    Args:
        data: the prepared log. Only training events of `users` are read.
        config: config with `reward.text`; `model`, `catalogue` and `seed` are used as well.
        users: user indices. A tenth of them is held out for calibration and accuracy.
        directory: where the trainer may write.
        watching: gives the context in which the trainer trains, for progress.

    Returns:
        the model, and metrics: accuracy on held-out pairs, before training and for each kind of pair, and calibration.

    Raises:
        ConfigError: the processes cannot share a batch evenly.
        DataError: there are too few users or no pairs.
        ModelError: the base cannot be loaded.
    """
    started = time.monotonic()
    section = text_section(config)
    text_reward_share(section)  # refuses a number of processes before the base is loaded
    model = new_model(data, config)
    held_out, trained = _split(users, config.seed)
    _, rows = _rendered_pairs(model, data, users[trained], section.pairs, config)
    held_out_pairs, held_out_rows = _rendered_pairs(model, data, users[held_out], HELD_OUT_PAIRS, config)
    margins_before, _ = _margins(model, held_out_rows)
    train(model, rows, config, directory, watching)
    margins, scores = _margins(model, held_out_rows)
    scale, offset = fit_platt(scores, torch.arange(len(scores)) < len(held_out_rows))
    model.config = replace(model.config, scale=scale, offset=offset)
    is_kind = {kind: torch.tensor([pair.kind == kind for pair in held_out_pairs]) for kind in KINDS}
    metrics = {
        "training_pairs": len(rows),
        "accuracy": _accuracy(margins),
        "accuracy_before_training": _accuracy(margins_before),
        **{f"{kind}_accuracy": _accuracy(margins[of_kind]) for kind, of_kind in is_kind.items()},
        "calibration": {"scale": scale, "offset": offset},
        "seconds": round(time.monotonic() - started, 1),
    }
    return model, metrics


def text_section(config: Config) -> TextRewardConfig:
    """The section `reward.text`, which must be set."""
    if config.reward.text is None:
        raise ValueError("`reward.text` is null: expected the settings of a text reward model.")
    return config.reward.text


def new_model(data: InteractionData, config: Config) -> TextRewardModel:
    """An untrained adapter and output on the policy's base; the state of torch's global generator is restored."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        classifier, tokenizer = load_classifier(config.model)
        lora = LoraConfig(
            task_type="SEQ_CLS",
            r=config.model.lora_r,
            lora_alpha=config.model.lora_alpha,
            target_modules="all-linear",
        )
        network: Any = get_peft_model(classifier, lora)
    settings = TextModelConfig(
        base=config.model.model_dump(),
        system_prompt=config.catalogue.system_prompt,
        max_history=text_section(config).max_history,
        num_items=data.num_items,
        items_sha256=catalogue_hash(data.items["item_id"]),
    )
    return TextRewardModel(network, tokenizer, data.items["title"], settings)


def _rendered_pairs(
    model: TextRewardModel, data: InteractionData, users: np.ndarray, limit: int, config: Config
) -> tuple[list[Pair], list[Row]]:
    """Pairs of the training events of some users, and their rows for TRL.

    Raises:
        DataError: there are no pairs.
    """
    events = training_events(data, users)
    pairs = preference_pairs(events, skipped_exposures(data, users), limit, config.seed)
    if not pairs:
        raise DataError(
            f"reward.text finds no pairs in the training events of {len(users)} users, because the log has no skips "
            "or purchases. Use a longer log, or leave `reward.text` out."
        )
    profiles = profile_texts(data.users, config.catalogue.user_attributes)
    facts = FactBook.from_data(data)
    return pairs, render(model, pairs, events, [profiles[user] for user in users], facts, config.seed)


def _split(users: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions in `users` that are held out, and those that are trained on.

    Raises:
        DataError: there are fewer than two users.
    """
    if len(users) < 2:
        raise DataError(f"A text reward model needs at least 2 users, found {len(users)}: leave `reward.text` out.")
    order = np.random.default_rng([seed, 3]).permutation(len(users))
    count = max(1, round(HELD_OUT_USERS * len(users)))
    return order[:count], order[count:]


def render(
    model: TextRewardModel,
    pairs: Sequence[Pair],
    events: TrainingEvents,
    profiles: list[str],
    facts: FactBook,
    seed: int,
) -> list[Row]:
    """Pairs as token sequences, each item with a true justification.

    Args:
        model: tokenizes prompt and completion.
        pairs: the pairs.
        events: the events that they come from.
        profiles: what the prompt says of each user of `events`.
        facts: facts about the items.
        seed: seed of the wording.
    """
    generator = random.Random(seed)
    rows = []
    for pair in pairs:
        history = events.histories[pair.user][: pair.position].tolist()
        purchased = events.purchases[pair.user][: pair.position].tolist()
        row = {}
        for name, item in (("chosen_ids", pair.chosen), ("rejected_ids", pair.rejected)):
            written = sample_justification(facts, item, history[-model.config.max_history :], generator)
            segments = tuple(part.words if isinstance(part, Fact) else part for part in written)
            recommendation = Recommendation(item=item, segments=segments, finished=True)
            row[name] = model.tokens(profiles[pair.user], history, purchased, recommendation)
        rows.append(row)
    return rows


def train(model: TextRewardModel, rows: list[Row], config: Config, directory: Path, watching: Watching) -> None:
    """Trains the adapter and the output in place."""
    section = text_section(config)
    arguments = TRLRewardConfig(
        output_dir=str(directory),
        num_train_epochs=section.num_train_epochs,
        learning_rate=section.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,  # a number below 1 is a share of all steps
        per_device_train_batch_size=text_reward_share(section).forward,
        center_rewards_coefficient=0.01,  # pairs determine differences of scores only; this fixes their mean
        max_length=None,
        gradient_checkpointing=False,
        bf16=settle_mixed_precision() == "bf16",
        use_cpu=not torch.cuda.is_available(),
        logging_steps=10,
        save_strategy="no",
        seed=config.seed,
        report_to="none",  # `watching` records the metrics
    )
    trainer_class = RewardTrainer if section.loss == "pairwise" else PointwiseTrainer
    trainer = trainer_class(
        model.model, arguments, train_dataset=Dataset.from_list(rows), processing_class=model.tokenizer
    )
    with watching(trainer):
        trainer.train()


def _margins(model: TextRewardModel, rows: list[Row]) -> tuple[Tensor, Tensor]:
    """Scores of the chosen minus those of the rejected, [P]; and the scores of all chosen, then all rejected, [2P]."""
    scores = model.raw_scores([row["chosen_ids"] for row in rows] + [row["rejected_ids"] for row in rows])
    chosen, rejected = scores.chunk(2)
    return chosen - rejected, scores


def _accuracy(margins: Tensor) -> dict[str, float | int | None]:
    """Share of pairs in the right order, where a tie counts half; None without pairs."""
    correct = (margins > 0).double() + 0.5 * (margins == 0).double()
    return {"value": correct.mean().item() if len(margins) else None, "n": len(margins)}
