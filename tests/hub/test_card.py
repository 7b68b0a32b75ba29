"""The model card: metadata that a hub reads, results with intervals, and code that loads the adapter."""

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from llmrec.config import parse_config, read_yaml
from llmrec.evaluation.report import DatasetCard, Report
from llmrec.hub.card import SharedRun, run_card
from llmrec.policy.sharing import SharedPolicy
from llmrec.run import Run
from tests.fakes.hub import Fault, Hub
from tests.hub.pushing import BASE, build, set_base

ESTIMATE = {"value": 0.2, "ci95": [0.19, 0.21], "n": 900}
GAIN = {"difference": 0.02, "ci95": [0.01, 0.03], "p_holm": 0.001, "verdict": "better"}


@pytest.fixture
def shared() -> SharedRun:
    """What the card of a small evaluated run is made from."""
    config = parse_config(
        {
            "name": "tiny",
            "data": {"format": "movielens", "path": "/home/ml-100k/"},
            "model": {"base": BASE, "layers": 8, "quantization": "nf4"},
        }
    )
    policy = SharedPolicy(
        repo="alice/tiny",
        model=config.model,
        catalogue=config.catalogue,
        base=BASE,
        license={"license": "apache-2.0"},
    )
    models = {name: {"hr@10": ESTIMATE, "ndcg@10": ESTIMATE} for name in ("popularity", "sft", "ppo", "optimum")}
    split = {"models": models, "comparisons": {"ppo_vs_sft": {"ndcg@10": GAIN}}}
    report = {
        "splits": {"temporal": split},
        "seconds": {"sft": 12.3, "reward": None},
        "environment": {"device": "cpu", "versions": {"torch": "2.13"}},
        "guard": {"fell_back_to_sft": True},
    }
    data = {"users": 1000, "clicks": 5, "density": 0.0123, "time": {"first": "1997-09-20T03", "last": "1998-04-22T23"}}
    return SharedRun(
        policy=policy,
        config=config,
        adapter="ppo",
        report=Report.model_validate(report),
        data=DatasetCard.model_validate(data),
    )


def _line(card: str, start: str) -> str:
    return next(line for line in card.splitlines() if line.startswith(start))


def test_a_hub_reads_the_metadata(run: Run, tmp_path: Path) -> None:
    card = ModelCard.load(build(run, tmp_path / "folder") / "README.md")
    assert (card.data.license, card.data.base_model, card.data.library_name) == ("apache-2.0", BASE, "peft")
    assert card.data.pipeline_tag == "text-generation" and {"lora", "ppo", "llmrec"} <= set(card.data.tags)
    found = {(one.dataset_config, one.metric_type): one.metric_value for one in card.data.eval_results}
    assert found == {("leave_one_out", "hr@10"): 0.2, ("leave_one_out", "ndcg@10"): 0.1}
    for part in ("## Data", "## Training", "## Intended use", "## Limits", "RecPolicy.from_pretrained", "(movielens)"):
        assert part in card.text


def test_results_have_intervals_and_a_verdict(shared: SharedRun) -> None:
    card = run_card(shared)
    assert _line(card, "| model |") == "| model | HR@10 | NDCG@10 |"
    assert _line(card, "| **PPO**") == "| **PPO** (this adapter) | 0.2000 [0.1900, 0.2100] | 0.2000 [0.1900, 0.2100] |"
    assert "| popularity |" in card and "optimum" not in card
    assert "- NDCG@10 on the temporal split: PPO is better than SFT (+0.0200 [+0.0100, +0.0300])." in card
    assert "The guard fell back" in card


def test_a_card_of_sft_does_not_speak_of_ppo(shared: SharedRun) -> None:
    card = run_card(replace(shared, adapter="sft"))
    assert "| **SFT** (this adapter) |" in card and "- Training: supervised fine-tuning, with llmrec" in card
    assert "is better than" not in card and "| ppo |" not in card


def test_data_and_training_are_tables(shared: SharedRun) -> None:
    card = run_card(shared)
    assert _line(card, "| source") == "| source | `ml-100k` (movielens) |"
    assert _line(card, "| users") == "| users | 1,000 |"
    assert _line(card, "| density") == "| density | 0.0123 |"
    assert _line(card, "| time") == "| time | 1997-09-20 to 1998-04-22 |"
    assert _line(card, "| adapter").endswith("rows of the item tokens; base model in nf4 |")
    assert _line(card, "| seconds") == "| seconds | sft 12 |"
    assert _line(card, "| environment") == "| environment | cpu, torch 2.13 |"
    assert "/home" not in card


def test_a_run_without_results_has_a_valid_card(shared: SharedRun) -> None:
    bare = replace(shared, report=Report(), data=DatasetCard())
    card = ModelCard(run_card(bare))
    assert card.data.eval_results is None and "was not evaluated" in card.text
    assert "| source |" in card.text and "| users |" not in card.text


def test_the_loading_code_truncates_the_base(shared: SharedRun) -> None:
    card = run_card(replace(shared, policy=replace(shared.policy, revision="v2")))
    assert 'llmrec recommend --model alice/tiny --revision v2 "TITLE" "TITLE"' in card
    assert 'RecPolicy.from_pretrained("alice/tiny", revision="v2")' in card
    call = 'AutoPeftModelForCausalLM.from_pretrained("alice/tiny", revision="v2", num_hidden_layers=8)'
    assert f"model = {call}" in card and "truncated to its first 8 layers" in card


def test_a_local_base_is_loaded_from_a_path(shared: SharedRun) -> None:
    card = run_card(replace(shared, policy=replace(shared.policy, base=None)))
    assert 'AutoModelForCausalLM.from_pretrained("PATH/TO/BASE", num_hidden_layers=8)' in card
    assert "The base model is on no hub." in card and "base_model:" not in card


def test_withheld_titles_are_explained(shared: SharedRun) -> None:
    card = run_card(replace(shared, policy=replace(shared.policy, titles=False)))
    assert 'recommend --model alice/tiny "ITEM_ID"' in card and "Titles are withheld" in card
    assert "Facts that equal the title" in card


def test_the_parts_of_a_push_are_explained(shared: SharedRun) -> None:
    assert "load_reward_model" not in run_card(shared) and "report.html" not in run_card(shared)
    card = run_card(replace(shared, include=("reward", "report")))
    assert "load_reward_model" in card and "report.html" in card


def test_titles_and_names_are_not_escaped(shared: SharedRun) -> None:
    """The card is Markdown; HTML entities would be shown as they are."""
    config = shared.config.model_copy(update={"data": shared.config.data.model_copy(update={"click": ["rating>=4"]})})
    assert _line(run_card(replace(shared, config=config)), "| click") == "| click | `rating>=4` |"


def test_an_unknown_license_is_stated(run: Run, server: Hub, tmp_path: Path) -> None:
    set_base(run, "somebody/base")
    lines: list[str] = []
    card = (build(run, tmp_path / "folder", ask_hub=True, say=lines.append) / "README.md").read_text()
    assert "License: unknown" in card and "license:" not in card
    assert lines == ["The license of somebody/base could not be read. The model card says that it is unknown."]


def test_the_license_is_that_of_the_base_on_the_hub(run: Run, server: Hub, waits: list[float], tmp_path: Path) -> None:
    named = {"license": "other", "license_name": "gem", "license_link": "https://x.org/gem"}
    (tmp_path / "base").mkdir()
    metadata = "".join(f"{key}: {value}\n" for key, value in named.items())
    (tmp_path / "base" / "README.md").write_text(f"---\n{metadata}---\n")
    set_base(run, "somebody/base")
    server.store("somebody/base", tmp_path / "base")
    server.faults = [Fault("GET /api/models/somebody/base", status=503)]
    card = (build(run, tmp_path / "folder", ask_hub=True) / "README.md").read_text()
    assert named.items() <= read_yaml(card.split("---\n")[1]).items() and "the base model has `gem`" in card


def test_a_private_adapter_states_its_guarantee_and_what_lies_outside(shared: SharedRun) -> None:
    privacy = {
        "epsilon": 7.996,
        "delta": 1e-5,
        "clip": 1.0,
        "noise_multiplier": 0.9,
        "users": 943,
        "batch_size": 64,
        "steps": 30,
        "clipped_share": 0.98,
        "accountant": "RDP",
        "outside": ["the catalogue is public"],
        "ranking": {"users": 900, "private": 0.0123, "start": 0.0101, "popularity": 0.05},
        "verdict": "not called private: the adapter ranks no better than popularity",
    }
    card = run_card(replace(shared, adapter="sft", privacy=privacy))
    for text in (
        "## Privacy",
        "| guarantee | epsilon 8, delta 1e-05, for each user, added or removed |",
        "| sampling | 64 of 943 users a step on average (Poisson) |",
        "| validation NDCG@10 | 0.0123, 900 users |",
        "| verdict | not called private: the adapter ranks no better than popularity |",
        "- the catalogue is public",
    ):
        assert text in card
    assert "## Privacy" not in run_card(shared)
