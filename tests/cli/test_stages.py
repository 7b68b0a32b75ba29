"""Commands that run stages: JSON alone on stdout, skipped stages and printed results."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock

from llmrec.cli import stages
from llmrec.files import write_json
from llmrec.run import STAGES, Run
from tests.cli.conftest import CATALOGUE, FakeRecommender


def test_a_stage_prints_only_json(llmrec, stub_stage, capfd, config: Path) -> None:
    def prepare(run: Run) -> None:
        print("printed by Python")
        os.system("echo printed by a child process")
        run.finish("data", {"users": 3})

    stub_stage("data", prepare)
    for attempt in range(2):  # the second attempt finds a finished stage
        assert llmrec("prepare", str(config), "--json") == 0
        out, err = capfd.readouterr()
        assert json.loads(out) == {"users": 3}
        for text in ("printed by Python", "printed by a child process"):
            assert (text in err) == (attempt == 0)
        assert ("skipped" in err) == (attempt == 1)


def test_a_run_directory_serves_as_config(llmrec, stub_stage, capsys, run_directory: Path) -> None:
    stub_stage("data", lambda run: run.finish("data", {}))
    assert llmrec("prepare", str(run_directory)) == 0
    assert "data: done" in capsys.readouterr().out


def test_prepare_reports_what_misleads_and_what_counts_reach(llmrec, capsys, tmp_path: Path) -> None:
    lines = [f"u{user} " + " ".join(f"i{item}" for item in range(user, user + 5)) for user in range(5)]  # all in order
    (tmp_path / "user_sequence.txt").write_text("\n".join(lines))
    (tmp_path / "item_words.txt").write_text("\n".join(f"i{item} thing {item}" for item in range(9)))
    data = f"{{format: sequences, path: {tmp_path}, click: [interaction], purchase: [], splits: [leave_one_out]}}"
    config = tmp_path / "x.yaml"
    config.write_text(f"name: a\noutput_dir: {tmp_path}/runs\ndata: {data}\n")
    assert llmrec("prepare", str(config), "--report") == 0
    out = capsys.readouterr().out
    for part in (
        "histories in order of item id",
        "100.0 %",
        "transitions",
        "warning, wrong, 100 %: a model can predict the order of ids",
    ):
        assert part in out
    assert llmrec("prepare", str(config), "--report", "--json") == 0
    card = json.loads(capsys.readouterr().out)
    # Item i+1 follows item i, so four targets have rank 1. Item i8 has no event before the test: rank 5 of 5 unseen.
    assert card["counts"]["leave_one_out"]["first_order"]["refitted"]["ndcg"] == pytest.approx(
        (4 + 1 / math.log2(6)) / 5
    )
    assert card["checks"]["sorted_histories"] == 1.0
    assert card == json.loads((tmp_path / "runs" / "a" / "data" / "card.json").read_text()) | card


def test_prepare_checks_a_log_and_prints_a_config_that_works(llmrec, capsys, tmp_path: Path) -> None:
    rows = [f"u{n % 4},{n % 7},{10**9 + n},{n % 5 + 1}" for n in range(60)]
    (tmp_path / "log.csv").write_text("user,product,time,stars\n" + "\n".join(rows))
    (tmp_path / "goods.csv").write_text("product,title\n" + "\n".join(f"{n},Pan {n}" for n in range(7)))
    assert llmrec("prepare", "--check", str(tmp_path / "log.csv")) == 0
    out = capsys.readouterr().out
    assert "60 events, 60 clicks, 24 purchases" in out and not (tmp_path / "runs").exists()
    config = tmp_path / "log.yaml"
    config.write_text(out[out.index("# A config") :] + f"output_dir: {tmp_path}/runs\n")
    assert llmrec("prepare", str(config)) == 0
    assert "60 events read" in capsys.readouterr().out
    assert llmrec("prepare", "--check", str(config), "--json") == 0
    check = json.loads(capsys.readouterr().out)
    assert [one["use"].split(":")[0] for one in check["columns"]] == ["user_id", "item_id", "timestamp", "rating"]
    assert llmrec("prepare", "--check", str(tmp_path)) == 2


def make_report() -> dict:
    value = {"value": 0.2, "ci95": [0.1, 0.3], "n": 9}
    return {
        "splits": {"temporal": {"models": {"sasrec": {"hr@10": value}, "ppo": {"hr@10": value, "mrr": value}}}},
        "generation": {"ppo": {"validity": {"rate": 1.0, "n": 9}}},
        "reward": {"before": value, "after": value},
        "guard": {"best_step": 0, "fell_back_to_sft": True},
    }


def stub_all_stages(stub_stage) -> None:
    def stub_of(stage: str) -> Callable[[Run], None]:
        def finish(run: Run) -> None:
            run.finish(stage, {})
            if stage == "evaluate":
                write_json(run.report_path, make_report())

        return finish

    for stage in STAGES:
        stub_stage(stage, stub_of(stage))


def test_run_prints_the_report(llmrec, stub_stage, monkeypatch, capsys, config: Path) -> None:
    stub_all_stages(stub_stage)
    example = stages.Example("7", CATALOGUE[:1], FakeRecommender().recommend(top_k=1))  # type: ignore[arg-type]
    monkeypatch.setattr(stages, "example_recommendations", lambda run: [example])
    assert llmrec("run", str(config)) == 0
    out = capsys.readouterr().out
    for part in (
        "SASRec",
        "0.200 [0.100, 0.300]",
        "validity 100.0 %",
        "no PPO adapter passed",
        "user 7, after ... Toy Story (1995):",
        "llmrec push",
    ):
        assert part in out
    assert llmrec("run", str(config), "--json") == 0
    assert json.loads(capsys.readouterr().out) == make_report()


def test_evaluate_prints_the_report_or_the_metrics(llmrec, stub_stage, capsys, config: Path, tmp_path: Path) -> None:
    stub_all_stages(stub_stage)
    for command in ("prepare", "sft", "reward", "ppo"):
        assert llmrec(command, str(config)) == 0
    capsys.readouterr()
    assert llmrec("evaluate", str(config)) == 0
    page = tmp_path / "runs" / "a" / "report.html"
    assert f"report page: {page}" in capsys.readouterr().out and page.is_file()
    assert llmrec("evaluate", str(config), "--json") == 0
    assert json.loads(capsys.readouterr().out) == {}
    assert llmrec("report", str(page.parent), "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(page)}


def test_reading_commands_work_while_another_process_holds_the_run(llmrec, stub_stage, capsys, config: Path) -> None:
    stub_all_stages(stub_stage)
    for command in ("prepare", "sft", "reward", "ppo", "evaluate"):
        assert llmrec(command, str(config)) == 0
    folder = config.parent / "runs" / "a"
    with FileLock(folder / ".lock"):
        for arguments in (["report", str(folder)], ["list", str(folder.parent)], ["diff", str(folder), str(folder)]):
            assert llmrec(*arguments) == 0
        assert llmrec("prepare", str(config)) == 0  # it has finished: its results are read
        (folder / "evaluate" / "metrics.json").unlink()
        capsys.readouterr()
        assert llmrec("evaluate", str(config)) == 2
        assert "is in use by another process" in capsys.readouterr().err
    assert llmrec("evaluate", str(config)) == 0


def test_seeds_need_a_config(llmrec, capsys, run_directory: Path) -> None:
    assert llmrec("run", str(run_directory), "--seeds", "2") == 2
    assert "Give --seeds a YAML config" in capsys.readouterr().err


@pytest.mark.usefixtures("fake_recommender")
def test_examples_are_spread_over_the_users(monkeypatch, run_directory: Path) -> None:
    class Data:
        num_users = 7
        num_items = 4
        histories = [[0, 1]] * 6 + [[0, 1, 2, 3]]  # the last user has seen the whole catalogue
        items = pd.DataFrame({"title": CATALOGUE})
        users = pd.DataFrame({"user_id": [f"u{user}" for user in range(7)]})

    monkeypatch.setattr("llmrec.data.dataset.load_data", lambda path: Data)
    examples = stages.example_recommendations(Run.open(run_directory), count=3, shown_history=1)
    assert [example.user_id for example in examples] == ["u0", "u2", "u4"]
    assert examples[0].history == ["Aladdin (1992)"] and len(examples[0].ranked) == 1


def test_lines_that_a_stage_reports_are_printed(llmrec, capsys, config: Path, stub_stage) -> None:
    stub_stage("data", lambda run: run.finish("data", {"users": 2, "summary": ["6 events read [x]", "warning: y"]}))
    assert llmrec("prepare", str(config)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["data: 6 events read [x]", "data: warning: y"]
