"""`llmrec push` to a hub on the loopback interface, and downloads of what was pushed."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from llmrec.config import HubConfig, parse_config
from llmrec.errors import ConfigError, RunError, UserError
from llmrec.hub.push import push, push_as_configured
from llmrec.run import Run
from reward_models import EaseJudge, JudgeConfig
from tests.fakes.hub import Hub, point_at
from tests.hub.pushing import DOWNLOAD, NAME, TOKEN, build, llmrec_push, run_python, weights_of

Push = Callable[..., CompletedProcess[str]]


@pytest.fixture
def push_command(run: Run, command_here: Push) -> Push:
    """`llmrec push` of the run in this process."""
    return lambda *arguments: command_here("push", "--run", run.directory, *arguments)


@pytest.fixture
def hub():
    """A hub for commands in processes of their own."""
    with Hub(token=TOKEN) as running:
        yield running


def test_a_push_downloads_byte_for_byte(run: Run, hub: Hub, tmp_path: Path) -> None:
    pushed = llmrec_push(run, hub.url, "--repo", NAME, "--json")
    assert pushed.returncode == 0, pushed.stderr
    assert json.loads(pushed.stdout) == {"url": f"{hub.url}/{NAME}", "dry_run": False}
    assert len(hub.repositories[NAME].commits) == 1
    target = tmp_path / "downloaded"
    downloaded = run_python(DOWNLOAD, hub.url, str(target), HF_HOME=str(tmp_path / "hf"))
    assert downloaded.returncode == 0, downloaded.stderr
    expected = build(run, tmp_path / "expected")
    got = {file.name: file.read_bytes() for file in target.iterdir() if file.is_file()}
    assert got == {file.name: file.read_bytes() for file in expected.iterdir()}
    assert got["adapter_model.safetensors"] == weights_of(run, "ppo")
    assert any(request.startswith("PUT /lfs/") for request in hub.requests)


def test_a_push_to_a_branch_with_both_further_parts(run: Run, server: Hub, push_command: Push) -> None:
    EaseJudge(JudgeConfig(3, 3)).save_pretrained(run.path("reward"))
    pushed = push_command("--repo", NAME, "--revision", "v2", "--include", "reward,report", "--json")
    assert pushed.returncode == 0, pushed.stderr
    assert json.loads(pushed.stdout)["url"] == f"{server.url}/{NAME}/tree/v2"
    repository = server.repositories[NAME]
    assert repository.commits == [] and len(repository.branches["v2"]) == 2
    assert {"report.html", "reward/judge.json"} <= set(repository.branches["v2"][-1].files)


def test_the_sft_adapter_is_pushed_until_ppo_has_finished(run: Run, server: Hub, push_command: Push) -> None:
    run.path("ppo", "metrics.json").unlink()
    assert push_command("--repo", NAME).returncode == 0
    assert server.repositories[NAME].files["adapter_model.safetensors"] == weights_of(run, "sft")
    with pytest.raises(UserError, match="llmrec ppo"):
        push(run, HubConfig(repo=NAME), adapter="ppo", dry_run=True)


def test_a_dry_run_makes_no_request(run: Run, server: Hub) -> None:
    lines: list[str] = []
    url = push(run, HubConfig(repo=NAME), dry_run=True, say=lines.append)
    assert url.endswith(f"/{NAME}") and server.requests == []
    assert any("adapter_model.safetensors" in line for line in lines) and "nothing was uploaded" in lines[-1]


def test_a_bare_name_belongs_to_the_account(run: Run, server: Hub, monkeypatch) -> None:
    assert push(run, HubConfig(repo="tiny")).endswith(f"/{NAME}")
    assert f'from_pretrained("{NAME}")' in server.repositories[NAME].files["README.md"].decode()
    assert push(run, HubConfig(repo="tiny"), dry_run=True).endswith("/tiny")
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(UserError, match="There is no valid token"):
        push(run, HubConfig(repo="tiny"))


def test_reward_models_must_have_been_trained(run: Run) -> None:
    for stage in ("reward", "ppo", "evaluate"):
        shutil.rmtree(run.path(stage))
    with pytest.raises(RunError, match="llmrec reward"):
        push(run, HubConfig(repo=NAME, include=["reward"]), dry_run=True)


# --- refusals


@pytest.mark.parametrize("name", ["a/b/c", "alice/", "al ice/x", "alice/x--y", "alice/x.git"])
def test_a_name_that_no_repository_can_have_is_refused(run: Run, name: str) -> None:
    hub = HubConfig(repo=NAME).model_copy(update={"repo": name})
    with pytest.raises(UserError, match="expected OWNER/NAME"):
        push(run, hub, dry_run=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repo", "a/b/c"], "`a/b/c` is not a repository name"),
        (["--repo", NAME, "--revision", "0" * 40], "Name a branch"),
        (["--repo", NAME, "--include", "reward,rapport"], "--include rapport"),
    ],
)
def test_wrong_arguments_end_with_a_message(
    server: Hub, push_command: Push, arguments: list[str], message: str
) -> None:
    refused = push_command(*arguments)
    assert refused.returncode == 2 and message in refused.stderr and "Traceback" not in refused.stderr
    assert server.requests == []


@pytest.mark.parametrize(
    ("repo", "token", "message"),
    [
        (NAME, "wrong", "Set HF_TOKEN"),
        (NAME, "", "Set HF_TOKEN"),
        ("bob/tiny", TOKEN, "may not write to `bob/tiny`"),
    ],
)
def test_refusals_say_what_to_do(
    server: Hub, push_command: Push, tmp_path: Path, monkeypatch, repo: str, token: str, message: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    pushed = push_command("--repo", repo)
    assert pushed.returncode == 2
    assert message in pushed.stderr and "Traceback" not in pushed.stderr


def test_a_private_push_to_a_public_repository_is_refused(server: Hub, push_command: Push) -> None:
    assert push_command("--repo", NAME).returncode == 0
    refused = push_command("--repo", NAME, "--private")
    assert refused.returncode == 2 and "is public" in refused.stderr
    assert len(server.repositories[NAME].commits) == 1
    assert push_command("--repo", "alice/hidden", "--private").returncode == 0
    assert server.repositories["alice/hidden"].private


def test_a_hub_that_is_not_there(push_command: Push, waits: list[float], tmp_path: Path, monkeypatch) -> None:
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        point_at(f"http://127.0.0.1:{taken.getsockname()[1]}", monkeypatch, tmp_path, TOKEN)
        pushed = push_command("--repo", NAME)
    assert len(waits) > 1
    assert pushed.returncode == 2
    assert "cannot be reached" in pushed.stderr and "Traceback" not in pushed.stderr


# --- the section `hub` of the config


def _with_hub(run: Run, **hub: Any) -> Run:
    values = run.config.model_dump(mode="json") | {"hub": {"repo": NAME, **hub}}
    return Run.create(parse_config(values))


def test_the_section_changes_the_result_of_no_stage(run: Run) -> None:
    assert _with_hub(run).finished("ppo")


def test_without_the_section_nothing_is_pushed(run: Run, server: Hub) -> None:
    push_as_configured(run, say=lambda line: None)
    assert server.requests == []


def test_a_finished_run_is_pushed_as_its_config_says(run: Run, server: Hub, monkeypatch) -> None:
    lines: list[str] = []
    run = _with_hub(run, private=True, revision="v2", include=["report"])
    run.path("evaluate", "metrics.json").unlink()
    push_as_configured(run, lines.append)
    assert server.repositories[NAME].private and "v2" in server.repositories[NAME].branches
    assert "pushed without the report" in lines[0] and lines[-1].startswith("pushed to ")
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(UserError, match="Set HF_TOKEN") as raised:
        push_as_configured(run, lines.append)
    command = f"llmrec push --run {run.directory} --repo {NAME} --include report --revision v2 --private"
    assert command in str(raised.value) and "nothing of it is lost" in str(raised.value)


@pytest.mark.parametrize(
    ("hub", "scheme", "message"),
    [
        ({"repo": "a/b/c"}, "atomic", "hub.repo"),
        ({"repo": "a/b", "titles": False}, "title", "hub.titles"),
        ({"repo": "a/b", "revision": "0" * 40}, "atomic", "hub.revision"),
    ],
)
def test_a_section_that_cannot_work_is_refused_before_training(
    run: Run, hub: dict[str, Any], scheme: str, message: str
) -> None:
    values = run.config.model_dump(mode="json")
    changes = {"hub": hub, "catalogue": {"scheme": scheme}, "ppo": {"advantage": "gae"}}
    with pytest.raises(ConfigError, match=message):
        parse_config(values | changes)
