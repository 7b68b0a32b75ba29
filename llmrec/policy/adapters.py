"""The adapters of a policy: LoRA on all linear layers, and trainable embedding rows for item tokens.

`sft` is trained by SFT and stays frozen afterwards as the reference policy. `rl` starts as its copy and is trained by
PPO. Both lie on one frozen base.
"""

from typing import cast

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrec.catalogue.vocabulary import ItemVocabulary
from llmrec.config import ModelConfig
from llmrec.errors import ModelError
from llmrec.language.prompt import encode

SFT_ADAPTER = "sft"
RL_ADAPTER = "rl"


def lora_config(
    base: PreTrainedModel, vocabulary: ItemVocabulary, config: ModelConfig, final_norm: str | None
) -> LoraConfig:
    """peft's config of an adapter: LoRA on all linear layers and, where the catalogue adds tokens, their embeddings.

    Args:
        base: the base.
        vocabulary: the token sequence of every item.
        config: rank, scale and dropout.
        final_norm: name of a final norm that is trained whole, see `policy.final_norm`; None trains no norm.
    """
    tokens = None
    if vocabulary.new_tokens:
        tokens = {"embed_tokens": vocabulary.new_tokens}
        if not base.config.tie_word_embeddings:
            tokens["lm_head"] = vocabulary.new_tokens
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",
        trainable_token_indices=tokens,
        modules_to_save=None if final_norm is None else [final_norm],
    )


def add_item_tokens(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tokens: list[int],
    texts: list[str],
    offsets: torch.Tensor,
) -> None:
    """Adds embedding rows for item tokens. Each starts as the mean embedding of the words of its text, plus an offset.

    Args:
        base: changed in place.
        tokenizer: the tokenizer with the item tokens.
        tokens: ids of the N item tokens.
        texts: the text of each item, [N].
        offsets: vectors to add, [N, d], in units of the mean norm of the word means.
    """
    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    encoded = [encode(tokenizer, text) for text in texts]
    words = torch.tensor([token for sequence in encoded for token in sequence])
    starts = torch.tensor([0, *(len(sequence) for sequence in encoded[:-1])]).cumsum(0)
    matrices = [embedding_weight(base.get_input_embeddings())]
    if not base.config.tie_word_embeddings:
        matrices.append(embedding_weight(base.get_output_embeddings()))
    for weight in matrices:
        start = F.embedding_bag(words, weight, starts, mode="mean")
        weight[tokens] = start + offsets.to(start) * start.norm(dim=1).mean()


def embedding_weight(module: nn.Module | None) -> torch.Tensor:
    """The weights of an embedding or output layer, without gradient, [vocabulary, d]."""
    if module is None:
        raise ModelError("The base has no output embeddings: llmrec needs a causal language model.")
    return cast(torch.Tensor, module.weight).data


def add_copied_adapter(model: PeftModel, source: str, copy: str) -> None:
    """Adds an adapter that starts as a copy of another one, and makes it the active one.

    Raises:
        ModelError: peft gives the weights of the copy other names.
    """
    model.add_adapter(copy, model.peft_config[source])
    state: dict[str, torch.Tensor] = model.state_dict()
    copies: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if f".{source}." in name:
            copies[name.replace(f".{source}.", f".{copy}.")] = value.clone()
        elif name.endswith(f".{source}"):
            copies[name.removesuffix(source) + copy] = value.clone()
    unknown = set(copies) - set(state)
    if unknown:
        raise ModelError(
            f"The adapter `{copy}` lacks {sorted(unknown)[:3]}: this version of peft names its weights differently. "
            "Install a version that llmrec's requirements allow."
        )
    model.load_state_dict(copies, strict=False)
    model.set_adapter(copy)


def merge_adapter(model: PeftModel) -> None:
    """Adds the LoRA products of the active adapter to the float32 weights of the base, in place.

    Weights of lower precision stay apart, because rounding would lose part of what the adapter adds.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer) and module.get_base_layer().weight.dtype == torch.float32:
            module.merge()
