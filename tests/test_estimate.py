"""The memory estimate, compared with tensors that exist."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, Qwen2Config
from typer.testing import CliRunner

from llmrec.cli.app import app
from llmrec.config import load_config
from llmrec.data.decision import Decision
from llmrec.errors import ModelError, RunError
from llmrec.estimate import activation_bytes, base_bytes, estimate, layer_bytes, read_shapes, trainable_tensors
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack
from llmrec.run import Run
from tests.conftest import make_base, make_config

QLORA = Path(__file__).parents[1] / "configs" / "qlora_7b.yaml"


@pytest.mark.parametrize(
    ("quantization", "dtype"), [(None, "float32"), (None, "bfloat16"), ("nf4", "float32"), ("int8", "float32")]
)
def test_weights_and_trainable_numbers_are_those_of_the_policy(data, tmp_path, quantization, dtype):
    if quantization:
        pytest.importorskip("bitsandbytes")
    base = make_base(tmp_path / "base", hidden_size=64)
    config = make_config(base, model={"base": base, "lora_r": 4, "quantization": quantization, "dtype": dtype})
    policy, shapes = RecPolicy.create(config, data), read_shapes(config, data.num_items)
    trained = [p.numel() for p in policy.parameters() if p.requires_grad]
    assert sorted(trained) == sorted(trainable_tensors(shapes, config.model))
    assert estimate(config, data.num_items)["trainable"] == {"sft": sum(trained), "ppo": sum(trained) + 65}
    frozen = [p for p in policy.parameters() if not p.requires_grad]
    held = sum(p.numel() * p.element_size() for p in frozen)
    # The scales of quantized blocks are not parameters, hence the tolerance.
    assert base_bytes(shapes, config.model) == pytest.approx(held, rel=0 if quantization is None else 0.05)


def test_activations_are_what_autograd_saves(data, tmp_path):
    base = make_base(tmp_path / "base", hidden_size=64, layers=3)
    config = make_config(base, model={"base": base, "lora_r": 4})
    policy = RecPolicy.create(config, data).train()
    batch = pack(policy, [Decision("20", [], [0, 1, 2, 3]), Decision("31", [], [4, 5])])
    own = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    saved: dict[int, int] = {}

    def record(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        hidden = policy(*batch.inputs())
    layers = 3 * batch.tokens.numel() * layer_bytes(AutoConfig.from_pretrained(base), 4, mixed=False)
    assert hidden.requires_grad
    assert sum(saved.values()) == pytest.approx(layers, rel=0.1)


def test_checkpointing_and_quantization_reduce_memory(tiny_base):
    def total(stage: str, **sections) -> dict:
        return estimate(make_config(tiny_base, **sections), 1000)[stage]

    for stage in ("sft", "ppo"):
        plain = total(stage)
        assert total(stage, **{stage: {"optim": "adamw_bnb_8bit"}})["optimizer"] < plain["optimizer"] / 2
        assert total(stage, **{stage: {"gradient_checkpointing": True}})["update"] < plain["update"]
    assert total("sft", model={"base": tiny_base, "quantization": "nf4"})["base"] < total("sft")["base"]
    assert total("sft", model={"base": tiny_base, "quantization": "nf4"})["file"] > total("sft")["file"] > 0
    text = total("ppo", reward={"text": {}})["rewards"] - total("ppo")["rewards"]
    assert text == total("ppo")["base"] - 4 * read_shapes(make_config(tiny_base), 1000).item_row_weights
    assert total("ppo", reward={"linear": True})["rewards"] - total("ppo")["rewards"] == 4 * 2 * 1000**2
    more = estimate(make_config(tiny_base), 2000)["sft"]
    assert more["item_rows"] == 2 * total("sft")["item_rows"]
    averaged = total("ppo", ppo={"ema_decay": 0.9})
    assert all(averaged[part] > total("ppo")[part] for part in ("adapters", "item_rows"))


def test_layers_are_removed_and_too_many_are_refused(tiny_base):
    config = make_config(tiny_base, model={"base": tiny_base, "layers": 1})
    assert len(read_shapes(config, 10).linear_maps) == 7
    with pytest.raises(ModelError, match="model.layers is 9"):
        read_shapes(make_config(tiny_base, model={"base": tiny_base, "layers": 9}), 10)


def test_without_prepared_data_the_catalogue_size_must_be_given(tiny_base, tmp_path):
    config = make_config(tiny_base, output_dir=str(tmp_path))
    with pytest.raises(RunError, match="llmrec prepare.*--items N"):
        estimate(config)
    run = Run.create(config)
    run.begin("data")
    run.finish("data", {"items": 77})
    assert estimate(config)["items"] == 77


def test_a_base_model_without_a_config_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="Correct `model.base`"):
        estimate(make_config(str(tmp_path)), 10)


def test_the_7b_config_fits_a_gpu_of_24_gb(tmp_path):
    """With the shapes of Qwen2.5-7B, without its weights, quantized to 4 bits."""
    config = load_config(QLORA)
    Qwen2Config(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
        num_attention_heads=28, num_key_value_heads=4, tie_word_embeddings=False, dtype="bfloat16",
    ).save_pretrained(tmp_path)  # fmt: skip
    config = config.model_copy(update={"model": config.model.model_copy(update={"base": str(tmp_path)})})
    shapes = read_shapes(config, 1682)
    assert shapes.linear_weights + shapes.other_weights == pytest.approx(7.616e9, rel=1e-3)
    found = estimate(config, 1682)
    for stage in ("sft", "ppo"):
        assert found[stage]["device"] == found[stage]["total"] - found[stage]["process"] - found[stage]["file"] < 24e9
    assert activation_bytes(shapes, config.model, 1000, True) < activation_bytes(shapes, config.model, 1000, False) / 5


def test_the_command_prints_a_table_and_json(tiny_base, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(
        f"name: a\noutput_dir: {tmp_path}\ndata: {{format: table, path: x}}\nmodel: {{base: {tiny_base}}}\n"
    )
    outcome = CliRunner().invoke(app, ["estimate", str(file), "--items", "50"], catch_exceptions=False)
    assert "peak on a GPU" in outcome.stdout and "trainable parameters" in outcome.stdout
    outcome = CliRunner().invoke(app, ["estimate", str(file), "--items", "50", "--json"], catch_exceptions=False)
    assert json.loads(outcome.stdout)["items"] == 50
