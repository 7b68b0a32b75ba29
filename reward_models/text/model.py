"""The text reward model: log-odds that a user prefers a recommendation, from its words and the titles of the history.

It is the policy's base model with a LoRA adapter and one scalar output. `train.py` fits it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from llmrec.catalogue.plain_text import PlainText
from llmrec.config import ModelConfig
from llmrec.data.decision import Decision
from llmrec.distributed import own_device
from llmrec.errors import ModelError
from llmrec.files import atomic_directory, write_json
from llmrec.language.adapter_files import adapter_shapes
from llmrec.language.base_model import from_hub, resolve_base
from llmrec.language.headers import ChatHeaders
from llmrec.language.prompt import Recommendation
from reward_models.storage import FIX_HINT, check_catalogue, load_config

FAMILY = "text_reward"
CONFIG_FILE = "text_reward.json"
SCORING_BATCH = 16  # completions that are scored at once


@dataclass(frozen=True)
class TextModelConfig:
    """Settings that a saved model needs beside its weights; saved as `text_reward.json`.

    Attributes:
        base: the `model` section of the run's config.
        system_prompt: the policy's system prompt.
        max_history: number of newest titles that are read.
        num_items: size N of the catalogue.
        items_sha256: hash of the item ids in catalogue order.
        scale: calibration; the log-odds are scale x score + offset.
        offset: calibration.
    """

    base: dict[str, Any]
    system_prompt: str
    max_history: int
    num_items: int
    items_sha256: str
    scale: float = 1.0
    offset: float = 0.0


class TextRewardModel(nn.Module):
    """Log-odds of recommendations as text; fit it with `reward_models.text.train.fit_text_reward`.

    Args:
        model: a sequence classifier with one output and a LoRA adapter.
        tokenizer: the base model's tokenizer, with a padding token.
        titles: titles of all items.
        config: see `TextModelConfig`.
    """

    def __init__(
        self, model: PeftModel, tokenizer: PreTrainedTokenizerBase, titles: Iterable[str], config: TextModelConfig
    ):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.titles = tuple(" ".join(str(title).split()) for title in titles)
        self.config = config
        self.plain_text = PlainText(tokenizer)
        self.header = ChatHeaders(self.plain_text, config.system_prompt)

    def tokens(
        self, profile: str, history: Iterable[int], purchased: Iterable[bool], recommendation: Recommendation
    ) -> list[int]:
        """Prompt and completion as text tokens: the chat header, the titles of the history, and the recommendation.

        Args:
            profile: what the prompt says of the user.
            history: item indices, oldest first.
            purchased: whether each item was purchased. Its line begins with `+` if so, else with `-`.
            recommendation: the recommendation.
        """
        newest = list(zip(history, purchased, strict=True))[-self.config.max_history :]
        lines = [f"{'+' if is_purchased else '-'} {self.titles[item]}" for item, is_purchased in newest]
        title = self.titles[recommendation.item] if recommendation.item >= 0 else ""
        text = "\n".join([*lines, f"> {title}", recommendation.text(self.titles)])
        return self.header(profile) + self.plain_text.encode(text)

    @torch.no_grad()
    def raw_scores(self, sequences: Sequence[list[int]]) -> Tensor:
        """Uncalibrated scores of B token sequences, float32 [B], on the CPU."""
        self.model.eval()
        scores = []
        for start in range(0, len(sequences), SCORING_BATCH):
            batch = self.tokenizer.pad(
                {"input_ids": list(sequences[start : start + SCORING_BATCH])},
                padding_side="right",
                return_tensors="pt",
            ).to(self.model.device)
            scores.append(self.model(**batch, use_cache=False).logits[:, 0].float().cpu())
        return torch.cat(scores) if scores else torch.zeros(0)

    def scores(self, recommendations: Sequence[Recommendation], decisions: Sequence[Decision]) -> Tensor:
        """Calibrated log-odds of recommendations.

        Args:
            recommendations: B parsed completions.
            decisions: the decision that each one answers. Unknown purchases count as none.

        Returns:
            float32 [B].
        """
        sequences = [
            self.tokens(decision.profile, decision.history, decision.known_purchases, recommendation)
            for recommendation, decision in zip(recommendations, decisions, strict=True)
        ]
        return self.config.scale * self.raw_scores(sequences) + self.config.offset

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes adapter, tokenizer and `text_reward.json` as one atomic replacement of `directory`.

        Raises:
            UserError: the disk is full or the directory is not writable.
        """
        with atomic_directory(directory) as temporary:
            self.model.save_pretrained(str(temporary))
            self.tokenizer.save_pretrained(temporary)
            write_json(temporary / CONFIG_FILE, {"model_type": FAMILY, **asdict(self.config)})

    @classmethod
    def from_pretrained(cls, directory: str | Path, items: pd.DataFrame) -> "TextRewardModel":
        """Loads what `save_pretrained` wrote, onto its base model.

        Args:
            directory: the run's `reward/text`.
            items: the item table (`item_id`, `title`). The model must have been trained on exactly these items.

        Raises:
            ModelError: a file is missing, damaged or of another model, or the catalogue is another one.
        """
        directory = Path(directory)
        path = directory / CONFIG_FILE
        values = load_config(path, FAMILY)
        try:
            config = TextModelConfig(**values)
            base = ModelConfig(**config.base)
        except (TypeError, ValueError) as error:
            raise ModelError(f"{path} does not describe a model of type {FAMILY!r} ({error}). {FIX_HINT}") from None
        check_catalogue(directory, config.num_items, config.items_sha256, items["item_id"])
        adapter_shapes(directory)  # refuses an adapter without safetensors; peft would load a pickle
        classifier, tokenizer = load_classifier(base)
        try:
            model = PeftModel.from_pretrained(classifier, str(directory))
        except Exception as error:  # safetensors and peft raise errors of many classes
            raise ModelError(f"{directory}: the adapter cannot be read: {error}. {FIX_HINT}") from error
        return cls(model.to(own_device()), tokenizer, items["title"], config)


def load_classifier(config: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads the base model with one output, whose last layer is random, and its tokenizer.

    Raises:
        ModelError: the base cannot be loaded as a sequence classifier.
        UserError: the hub refuses or cannot be reached.
    """
    path = resolve_base(config)
    load = partial(
        AutoModelForSequenceClassification.from_pretrained,
        path,
        num_labels=1,
        trust_remote_code=False,
        use_safetensors=True,
    )
    try:
        model = from_hub(config.base, load)
        tokenizer = from_hub(config.base, lambda: AutoTokenizer.from_pretrained(path, trust_remote_code=False))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"The base model `{config.base}` cannot be loaded as a text reward model: {reason}\nExpected a chat model "
            "for which transformers has a sequence classifier: correct `model.base`, or leave `reward.text` out."
        ) from None
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id  # the score is read at the last token that is no padding
    return model, tokenizer
