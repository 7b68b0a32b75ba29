"""A base in bfloat16 under float32 adapters, on the CPU. bfloat16 has 8 significant bits: one part in 256."""

import pytest
import torch

from llmrec.config import SFTConfig
from llmrec.data.decision import Decision
from llmrec.errors import ModelError
from llmrec.language.base_model import base_dtype
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack
from llmrec.policy.ranking import item_scores
from llmrec.sft.trainer import sft_losses
from llmrec.sft.windows import TrainingWindows
from tests.conftest import disturb, make_config
from tests.ppo.test_trainer import first_step, make_trainer

WINDOWS = [Decision("20", [], [0, 1]), Decision("31", [3], [2, 4, 7])]


def make_policy(base: str, data, dtype: str, **model) -> RecPolicy:
    values = {"base": base, "lora_r": 4, "lora_alpha": 8, "dtype": dtype} | model
    torch.manual_seed(0)
    policy = RecPolicy.create(make_config(base, model=values), data)
    disturb(policy, 0.05)
    return policy.eval()


def scores(policy: RecPolicy) -> torch.Tensor:
    return torch.cat(list(item_scores(policy, WINDOWS)))


@pytest.fixture
def halved(tiny_base, data) -> RecPolicy:
    return make_policy(tiny_base, data, "bfloat16")


def test_frozen_weights_are_bfloat16_and_trained_ones_float32(tiny_base, data):
    policy = make_policy(tiny_base, data, "bfloat16", layers=1)
    policy.add_rl_adapter()
    trained = {name: p.dtype for name, p in policy.named_parameters() if ".rl" in name or ".sft" in name}
    assert set(trained.values()) == {torch.float32}
    assert any("lora_A" in name for name in trained) and any("trainable_tokens" in name for name in trained)
    assert any("modules_to_save.rl" in name for name in trained)  # the final norm of a cut base
    frozen = {p.dtype for name, p in policy.model.named_parameters() if name not in {n[6:] for n in trained}}
    assert frozen == {torch.bfloat16} and policy.base_dtype == torch.bfloat16
    state = policy.model.state_dict()
    pairs = [(name, name.replace(".rl", ".sft")) for name in state if ".rl" in name]
    assert pairs and all(torch.equal(state[rl], state[sft]) for rl, sft in pairs)


def test_probabilities_are_float32_and_near_those_of_a_float32_base(halved, tiny_base, data):
    expected = scores(make_policy(tiny_base, data, "float32"))
    found = scores(halved)
    possible = expected.isfinite()
    assert found.dtype == torch.float32 and torch.equal(found.isfinite(), possible)
    assert torch.allclose(found.exp().sum(1), torch.ones(2), atol=1e-5)
    assert torch.allclose(found[possible], expected[possible], atol=0.1)


def test_a_saved_adapter_keeps_its_format_or_loads_in_full_precision(halved, tiny_base, data, tmp_path):
    halved.save_pretrained(tmp_path / "adapter")
    assert torch.equal(scores(RecPolicy.from_pretrained(tmp_path / "adapter").eval()), scores(halved))
    full = RecPolicy.from_pretrained(tmp_path / "adapter", quantized=False).eval()
    assert {p.dtype for p in full.parameters()} == {torch.float32}


def test_losses_of_sft_are_near_those_of_float32_and_gradients_are_float32(halved, tiny_base, data):
    losses = []
    for policy in (halved, make_policy(tiny_base, data, "float32")):
        rows = TrainingWindows(policy, data, ["age"], SFTConfig(num_train_epochs=1.0, per_device_train_batch_size=4), 0)
        decisions = [Decision(row["profile"], row["prior"], row["items"]) for row in rows]
        batch = pack(policy, decisions, [row["completions"] for row in rows])
        losses.append(torch.stack(sft_losses(policy, batch, policy(*batch.inputs()))))
        losses[-1].sum().backward()
        gradients = [p.grad for p in policy.parameters() if p.requires_grad]
        assert all(gradient is not None and gradient.dtype == torch.float32 for gradient in gradients)
    assert torch.allclose(losses[0], losses[1], rtol=0.02)


def test_ppo_starts_near_ratio_one_and_learns(tiny_base, data, tmp_path):
    """Single tokens of a rollout round otherwise than the packed batch. The bounds are those of `_tolerance`."""
    options = {"model": {"dtype": "bfloat16"}, "num_generations": 2, "text": "on"}
    trainer = make_trainer(tiny_base, data, tmp_path, **options)
    metrics = first_step(trainer)
    assert trainer._tolerance == 0.1
    assert abs(metrics["objective/kl"]) < 0.1 and metrics["objective/item_kl"] < 1e-3
    assert metrics["val/ratio"] == pytest.approx(1.0, abs=0.02)
    assert metrics["policy/approxkl_avg"] < 1e-3
    again = make_trainer(tiny_base, data, tmp_path, total_episodes=8, **options)
    before = [p.detach().clone() for p in again.policy.parameters() if p.requires_grad]
    again.train()
    after = [p for p in again.policy.parameters() if p.requires_grad]
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("dtype", "gpu", "expected"),
    [
        ("auto", None, torch.float32),
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("float32", True, torch.float32),
        ("bfloat16", None, torch.bfloat16),
        ("bfloat16", True, torch.bfloat16),
    ],
)
def test_the_format_that_a_machine_gets(monkeypatch, dtype, gpu, expected):
    """`gpu`: whether there is one that computes in bfloat16; None for no GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: gpu)
    assert base_dtype(dtype) == expected


def test_a_gpu_without_bfloat16_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    with pytest.raises(ModelError, match="model.dtype: bfloat16.*Tesla T4 does not. Set `model.dtype: float32`"):
        base_dtype("bfloat16")
