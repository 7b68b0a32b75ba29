"""Fixtures of the hub tests: a hub on the loopback interface, and a tiny run to push."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmrec.config import parse_config
from llmrec.files import read_json, write_json, write_text
from llmrec.policy.model import RecPolicy
from llmrec.run import Run
from tests.conftest import disturb, make_config
from tests.fakes.hub import Hub, Repository, point_at
from tests.hub.pushing import BASE, BUNDLED_BASE, NAME, TOKEN, set_base


@pytest.fixture
def server(monkeypatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that this process talks to."""
    with Hub(token=TOKEN) as running:
        point_at(running.url, monkeypatch, tmp_path, TOKEN)
        yield running


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """Seconds of each wait before a retry. No time passes."""
    seconds: list[float] = []
    monkeypatch.setattr("time.sleep", seconds.append)
    return seconds


# --- uploads without a model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that passes for an adapter."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "llmrec.json").write_text("{}")
    return tmp_path / "folder"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """The files of a push. The weights, 100 kB, go by LFS."""
    (tmp_path / "adapter_model.safetensors").write_bytes(bytes(range(250)) * 400)
    (tmp_path / "README.md").write_text("new")
    (tmp_path / "llmrec.json").write_text("new")
    return {name: tmp_path / name for name in ("adapter_model.safetensors", "README.md", "llmrec.json")}


@pytest.fixture
def others() -> dict[str, bytes]:
    """Files of a repository that no push writes."""
    return {"LICENSE": b"mine", "reward/notes.md": b"mine", "notes/roc.png": b"mine"}


@pytest.fixture
def earlier(server: Hub, others: dict[str, bytes]) -> Hub:
    """A hub that holds an earlier push, with files that the next one lacks, and files of somebody else."""
    repository = server.repositories.setdefault(NAME, Repository())
    old = {"README.md": b"old", "llmrec.json": b"old", "reward/member0/config.json": b"{}", "reward/roc.png": b""}
    repository.branches["main"][-1].files.update(old | others)
    return server


# --- a run


@pytest.fixture(scope="session")
def adapters(tiny_base, data, tmp_path_factory) -> Path:
    """A folder with the adapters of SFT and PPO."""
    folder = tmp_path_factory.mktemp("adapters")
    policy = RecPolicy.create(make_config(tiny_base), data)
    for stage in ("sft", "ppo"):
        disturb(policy)
        policy.save_pretrained(folder / stage)
        config = folder / stage / "adapter_config.json"
        write_json(config, read_json(config) | {"base_model_name_or_path": "/cache/base"})
    return folder


@pytest.fixture
def run(tmp_path: Path, adapters: Path) -> Run:
    """A finished run with tiny adapters. Its histories and directories must never be pushed."""
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
    write_text(run.path("data", "events.parquet"), "histories of users")
    for stage in ("sft", "ppo"):
        shutil.copytree(adapters / stage, run.path(stage, "adapter"))
        write_text(run.path(stage) / "checkpoints" / "checkpoint-1" / "optimizer.pt", "large")
    set_base(run, BUNDLED_BASE, BASE)
    write_json(run.report_path, _report())
    return run


def _report() -> dict:
    models = {name: {"hr@10": _estimate(0.2), "ndcg@10": _estimate(0.1)} for name in ("popularity", "sft", "ppo")}
    return {
        "splits": {"leave_one_out": {"models": models}},
        "examples": [{"user": "7", "history": ["histories of users"]}],
        "commands": ["llmrec sft /secret-home/runs/tiny"],
        "data": {"source": {"path": "/secret-home/log"}},
    }


def _estimate(value: float) -> dict:
    return {"value": value, "ci95": [value - 0.01, value + 0.01], "n": 900}
