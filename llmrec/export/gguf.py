"""A merged model as a GGUF file, which llama.cpp runs: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.

Only what is checked against llama.cpp is written: models of the Llama architecture whose tokenizer is a byte-level BPE
with GPT-2's or SmolLM's way of cutting words. Everything else is refused.
"""

import importlib.util
import json
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from llmrec.errors import ModelError

GgufType = Literal["f32", "f16", "q8_0"]
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
# llama.cpp's name -> how the tokenizer cuts text before its merges.
WORD_CUTS = {
    "gpt-2": [BYTE_LEVEL],
    "smollm": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL],
}


def check_gguf(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Whether a model can be written.

    Raises:
        ModelError: the gguf package is missing, or the model or its tokenizer is of another kind.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ModelError("--gguf needs the gguf package: run `pip install 'gguf>=0.17'`.")
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
                f"--gguf writes models of the Llama architecture alone: expected {key} {wanted}, found {found}. "
                "Use --merged, which writes any model."
            )
    _word_cut(tokenizer)


def write_gguf(
    path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, kind: GgufType
) -> None:
    """Writes a model that `check_gguf` accepts.

    Args:
        path: the file.
        model: merged, float32.
        tokenizer: with the item tokens.
        name: of the model, for people.
        kind: type of the matrices; vectors stay float32.
    """
    from gguf import MODEL_ARCH, GGUFWriter, LlamaFileType, get_tensor_name_map

    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_file_type(
        {"f32": LlamaFileType.ALL_F32, "f16": LlamaFileType.MOSTLY_F16}.get(kind, LlamaFileType.MOSTLY_Q8_0)
    )
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
    _add_tokenizer(writer, tokenizer, config.vocab_size)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue  # llama.cpp takes the embeddings where there is no head
        _add_tensor(writer, names.get_name(key, (".weight",)), for_llama_cpp(key, tensor, config).numpy(), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def for_llama_cpp(key: str, weight: torch.Tensor, config: PretrainedConfig) -> torch.Tensor:
    """A weight with the rows of queries and keys in llama.cpp's order.

    Both turn pairs of a head's numbers by an angle. In transformers the number i is paired with i + head_dim / 2, in
    llama.cpp's Llama with its neighbour.
    """
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(key.split(".")[-2])
    if heads is None:
        return weight.contiguous()
    pairs = weight.reshape(heads, 2, config.head_dim // 2, -1)
    return pairs.transpose(1, 2).reshape(weight.shape).contiguous()


def _add_tensor(writer, name: str, array: np.ndarray, kind: GgufType) -> None:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import quantize

    as_type = GGMLQuantizationType.F32 if array.ndim == 1 else GGMLQuantizationType[kind.upper()]
    if array.shape[-1] % GGML_QUANT_SIZES[as_type][0]:  # rows are quantised in blocks
        as_type = GGMLQuantizationType.F16
    writer.add_tensor(name, quantize(array, as_type), raw_dtype=as_type)


def _add_tokenizer(writer, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
    """Vocabulary, merges, special tokens and chat template. Item tokens are user-defined: text never splits them."""
    from gguf import TokenType

    added = tokenizer.added_tokens_decoder
    tokens, types = [], []
    for number in range(size):
        if number >= len(tokenizer):  # rows that a base has for speed alone
            tokens.append(f"<|unused_{number}|>")
            types.append(TokenType.UNUSED)
        elif number in added:
            tokens.append(added[number].content)
            types.append(TokenType.CONTROL if added[number].special else TokenType.USER_DEFINED)
        else:
            tokens.append(tokenizer.convert_ids_to_tokens(number))
            types.append(TokenType.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_word_cut(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in _backend(tokenizer)["model"]["merges"]])
    for add, number in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if number is not None:
            add(number)
    writer.add_add_bos_token(False)  # the chat template writes it
    writer.add_chat_template(tokenizer.chat_template)


def _word_cut(tokenizer: PreTrainedTokenizerBase) -> str:
    """llama.cpp's name for how a tokenizer cuts text before its merges.

    Raises:
        ModelError: it is none of those that are known.
    """
    backend = _backend(tokenizer)
    found = backend["pre_tokenizer"] or {}
    steps = found.get("pretokenizers", [found])
    if backend["model"]["type"] == "BPE" and backend["normalizer"] is None:
        for name, wanted in WORD_CUTS.items():
            if len(steps) == len(wanted) and all(w.items() <= s.items() for w, s in zip(wanted, steps, strict=True)):
                return name
    raise ModelError(
        f"--gguf knows byte-level BPE tokenizers that cut words as {' or '.join(WORD_CUTS)} does, found "
        f"{backend['model']['type']} with {json.dumps(steps)}. Use --merged, which writes any model."
    )


def _backend(tokenizer: PreTrainedTokenizerBase) -> dict:
    return json.loads(tokenizer.backend_tokenizer.to_str())
