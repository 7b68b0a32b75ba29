"""The registry of versions: states, history, who is served what, and files that are damaged or half-written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from llmrec.ab_test.assignment import Assigner
from llmrec.config import ABTestConfig, parse_section
from llmrec.errors import RunError, UserError
from llmrec.run import Run
from llmrec.versions.registry import Registry, version_label
from llmrec.versions.traffic import Traffic, canary_test
from tests.conftest import make_data
from tests.export.runs import finished_run


@pytest.fixture(scope="module")
def made(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return finished_run(tiny_base, make_data(), tmp_path_factory.mktemp("runs"))


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Run:
    """A run of its own for each test."""
    shutil.copytree(made.directory, tmp_path / "run")
    return Run.open(tmp_path / "run")


@pytest.fixture
def registry(run: Run) -> Registry:
    return Registry(run)


def result(run: Run, folder: Path, changed: bytes = b" ") -> Path:
    """The results of a round: an adapter with other bytes than that of the run."""
    shutil.copytree(run.path("sft", "adapter"), folder / "adapter", dirs_exist_ok=True)
    weights = folder / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes() + changed)
    return folder


def states(registry: Registry) -> list[str]:
    return [version.state for version in registry.versions()]


def test_a_run_has_one_version_and_no_registry(registry: Registry, run: Run) -> None:
    only = registry.current()
    assert (only.number, only.label, only.adapter) == (0, version_label(run.adapter(), "sft"), run.adapter())
    assert registry.traffic() == Traffic(0) and registry.history() == [] and registry.mark() is None
    assert not registry.directory.exists()


def test_a_version_goes_from_candidate_to_current_and_back(registry: Registry, run: Run, tmp_path: Path) -> None:
    first = registry.register(1, 0, result(run, tmp_path / "one"), "better on held-out events", {"gain": 0.1})
    assert (first.state, first.parent, first.metrics) == ("candidate", 0, {"gain": 0.1})
    assert first.label == version_label(first.adapter, "v1") != version_label(run.adapter(), "v1")
    registry.start_canary(1, 0.25, "it passed", {"n": 3})
    assert states(registry) == ["current", "canary"] and registry.traffic().share == 0.25
    registry.promote(1, "its interval lies above the margin", {"low": 0.01})
    assert states(registry) == ["retired", "current"] and registry.traffic() == Traffic(1)
    assert registry.roll_back("complaints") == (1, 0)
    assert states(registry) == ["current", "rolled back"]
    with pytest.raises(UserError, match="Version 0 has no predecessor"):
        registry.roll_back("again")
    registry.promote(1, "it was not its fault")
    assert [(change.version, change.state) for change in registry.history()] == [
        *((1, "candidate"), (1, "canary"), (0, "retired"), (1, "current")),
        *((1, "rolled back"), (0, "current"), (0, "retired"), (1, "current")),
    ]
    assert registry.history()[3].metrics == {"low": 0.01}


def test_a_rollback_goes_back_one_version_at_a_time(registry: Registry, run: Run, tmp_path: Path) -> None:
    for number in (1, 2):
        registry.register(number, number - 1, result(run, tmp_path / str(number)), "better", {})
        registry.promote(number, "better")
    assert registry.roll_back("worse") == (2, 1)
    assert registry.roll_back("worse as well") == (1, 0)
    assert states(registry) == ["current", "rolled back", "rolled back"]


def test_a_rollback_takes_the_canary_first(registry: Registry, run: Run, tmp_path: Path) -> None:
    for number in (1, 2):
        registry.register(number, 0, result(run, tmp_path / str(number)), "better", {})
    registry.start_canary(1, 0.1, "it passed", {})
    with pytest.raises(RunError, match="Version 2 cannot become a canary"):
        registry.start_canary(2, 0.1, "it passed", {})
    assert registry.roll_back("worse") == (1, 0)
    assert states(registry) == ["current", "rolled back", "candidate"]


def test_a_canary_without_its_secret_moves_no_user(registry: Registry, run: Run, tmp_path: Path) -> None:
    registry.register(1, 0, result(run, tmp_path / "1"), "better", {})
    registry.start_canary(1, 0.1, "it passed", {})
    (run.directory / "versions" / "salt").unlink()
    with pytest.raises(RunError, match=r"versions/salt is missing.*canary.*llmrec versions .* rollback"):
        registry.traffic()
    registry.roll_back("its secret is lost")
    assert registry.traffic() == Traffic(current=0)
    registry.register(2, 0, result(run, tmp_path / "2"), "better", {})
    registry.start_canary(2, 0.1, "it passed", {})
    assert len(registry.traffic().salt) == 32


def test_promoting_another_version_ends_a_canary(registry: Registry, run: Run, tmp_path: Path) -> None:
    for number in (1, 2):
        registry.register(number, 0, result(run, tmp_path / str(number)), "better", {})
    registry.start_canary(1, 0.1, "it passed", {})
    registry.promote(2, "by hand")
    assert states(registry) == ["retired", "candidate", "current"]


def test_what_cannot_be_promoted(registry: Registry, run: Run, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    registry.register(1, 0, tmp_path / "nothing", "not better", {"gain": -0.1}, rejected=True)
    with pytest.raises(UserError, match="Version 1 was rejected and has no adapter"):
        registry.promote(1, "by hand")
    with pytest.raises(UserError, match="Version 0 is current already"):
        registry.promote(0, "by hand")
    with pytest.raises(UserError, match="has no version 7; it has 0, 1"):
        registry.promote(7, "by hand")
    second = registry.register(2, 0, result(run, tmp_path / "two"), "better", {})
    weights = second.adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"changed")
    with pytest.raises(RunError, match=f"expected {second.label}, which were registered"):
        registry.promote(2, "by hand")
    assert states(registry) == ["current", "rejected", "candidate"]


def test_a_canary_that_a_person_has_ended_stays_as_the_person_left_it(
    registry: Registry, run: Run, tmp_path: Path
) -> None:
    """The rule judges a canary for seconds, in which a person may promote it or take it out of service."""
    for number in (1, 2):
        registry.register(number, 0, result(run, tmp_path / str(number), b"!" * number), "better", {})
    registry.start_canary(1, 0.1, "it passed", {})
    registry.promote(1, "by hand")
    assert not registry.end_canary(1, promoted=False, why="it is worse", metrics={})
    assert states(registry) == ["retired", "current", "candidate"]
    registry.start_canary(2, 0.1, "it passed", {})
    registry.roll_back("by hand")
    before = registry.mark()
    assert not registry.end_canary(2, promoted=True, why="it is better", metrics={})
    assert states(registry) == ["retired", "current", "rolled back"] and registry.mark() == before


def test_a_rollback_needs_the_weights_of_the_version_before(registry: Registry, run: Run, tmp_path: Path) -> None:
    for number in (1, 2):
        registry.register(number, 0, result(run, tmp_path / str(number)), "better", {})
        registry.promote(number, "better")
    weights = registry.find(1).adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"changed")
    with pytest.raises(RunError, match="promote another version"):
        registry.roll_back("worse")
    assert states(registry) == ["retired", "retired", "current"]


def test_a_reason_may_hold_any_text(registry: Registry, run: Run, tmp_path: Path) -> None:
    """U+2028 ends a line for Python, but not for JSON."""
    why = "better\u2028and\x85\nfaster"
    registry.register(1, 0, result(run, tmp_path / "one"), why, {})
    registry.promote(1, "by hand")
    assert [change.why for change in registry.history() if change.version == 1] == [why, "by hand"]


def test_a_crash_between_files_and_history_leaves_no_version(
    registry: Registry, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = result(run, tmp_path / "one")
    with monkeypatch.context() as patch:
        patch.setattr("llmrec.versions.history.write_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            registry.register(1, 0, folder, "better", {})
    assert states(registry) == ["current"] and registry.next_number() == 1
    assert registry.register(1, 0, result(run, folder, b"!"), "better", {}).state == "candidate"
    with pytest.raises(RunError, match="has a version 1 already"):
        registry.register(1, 0, folder, "better", {})


def test_damaged_files_are_named(registry: Registry, run: Run, tmp_path: Path) -> None:
    version = registry.register(1, 0, result(run, tmp_path / "one"), "better", {})
    (version.folder / "version.json").write_text("{}")
    with pytest.raises(RunError, match=r"version\.json is not readable"):
        registry.versions()
    history = registry.directory / "history.jsonl"
    history.write_text(history.read_text() + '{"version": 1, "state": "liked", "at": "", "why": ""}\n')
    with pytest.raises(RunError, match="line 2: unknown state liked"):
        registry.history()
    history.write_text('{"version": "1", "state": "candidate", "at": "", "why": ""}\n')
    with pytest.raises(RunError, match="line 1: '1' is no number of a version"):
        registry.history()
    history.write_text('{"version": 0, "state": "retired", "at": "", "why": ""}\n')
    with pytest.raises(RunError, match="0 versions are current; expected one"):
        registry.current()
    history.write_bytes(b"\xff\n")
    with pytest.raises(RunError, match="is not UTF-8 text"):
        registry.history()


def test_a_damaged_record_is_reported_once(registry: Registry, run: Run, tmp_path: Path) -> None:
    version = registry.register(1, 0, result(run, tmp_path / "one"), "better", {})
    (version.folder / "version.json").write_text("{")
    with pytest.raises(RunError) as raised:
        registry.versions()
    assert str(raised.value).count("is not readable") == 1


def test_a_canary_serves_the_users_that_its_ab_test_assigns_to_it() -> None:
    traffic = Traffic(current=4, canary=5, share=0.2, salt="s3cret")
    arms = {"current": 0.8, "canary": 0.2}
    days = {"start": "2026-01-01", "end": "2026-02-01"}
    metric = {"name": "m", "kind": "rate", "event": "click", "role": "primary"}
    test = {"name": canary_test(5), "salt": "s3cret", "arms": arms, "data": {"path": "x"}, "metrics": [metric]} | days
    users = [f"user-{number}" for number in range(2000)]
    expected = Assigner(parse_section(test, ABTestConfig)).indices(users)
    served = np.array([traffic.version_of(user) for user in users])
    assert (served == np.where(expected == 1, 5, 4)).all()
    assert 0.17 < (served == 5).mean() < 0.23  # 3.3 standard errors of 0.009
    assert traffic.version_of(None) == 4 and Traffic(4).version_of("user-1") == 4


def test_the_command_lists_promotes_and_rolls_back(
    registry: Registry, run: Run, tmp_path: Path, llmrec, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.register(1, 0, result(run, tmp_path / "one"), "better on held-out events", {"gain": 0.1})
    place = str(run.directory)
    assert llmrec("versions", place) == 0
    out = capsys.readouterr().out
    assert "candidate" in out and "better on held-out events" in out
    assert llmrec("versions", place, "promote", "1", "--why", "I like it", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [version["state"] for version in found["versions"]] == ["retired", "current"]
    assert found["history"][-1]["why"] == "I like it"
    assert llmrec("versions", place, "rollback") == 0
    assert "rolled back" in capsys.readouterr().out
    for arguments in (("promote",), ("list", "1"), ("promote", "9")):
        assert llmrec("versions", place, *arguments) == 2
    assert "has no version 9" in capsys.readouterr().err
