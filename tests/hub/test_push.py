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
from llmrec.errors import ConfigError, ModelError, RunError, UserError
from llmrec.files import read_json, write_json, write_text
from llmrec.hub.push import build_folder, push, push_as_configured, shareable_config, shared_base
from llmrec.language.base_model import hub_id
from llmrec.policy.model import RecPolicy
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
from reward_models.linear import LinearFit
from tests.conftest import disturb, make_config
from tests.fakes.hub import Fault, Hub, point_at

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"


def _describe(run: Run, base: str) -> None:
    """Makes the adapters be of another base."""
    for stage in ("sft", "ppo"):
        file = run.path(stage, "adapter", "llmrec.json")
        about = read_json(file)
        of_config = "bundled:smollm2-135m-instruct" if base == BASE else base
        write_json(file, about | {"base_model": base, "model": about["model"] | {"base": of_config, "layers": 8}})


@pytest.fixture(scope="module")
def adapters(tiny_base, data, tmp_path_factory) -> Path:
    """A folder with the adapters of two stages."""
    folder = tmp_path_factory.mktemp("adapters")
    policy = RecPolicy.create(make_config(tiny_base), data)
    for stage in ("sft", "ppo"):
        disturb(policy)
        policy.save_pretrained(folder / stage)
        config = folder / stage / "adapter_config.json"
        write_json(config, read_json(config) | {"base_model_name_or_path": "/cache/base"})
    return folder


def _weights(run: Run, stage: str) -> bytes:
    return run.path(stage, "adapter", "adapter_model.safetensors").read_bytes()


def _metric(value: float) -> dict:
    return {"value": value, "ci95": [value - 0.01, value + 0.01], "n": 900}


@pytest.fixture
def run(tmp_path: Path, adapters: Path) -> Run:
    """A run directory with tiny adapters, and histories that must not leave it."""
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
        shutil.copytree(adapters / stage, run.path(stage, "adapter"))
        write_text(run.path(stage) / "checkpoints" / "checkpoint-1" / "optimizer.pt", "large")
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
    code = "from llmrec.cli.app import main; main()"
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
    assert got["adapter_model.safetensors"] == _weights(run, "ppo")
    assert any(request.startswith("PUT /lfs/") for request in hub.requests)


def test_folder_holds_what_is_needed_and_nothing_of_the_machine(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    build_folder(run, "alice/tiny", "ppo", folder)
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
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"]) == (BASE, 4)
    about = json.loads((folder / "llmrec.json").read_text())
    assert (about["format"], about["adapter"], about["base_model"]) == (1, "ppo", BASE)
    assert (about["model"]["base"], about["model"]["layers"]) == ("bundled:smollm2-135m-instruct", 8)
    assert about["catalogue"]["scheme"] == "atomic"
    for file in folder.iterdir():
        content = file.read_bytes()
        assert b"secret-home" not in content and b"histories of people" not in content and b"/cache" not in content


def test_the_reward_models_are_pushed_when_asked_for_and_load(run: Run, tmp_path: Path) -> None:
    config = ClickPurchaseConfig(3, fingerprint(["a", "b", "c"]), hidden_size=8)
    linear = LinearFit([np.array([0, 1, 2]), np.array([1, 0])], 3).solve(1.0)
    ensemble = RewardEnsemble([ClickPurchaseModel(config).eval() for _ in range(2)], penalty=1.0, linear=linear)
    ensemble.save_pretrained(run.path("reward"))
    EaseJudge(JudgeConfig(3, 3)).save_pretrained(run.path("reward"))
    text = run.path("reward", "text")
    write_json(text / "text_reward.json", {"scale": 2.0, "base": {"base": "/secret-home/my-base", "layers": 2}})
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
        "base": {"base": "local:my-base", "layers": 2},
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
    assert json.loads((tmp_path / "generation_config.json").read_text()) == read_json(
        run.path("ppo", "adapter", "generation_config.json")
    )


def test_a_licence_that_is_not_known_is_said_to_be(run: Run, tmp_path: Path, monkeypatch) -> None:
    _describe(run, "somebody/base")
    told: list[str] = []
    with Hub() as hub:
        point_at(hub.url, monkeypatch, tmp_path, "dummy")
        build_folder(run, "alice/tiny", "ppo", tmp_path, ask_hub=True, say=told.append)
    card = (tmp_path / "README.md").read_text()
    assert "Licence: unknown" in card and "license:" not in card
    assert told == ["the licence of somebody/base could not be read: the card says that it is unknown"]


def test_the_licence_of_the_base_is_the_hubs(run: Run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    named = {"license": "other", "license_name": "gem", "license_link": "https://x.org/gem"}
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_text(f"---\n{yaml.safe_dump(named)}---\n")
    _describe(run, "somebody/base")
    with Hub() as hub:
        point_at(hub.url, monkeypatch, tmp_path, "dummy")
        hub.store("somebody/base", tmp_path / "base")
        hub.faults = [Fault("GET /api/models/somebody/base", status=503)]
        build_folder(run, "alice/tiny", "ppo", tmp_path, ask_hub=True)
    card = (tmp_path / "README.md").read_text()
    assert named.items() <= yaml.safe_load(card.split("---\n")[1]).items() and "is `gem`" in card


def test_the_report_as_a_page_shows_no_histories_and_no_directories(run: Run, tmp_path: Path) -> None:
    build_folder(run, "alice/tiny", "ppo", tmp_path, include=("report",), titles=True)
    page = (tmp_path / "report.html").read_text()
    assert "NDCG@10" in page and "llmrec report of tiny" in page
    assert "secret-home" not in page and "histories of people" not in page and str(tmp_path.parent) not in page


def test_titles_leave_no_file(run: Run, tmp_path: Path) -> None:
    file = run.path("ppo", "adapter", "item_vocabulary.json")
    vocabulary = read_json(file)
    for number, item in enumerate(vocabulary["items"]):
        item["title"] = f"Secret Title (199{number})"
    write_json(file, vocabulary)
    folder = tmp_path / "folder"
    folder.mkdir()
    build_folder(run, "alice/tiny", "ppo", folder, include=("report",), titles=False)
    assert not [file for file in folder.iterdir() if b"Secret Title" in file.read_bytes()]
    assert 'recommend --model alice/tiny "ITEM_ID"' in (folder / "README.md").read_text()


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
    changes = {"hub": section, "catalogue": {"scheme": scheme}, "ppo": {"advantage": "gae"}}
    with pytest.raises(ConfigError, match=says):
        parse_config(values | changes)


def test_dry_run_touches_no_network(run: Run) -> None:
    lines: list[str] = []
    url = push(run, "alice/tiny", dry_run=True, say=lines.append)
    assert url.endswith("/alice/tiny")
    assert any("adapter_model.safetensors" in line for line in lines) and "nothing was uploaded" in lines[-1]


def test_falls_back_to_sft_until_ppo_has_finished(run: Run, tmp_path: Path) -> None:
    run.path("ppo", "metrics.json").unlink()
    with Hub() as hub:
        assert _push(run, hub.url, "--repo", "alice/tiny").returncode == 0
        assert hub.repositories["alice/tiny"].files["adapter_model.safetensors"] == _weights(run, "sft")
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


@pytest.mark.parametrize("name", ["item_vocabulary.json", "adapter_model.safetensors", "llmrec.json"])
def test_a_missing_file_is_named(run: Run, name: str) -> None:
    run.path("ppo", "adapter", name).unlink()
    with pytest.raises(ModelError, match=f"lacks {name}"):
        push(run, "alice/tiny", dry_run=True)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("adapter_model.safetensors", b"ppo" * 1000, "adapter_model.safetensors cannot be read"),
        ("item_vocabulary.json", b"{}", "item_vocabulary.json is not readable"),
        ("facts.json", b"[", "facts.json"),
        ("llmrec.json", b'{"format": 1}', "llmrec.json is not readable"),
        ("tokenizer.json", b"{", "tokenizer cannot be read"),
    ],
)
def test_what_cannot_be_read_is_not_pushed(run: Run, name: str, content: bytes, says: str) -> None:
    run.path("ppo", "adapter", name).write_bytes(content)
    with pytest.raises(ModelError, match=says):
        push(run, "alice/tiny", dry_run=True)


def test_a_bare_name_is_of_the_account(run: Run, tmp_path: Path, monkeypatch) -> None:
    with Hub() as hub:
        point_at(hub.url, monkeypatch, tmp_path, "dummy")
        assert push(run, "tiny").endswith("/alice/tiny")
        assert 'from_pretrained("alice/tiny")' in hub.repositories["alice/tiny"].files["README.md"].decode()
        assert push(run, "tiny", dry_run=True).endswith("/tiny")
        monkeypatch.setenv("HF_TOKEN", "")
        with pytest.raises(UserError, match="There is no token"):
            push(run, "tiny")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_local_base_is_named_without_its_directory(run: Run, tmp_path: Path, monkeypatch, elsewhere: bool) -> None:
    (tmp_path / "secret-home" / "gpt2").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    _describe(run, "secret-home/gpt2")
    for stage in ("sft", "ppo"):
        file = run.path(stage, "adapter", "llmrec.json")
        write_json(file, read_json(file) | {"base_model": hub_id("secret-home/gpt2")})
    monkeypatch.chdir("/" if elsewhere else tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    build_folder(run, "alice/tiny", "ppo", folder)
    assert read_json(folder / "adapter_config.json")["base_model_name_or_path"] == "local:gpt2"
    assert read_json(folder / "llmrec.json")["model"]["base"] == "local:gpt2"
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["base"] == "local:gpt2"
    assert "base_model:" not in (folder / "README.md").read_text()
    assert all(b"secret-home" not in file.read_bytes() for file in folder.iterdir())
    with pytest.raises(ModelError, match="`local:gpt2`: a directory of the machine that pushed it.*model.base"):
        RecPolicy.from_pretrained(folder)


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
def test_bases_are_shared_by_a_name_that_cannot_be_mistaken(base: str, shared: str) -> None:
    assert shared_base(base) == shared


def test_paths_of_the_config_lose_their_directories() -> None:
    data = {"path": "../clients/acme/log.csv", "items": "package:acme/data/items.csv", "users": "/x/users.csv"}
    shared = shareable_config({"data": data, "model": {"base": "./acme/base"}})
    assert shared["data"] == {"path": "log.csv", "items": "package:acme/data/items.csv", "users": "users.csv"}
    assert shared["model"] == {"base": "local:base"}
