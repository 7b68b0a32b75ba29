"""An adapter's directory that is prepared for a hub: names of its base, and the card of a policy without a run."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard, ModelCardData

from llmrec.config import CatalogueConfig, ModelConfig
from llmrec.files import read_json, write_json
from llmrec.policy.sharing import (
    SharedPolicy,
    license_of_base,
    make_portable,
    portable_base,
    render_card,
    write_policy_card,
)


@pytest.mark.parametrize(
    ("base", "shared"),
    [
        ("somebody/base", "somebody/base"),
        ("bundled:smollm2-135m-instruct", "bundled:smollm2-135m-instruct"),
        ("../acme/base", "local:base"),
        ("~/base", "local:base"),
        ("/x/gpt2", "local:gpt2"),
        ("local:gpt2", "local:gpt2"),
    ],
)
def test_a_base_is_shared_under_an_unambiguous_name(base: str, shared: str) -> None:
    assert portable_base(base) == shared


def test_a_directory_with_the_name_of_a_repository_is_local(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "somebody" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert portable_base("somebody/base") == "local:base"


@pytest.mark.parametrize(
    ("base_model", "base", "expected"),
    [("/home/gpt2", "gpt2", "local:gpt2"), ("somebody/base", "bundled:x", "bundled:x")],
)
def test_json_files_lose_their_directories(tmp_path: Path, base_model: str, base: str, expected: str) -> None:
    write_json(tmp_path / "llmrec.json", {"base_model": base_model, "model": {"base": base, "layers": 2}})
    write_json(tmp_path / "adapter_config.json", {"base_model_name_or_path": "/cache/x", "r": 4})
    found = make_portable(tmp_path, {"adapter": "sft"})
    is_local = expected.startswith("local:")
    assert found == (None if is_local else base_model)
    about = read_json(tmp_path / "llmrec.json")
    assert about["base_model"] == (expected if is_local else base_model) and about["adapter"] == "sft"
    assert about["model"] == {"base": expected, "layers": 2}
    config = read_json(tmp_path / "adapter_config.json")
    assert config == {"base_model_name_or_path": about["base_model"], "r": 4}


def test_licenses_of_bundled_and_local_bases_need_no_hub() -> None:
    assert license_of_base("HuggingFaceTB/SmolLM2-135M-Instruct") == {"license": "apache-2.0"}
    assert license_of_base(None) == {} and license_of_base("somebody/base", ask_hub=False) == {}


def test_the_card_of_a_policy_is_read_by_a_hub(tmp_path: Path) -> None:
    policy = SharedPolicy(
        repo="alice/tiny",
        model=ModelConfig(base="bundled:smollm2-135m-instruct"),
        catalogue=CatalogueConfig(),
        base=None,
        license={},
    )
    write_policy_card(tmp_path, policy)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "peft" and card.data.eval_results is None
    for part in ("# tiny", "## Intended use", "## Limits", "4-bit weights", 'from_pretrained("alice/tiny")'):
        assert part in card.text
    for part in ("## Results", "## Data", "## Training"):
        assert part not in card.text


def test_metadata_that_a_hub_cannot_read_is_refused() -> None:
    broken = ModelCardData()
    broken["model-index"] = [{"results": "x"}]
    policy = SharedPolicy("alice/tiny", ModelConfig(), CatalogueConfig(), base=None, license={})
    with pytest.raises(ValueError, match="model_index"):
        render_card("policy_card.md.jinja", broken, policy=policy)
