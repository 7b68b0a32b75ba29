"""A reward model that reads words: the history's titles, the recommended title and its justification.

The policy's base with a LoRA adapter and a scalar head, trained through TRL's `RewardTrainer` on pairs out of the log:
what a user clicked over what the user skipped, and what the user purchased over what the user only clicked. Both
completions of a pair carry a true justification, so the words alone do not tell them apart. `pairwise` is the
Bradley-Terry loss, `pointwise` binary cross-entropy on the same completions; either way two numbers fitted on users
that were not trained on turn the score into log-odds, the unit of the composite reward.
"""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase, Trainer
from trl import RewardConfig as TRLRewardConfig
from trl import RewardTrainer

from llmrec.catalogue.facts import Fact, FactBook
from llmrec.config import Config, ModelConfig
from llmrec.data.dataset import InteractionData
from llmrec.data.decision import Decision
from llmrec.data.profiles import profile_texts
from llmrec.distributed import is_main_process
from llmrec.errors import DataError, ModelError
from llmrec.files import atomic_directory, write_json
from llmrec.language.base_model import from_hub, resolve_base
from llmrec.language.prompt import ChatHeaders, Recommendation
from llmrec.language.templates import sample_justification
from llmrec.policy.saved import adapter_shapes
from llmrec.progress import watch
from llmrec.run import Run
from reward_models.calibration import fit_platt
from reward_models.storage import MEND, check_catalogue, fingerprint, load_config
from reward_models.text.pairs import Pair, preference_pairs, skipped_exposures
from reward_models.train import judge_split
from reward_models.training_events import TrainingEvents, training_events

FAMILY = "text_reward"
FILE_NAME = "text_reward.json"
HELD_OUT_USERS = 0.1  # share of the users, for calibration and accuracy
HELD_OUT_PAIRS = 400
BATCH = 16
Watching = Callable[[Trainer], AbstractContextManager]


@dataclass(frozen=True)
class TextRewardConfig:
    """What a saved model needs beside its weights; saved as `text_reward.json`.

    Attributes:
        base: the `model` section of the run's config.
        system_prompt: of the policy.
        max_history: newest titles that are read.
        num_items, items_sha256: the catalogue.
        scale, offset: calibration: log-odds = scale x score + offset.
    """

    base: dict
    system_prompt: str
    max_history: int
    num_items: int
    items_sha256: str
    scale: float = 1.0
    offset: float = 0.0


class TextRewardModel:
    """Log-odds of recommendations as words; fit it with `fit_text_reward`.

    Args:
        model: a sequence classifier with one output and a LoRA adapter.
        tokenizer: of its base, with a padding token.
        titles: of all items.
        config: see `TextRewardConfig`.
    """

    def __init__(
        self, model: PeftModel, tokenizer: PreTrainedTokenizerBase, titles: Iterable[str], config: TextRewardConfig
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.titles = tuple(" ".join(str(title).split()) for title in titles)
        self.config = config
        self.header = ChatHeaders(tokenizer, config.system_prompt)

    def tokens(
        self, profile: str, history: Sequence[int], purchased: Sequence[bool], recommendation: Recommendation
    ) -> list[int]:
        """Prompt and completion as text tokens: the chat header, the history's titles, the answer.

        Args:
            profile: of the user.
            history: item indices, newest last.
            purchased: whether each was purchased: its line then begins with `+`, else with `-`.
            recommendation: the answer.
        """
        newest = list(zip(history, purchased, strict=True))[-self.config.max_history :]
        lines = [f"{'+' if bought else '-'} {self.titles[item]}" for item, bought in newest]
        title = self.titles[recommendation.item] if recommendation.item >= 0 else ""
        text = "\n".join([*lines, f"> {title}", recommendation.text(self.titles)])
        return self.header(profile) + self.tokenizer(text, add_special_tokens=False)["input_ids"]

    @torch.no_grad()
    def raw_scores(self, sequences: Sequence[list[int]]) -> Tensor:
        """Uncalibrated scores of token sequences: float32 [B], on the CPU."""
        self.model.eval()
        scores = []
        for start in range(0, len(sequences), BATCH):
            batch = self.tokenizer.pad(
                {"input_ids": list(sequences[start : start + BATCH])}, padding_side="right", return_tensors="pt"
            ).to(self.model.device)
            scores.append(self.model(**batch, use_cache=False).logits[:, 0].float().cpu())
        return torch.cat(scores) if scores else torch.zeros(0)

    def scores(self, recommendations: Sequence[Recommendation], decisions: Sequence[Decision]) -> Tensor:
        """Calibrated log-odds of recommendations, float32 [B].

        Args:
            recommendations: B parsed completions.
            decisions: what each answers; unknown purchases count as none.
        """
        sequences = [
            self.tokens(decision.profile, decision.history, decision.known_purchases, recommendation)
            for recommendation, decision in zip(recommendations, decisions, strict=True)
        ]
        return self.config.scale * self.raw_scores(sequences) + self.config.offset

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes adapter, tokenizer and `text_reward.json`, all or nothing.

        Raises:
            UserError: the disk is full or the place is not writable.
        """
        with atomic_directory(directory) as temporary:
            self.model.save_pretrained(temporary)
            self.tokenizer.save_pretrained(temporary)
            write_json(temporary / FILE_NAME, {"model_type": FAMILY, **asdict(self.config)})

    @classmethod
    def from_pretrained(cls, directory: str | Path, items: pd.DataFrame) -> "TextRewardModel":
        """Reads what `save_pretrained` wrote, onto its base.

        Args:
            directory: the run's `reward/text`.
            items: the item table (`item_id, title`); the model must have been trained on exactly these items.

        Raises:
            ModelError: a file is missing, truncated or of another model, or the catalogue is another.
        """
        directory = Path(directory)
        values = load_config(directory / FILE_NAME, FAMILY)
        try:
            config = TextRewardConfig(**values)
            base = ModelConfig(**config.base)
        except (TypeError, ValueError) as error:
            raise ModelError(f"{directory / FILE_NAME} does not describe this model ({error}). {MEND}") from None
        check_catalogue(directory, config.num_items, config.items_sha256, items["item_id"])
        adapter_shapes(directory)  # it refuses pickles, to which peft would go on
        classifier, tokenizer = _load_classifier(base)
        try:
            model = PeftModel.from_pretrained(classifier, directory)
        except Exception as error:  # safetensors and peft raise many kinds
            raise ModelError(f"{directory}: the adapter cannot be read: {error}. {MEND}") from error
        if torch.cuda.is_available():
            model = model.cuda()
        return cls(model, tokenizer, items["title"], config)


def _load_classifier(config: ModelConfig) -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:
    """The base with one output, whose last layer is random, and its tokenizer."""
    path = resolve_base(config)
    try:
        safe = {"trust_remote_code": False, "use_safetensors": True}
        load = partial(AutoModelForSequenceClassification.from_pretrained, path, num_labels=1, **safe)
        model = from_hub(config.base, load)
        tokenizer = from_hub(config.base, lambda: AutoTokenizer.from_pretrained(path, trust_remote_code=False))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"The base model `{config.base}` cannot be loaded as a text reward model: {reason}\nExpected a chat model "
            "of which transformers has a sequence classifier: correct `model.base`, or leave `reward.text` out."
        ) from None
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id  # the score is read at the last token that is no padding
    return model, tokenizer


class PointwiseTrainer(RewardTrainer):
    """Binary cross-entropy of each completion alone, where TRL compares the two of a pair."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        _, outputs = super().compute_loss(model, inputs, return_outputs=True)  # its metrics are of use here too
        scores = outputs.logits.squeeze(-1)
        labels = torch.arange(len(scores), device=scores.device) < len(scores) // 2
        loss = F.binary_cross_entropy_with_logits(scores, labels.to(scores.dtype))
        return (loss, outputs) if return_outputs else loss


def fit_text_reward(
    data: InteractionData, config: Config, users: np.ndarray, directory: Path, watching: Watching = nullcontext
) -> tuple[TextRewardModel, dict]:
    """Trains and calibrates the text reward model on training events.

    Args:
        data: the prepared log; only training events of `users` are read.
        config: its `reward.text` is set; also `model`, `catalogue` and `seed` are used.
        users: user indices; a tenth of them is held out for calibration and accuracy.
        directory: where the trainer may write.
        watching: gives the context in which the trainer trains.

    Returns:
        the model, and metrics: accuracy on held-out pairs, of both kinds and before training, and the calibration.

    Raises:
        DataError: too few users or pairs.
        ModelError: the base cannot be loaded.
    """
    started = time.monotonic()
    model = new_model(data, config)
    held, trained = _split(users, config.seed)
    _, rows = _rendered_pairs(model, data, users[trained], config.reward.text.pairs, config)
    held_pairs, held_rows = _rendered_pairs(model, data, users[held], HELD_OUT_PAIRS, config)
    before, _ = _margins(model, held_rows)
    train(model, rows, config, directory, watching)
    margins, scores = _margins(model, held_rows)
    scale, offset = fit_platt(scores, torch.arange(len(scores)) < len(held_rows))
    model.config = replace(model.config, scale=scale, offset=offset)
    kinds = {kind: torch.tensor([pair.kind == kind for pair in held_pairs]) for kind in ("clicked", "purchased")}
    metrics = {
        "training_pairs": len(rows),
        "accuracy": _accuracy(margins),
        "accuracy_before_training": _accuracy(before),
        **{f"{kind}_accuracy": _accuracy(margins[of_kind]) for kind, of_kind in kinds.items()},
        "calibration": {"scale": scale, "offset": offset},
        "seconds": round(time.monotonic() - started, 1),
    }
    return model, metrics


def new_model(data: InteractionData, config: Config) -> TextRewardModel:
    """A fresh adapter and head on the base of a run's policy; the global torch generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        classifier, tokenizer = _load_classifier(config.model)
        rank, alpha = config.model.lora_r, config.model.lora_alpha
        lora = LoraConfig(task_type="SEQ_CLS", r=rank, lora_alpha=alpha, target_modules="all-linear")
        network = get_peft_model(classifier, lora)
    settings = TextRewardConfig(
        base=config.model.model_dump(),
        system_prompt=config.catalogue.system_prompt,
        max_history=config.reward.text.max_history,
        num_items=data.num_items,
        items_sha256=fingerprint(data.items["item_id"]),
    )
    return TextRewardModel(network, tokenizer, data.items["title"], settings)


def _rendered_pairs(
    model: TextRewardModel, data: InteractionData, users: np.ndarray, limit: int, config: Config
) -> tuple[list[Pair], list[dict]]:
    """Pairs of the events of some users, and their rows for TRL; raises DataError where there are none."""
    events = training_events(data, users)
    pairs = preference_pairs(events, skipped_exposures(data, users), limit, config.seed)
    if not pairs:
        raise DataError(
            f"reward.text finds no pairs in the training events of {len(users)} users: nobody skipped or purchased "
            "anything. Use a longer log, or leave `reward.text` out."
        )
    names = profile_texts(data.users, config.catalogue.user_attributes)
    return pairs, render(model, pairs, events, [names[u] for u in users], FactBook.from_data(data), config.seed)


def _split(users: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places in `users` that are held out, and those to train on."""
    if len(users) < 2:
        raise DataError(f"A text reward model needs at least 2 users, found {len(users)}: leave `reward.text` out.")
    order = np.random.default_rng([seed, 3]).permutation(len(users))
    count = max(1, round(HELD_OUT_USERS * len(users)))
    return order[:count], order[count:]


def render(
    model: TextRewardModel, pairs: Sequence[Pair], events: TrainingEvents, names: list[str], facts: FactBook, seed: int
) -> list[dict]:
    """Pairs as TRL reads them: rows of `chosen_ids, rejected_ids`."""
    generator = random.Random(seed)
    rows = []
    for pair in pairs:
        history = events.histories[pair.user][: pair.position].tolist()
        bought = events.purchases[pair.user][: pair.position].tolist()
        row = {}
        for name, item in (("chosen_ids", pair.chosen), ("rejected_ids", pair.rejected)):
            written = sample_justification(facts, item, history[-model.config.max_history :], generator)
            segments = tuple(part.words if isinstance(part, Fact) else part for part in written)
            row[name] = model.tokens(names[pair.user], history, bought, Recommendation(item, segments, True))
        rows.append(row)
    return rows


def train(model: TextRewardModel, rows: list[dict], config: Config, directory: Path, watching: Watching) -> None:
    """Trains the adapter and the head in place."""
    section = config.reward.text
    arguments = TRLRewardConfig(
        output_dir=str(directory),
        num_train_epochs=section.num_train_epochs,
        learning_rate=section.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,  # below 1 it is a share of all steps
        per_device_train_batch_size=section.per_device_train_batch_size,
        center_rewards_coefficient=0.01,  # a pair says nothing of where zero is
        max_length=None,
        gradient_checkpointing=False,
        bf16=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
        logging_steps=10,
        save_strategy="no",
        seed=config.seed,
        report_to="none",  # `watch` reports
    )
    kind = RewardTrainer if section.loss == "pairwise" else PointwiseTrainer
    trainer = kind(model.model, arguments, train_dataset=Dataset.from_list(rows), processing_class=model.tokenizer)
    with watching(trainer):
        trainer.train()


def _margins(model: TextRewardModel, rows: list[dict]) -> tuple[Tensor, Tensor]:
    """Score of the chosen less that of the rejected [P]; and the scores of all chosen, then all rejected [2P]."""
    scores = model.raw_scores([row["chosen_ids"] for row in rows] + [row["rejected_ids"] for row in rows])
    chosen, rejected = scores.chunk(2)
    return chosen - rejected, scores


def _accuracy(margins: Tensor) -> dict[str, float | int | None]:
    """Share of pairs in the right order, a tie counting half; None without pairs."""
    right = (margins > 0).double() + 0.5 * (margins == 0).double()
    return {"value": right.mean().item() if len(margins) else None, "n": len(margins)}


def train_text_reward(run: Run, data: InteractionData) -> dict:
    """Fits the text reward model of a run on the users of its reward model, saves it, and returns its metrics."""
    users, _ = judge_split(data.num_users, run.config.reward.judge_users, run.config.seed)

    def watching(trainer: Trainer) -> AbstractContextManager:
        return watch(trainer, run, "reward", {"loss": "loss", "accuracy": "accuracy"})

    model, metrics = fit_text_reward(data, run.config, users, run.path("reward", "logs"), watching)
    if is_main_process():
        model.save_pretrained(run.path("reward", "text"))
    return metrics
