"""Run directories: what is recorded, which stages are skipped, and that results of two configs are never mixed."""

import dataclasses
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import llmrec
from llmrec.config import Config, parse_config
from llmrec.errors import LlmrecError, RunError
from llmrec.files import file_state, read_json, write_json, write_text
from llmrec.run import STAGE_TABLE, STAGES, Run, config_fingerprint, library_versions, run_all, run_stage


def _config(tmp_path: Path, **sections) -> Config:
    data = {"format": "movielens", "path": "log", **sections.pop("data", {})}
    return parse_config({"name": "a", "output_dir": str(tmp_path / "runs"), "data": data, **sections})


def _finish(run: Run, *stages: str) -> None:
    for stage in stages:
        run.begin(stage)
        run.finish(stage, {"stage": stage})
        if stage == "evaluate":
            write_json(run.report_path, {})


def _contents(directory: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(directory.rglob("*")) if file.is_file()}


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces every stage by one that only records that it ran."""
    ran: list[str] = []
    module = types.ModuleType("fake_stages")
    for stage in STAGES:

        def stand_in(run: Run, stage: str = stage) -> None:
            ran.append(stage)
            _finish(run, stage)

        setattr(module, stage, stand_in)
        entry = dataclasses.replace(STAGE_TABLE[stage], module="fake_stages", function=stage)
        monkeypatch.setitem(STAGE_TABLE, stage, entry)
    monkeypatch.setitem(sys.modules, "fake_stages", module)
    return ran


def test_create_then_open_gives_the_same_config(tmp_path: Path) -> None:
    run = Run.create(_config(tmp_path, sft={"learning_rate": 0.01}))
    assert run.directory == tmp_path / "runs" / "a"
    assert Run.open(run.directory).config == run.config
    before = (run.directory / "config.yaml").stat().st_mtime_ns
    Run.create(run.config)
    assert (run.directory / "config.yaml").stat().st_mtime_ns == before


def test_finish_records_seconds_versions_and_metrics(tmp_path: Path) -> None:
    run = Run.create(_config(tmp_path))
    assert not run.finished("data")
    run.begin("data")
    assert not run.finished("data")
    run.finish("data", {"auc": np.float32(0.5), "loss": float("nan"), "curve": np.array([1, 2])})
    assert run.finished("data")
    assert run.metrics("data") == {"auc": 0.5, "loss": None, "curve": [1, 2]}
    record = run.record("data")
    assert record["seconds"] >= 0 and record["versions"]["torch"] and record["fingerprint"]["data.path"] == "log"
    assert record["parts"]["other"]["seconds"] >= 0
    assert [file.name for file in run.path("data").iterdir()] == ["metrics.json"]


def test_only_the_main_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    run = Run.create(_config(tmp_path))
    run.begin("data")
    run.finish("data", {})
    assert not run.directory.exists()


@pytest.mark.parametrize(
    ("key", "stale"),
    [
        ({"seed": 1}, set(STAGES) - {"data"}),
        ({"data": {"path": "other"}}, set(STAGES)),
        ({"catalogue": {"max_history": 9}}, {"sft", "ppo", "evaluate"}),
        ({"model": {"layers": 2}}, {"sft", "ppo", "evaluate"}),
        ({"sft": {"learning_rate": 0.5}}, {"sft", "ppo", "evaluate"}),
        ({"reward": {"hidden_size": 8}}, {"reward", "ppo", "evaluate"}),
        ({"reward": {"groundedness_weight": 2.0}}, {"ppo", "evaluate"}),
        ({"reward": {"conversion_weight": 0.5}}, {"ppo", "evaluate"}),
        ({"reward": {"penalties": {"seen": 2.0}}}, {"ppo", "evaluate"}),
        ({"reward": {"terms": [{"column": "year", "weight": 0.1}]}}, {"ppo", "evaluate"}),
        ({"reward": {"text": {"pairs": 10}}}, {"reward", "ppo", "evaluate"}),
        ({"ppo": {"kl_coef": 0.5}}, {"ppo", "evaluate"}),
        ({"evaluation": {"bootstrap": 200}}, {"evaluate"}),
        ({"name": "b"}, set()),
        ({"output_dir": "elsewhere"}, set()),
    ],
)
def test_each_stage_depends_on_its_sections(tmp_path: Path, key: dict, stale: set[str]) -> None:
    old, new = _config(tmp_path), _config(tmp_path, **key)
    assert {stage for stage in STAGES if config_fingerprint(old, stage) != config_fingerprint(new, stage)} == stale


def test_the_text_reward_model_depends_on_the_base_but_not_on_its_weight(tmp_path: Path) -> None:
    def values(**text) -> dict:
        layers = text.pop("layers", None)
        return config_fingerprint(_config(tmp_path, reward={"text": text}, model={"layers": layers}), "reward")

    assert values(weight=0.1) == values(weight=0.9)
    assert values() != values(layers=2)


def test_another_config_is_refused_and_nothing_touched(tmp_path: Path) -> None:
    run = Run.create(_config(tmp_path, sft={"learning_rate": 0.01}))
    _finish(run, "data", "sft")
    before = _contents(tmp_path)
    with pytest.raises(RunError) as caught:
        Run.create(_config(tmp_path, sft={"learning_rate": 0.02}))
    message = str(caught.value)
    assert "sft.learning_rate: 0.01 -> 0.02" in message
    assert "another `name`" in message and str(run.path("sft")) in message
    assert str(run.path("data")) not in message
    assert caught.value.exit_code == 2
    assert _contents(tmp_path) == before


def test_a_record_without_a_newer_key_counts_as_its_default(tmp_path: Path) -> None:
    run = Run.create(_config(tmp_path))
    _finish(run, "data", "sft")
    record = read_json(run.path("sft", "metrics.json"))
    del record["fingerprint"]["sft.optim"]
    write_json(run.path("sft", "metrics.json"), record)
    assert Run.create(_config(tmp_path)).finished("sft")
    with pytest.raises(RunError, match="sft.optim: adamw_torch_fused -> adamw_bnb_8bit"):
        Run.create(_config(tmp_path, sft={"optim": "adamw_bnb_8bit"}))


def test_keys_of_a_section_that_was_off_count_as_not_set(tmp_path: Path) -> None:
    _finish(Run.create(_config(tmp_path)), "data", "reward")
    with pytest.raises(RunError, match=r"reward.text.pairs: \(not set\) -> 2000"):
        Run.create(_config(tmp_path, reward={"text": {}}))


def test_values_that_no_finished_stage_used_may_change(tmp_path: Path) -> None:
    run = Run.create(_config(tmp_path))
    _finish(run, "data", "reward")
    changed = Run.create(_config(tmp_path, sft={"learning_rate": 0.02}))
    assert changed.finished("data") and changed.finished("reward")
    assert Run.open(run.directory).config.sft.learning_rate == 0.02


def test_checkpoints_of_another_config_are_not_resumed(tmp_path: Path) -> None:
    run = Run.create(_config(tmp_path))
    run.begin("sft")
    write_text(run.path("sft", "checkpoints", "1"), "weights")
    with pytest.raises(RunError, match="sft.learning_rate"):
        Run.create(_config(tmp_path, sft={"learning_rate": 0.02}))
    assert not Run.create(_config(tmp_path)).finished("sft")


def test_a_stage_that_failed_before_it_wrote_anything_does_not_fix_the_config(tmp_path: Path) -> None:
    run = Run.create(_config(tmp_path, data={"path": "wrong"}))
    run.begin("data")
    assert Run.create(_config(tmp_path)).config.data.path == "log"


def test_evaluate_needs_its_report(tmp_path: Path) -> None:
    run = Run.create(_config(tmp_path))
    _finish(run, "evaluate")
    assert run.finished("evaluate")
    run.report_path.unlink()
    assert not run.finished("evaluate")


def test_require_names_the_command(tmp_path: Path) -> None:
    run = Run.create(_config(tmp_path))
    with pytest.raises(RunError) as caught:
        run.require("data", "sft")
    assert f"llmrec prepare {run.directory}\n" in str(caught.value)
    assert f"llmrec sft {run.directory}" in str(caught.value)


@pytest.mark.parametrize("content", [["a list"], {}, {"fingerprint": "text"}, {"fingerprint": {}, "built_on": 1}])
def test_a_metrics_file_of_another_program_is_named(tmp_path: Path, content: object) -> None:
    run = Run.create(_config(tmp_path))
    write_json(run.path("data", "metrics.json"), content)
    with pytest.raises(RunError, match="was not written by llmrec"):
        run.finished("data")


def test_open_lists_runs_in_the_neighborhood(tmp_path: Path) -> None:
    run = Run.create(_config(tmp_path))
    for wrong in (run.directory.parent, run.directory.parent / "b", run.path("sft")):
        with pytest.raises(RunError, match="is not a run directory") as caught:
            Run.open(wrong)
        assert caught.value.exit_code == 2
        if wrong != run.path("sft"):
            assert str(run.directory) in str(caught.value)


def test_a_file_in_place_of_the_run_directory_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "runs" / "a", "")
    with pytest.raises(RunError, match="is a file"):
        Run.create(_config(tmp_path))


def test_run_all_skips_finished_stages(tmp_path: Path, stages: list[str]) -> None:
    run = Run.create(_config(tmp_path))
    _finish(run, "data", "reward")
    said: list[str] = []
    run_all(run, say=said.append)
    assert stages == ["sft", "ppo", "evaluate"]
    assert [line for line in said if "skipped" in line] == [line for line in said if line[:4] in ("data", "rewa")]
    run_all(run, say=said.append)
    assert stages == ["sft", "ppo", "evaluate"]


def test_a_file_that_was_written_to_since_is_named(tmp_path: Path) -> None:
    run = Run.create(_config(tmp_path))
    log, gone = tmp_path / "log.csv", tmp_path / "items.csv"
    for file in (log, gone):
        file.write_text("a\n")
    run.begin("data")
    run.finish("data", {}, {file: file_state(file) for file in (log, gone)})
    gone.unlink()  # as on another machine
    said: list[str] = []
    run_all(run, "data", say=said.append)
    assert len(said) == 1
    log.write_text("a\nb\n")
    run_all(run, "data", say=said.append)
    (warning,) = said[2:]
    assert warning.startswith(f"data: warning: {log} was written to since") and f"delete {run.directory}" in warning


def test_a_failed_stage_is_run_again_and_the_rest_follows(
    tmp_path: Path, stages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(_config(tmp_path))
    working = sys.modules["fake_stages"].reward

    def broken(run: Run) -> None:
        raise ZeroDivisionError

    sys.modules["fake_stages"].reward = broken
    with pytest.raises(ZeroDivisionError):
        run_all(run, say=lambda line: None)
    assert stages == ["data", "sft"]
    sys.modules["fake_stages"].reward = working
    run_all(Run.create(run.config), say=lambda line: None)
    assert stages == list(STAGES)


def test_run_stage_checks_the_required_stages(tmp_path: Path, stages: list[str]) -> None:
    with pytest.raises(RunError, match="llmrec prepare"):
        run_stage(Run.create(_config(tmp_path)), "sft")
    assert stages == []


def test_a_stage_that_returns_without_finishing_is_an_error(tmp_path: Path, stages: list[str]) -> None:
    sys.modules["fake_stages"].data = lambda run: None
    with pytest.raises(LlmrecError, match="without finishing"):
        run_stage(Run.create(_config(tmp_path)), "data")


def test_a_stage_that_was_never_begun_has_no_seconds(tmp_path: Path, stages: list[str]) -> None:
    run = Run.create(_config(tmp_path))
    run.finish("data", {})  # a stage called on its own, without `begin`
    assert read_json(run.path("data", "metrics.json"))["seconds"] is None


def test_results_of_a_stage_that_was_run_again_are_not_mixed(tmp_path: Path, stages: list[str]) -> None:
    run = Run.create(_config(tmp_path))
    run_all(run, say=lambda line: None)
    shutil.rmtree(run.path("sft"))
    before = _contents(run.directory)
    with pytest.raises(RunError, match=r"ppo \(from sft\), evaluate \(from sft\)"):
        Run.create(run.config)
    assert _contents(run.directory) == before
    for stage in ("ppo", "evaluate"):
        shutil.rmtree(run.path(stage))
    stages.clear()
    run_all(Run.create(run.config), say=lambda line: None)
    assert stages == ["sft", "ppo", "evaluate"]


def test_checkpoints_of_a_stage_that_was_run_again_are_not_resumed(tmp_path: Path) -> None:
    run = Run.create(_config(tmp_path))
    _finish(run, "data")
    run.begin("sft")
    write_text(run.path("sft", "checkpoints", "state"), "half-way")
    shutil.rmtree(run.path("data"))
    again = Run.open(run.directory)
    again.begin("data")
    again.finish("data", {"other": 1})
    with pytest.raises(RunError, match=r"sft \(from data\)"):
        again.finished("sft")


@pytest.mark.parametrize(("finished", "stage"), [(("data", "sft"), "sft"), (("data", "sft", "reward", "ppo"), "ppo")])
def test_the_adapter_of_a_run_is_that_of_the_last_stage(tmp_path: Path, finished: tuple[str, ...], stage: str) -> None:
    run = Run.create(_config(tmp_path))
    _finish(run, *finished)
    assert run.adapter_stage() == stage and run.adapter() == run.path(stage, "adapter")
    assert run.adapter("sft") == run.path("sft", "adapter")


def test_the_adapter_of_a_run_must_have_been_trained(tmp_path: Path) -> None:
    run = Run.create(_config(tmp_path))
    with pytest.raises(RunError, match="no finished data, sft stage"):
        run.adapter()
    with pytest.raises(RunError, match="no finished data, ppo stage"):
        run.adapter("ppo")
    with pytest.raises(ValueError, match="unknown adapter 'dpo'; adapters are sft, ppo"):
        run.adapter("dpo")


def test_library_versions_name_what_results_depend_on() -> None:
    versions = library_versions()
    assert versions["llmrec"] == llmrec.__version__ and {"python", "torch", "numpy"} <= versions.keys()
