"""The adapters of a policy: LoRA on all linear layers, and trainable embedding rows for item tokens.

`sft` is trained by SFT and stays frozen afterwards as the reference policy. `rl` starts as its copy and is trained by
PPO. Both lie on one frozen base.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils.other import TrainableTokensWrapper
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrec.catalogue.plain_text import PlainText
from llmrec.catalogue.vocabulary import ItemVocabulary
from llmrec.config import ModelConfig
from llmrec.errors import ModelError

SFT_ADAPTER = "sft"
RL_ADAPTER = "rl"


def lora_config(
    base: PreTrainedModel, vocabulary: ItemVocabulary, config: ModelConfig, final_norm: str | None
) -> LoraConfig:
    """peft's config of an adapter: LoRA on linear layers and, where the catalogue adds tokens, their embeddings.

    In a mixture of experts, LoRA adapts the attention layers. peft would also adapt the router, although another choice
    of experts undoes what the base has learned, and the fused experts, whose LoRA product has the size of all experts.

    Args:
        base: the base.
        vocabulary: the token sequence of every item.
        config: rank, scale and dropout.
        final_norm: name of a final norm that is trained whole, see `policy.final_norm`; None trains no norm.
    """
    tokens = None
    if vocabulary.new_tokens:
        modules = [base.get_input_embeddings()]
        if not base.config.tie_word_embeddings:
            modules.append(cast(nn.Module, base.get_output_embeddings()))
        names = {module: name.rpartition(".")[2] for name, module in base.named_modules()}
        tokens = {names[module]: vocabulary.new_tokens for module in modules}
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=_attention_layers(base) if _has_experts(base) else "all-linear",
        trainable_token_indices=tokens,
        modules_to_save=None if final_norm is None else [final_norm],
    )


def _attention_layers(base: PreTrainedModel) -> list[str]:
    """Names of the linear layers of attention, each once: `q_proj`, `k_proj` and so on."""
    linear = [name.split(".") for name, module in base.named_modules() if isinstance(module, nn.Linear)]
    return sorted({path[-1] for path in linear if any("attn" in part or "attention" in part for part in path)})


def _has_experts(base: PreTrainedModel) -> bool:
    """Whether a model is a mixture of experts."""
    return any(getattr(base.config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))


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
    encoded = PlainText(tokenizer).encode_all(texts)
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


def head_bias(module: nn.Module | None) -> torch.Tensor | None:
    """The bias of an output layer, [vocabulary]; None if it has none, as in most models."""
    layer = module.token_adapter.get_base_layer() if isinstance(module, TrainableTokensWrapper) else module
    return cast(torch.Tensor | None, getattr(layer, "bias", None))


def keep_head_bias(model: PeftModel, tokens: list[int]) -> None:
    """Adds the bias of the output layer, as Phi has one, to its result. peft's trainable tokens leave it out.

    Args:
        model: changed in place.
        tokens: ids of the item tokens, whose bias is 0.
    """
    head = cast(PreTrainedModel, model.get_base_model()).get_output_embeddings()
    bias = head_bias(head)
    if isinstance(head, TrainableTokensWrapper) and bias is not None:
        bias.data[tokens] = 0.0

        def add_bias(module: nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
            return output + bias

        head.register_forward_hook(add_bias)


def train_in_float32(model: PeftModel) -> None:
    """Casts the trainable weights to float32, whatever the base has: bfloat16 would round small updates away."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def add_copied_adapter(model: PeftModel, source: str, copy: str) -> None:
    """Adds an adapter that starts as a copy of another one, and makes it the active one.

    Raises:
        ModelError: peft gives the weights of the copy other names.
    """
    model.add_adapter(copy, model.peft_config[source])
    model.set_adapter(copy)
    train_in_float32(model)
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


def merge_adapter(model: PeftModel) -> None:
    """Adds the LoRA products of the active adapter to the float32 weights of the base, in place.

    Weights of lower precision stay apart, because rounding would lose part of what the adapter adds. A second call
    changes nothing.
    """
    for module in model.modules():
        if not isinstance(module, LoraLayer) or module.merged:
            continue
        if module.get_base_layer().weight.dtype == torch.float32:
            module.merge()
