"""The folder that a push uploads: complete, loadable, and without histories and paths of this machine."""

from pathlib import Path

import numpy as np
import pytest
import torch

from llmrec.config import read_yaml
from llmrec.errors import ModelError, RunError, UserError
from llmrec.evaluation.report import Report
from llmrec.files import read_json, write_json, write_text
from llmrec.hub.bundle import shareable_config, shareable_report, withhold_titles
from llmrec.language.base_model import hub_id
from llmrec.policy.model import RecPolicy
from llmrec.recommenders.linear import LinearFit
from llmrec.run import Run
from reward_models import (
    ClickPurchaseConfig,
    ClickPurchaseModel,
    EaseJudge,
    JudgeConfig,
    RewardEnsemble,
    catalogue_hash,
    load_reward_model,
)
from reward_models.linear import LinearNextItem
from tests.conftest import make_config, make_data
from tests.hub.pushing import BASE, BUNDLED_BASE, build, set_base, weights_of

PRIVATE = (b"secret-home", b"histories of users", b"/cache")


def _leaks(folder: Path) -> list[Path]:
    """Files that contain a history or a path of this machine."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [file for file in files if any(text in file.read_bytes() for text in PRIVATE)]


def test_the_folder_is_complete_and_private(run: Run, tmp_path: Path) -> None:
    folder = build(run, tmp_path / "folder")
    assert {file.name for file in folder.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "config.yaml",
        "facts.json",
        "generation_config.json",
        "item_vocabulary.json",
        "llmrec.json",
        "report.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    config = read_json(folder / "adapter_config.json")
    assert (config["base_model_name_or_path"], config["r"]) == (BASE, 4)
    about = read_json(folder / "llmrec.json")
    assert (about["format"], about["adapter"], about["base_model"]) == (1, "ppo", BASE)
    assert (about["model"]["base"], about["model"]["layers"]) == (BUNDLED_BASE, 8)
    assert about["catalogue"]["scheme"] == "atomic"
    assert (folder / "adapter_model.safetensors").read_bytes() == weights_of(run, "ppo")
    assert not _leaks(folder)


def test_generation_defaults_are_those_of_the_adapter(run: Run, tmp_path: Path) -> None:
    folder = build(run, tmp_path / "folder")
    expected = read_json(run.path("ppo", "adapter", "generation_config.json"))
    assert read_json(folder / "generation_config.json") == expected


def test_generation_defaults_are_written_for_an_adapter_without_them(run: Run, tmp_path: Path) -> None:
    run.path("ppo", "adapter", "generation_config.json").unlink()
    folder = build(run, tmp_path / "folder")
    assert read_json(folder / "generation_config.json") == {"do_sample": False, "max_new_tokens": 32}


def test_a_run_that_was_not_evaluated_has_no_report(run: Run, tmp_path: Path) -> None:
    run.report_path.unlink()
    folder = build(run, tmp_path / "folder")
    assert not (folder / "report.json").exists()
    assert "was not evaluated" in (folder / "README.md").read_text()


def test_a_report_that_is_not_readable_is_refused(run: Run, tmp_path: Path) -> None:
    write_text(run.report_path, '{"splits": {')
    with pytest.raises(RunError, match=r"report.json cannot be read.*llmrec evaluate"):
        build(run, tmp_path / "folder")


def test_the_report_page_is_private(run: Run, tmp_path: Path) -> None:
    folder = build(run, tmp_path / "folder", include=["report"])
    page = (folder / "report.html").read_text()
    assert "NDCG@10" in page and "llmrec report of tiny" in page
    assert not _leaks(folder) and str(tmp_path) not in page


# --- broken adapters


@pytest.mark.parametrize("name", ["item_vocabulary.json", "adapter_model.safetensors", "llmrec.json"])
def test_a_missing_file_is_named(run: Run, tmp_path: Path, name: str) -> None:
    run.path("ppo", "adapter", name).unlink()
    with pytest.raises(ModelError, match=f"lacks {name}"):
        build(run, tmp_path / "folder")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("adapter_model.safetensors", b"ppo" * 1000, "adapter_model.safetensors cannot be read"),
        ("item_vocabulary.json", b"{}", "item_vocabulary.json is not readable"),
        ("facts.json", b"[", "facts.json"),
        ("llmrec.json", b'{"format": 1}', "llmrec.json is not readable"),
        ("tokenizer.json", b"{", "tokenizer cannot be read"),
    ],
)
def test_an_unreadable_file_is_refused(run: Run, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    run.path("ppo", "adapter", name).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        build(run, tmp_path / "folder")


def test_the_vocabulary_of_another_adapter_is_refused(run: Run, tmp_path: Path) -> None:
    file = run.path("ppo", "adapter", "llmrec.json")
    write_json(file, read_json(file) | {"item_vocabulary": "another"})
    with pytest.raises(ModelError, match="not the vocabulary that the adapter was trained with"):
        build(run, tmp_path / "folder")


# --- base models


@pytest.mark.parametrize("from_elsewhere", [False, True])
def test_a_local_base_is_named_without_its_directory(
    run: Run, tmp_path: Path, monkeypatch, from_elsewhere: bool
) -> None:
    (tmp_path / "secret-home" / "gpt2").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    set_base(run, "secret-home/gpt2", hub_id("secret-home/gpt2"))
    monkeypatch.chdir("/" if from_elsewhere else tmp_path)
    folder = build(run, tmp_path / "folder")
    assert read_json(folder / "adapter_config.json")["base_model_name_or_path"] == "local:gpt2"
    assert read_json(folder / "llmrec.json")["model"]["base"] == "local:gpt2"
    assert read_yaml((folder / "config.yaml").read_text())["model"]["base"] == "local:gpt2"
    assert "base_model:" not in (folder / "README.md").read_text()
    assert not _leaks(folder)
    with pytest.raises(ModelError, match=r"`local:gpt2`.*model.base"):
        RecPolicy.from_pretrained(folder)


# --- reward models


def test_reward_models_of_the_folder_load(run: Run, tmp_path: Path) -> None:
    config = ClickPurchaseConfig(3, catalogue_hash(["a", "b", "c"]), hidden_size=8)
    linear = LinearNextItem.from_weights(LinearFit([np.array([0, 1, 2]), np.array([1, 0])], 3).solve(1.0))
    ensemble = RewardEnsemble([ClickPurchaseModel(config).eval() for _ in range(2)], penalty=1.0, linear=linear)
    ensemble.save_pretrained(run.path("reward"))
    EaseJudge(JudgeConfig(3, 3)).save_pretrained(run.path("reward"))
    folder = build(run, tmp_path / "folder", include=["reward"])
    rewards = load_reward_model(folder / "reward", ["a", "b", "c"]).log_rewards([np.array([1])])
    assert torch.equal(rewards, ensemble.log_rewards([np.array([1])]))
    assert EaseJudge.from_pretrained(folder / "reward").config.num_items == 3
    assert "load_reward_model(" in (folder / "README.md").read_text()
    assert "fingerprint" not in read_json(folder / "reward" / "metrics.json")
    assert not _leaks(folder)


@pytest.mark.parametrize(
    ("base", "shared", "adapter_base"),
    [
        ("/secret-home/my-base", "local:my-base", "local:my-base"),
        (BUNDLED_BASE, BUNDLED_BASE, BASE),  # the base of the policy
        ("somebody/base", "somebody/base", "somebody/base"),
    ],
)
def test_the_text_reward_model_names_its_base_without_a_directory(
    run: Run, tmp_path: Path, base: str, shared: str, adapter_base: str
) -> None:
    text = run.path("reward", "text")
    write_json(text / "text_reward.json", {"scale": 2.0, "base": {"base": base, "layers": 2}})
    write_json(text / "adapter_config.json", {"base_model_name_or_path": "/cache/base"})
    write_text(text / "README.md", "base_model: /secret-home/base")
    folder = build(run, tmp_path / "folder", include=["reward"])
    pushed = folder / "reward" / "text"
    assert read_json(pushed / "text_reward.json") == {"scale": 2.0, "base": {"base": shared, "layers": 2}}
    assert read_json(pushed / "adapter_config.json") == {"base_model_name_or_path": adapter_base}
    assert not (pushed / "README.md").exists() and not _leaks(folder)


# --- titles


def test_withheld_titles_are_in_no_file(run: Run, tmp_path: Path) -> None:
    file = run.path("ppo", "adapter", "item_vocabulary.json")
    vocabulary = read_json(file)
    for number, item in enumerate(vocabulary["items"]):
        item["title"] = f"Secret Title (199{number})"
    write_json(file, vocabulary)
    folder = build(run, tmp_path / "folder", include=["report"], titles=False)
    assert not [file for file in folder.iterdir() if b"Secret Title" in file.read_bytes()]


def test_facts_that_equal_a_title_are_withheld(run: Run, tmp_path: Path) -> None:
    adapter = run.path("ppo", "adapter")
    vocabulary = read_json(adapter / "item_vocabulary.json")
    vocabulary["items"][0]["title"] = "Secret Movie (1999) [2]"
    write_json(adapter / "item_vocabulary.json", vocabulary)
    values = ["Quiet", "secret movie", "Secret Movie (1999)", "Secret Movie (1999) [2]", "War"]
    members = [["category", "secret movie", [0]], ["category", "War", [1]]]
    write_json(adapter / "attributes.json", {"format": 1, "members": members})
    book = read_json(adapter / "facts.json")
    facts = {"facts": [["category", value] for value in values], "of_item": [[0, 1, 2, 3, 4], *[[4]] * 9]}
    write_json(adapter / "facts.json", book | facts)
    withhold_titles(adapter)
    book = read_json(adapter / "facts.json")
    assert book["facts"] == [["category", "War"]] and book["of_item"] == [[0]] * 10
    assert read_json(adapter / "attributes.json")["members"] == [["category", "War", [1]]]


def test_titles_that_spell_the_items_cannot_be_withheld(tmp_path: Path, tiny_base: str) -> None:
    RecPolicy.create(make_config(tiny_base, "title"), make_data()).save_pretrained(tmp_path / "a")
    with pytest.raises(UserError, match="cannot be withheld"):
        withhold_titles(tmp_path / "a")


# --- config and report


def test_paths_of_the_config_lose_their_directories() -> None:
    data = {"path": "../clients/acme/log.csv", "items": "package:acme/data/items.csv", "users": "/x/users.csv"}
    shared = shareable_config({"data": data, "model": {"base": "./acme/base"}, "unknown": 1})
    assert shared["data"] == {"path": "log.csv", "items": "package:acme/data/items.csv", "users": "users.csv"}
    assert shared["model"] == {"base": "local:base"} and shared["unknown"] == 1


def test_the_report_keeps_results_and_unknown_keys() -> None:
    values = {
        "splits": {"temporal": {"models": {"sft": {"hr@10": {"value": 0.5, "novel": 1}}}}},
        "examples": [{"user": "7"}],
        "commands": ["llmrec run x.yaml"],
        "data": {"source": {"format": "table", "path": "/home/log.csv"}, "users": 3},
        "later": {"key": 2},
    }
    shared = shareable_report(Report.model_validate(values)).as_json()
    assert shared["splits"] == values["splits"] and shared["later"] == {"key": 2}
    assert shared["data"] == {"source": {"format": "table", "path": "log.csv"}, "users": 3}
    assert "examples" not in shared and "commands" not in shared
