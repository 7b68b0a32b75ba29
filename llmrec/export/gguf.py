"""Writes a merged model as a GGUF file, which llama.cpp runs.

Only models that are checked against llama.cpp are written: the Llama architecture with a byte-level BPE tokenizer that
splits text as GPT-2 or SmolLM does. Others are refused.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from llmrec.errors import ModelError

if TYPE_CHECKING:  # an optional dependency
    from gguf import GGUFWriter

GgufType = Literal["f32", "f16", "q8_0"]
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
# How a tokenizer splits text before its merges, by llama.cpp's name for it.
PRE_TOKENIZERS = {
    "gpt-2": [BYTE_LEVEL],
    "smollm": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL],
}


def check_gguf(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Checks that a model can be written.

    Raises:
        ModelError: the gguf package is missing, or the model or its tokenizer is of another kind.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ModelError("--gguf needs the gguf package. Run `pip install 'gguf>=0.17'`.")
    expected = {
        "model_type": ("llama", config.model_type),
        "hidden_act": ("silu", config.hidden_act),
        "attention_bias": (False, getattr(config, "attention_bias", False)),
        "mlp_bias": (False, getattr(config, "mlp_bias", False)),
        "rope_type": ("default", (config.rope_parameters or {}).get("rope_type", "default")),
    }
    for key, (wanted, found) in expected.items():
        if found != wanted:
            raise ModelError(
                f"--gguf writes models of the Llama architecture only: expected {key} {wanted}, found {found}. "
                "Use --merged, which writes any model."
            )
    _pre_tokenizer(tokenizer)


def write_gguf(
    path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, kind: GgufType
) -> None:
    """Writes a model that `check_gguf` accepts.

    Args:
        path: the file.
        model: merged model in float32.
        tokenizer: its tokenizer with the item tokens.
        name: name of the model, for people.
        kind: number format of the matrices. Vectors stay float32.
    """
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_name(name)
    _add_hyperparameters(writer, model.config, kind)
    _add_tokenizer(writer, tokenizer, model.config.vocab_size)
    _add_weights(writer, model, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# --- model ----------------------------------------------------------------------------------------


def _add_hyperparameters(writer: "GGUFWriter", config: PretrainedConfig, kind: GgufType) -> None:
    from gguf import LlamaFileType

    file_types = {
        "f32": LlamaFileType.ALL_F32,
        "f16": LlamaFileType.MOSTLY_F16,
        "q8_0": LlamaFileType.MOSTLY_Q8_0,
    }
    writer.add_file_type(file_types[kind])
    writer.add_quantization_version(2)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def _add_weights(writer: "GGUFWriter", model: PreTrainedModel, kind: GgufType) -> None:
    from gguf import MODEL_ARCH, get_tensor_name_map

    config = model.config
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for key, weight in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue  # llama.cpp uses the embeddings if a file has no head
        name = names.get_name(key, (".weight",))
        if name is None:
            raise ModelError(f"GGUF has no name for the weight `{key}` of a Llama model. Use --merged.")
        _add_array(writer, name, for_llama_cpp(key, weight, config).numpy(), kind)


def for_llama_cpp(key: str, weight: torch.Tensor, config: PretrainedConfig) -> torch.Tensor:
    """Permutes the rows of query and key matrices for llama.cpp; other weights stay as they are.

    Rotary embeddings rotate pairs of numbers of a head. transformers pairs number i with number i + head_dim / 2,
    llama.cpp's Llama pairs neighbors.

    Args:
        key: name of the weight in transformers.
        weight: the weight, [rows, columns] or [columns].
        config: config of the model.
    """
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(key.split(".")[-2])
    if heads is None:
        return weight.contiguous()
    pairs = weight.reshape(heads, 2, config.head_dim // 2, -1)
    return pairs.transpose(1, 2).reshape(weight.shape).contiguous()


def _add_array(writer: "GGUFWriter", name: str, array: np.ndarray, kind: GgufType) -> None:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import quantize

    number_format = GGMLQuantizationType.F32 if array.ndim == 1 else GGMLQuantizationType[kind.upper()]
    block_size, _ = GGML_QUANT_SIZES[number_format]
    if array.shape[-1] % block_size:  # rows are quantized in blocks
        number_format = GGMLQuantizationType.F16
    writer.add_tensor(name, quantize(array, number_format), raw_dtype=number_format)


# --- tokenizer ------------------------------------------------------------------------------------


def _add_tokenizer(writer: "GGUFWriter", tokenizer: PreTrainedTokenizerBase, size: int) -> None:
    """Adds vocabulary, merges, special tokens and chat template.

    Args:
        writer: writer of the file.
        tokenizer: the tokenizer. Its item tokens become user-defined tokens, which llama.cpp never splits.
        size: rows of the embedding matrix, which can be more than the tokens.
    """
    _add_tokens(writer, tokenizer, size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(tokenizer))
    writer.add_token_merges([" ".join(pair) for pair in _backend(tokenizer)["model"]["merges"]])
    for add, token in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if isinstance(token, int):  # None if the tokenizer has no such token
            add(token)
    writer.add_add_bos_token(False)  # the chat template writes it
    writer.add_chat_template(cast(str, tokenizer.chat_template))


def _add_tokens(writer: "GGUFWriter", tokenizer: PreTrainedTokenizerBase, size: int) -> None:
    from gguf import TokenType

    added = tokenizer.added_tokens_decoder
    tokens = []
    types = []
    for number in range(size):
        if number >= len(tokenizer):  # some bases pad their embedding matrix
            tokens.append(f"<|unused_{number}|>")
            types.append(TokenType.UNUSED)
        elif number in added:
            tokens.append(added[number].content)
            types.append(TokenType.CONTROL if added[number].special else TokenType.USER_DEFINED)
        else:
            tokens.append(tokenizer.convert_ids_to_tokens(number))
            types.append(TokenType.NORMAL)
    writer.add_token_list(tokens)
    writer.add_token_types(types)


def _pre_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """llama.cpp's name for how a tokenizer splits text before its merges.

    Raises:
        ModelError: the tokenizer is of no known kind.
    """
    backend = _backend(tokenizer)
    found = backend["pre_tokenizer"] or {}
    steps = found.get("pretokenizers", [found])
    if backend["model"]["type"] == "BPE" and backend["normalizer"] is None:
        for name, expected in PRE_TOKENIZERS.items():
            if len(steps) == len(expected) and all(
                e.items() <= s.items() for e, s in zip(expected, steps, strict=True)
            ):
                return name
    raise ModelError(
        f"--gguf writes byte-level BPE tokenizers that split text as {' or '.join(PRE_TOKENIZERS)} does; found "
        f"{backend['model']['type']} with {json.dumps(steps)}. Use --merged, which writes any model."
    )


def _backend(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The content of `tokenizer.json`."""
    backend: Any = tokenizer.backend_tokenizer
    return json.loads(backend.to_str())
