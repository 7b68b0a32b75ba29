"""Fixtures: a tiny language model and a tiny catalogue, of the same classes as real ones."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llmrec.cli.app import main
from llmrec.config import Config, parse_config
from llmrec.data.dataset import InteractionData, Targets
from llmrec.language.templates import all_texts
from llmrec.policy.model import RecPolicy

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TITLES = (
    ("Red Sky", ["Drama", "War"], 1995),
    ("Red Sea", ["Comedy"], 1994),
    ("Blue Note", ["Comedy", "Musical"], 1987),
    ("Blue Note", ["Drama"], 1999),
    ("The 39 Moons", ["Sci-Fi"], None),
    ("Moon. Light", ["Sci-Fi", "Drama"], 1995),
    ("Quiet", ["Comedy", "Drama"], 1982),
    ("Quiet Storm", ["War"], 1991),
    ("Delta", ["Musical"], 1990),
    ("Echo", [], None),
)

os.environ.pop("COLUMNS", None)  # pytest-xdist sets it, and tables would be narrower than without it


def make_base(directory: Path | str, hidden_size: int = 32, layers: int = 2) -> str:
    """Writes a tiny Llama with a byte-level tokenizer and a chat template; returns its directory."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # Enough merges that every word of a justification is one token, as in real vocabularies.
    genres = "Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror Musical"
    words = f"{genres} Mystery Romance Sci-Fi Thriller War Western with the same director actor from the 1990s".split()
    texts = [*all_texts(), *(f' "x {word}' for word in words)] * 3
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    fast.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # a new model is almost uniform, which would hide mistakes in a mask
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.ndim > 1 else 1)
    model.save_pretrained(directory)
    fast.save_pretrained(directory)
    return str(directory)


def make_data() -> InteractionData:
    """A prepared log of six users and the ten items of `TITLES`, with a leave-one-out split."""
    items = pd.DataFrame(
        {
            "item_id": [f"i{n}" for n in range(len(TITLES))],
            "title": [title for title, *_ in TITLES],
            "categories": [categories for _, categories, _ in TITLES],
            "year": pd.array([year for *_, year in TITLES], dtype="Int64"),
        }
    )
    histories = [
        [0, 1, 2, 3, 4, 5],
        [5, 4, 3, 2],
        [1, 3, 5, 7, 9, 0, 2],
        [8, 6, 4],
        [9, 8, 7, 6, 5, 4, 3],
        [2, 0, 8, 1],
    ]
    arrays = [np.array(history) for history in histories]
    lengths = np.array([len(history) for history in histories])
    users = pd.DataFrame({"user_id": [f"u{n}" for n in range(6)], "age": ["20", "31", "42", "", "64", "75"]})
    facts = pd.DataFrame(
        {
            "item": [0, 1, 5, 2, 0],
            "relation": ["directed_by", "directed_by", "directed_by", "actor", "unheard_of"],
            "tail": ["m.1", "m.1", "m.2", "m.3", "m.1"],
            "named": False,
        }
    )
    everyone = np.arange(6)
    return InteractionData(
        items=items,
        users=users,
        facts=facts,
        histories=arrays,
        purchases=[np.arange(n) % 2 == 0 for n in lengths],
        timestamps=[np.arange(n) for n in lengths],
        train_lengths=lengths - 2,
        targets={"leave_one_out": {"valid": Targets(everyone, lengths - 2), "test": Targets(everyone, lengths - 1)}},
    )


# Training settings for a tiny model and six users. The defaults are for real logs.
TINY_SETTINGS = {
    "sft": {"learning_rate": 5e-4, "per_device_train_batch_size": 16, "dropout": 0.0},
    "reward": {"linear": False, "conversion_weight": 1.0, "popularity_weight": 1.0},
    "ppo": {
        "learning_rate": 1e-4,
        "num_mini_batches": 1,
        "num_ppo_epochs": 2,
        "kl_coef": 0.1,
        "item_kl_coef": 0.6,
        "item_entropy_coef": 0.0,
        "ptx_coef": 0.5,
        "cliprange": 0.2,
        "ema_decay": 0.0,
        "eval_steps": 10,
        "save_steps": 10,
    },
}


def make_config(base: str, scheme: str = "atomic", **sections: Any) -> Config:
    """A config for the tiny model and catalogue. Item embeddings are initialized from title words alone."""
    tiny = {name: settings | sections.pop(name, {}) for name, settings in TINY_SETTINGS.items()}
    values = tiny | {
        "name": "tiny",
        "data": {"format": "table", "path": "none"},
        "model": {"base": base, "lora_r": 4, "lora_alpha": 8},
        "catalogue": {
            "scheme": scheme,
            "max_history": 4,
            "user_attributes": ["age"],
            "cooccurrence_weight": 0.0,
        },
    }
    return parse_config(json.loads(json.dumps(values | sections)))


def disturb(policy: RecPolicy, scale: float = 0.3) -> None:
    """Adds noise to the active adapter. At its initialization LoRA changes nothing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def data() -> InteractionData:
    return make_data()


@pytest.fixture(params=["atomic", "title"])
def scheme(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def policy(tiny_base: str, data: InteractionData, scheme: str) -> RecPolicy:
    """A policy of each item scheme with a random adapter."""
    policy = RecPolicy.create(make_config(tiny_base, scheme), data)
    disturb(policy)
    return policy.eval()


@pytest.fixture
def command_here(monkeypatch, capsys) -> Callable[..., CompletedProcess[str]]:
    """`llmrec` with some arguments in this process, for tests that need no process of their own."""

    def run_command(*arguments: str | Path) -> CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["llmrec", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return CompletedProcess(sys.argv, ended.value.code, *capsys.readouterr())

    return run_command
