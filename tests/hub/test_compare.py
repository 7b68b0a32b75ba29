"""`llmrec list` and `llmrec diff`, for run directories and for revisions of a hub repository."""

import json
import sys
from pathlib import Path

import pytest

from llmrec.cli import app as cli
from llmrec.cli import process as command
from llmrec.config import parse_config
from llmrec.errors import UserError
from llmrec.files import plain, write_json, write_text
from llmrec.hub.compare import difference, list_revisions, list_runs
from llmrec.run import Run
from tests.fakes.hub import Commit, Hub


def _report(value: float) -> dict:
    metric = {"value": value, "ci95": [value - 0.01, value + 0.01], "n": 9}
    models = {name: {"ndcg@10": metric, "hr@10": metric} for name in ("sasrec", "sft", "ppo")}
    return {"splits": {"temporal": {"models": models}}}


def _make_run(directory: Path, name: str, value: float | None, **sections) -> Run:
    data = {"format": "movielens", "path": str(directory / "log")}
    run = Run.create(parse_config({"name": name, "output_dir": str(directory), "data": data, **sections}))
    if value is not None:
        for stage in ("data", "sft"):
            run.begin(stage)
            run.finish(stage, {})
        write_json(run.report_path, _report(value))
    return run


def _llmrec(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(command, "silence_libraries", lambda: None)
    monkeypatch.setattr(sys, "argv", ["llmrec", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return (stopped.value.code or 0, *capsys.readouterr())


def test_runs_are_listed_in_every_state(tmp_path: Path, monkeypatch, capsys) -> None:
    _make_run(tmp_path, "a", 0.1)
    _make_run(tmp_path, "b", None)
    write_text(tmp_path / "old" / "config.yaml", "of: another version")
    a, b, old = list_runs(tmp_path)
    assert (a.name, a.finished) == ("a", ["data", "sft"]) and a.when.startswith("20")
    assert a.ndcg["temporal"]["ppo"].value == 0.1 and set(a.ndcg["temporal"]) == {"sft", "ppo"}
    for entry in (b, old):
        assert (entry.finished, entry.ndcg, entry.when) == ([], {}, None)
    code, out, _ = _llmrec(monkeypatch, capsys, "list", str(tmp_path))
    assert code == 0 and "PPO, temporal" in out and "0.100" in out and "old" in out
    code, out, _ = _llmrec(monkeypatch, capsys, "list", str(tmp_path), "--json")
    assert json.loads(out) == plain([entry.as_json() for entry in (a, b, old)])
    first = json.loads(out)[0]
    assert list(first) == ["name", "directory", "finished", "ndcg@10", "report_readable", "when"]
    assert first["ndcg@10"]["temporal"]["ppo"] == {"value": 0.1, "ci95": [0.1 - 0.01, 0.1 + 0.01], "n": 9}


def test_a_broken_report_does_not_hide_the_other_runs(tmp_path: Path, monkeypatch, capsys) -> None:
    broken = {"cut": '{"splits": {', "list": "[]", "null": '{"splits": {"temporal": null}}'}
    for name, text in broken.items():
        write_text(_make_run(tmp_path, name, 0.1).report_path, text)
    five = _report(0.1)
    for metrics in five["splits"]["temporal"]["models"].values():
        metrics["ndcg@5"] = metrics.pop("ndcg@10")
    write_json(_make_run(tmp_path, "five", 0.1).report_path, five)
    _make_run(tmp_path, "whole", 0.1)
    found = {entry.name: entry for entry in list_runs(tmp_path)}
    assert {name for name, entry in found.items() if not entry.report_readable} == set(broken)
    assert found["five"].ndcg == {"temporal": {}} and found["whole"].ndcg["temporal"]["ppo"].n == 9
    code, out, _ = _llmrec(monkeypatch, capsys, "list", str(tmp_path))
    assert code == 0 and "cannot be read" in " ".join(out.split())
    code, out, _ = _llmrec(monkeypatch, capsys, "diff", str(tmp_path / "five"), str(tmp_path / "whole"))
    assert code == 0 and "0.100" in out
    code, _, err = _llmrec(monkeypatch, capsys, "diff", str(tmp_path / "cut"), str(tmp_path / "whole"))
    assert code == 2 and "llmrec evaluate" in err


def test_differences_of_configs_and_metrics(tmp_path: Path, monkeypatch, capsys) -> None:
    a = _make_run(tmp_path / "x", "a", 0.1)
    b = _make_run(tmp_path / "y", "b", 0.2, ppo={"total_episodes": 64})
    found = difference(str(a.directory), str(b.directory))
    assert {key: (pair.a, pair.b) for key, pair in found.config.items()} == {
        "name": ("a", "b"),
        "ppo.total_episodes": (1024, 64),
    }
    assert found.metrics["temporal"]["ppo"]["ndcg@10"].b.value == 0.2
    assert set(found.metrics["temporal"]["ppo"]) == {"hr@10", "ndcg@10"}  # neither report has an MRR
    code, out, _ = _llmrec(monkeypatch, capsys, "diff", str(a.directory), str(b.directory))
    assert code == 0 and "1024" in out and "SASRec HR@10" in out and "0.200 [0.190, 0.210]" in out
    code, out, _ = _llmrec(monkeypatch, capsys, "diff", str(a.directory), str(b.directory), "--json")
    assert json.loads(out) == plain(found.as_json())
    assert json.loads(out)["config"]["ppo.total_episodes"] == {"a": 1024, "b": 64}


def test_a_metric_that_one_side_lacks_is_null(tmp_path: Path) -> None:
    a = _make_run(tmp_path / "x", "a", 0.1)
    b = _make_run(tmp_path / "y", "b", None)
    found = difference(str(a.directory), str(b.directory)).as_json()
    assert found["metrics"]["temporal"]["sasrec"]["ndcg@10"]["b"] is None
    assert found["metrics"]["temporal"]["sasrec"]["ndcg@10"]["a"]["value"] == 0.1


def test_revisions_of_a_repository_are_listed_and_compared(server: Hub, tmp_path: Path, monkeypatch, capsys) -> None:
    run = _make_run(tmp_path, "a", 0.1)
    server.store("alice/tiny", run.directory)
    repository = server.repositories["alice/tiny"]
    repository.branches["v1"] = list(repository.branches["main"])
    repository.tags["paper"] = repository.branches["v1"][-1].sha
    write_json(run.report_path, _report(0.3))
    server.store("alice/tiny", run.directory)
    found = list_revisions("alice/tiny")
    assert [(entry.branch, entry.title) for entry in found] == [
        ("main", "stored"),
        ("main", "stored"),
        ("main", "initial commit"),
        ("v1", "stored"),
        ("v1", "initial commit"),
    ]
    values = [entry.ndcg["temporal"]["ppo"].value if entry.ndcg else None for entry in found]
    assert values == [0.3, 0.1, None, 0.1, None]
    assert [entry.tags for entry in found] == [[], ["paper"], [], ["paper"], []]
    code, out, _ = _llmrec(monkeypatch, capsys, "list", "--repo", "alice/tiny")
    assert code == 0 and "paper" in out and "initial commit" in out and found[0].commit[:8] in out
    compared = difference("alice/tiny@v1", str(run.directory))
    assert compared.config == {}  # directories of this machine do not count
    assert compared.metrics["temporal"]["sft"]["hr@10"].a.value == 0.1
    old = {**repository.files, "config.yaml": repository.files["config.yaml"] + b"of_another_version: 7\n"}
    repository.branches["old"] = [Commit(old, [], "old", 1)]
    config = difference("alice/tiny@old", str(run.directory)).config
    assert {key: (pair.a, pair.b) for key, pair in config.items()} == {"of_another_version": (7, None)}
    with pytest.raises(UserError, match="no revision `v9`"):
        difference("alice/tiny@v9", str(run.directory))
    server.repositories["alice/other"] = type(repository)()
    with pytest.raises(UserError, match="has no readable config.yaml"):
        difference("alice/other", str(run.directory))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "nowhere"], "There is no directory nowhere"),
        (["list", "x", "--repo", "alice/tiny"], "not both"),
        (["list", "--repo", "alice/none"], "no such repository"),
        (["diff", "alice/none", "x"], "no such repository"),
        (["diff", "no/such/run", "x"], "neither a run directory nor a repository"),
    ],
)
def test_wrong_arguments_end_with_a_message(
    server: Hub, monkeypatch, capsys, tmp_path: Path, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = _llmrec(monkeypatch, capsys, *arguments)
    assert code == 2 and message in err and out == ""
