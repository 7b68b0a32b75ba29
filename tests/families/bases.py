"""Tiny random bases of many families: each the real architecture, with a tokenizer of its kind trained on a few lines.

python -m tests.families.bases NAME OUT
"""

import string
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PhiConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from llmrec.language.templates import all_texts
from tests.conftest import CHAT_TEMPLATE

WORDS = [
    "Action",
    "Comedy",
    "Drama",
    "War",
    "Sci-Fi",
    "Musical",
    "Recommend.",
    "new",
    "user",
    "with",
    "the",
    "same",
    "director",
    "from",
    "the",
    "1980s",
    "1990s",
]
# Splits of the byte-level families, written for the words above.
GPT2_SPLIT = r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{% if m['role'] == 'system' %}Today Date: {{ strftime_now('%d %b %Y') }}\n\n{% endif %}"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)

Kind = Literal["gpt2", "llama3", "legacy", "first", "unprefixed"]


@dataclass(frozen=True)
class Family:
    """One row of the matrix.

    Attributes:
        config: class of the model's config.
        kind: the tokenizer: byte-level BPE as GPT-2 or Llama 3 splits words, or SentencePiece-like with a space that
            a normalizer puts before every text (`legacy`: Llama 2, Mistral 0.1), that is put at the start only
            (`first`), or with none (`unprefixed`: Gemma).
        template: the chat template; None for a base that has none.
        special: special tokens; the first begins a text if `bos`, the second ends it.
        bos: whether the tokenizer puts the first special token before a text.
        tied: whether the model ties its embeddings.
        pad: whether the tokenizer names a padding token.
        options: further options of the config.
    """

    config: type[PretrainedConfig]
    kind: Kind
    template: str | None
    special: tuple[str, ...]
    bos: bool = False
    tied: bool = True
    pad: bool = True
    options: dict[str, Any] = field(default_factory=dict)


CHATML = ("<|endoftext|>", "<|im_end|>", "<|im_start|>")
EXPERTS = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
FAMILIES = {
    "gpt2": Family(GPT2Config, "gpt2", None, ("<|endoftext|>", "<|endoftext|>")),
    "llama3": Family(
        LlamaConfig,
        "llama3",
        LLAMA3_TEMPLATE,
        ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        bos=True,
        tied=False,
        pad=False,
    ),
    "llama2": Family(LlamaConfig, "legacy", MISTRAL_TEMPLATE, ("<s>", "</s>", "<unk>"), bos=True, tied=False),
    "qwen3": Family(Qwen3Config, "llama3", CHAT_TEMPLATE, CHATML, options={"head_dim": 16}),
    "gemma3": Family(
        Gemma3TextConfig,
        "unprefixed",
        GEMMA_TEMPLATE,
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        bos=True,
        options={"head_dim": 16, "sliding_window": 512, "query_pre_attn_scalar": 16},
    ),
    "mistral": Family(MistralConfig, "first", MISTRAL_TEMPLATE, ("<s>", "</s>", "<unk>"), bos=True, tied=False),
    "phi": Family(PhiConfig, "gpt2", CHAT_TEMPLATE, CHATML, tied=False, options={"num_key_value_heads": 4}),
    "smollm3": Family(SmolLM3Config, "llama3", CHAT_TEMPLATE, CHATML),
    "qwen3_moe": Family(Qwen3MoeConfig, "llama3", CHAT_TEMPLATE, CHATML, tied=False, options=EXPERTS),
    "mixtral": Family(
        MixtralConfig, "first", MISTRAL_TEMPLATE, ("<s>", "</s>", "<unk>"), tied=False, options={"num_local_experts": 4}
    ),
}


def make_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """Trains the tokenizer of a family."""
    build = _byte_level if family.kind in ("gpt2", "llama3") else _sentencepiece
    tokenizer = build(family.kind, family.special)
    first, end = family.special[:2]
    if family.bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, tokenizer.token_to_id(first))]
        )
    pad = end if family.pad else None
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=first, eos_token=end, pad_token=pad)
    fast.chat_template = family.template
    return fast


def _texts() -> list[str]:
    pairs = [f' "{one}{other}' for one in string.ascii_letters for other in "aeiou"]
    return [*all_texts(), *(f" {word}" for word in WORDS)] * 3 + pairs


def _byte_level(kind: str, special: tuple[str, ...]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    split = Regex(GPT2_SPLIT if kind == "gpt2" else LLAMA3_SPLIT)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(split, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=list(dict.fromkeys(special)),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return tokenizer


def _sentencepiece(kind: str, special: tuple[str, ...]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token=None, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True)
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=["▁", *map(chr, range(33, 127))],
        max_token_length=9,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    space = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    if kind == "first":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    else:
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space]) if kind == "legacy" else space
    if kind != "unprefixed":
        tokenizer.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(content=" ", left=1, right=0),
            ]
        )
    return tokenizer


def make_base(name: str, directory: Path | str, **options: Any) -> str:
    """Writes the tiny base of a family, with further options of its config; returns its directory."""
    family = FAMILIES[name]
    tokenizer = make_tokenizer(family)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
    }
    if family.config is GPT2Config:
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    tokens = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    config = family.config(
        **(sizes | family.options | options), **tokens, vocab_size=len(tokenizer), tie_word_embeddings=family.tied
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # a new model is almost uniform, which would hide mistakes in a mask
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
            if parameter.ndim == 1 and len(parameter) == len(tokenizer):
                parameter.normal_()  # the bias of the output layer
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


if __name__ == "__main__":
    make_base(*sys.argv[1:])
