"""A GGUF file holds the model that it was written from, and models that llama.cpp would misread are refused."""

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from llmrec.errors import ModelError, UserError
from llmrec.export.gguf import check_gguf
from llmrec.export.merged import ExportPaths, export, sample_prompts
from llmrec.language.base_model import load_base
from llmrec.policy.model import RecPolicy
from llmrec.run import Run
from tests.conftest import make_base, make_config
from tests.export.runs import assert_same_logits

pytestmark = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="pip install 'gguf>=0.17'")


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_a_file_read_back_is_the_same_model(run: Run, data, tmp_path: Path, kind: str) -> None:
    """transformers undoes the permutation of queries and keys when it reads GGUF files."""
    export(run, ExportPaths(merged=tmp_path / "merged", gguf=tmp_path / "model.gguf"), gguf_type=kind)
    policy = RecPolicy.from_pretrained(run.path("sft", "adapter")).eval()
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    text = '<|im_start|>user\n24<|im_end|> like "<|item_3|><|item_4|>, a Drama'
    assert tokenizer(text)["input_ids"] == policy.tokenizer(text)["input_ids"]
    if kind == "f32":
        assert_same_logits(model, policy.model, sample_prompts(policy, data, ["age"], 6))
    else:
        _assert_rounded_to_eight_bits(model, AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))


def _assert_rounded_to_eight_bits(model: PreTrainedModel, exact: PreTrainedModel) -> None:
    """In q8_0, 32 neighbors share a float16 scale: their largest absolute value / 127. Errors reach half a scale."""
    rounded = 0
    for (name, found), expected in zip(model.named_parameters(), exact.parameters(), strict=True):
        if expected.ndim == 1:
            assert torch.equal(found, expected), name
            continue
        scale = expected.reshape(-1, 32).abs().amax(1, keepdim=True) / 127
        error = (found - expected).reshape(-1, 32).abs()
        # 2**-11 is the relative rounding error of the float16 scale, which counts up to 127 times.
        assert (error <= scale * (0.5 + 127 * 2**-11) + 1e-7).all(), name
        rounded += int((error > 0).sum())
    assert rounded


def test_only_an_earlier_file_is_replaced(run: Run, tmp_path: Path) -> None:
    weights = run.path("sft", "adapter") / "adapter_model.safetensors"
    for path in (weights, tmp_path):
        with pytest.raises(UserError, match=r"is not a GGUF file.*Give --gguf another place"):
            export(run, ExportPaths(gguf=path))
    (tmp_path / "model.gguf").write_bytes(b"GGUF, of old")
    export(run, ExportPaths(gguf=tmp_path / "model.gguf"))
    assert (tmp_path / "model.gguf").stat().st_size > 100


def test_another_architecture_is_refused(tiny_base: str) -> None:
    model, tokenizer = load_base(make_config(tiny_base).model)
    check_gguf(model.config, tokenizer)
    model.config.model_type = "qwen2"
    with pytest.raises(ModelError, match="expected model_type llama, found qwen2"):
        check_gguf(model.config, tokenizer)


def test_an_unknown_tokenizer_is_refused(tmp_path: Path) -> None:
    model, tokenizer = load_base(make_config(make_base(tmp_path / "base")).model)
    tokenizer.backend_tokenizer.pre_tokenizer = None
    with pytest.raises(ModelError, match="gpt-2 or smollm"):
        check_gguf(model.config, tokenizer)


def test_a_missing_package_is_named(tiny_base: str, monkeypatch) -> None:
    model, tokenizer = load_base(make_config(tiny_base).model)
    monkeypatch.setattr("llmrec.export.gguf.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install 'gguf"):
        check_gguf(model.config, tokenizer)
