import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

from llmrec.language.base_model import cut_layers
from llmrec.policy.final_norm import final_norm_name, scale_norm, spread_of_channels
from llmrec.policy.model import RecPolicy
from tests.conftest import make_config


@pytest.fixture
def cut_policy(tiny_base, data):
    """A policy on a base of which only the first layer is kept."""
    return RecPolicy.create(make_config(tiny_base, "atomic", model={"layers": 1}), data).eval()


def hidden_states(policy, data):
    prompts = [torch.tensor([policy.prompts.prompt("new user", history.tolist())]) for history in data.train_histories]
    return [policy(tokens, torch.arange(tokens.shape[1])[None], torch.ones_like(tokens))[0] for tokens in prompts]


def test_channels_of_a_cut_base_have_the_same_spread(cut_policy, data):
    assert torch.allclose(spread_of_channels(hidden_states(cut_policy, data)), torch.ones(()), atol=0.3)


def test_a_whole_base_keeps_its_norm(policy):
    assert not any("norm" in name for name, weight in policy.named_parameters() if weight.requires_grad)


def test_the_norm_is_trained_saved_and_copied_with_the_adapter(cut_policy, data, tmp_path):
    (trained,) = [weight for name, weight in cut_policy.named_parameters() if "norm" in name and weight.requires_grad]
    with torch.no_grad():
        trained.add_(0.5)
    expected = hidden_states(cut_policy, data)
    cut_policy.save_pretrained(tmp_path / "adapter")
    loaded = RecPolicy.from_pretrained(tmp_path / "adapter").eval()
    assert all(torch.equal(one, other) for one, other in zip(hidden_states(loaded, data), expected, strict=True))
    loaded.add_rl_adapter()
    assert all(torch.equal(one, other) for one, other in zip(hidden_states(loaded, data), expected, strict=True))
    (copy,) = [weight for name, weight in loaded.named_parameters() if "norm" in name and weight.requires_grad]
    with torch.no_grad():
        copy.mul_(2)
    with loaded.reference():
        assert all(torch.equal(one, other) for one, other in zip(hidden_states(loaded, data), expected, strict=True))
    assert not torch.equal(hidden_states(loaded, data)[0], expected[0])


@pytest.mark.parametrize("norm", [torch.nn.LayerNorm(4, bias=False), torch.nn.RMSNorm(4), Gemma3RMSNorm(4)])
def test_a_norm_is_scaled_whatever_its_weight_means(norm):
    torch.nn.init.normal_(norm.weight)
    hidden = torch.randn(3, 4)
    factor = torch.tensor([0.5, 2.0, 1.0, 3.0])
    expected = norm(hidden) * factor
    scale_norm(norm, factor)
    assert torch.allclose(norm(hidden), expected, atol=1e-6)


def test_the_final_norm_is_found_by_its_place():
    config = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, vocab_size=9)
    assert final_norm_name(cut_layers(LlamaForCausalLM(config), 1)) == "model.norm"
