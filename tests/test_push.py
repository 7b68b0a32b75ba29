"""Pushing to a hub that runs on the loopback interface, and downloading what was pushed."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from llmrec.config import parse_config
from llmrec.config_checks import check_options
from llmrec.errors import ConfigError, ModelError, RunError, UserError
from llmrec.files import write_json, write_text
from llmrec.push import build_folder, push, push_as_configured
from llmrec.run import Run
from reward_models import (
    ClickPurchaseConfig,
    ClickPurchaseModel,
    EaseJudge,
    JudgeConfig,
    RewardEnsemble,
    fingerprint,
    load_reward_model,
)
from tests.hub import Hub, point_at

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"


def _describe(run: Run, base: str) -> None:
    model = {"base": base if Path(base).is_absolute() else "bundled:smollm2-135m-instruct", "layers": 8}
    about = {"format": 1, "base_model": base, "model": model, "catalogue": {"scheme": "atomic"}}
    write_json(run.path("sft", "adapter", "llmrec.json"), about)


def _metric(value: float) -> dict:
    return {"value": value, "ci95": [value - 0.01, value + 0.01], "n": 900}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run directory with tiny files in place of trained ones, and histories that must not leave it."""
    values = {
        "name": "tiny",
        "output_dir": str(tmp_path / "runs"),
        "data": {"format": "movielens", "path": str(tmp_path / "secret-home" / "ml-100k")},
        "model": {"layers": 8},
    }
    run = Run.create(parse_config(values))
    for stage in ("data", "sft", "reward", "ppo", "evaluate"):
        run.begin(stage)
        run.finish(stage, {})
    write_text(run.path("data", "events.parquet"), "histories of people")
    for stage in ("sft", "ppo"):
        folder = run.path(stage, "adapter")
        write_json(folder / "adapter_config.json", {"base_model_name_or_path": "/cache/base", "r": 16})
        (folder / "adapter_model.safetensors").write_bytes(stage.encode() * 1000)
        write_text(run.path(stage) / "checkpoints" / "checkpoint-1" / "optimizer.pt", "large")
    write_json(run.path("sft", "adapter", "item_vocabulary.json"), {"scheme": "atomic"})
    write_json(run.path("sft", "adapter", "facts.json"), {"facts": []})
    write_json(run.path("sft", "adapter", "tokenizer.json"), {"version": "1.0"})
    _describe(run, BASE)
    models = {name: {"hr@10": _metric(0.2), "ndcg@10": _metric(0.1)} for name in ("popularity", "sft", "ppo")}
    private = {"commands": ["llmrec sft /secret-home/runs/tiny"], "data": {"source": {"path": "/secret-home/log"}}}
    shown = [{"user": "7", "history": ["histories of people"]}]
    write_json(run.report_path, {"splits": {"leave_one_out": {"models": models}}, "examples": shown, **private})
    return run


def _python(code: str, hub_url: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs code in a new process: huggingface_hub reads HF_ENDPOINT when it is imported."""
    variables = {
        **os.environ,
        "HF_ENDPOINT": hub_url,
        "HF_TOKEN": "dummy",
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": str(Path(__file__).parent.parent),
        **environment,
    }
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=variables, capture_output=True, text=True, timeout=60
    )


def _push(run: Run, hub_url: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    code = "from llmrec.cli import main; main()"
    return _python(code, hub_url, "push", "--run", str(run.directory), *arguments, **environment)


def test_what_was_pushed_downloads_byte_for_byte(run: Run, tmp_path: Path) -> None:
    with Hub() as hub:
        pushed = _push(run, hub.url, "--repo", "alice/tiny", "--json")
        assert pushed.returncode == 0, pushed.stderr
        assert json.loads(pushed.stdout) == {"url": f"{hub.url}/alice/tiny", "dry_run": False}
        repository = hub.repositories["alice/tiny"]
        assert len(repository.commits) == 1
        code = "import sys, huggingface_hub as h; h.snapshot_download('alice/tiny', local_dir=sys.argv[1])"
        target = tmp_path / "downloaded"
        downloaded = _python(code, hub.url, str(target), HF_HOME=str(tmp_path / "hf"))
        assert downloaded.returncode == 0, downloaded.stderr
    expected = tmp_path / "expected"
    expected.mkdir()
    build_folder(run, "alice/tiny", "ppo", expected)
    got = {file.name: file.read_bytes() for file in target.iterdir() if file.is_file()}
    assert got == {file.name: file.read_bytes() for file in expected.iterdir()}
    assert got["adapter_model.safetensors"] == b"ppo" * 1000
    assert any(request.startswith("PUT /lfs/") for request in hub.requests)


def test_folder_holds_what_is_needed_and_nothing_of_the_machine(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    build_folder(run, "alice/tiny", "ppo", folder)
    assert {file.name for file in folder.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.yaml",
        "facts.json",
        "generation_config.json",
        "item_vocabulary.json",
        "llmrec.json",
        "report.json",
        "tokenizer.json",
    }
    assert json.loads((folder / "adapter_config.json").read_text()) == {
        "base_model_name_or_path": BASE,
        "r": 16,
    }
    about = json.loads((folder / "llmrec.json").read_text())
    assert (about["format"], about["adapter"], about["base_model"]) == (1, "ppo", BASE)
    assert about["model"] == {"base": "bundled:smollm2-135m-instruct", "layers": 8}
    assert about["catalogue"] == {"scheme": "atomic"}
    for file in folder.iterdir():
        content = file.read_bytes()
        assert b"secret-home" not in content and b"histories of people" not in content and b"/cache" not in content


def test_the_reward_models_are_pushed_when_asked_for_and_load(run: Run, tmp_path: Path) -> None:
    config = ClickPurchaseConfig(3, fingerprint(["a", "b", "c"]), hidden_size=8)
    ensemble = RewardEnsemble([ClickPurchaseModel(config).eval() for _ in range(2)], penalty=1.0)
    ensemble.save_pretrained(run.path("reward"))
    EaseJudge(JudgeConfig(3, 3)).save_pretrained(run.path("reward"))
    text = run.path("reward", "text")
    write_json(text / "text_reward.json", {"scale": 2.0, "base": {"base": "/secret-home/base", "layers": 2}})
    write_json(text / "adapter_config.json", {"base_model_name_or_path": "/cache/base"})
    write_text(text / "README.md", "base_model: /secret-home/base")
    with Hub() as hub:
        pushed = _push(run, hub.url, "--repo", "alice/tiny", "--include", "reward")
        assert pushed.returncode == 0, pushed.stderr
        code = "import sys, huggingface_hub as h; h.snapshot_download('alice/tiny', local_dir=sys.argv[1])"
        downloaded = _python(code, hub.url, str(tmp_path / "got"), HF_HOME=str(tmp_path / "hf"))
        assert downloaded.returncode == 0, downloaded.stderr
    got = tmp_path / "got"
    rewards = load_reward_model(got / "reward", ["a", "b", "c"]).log_rewards([np.array([1])])
    assert torch.equal(rewards, ensemble.log_rewards([np.array([1])]))
    assert EaseJudge.from_pretrained(got / "reward").config.num_items == 3
    assert json.loads((got / "reward" / "text" / "text_reward.json").read_text()) == {
        "scale": 2.0,
        "base": {"base": "base", "layers": 2},
    }
    assert "load_reward_model(" in (got / "README.md").read_text()
    for file in (file for file in got.rglob("*") if file.is_file() and ".cache" not in file.parts):
        assert b"secret-home" not in file.read_bytes() and b"/cache" not in file.read_bytes(), file


def test_the_reward_models_must_have_been_trained(run: Run) -> None:
    for stage in ("reward", "ppo", "evaluate"):
        shutil.rmtree(run.path(stage))
    with pytest.raises(RunError, match="llmrec reward"):
        push(run, "alice/tiny", include=("reward",), dry_run=True)


def test_card_has_hub_metadata_and_intervals(run: Run, tmp_path: Path) -> None:
    build_folder(run, "alice/tiny", "ppo", tmp_path)
    card = (tmp_path / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["library_name"] == "peft" and metadata["base_model"] == BASE
    metrics = metadata["model-index"][0]["results"][0]["metrics"]
    assert {metric["type"]: metric["value"] for metric in metrics} == {"hr@10": 0.2, "ndcg@10": 0.1}
    assert "0.2000 [0.1900, 0.2100]" in card and "num_hidden_layers=8" in card


def test_the_hub_reads_the_card(run: Run, tmp_path: Path) -> None:
    build_folder(run, "alice/tiny", "ppo", tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "apache-2.0"
    assert {(result.dataset_config, result.metric_type) for result in card.data.eval_results} == {
        ("leave_one_out", "hr@10"),
        ("leave_one_out", "ndcg@10"),
    }
    for part in ("## Data", "## Training", "## Intended use", "## Limits", "RecPolicy.from_pretrained", "(movielens)"):
        assert part in card.text
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"do_sample": False, "max_new_tokens": 32}


def test_a_licence_that_is_not_known_is_said_to_be(run: Run, tmp_path: Path) -> None:
    _describe(run, "somebody/base")
    build_folder(run, "alice/tiny", "ppo", tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "Licence: unknown" in card and "license:" not in card


def test_the_report_as_a_page_shows_no_histories_and_no_directories(run: Run, tmp_path: Path) -> None:
    build_folder(run, "alice/tiny", "ppo", tmp_path, include=("report",), titles=True)
    page = (tmp_path / "report.html").read_text()
    assert "NDCG@10" in page and "llmrec report of tiny" in page
    assert "secret-home" not in page and "histories of people" not in page and str(tmp_path.parent) not in page


def test_titles_leave_no_file(run: Run, tmp_path: Path) -> None:
    items = [{"item_id": "7", "title": "Secret Title (1999)", "tokens": [9]}]
    write_json(run.path("sft", "adapter", "item_vocabulary.json"), {"scheme": "atomic", "items": items})
    write_json(run.path("sft", "adapter", "facts.json"), {"facts": [["category", "War"]], "of_item": [[0]]})
    folder = tmp_path / "folder"
    folder.mkdir()
    build_folder(run, "alice/tiny", "ppo", folder, include=("report",), titles=False)
    assert not [file for file in folder.iterdir() if b"Secret Title" in file.read_bytes()]
    assert '--history "ITEM_ID"' in (folder / "README.md").read_text()


def test_a_branch_of_its_own_and_both_parts_on_request(run: Run) -> None:
    EaseJudge(JudgeConfig(3, 3)).save_pretrained(run.path("reward"))
    with Hub() as hub:
        pushed = _push(run, hub.url, "--repo", "alice/tiny", "--revision", "v2", "--include", "reward,report", "--json")
        assert pushed.returncode == 0, pushed.stderr
        assert json.loads(pushed.stdout)["url"] == f"{hub.url}/alice/tiny/tree/v2"
        repository = hub.repositories["alice/tiny"]
        assert repository.commits == [] and len(repository.branches["v2"]) == 2
        assert {"report.html", "reward/judge.json"} <= set(repository.branches["v2"][-1].files)
        unknown = _push(run, hub.url, "--repo", "alice/tiny", "--include", "reward,rapport")
        assert unknown.returncode == 2 and "--include rapport" in unknown.stderr


def _with_hub(run: Run, **section) -> Run:
    values = run.config.model_dump(mode="json") | {"hub": {"repo": "alice/tiny", **section}}
    return Run.create(parse_config(values))


def test_where_to_push_changes_no_stage(run: Run) -> None:
    assert _with_hub(run).finished("ppo")


def test_a_run_is_pushed_as_its_config_says_or_says_how_to_do_it_alone(run: Run, monkeypatch, tmp_path: Path) -> None:
    told: list[str] = []
    with Hub() as hub:
        point_at(hub.url, monkeypatch, tmp_path, "dummy")
        run = _with_hub(run, private=True, revision="v2", include=["report"])
        run.path("evaluate", "metrics.json").unlink()
        push_as_configured(run, told.append)
        assert hub.repositories["alice/tiny"].private and "v2" in hub.repositories["alice/tiny"].branches
        assert "pushed without the report" in told[0] and told[-1].startswith("pushed to ")
        monkeypatch.setenv("HF_TOKEN", "wrong")
        with pytest.raises(UserError, match="set HF_TOKEN") as raised:
            push_as_configured(run, told.append)
    command = f"llmrec push --run {run.directory} --repo alice/tiny --include report --revision v2 --private"
    assert command in str(raised.value) and "nothing of it is lost" in str(raised.value)


@pytest.mark.parametrize(
    ("section", "scheme", "says"),
    [
        ({"repo": "a/b/c"}, "atomic", "hub.repo"),
        ({"repo": "a/b", "titles": False}, "title", "hub.titles"),
        ({"repo": "a/b", "revision": "0" * 40}, "atomic", "hub.revision"),
    ],
)
def test_a_push_that_cannot_work_is_refused_before_training(run: Run, section: dict, scheme: str, says: str) -> None:
    values = run.config.model_dump(mode="json")
    config = parse_config(values | {"hub": section, "catalogue": {"scheme": scheme}, "ppo": {"advantage": "gae"}})
    with pytest.raises(ConfigError, match=says):
        check_options(config)


def test_dry_run_touches_no_network(run: Run) -> None:
    lines: list[str] = []
    url = push(run, "alice/tiny", dry_run=True, say=lines.append)
    assert url.endswith("/alice/tiny")
    assert any("adapter_model.safetensors" in line for line in lines) and "nothing was uploaded" in lines[-1]


def test_falls_back_to_sft_until_ppo_has_finished(run: Run, tmp_path: Path) -> None:
    run.path("ppo", "metrics.json").unlink()
    with Hub() as hub:
        assert _push(run, hub.url, "--repo", "alice/tiny").returncode == 0
        assert hub.repositories["alice/tiny"].files["adapter_model.safetensors"] == b"sft" * 1000
    with pytest.raises(UserError, match="llmrec ppo"):
        push(run, "alice/tiny", adapter="ppo", dry_run=True)


@pytest.mark.parametrize("name", ["a/b/c", "alice/", "al ice/x", "alice/x--y", "alice/x.git"])
def test_bad_name(run: Run, name: str) -> None:
    with pytest.raises(UserError, match="expected OWNER/NAME"):
        push(run, name, dry_run=True)


@pytest.mark.parametrize(
    ("repo", "token", "says"),
    [
        ("alice/tiny", "wrong", "set HF_TOKEN"),
        ("alice/tiny", "", "set HF_TOKEN"),
        ("bob/tiny", "dummy", "may not write to `bob/tiny`"),
    ],
)
def test_refusals_say_what_to_do(run: Run, tmp_path: Path, repo: str, token: str, says: str) -> None:
    with Hub() as hub:
        pushed = _push(run, hub.url, "--repo", repo, HF_TOKEN=token, HF_HOME=str(tmp_path / "hf"))
    assert pushed.returncode == 2
    assert says in pushed.stderr and "Traceback" not in pushed.stderr


def test_private_never_lands_in_a_public_repository(run: Run) -> None:
    with Hub() as hub:
        assert _push(run, hub.url, "--repo", "alice/tiny").returncode == 0
        refused = _push(run, hub.url, "--repo", "alice/tiny", "--private")
        assert refused.returncode == 2 and "is public" in refused.stderr
        assert len(hub.repositories["alice/tiny"].commits) == 1
        assert _push(run, hub.url, "--repo", "alice/hidden", "--private").returncode == 0
        assert hub.repositories["alice/hidden"].private


def test_no_network(run: Run) -> None:
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        pushed = _push(run, f"http://127.0.0.1:{taken.getsockname()[1]}", "--repo", "alice/tiny")
    assert pushed.returncode == 2
    assert "cannot be reached" in pushed.stderr and "Traceback" not in pushed.stderr


@pytest.mark.parametrize(
    ("stage", "name"),
    [("sft", "item_vocabulary.json"), ("ppo", "adapter_model.safetensors"), ("sft", "llmrec.json")],
)
def test_a_missing_file_is_named(run: Run, stage: str, name: str) -> None:
    run.path(stage, "adapter", name).unlink()
    with pytest.raises(ModelError, match=f"lacks {name}"):
        push(run, "alice/tiny", dry_run=True)


def test_a_local_base_is_named_without_its_directory(run: Run, tmp_path: Path) -> None:
    _describe(run, str(tmp_path / "secret-home" / "my-base"))
    folder = tmp_path / "folder"
    folder.mkdir()
    build_folder(run, "alice/tiny", "ppo", folder)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "my-base"
    assert json.loads((folder / "llmrec.json").read_text())["model"]["base"] == "my-base"
    assert "base_model:" not in (folder / "README.md").read_text()
    assert all(b"secret-home" not in file.read_bytes() for file in folder.iterdir())
