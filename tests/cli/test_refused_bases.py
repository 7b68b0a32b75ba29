"""Bases and settings that cannot work: `llmrec sft` refuses each before it trains, with exit code 2."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    LlamaModel,
    MambaConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from llmrec.language import base_model
from tests.configs import write_config
from tests.conftest import make_base
from tests.families.bases import FAMILIES, make_tokenizer
from tests.families.test_commands import write_log

SIZES = {"vocab_size": 900, "hidden_size": 32, "num_hidden_layers": 1}
ADVICE = "choose another `model.base`"


def save(model: torch.nn.Module, directory: Path) -> None:
    model.save_pretrained(directory)  # pyright: ignore[reportCallIssue]
    make_tokenizer(FAMILIES["gpt2"]).save_pretrained(directory)


def bert(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(AutoModelForCausalLM.from_config(BertConfig(**SIZES, num_attention_heads=4, intermediate_size=64)), directory)


def t5(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = T5Config(vocab_size=900, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    save(T5ForConditionalGeneration(config), directory)


def mamba(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(AutoModelForCausalLM.from_config(MambaConfig(**SIZES, state_size=4)), directory)


def without_input_embeddings(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_base(directory)
    forward = LlamaModel.forward

    def from_tokens(self, input_ids=None, attention_mask=None, position_ids=None, use_cache=None, **_):
        if input_ids is None:
            raise ValueError("You have to specify input_ids")
        return forward(self, input_ids, attention_mask, position_ids, use_cache=use_cache)

    monkeypatch.setattr(LlamaModel, "forward", from_tokens)


def without_end_token(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_base(directory)
    tokenizer = make_tokenizer(FAMILIES["gpt2"])
    tokenizer.eos_token = None
    tokenizer.save_pretrained(directory)


def without_bitsandbytes(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_base(directory)
    find = base_model.importlib.util.find_spec
    missing = "bitsandbytes"
    monkeypatch.setattr(base_model.importlib.util, "find_spec", lambda name: None if name == missing else find(name))


def old_gpu(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_base(directory)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")


def plain(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_base(directory)


@pytest.mark.parametrize(
    ("make", "model", "said"),
    [
        (bert, {}, ["no decoder layers", ADVICE]),
        (t5, {}, ["it is no decoder", "Correct `model.base`"]),
        (mamba, {}, ["does not run on input embeddings with positions and attention masks", "Choose a decoder"]),
        (without_input_embeddings, {}, ["does not run on input embeddings", "Choose a decoder"]),
        (without_end_token, {}, ["no end-of-sequence token", ADVICE]),
        (without_bitsandbytes, {"quantization": "nf4"}, ["model.quantization: nf4", "pip install 'bitsandbytes"]),
        (old_gpu, {"dtype": "bfloat16"}, ["model.dtype: bfloat16", "Tesla T4", "float32"]),
        (plain, {"layers": 9}, ["model.layers is 9", "has 2 layers"]),
        (plain, {"attention": "flash_attention_2"}, ["model.attention", "branch off one prompt", "sdpa"]),
        (plain, {"attention": "flex_attention"}, ["model.attention", "no backward pass", "sdpa"]),
    ],
    ids=lambda value: value.__name__ if isinstance(value, Callable) else "",
)
def test_it_is_refused_before_training(llmrec, capfd, tmp_path, monkeypatch, make, model, said):
    write_log(tmp_path)
    make(tmp_path / "base", monkeypatch)
    config = write_config(tmp_path, data={"purchase": []}, model={"base": str(tmp_path / "base"), **model})
    if "attention" not in model:  # a wrong key stops the first stage
        assert llmrec("prepare", str(config)) == 0
    capfd.readouterr()
    assert llmrec("sft", str(config)) == 2
    shown = " ".join(capfd.readouterr().err.split())
    assert all(part in shown for part in said) and "Traceback" not in shown
    assert not {file.name for file in (tmp_path / "runs").glob("tiny/sft/*")} - {"started.json"}
