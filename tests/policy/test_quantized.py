"""A quantised base under the same adapters: 4-bit (nf4) and 8-bit, on the CPU."""

import importlib.util

import pytest
import torch
from peft import AutoPeftModelForCausalLM

from llmrec.config import ModelConfig
from llmrec.data.decision import Decision
from llmrec.errors import ModelError
from llmrec.language import base_model as base_module
from llmrec.language.base_model import base_fingerprint, load_base
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import item_scores
from llmrec.run import Run
from llmrec.sft.stage import training_arguments
from llmrec.sft.trainer import RecSFTTrainer
from llmrec.sft.windows import TrainingWindows
from tests.conftest import disturb, make_base, make_config
from tests.ppo.test_trainer import first_step, make_trainer

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="pip install 'bitsandbytes>=0.50'"
)
WINDOWS = [Decision("20", [], [0, 1]), Decision("31", [3], [2, 4, 7])]


@pytest.fixture(scope="module")
def wide_base(tmp_path_factory) -> str:
    """Blocks of nf4 are 64 numbers wide."""
    return make_base(tmp_path_factory.mktemp("wide"), hidden_size=64)


@pytest.fixture(params=[pytest.param("nf4", marks=needs_bitsandbytes), pytest.param("int8", marks=needs_bitsandbytes)])
def quantized(request, wide_base):
    """Makes configs of a quantised base."""
    model = {"base": wide_base, "lora_r": 4, "lora_alpha": 8, "quantization": request.param}
    return lambda **sections: make_config(wide_base, model=model, **sections)


@pytest.fixture
def quantized_policy(quantized, data) -> RecPolicy:
    policy = RecPolicy.create(quantized(), data)
    disturb(policy)
    return policy.eval()


def scores(policy: RecPolicy) -> torch.Tensor:
    return torch.cat(list(item_scores(policy.eval(), WINDOWS)))


def test_linear_layers_are_quantised_and_embeddings_are_not(quantized_policy, quantized, wide_base):
    model = quantized_policy.model.get_base_model()
    layer = model.model.layers[0].mlp.up_proj.base_layer
    assert layer.weight.dtype == {"nf4": torch.uint8, "int8": torch.int8}[quantized().model.quantization]
    assert model.get_input_embeddings().token_adapter.get_base_layer().weight.dtype == torch.float32
    assert model.get_output_embeddings().token_adapter.get_base_layer().weight.dtype == torch.float32
    full, _ = load_base(ModelConfig(base=wide_base))
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    expected = full.model.layers[0].mlp.up_proj(x)
    error = (layer(x) - expected).norm() / expected.norm()
    assert 0 < error < {"nf4": 0.15, "int8": 0.02}[quantized().model.quantization]


def test_sft_on_a_quantised_base_learns(quantized, data, tmp_path):
    config = quantized(name="run", output_dir=str(tmp_path), sft={"num_train_epochs": 30.0, "learning_rate": 5e-3})
    policy = RecPolicy.create(config, data)
    frozen = policy.model.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight.clone()
    windows = TrainingWindows(policy, data, ["age"], config.sft, 0)
    arguments = training_arguments(config.sft, Run.create(config))
    arguments.logging_steps, arguments.disable_tqdm = 1, True
    trainer = RecSFTTrainer(policy, windows, arguments, config.sft)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "item_loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    assert torch.equal(policy.model.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight, frozen)


def test_ppo_on_a_quantised_base_starts_at_ratio_one(quantized, wide_base, data, tmp_path):
    """Nearly: activations of single tokens round otherwise than those of a batch. Outliers of int8, which would depend
    on the whole batch, are off."""
    model = {"quantization": quantized().model.quantization}
    assert first_step(make_trainer(wide_base, data, tmp_path, model=model))["val/ratio"] == pytest.approx(1, abs=1e-3)
    again = make_trainer(wide_base, data, tmp_path, model=model, total_episodes=8)
    before = [p.detach().clone() for p in again.policy.parameters() if p.requires_grad]
    again.train()
    assert again.state.global_step == 1
    after = [p for p in again.policy.parameters() if p.requires_grad]
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_a_saved_adapter_gives_the_same_scores_and_loads_on_the_full_base(quantized_policy, tmp_path, wide_base):
    quantized_policy.save_pretrained(tmp_path / "adapter")
    loaded = RecPolicy.from_pretrained(tmp_path / "adapter")
    assert loaded.model_config == quantized_policy.model_config
    assert torch.allclose(scores(loaded), scores(quantized_policy), atol=1e-5)
    plain = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert {p.dtype for p in plain.parameters()} == {torch.float32}
    expected = {name: p for name, p in quantized_policy.model.named_parameters() if p.requires_grad}
    found = dict(plain.named_parameters())
    for name, value in expected.items():
        assert torch.equal(found[name.replace("sft", "default")], value), name


def test_a_base_has_one_fingerprint_in_every_precision_and_depth(quantized, wide_base, tmp_path):
    model, tokenizer = load_base(ModelConfig(base=wide_base))
    expected = base_fingerprint(model, len(tokenizer))
    for config in (quantized().model, ModelConfig(base=wide_base, layers=1)):
        assert base_fingerprint(load_base(config)[0], len(tokenizer)) == expected
    model.bfloat16().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert base_fingerprint(load_base(ModelConfig(base=str(tmp_path)))[0], len(tokenizer)) == expected


def test_a_missing_bitsandbytes_is_explained(wide_base, monkeypatch):
    monkeypatch.setattr(base_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install 'bitsandbytes>=0.50'.*--full-precision"):
        load_base(ModelConfig(base=wide_base, quantization="nf4"))


def test_a_base_stored_in_bf16_runs_with_float32_adapters(data, tmp_path):
    base = make_base(tmp_path / "base")
    model, _ = load_base(ModelConfig(base=base))
    model.bfloat16().save_pretrained(base)
    policy = RecPolicy.create(make_config(base), data)
    assert scores(policy).dtype == torch.float32
