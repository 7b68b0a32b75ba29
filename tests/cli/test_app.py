"""The command line: exit codes, messages without tracebacks, clean JSON, titles after one flag."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmrec.cli import app as cli
from llmrec.cli import process as command
from llmrec.cli.app import main
from llmrec.cli.process import spread_values
from llmrec.config import parse_config
from llmrec.errors import CatalogueError, UserError
from llmrec.files import write_json
from llmrec.run import STAGE_TABLE, STAGES, Run

ROOT = Path(__file__).parents[2]
CATALOGUE = ["Toy Story (1995)", "Aladdin (1992)", "Heat (1995)", "Alien [Director's cut] (1979)"]
FLAGS = ("--history", "--exclude")


@dataclass
class Item:
    item_id: str
    title: str
    score: float
    justification: str
    grounded: bool


class FakeRecommender:
    """Recommends what is left of a catalogue of four films."""

    @classmethod
    def from_run(cls, run: Run, adapter: str | None = None, quantized: bool = True) -> "FakeRecommender":
        return cls()

    def resolve_titles(self, titles: list[str]) -> list[int]:
        unknown = [title for title in titles if title not in CATALOGUE]
        if unknown:
            raise CatalogueError(f"{unknown[0]} is not in the catalogue. Nearest: Heat (1995).")
        return [CATALOGUE.index(title) for title in titles]

    def recommend(self, history=None, user=None, top_k=5, exclude=()) -> list[Item]:
        print("a library prints this on stdout")
        left = [i for i in range(len(CATALOGUE)) if i not in (history or []) and i not in exclude]
        return [Item(str(i), CATALOGUE[i], 0.5, f"because of {CATALOGUE[0]}", True) for i in left[:top_k]]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "x.yaml"
    file.write_text(f"name: a\noutput_dir: {tmp_path}/runs\ndata: {{format: movielens, path: x}}\n")
    return file


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    data = {"format": "movielens", "path": "x"}
    return Run.create(parse_config({"name": "a", "output_dir": str(tmp_path / "runs"), "data": data})).directory


@pytest.fixture(autouse=True)
def recommender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llmrec.recommend", types.SimpleNamespace(Recommender=FakeRecommender))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`main` sets variables and warning filters that must not outlive a test."""
    monkeypatch.setattr(command, "silence_libraries", lambda: None)


def _stub_stage(monkeypatch: pytest.MonkeyPatch, stage: str, function) -> None:
    monkeypatch.setitem(sys.modules, f"stub_{stage}", types.SimpleNamespace(run=function))
    entry = dataclasses.replace(STAGE_TABLE[stage], module=f"stub_{stage}", function="run")
    monkeypatch.setitem(STAGE_TABLE, stage, entry)


def _llmrec(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Runs the command in this process and returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["llmrec", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code or 0


# --- titles after one flag


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--history", "A b", "C", "--top-k", "3"], ["--history=A b", "--history=C", "--top-k", "3"]),
        (["--history", "A", "--history", "B"], ["--history=A", "--history=B"]),
        (["--history", "-30-"], ["--history=-30-"]),
        (["--history=A", "--exclude", "B", "C"], ["--history=A", "--exclude=B", "--exclude=C"]),
        (["--user", "7", "--json"], ["--user", "7", "--json"]),
        (["--history", "A", "--json"], ["--history=A", "--json"]),
        ([], []),
    ],
)
def test_spread_values(given: list[str], expected: list[str]) -> None:
    assert spread_values(given, FLAGS) == expected


@pytest.mark.parametrize("given", [["--history"], ["--history", "--json"], ["--top-k", "3", "--exclude"]])
def test_a_flag_without_titles(given: list[str]) -> None:
    with pytest.raises(UserError, match="needs at least one title"):
        spread_values(given, FLAGS)


@pytest.mark.parametrize(
    "titles",
    [
        ["--history", "Toy Story (1995)", "Aladdin (1992)"],
        ["--history", "Toy Story (1995)", "--history", "Aladdin (1992)"],
    ],
)
def test_recommend_by_titles(monkeypatch, capsys, run_directory: Path, titles: list[str]) -> None:
    code = _llmrec(monkeypatch, "recommend", *titles, "--run", str(run_directory), "--top-k", "1", "--json")
    out, err = capsys.readouterr()
    assert code == 0
    answer = json.loads(out)
    assert answer["history"] == ["Toy Story (1995)", "Aladdin (1992)"]
    assert [item["title"] for item in answer["recommendations"]] == ["Heat (1995)"]
    assert "a library prints this" in err


def test_recommend_to_a_user_without(monkeypatch, capsys, run_directory: Path) -> None:
    arguments = ["--run", str(run_directory), "--user", "7", "--exclude", *CATALOGUE[:2], "--adapter", "sft"]
    assert _llmrec(monkeypatch, "recommend", *arguments) == 0
    out = capsys.readouterr().out
    assert "Heat (1995)" in out and "Alien [Director's cut] (1979)" in out  # rich would read [...] as markup
    assert "because of Toy Story" in out and " 1. Toy Story" not in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--history", "Haet"], "Nearest: Heat (1995)"),
        (["--user", "7", "--history", "Heat (1995)"], "not both"),
        ([], "Say for whom"),
        (["--interactive", "--json"], "not both"),
        (["--user", "7", "--adapter", "rl"], "'rl' is not one of"),
        (["--user", "7", "--top-k", "0"], "greater than or equal to 1"),
    ],
)
def test_recommend_mistakes(monkeypatch, capsys, run_directory: Path, arguments, says: str) -> None:
    assert _llmrec(monkeypatch, "recommend", "--run", str(run_directory), *arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and says in " ".join(err.split()) and "Traceback" not in err


def test_interactive(monkeypatch, capsys, run_directory: Path) -> None:
    lines = iter(["Haet", "Toy Story (1995); Aladdin (1992)", ":exclude Heat (1995)", ":what", "", ":quit"])
    monkeypatch.setattr("builtins.input", lambda *prompt: next(lines))
    assert _llmrec(monkeypatch, "recommend", "--run", str(run_directory), "--interactive") == 0
    out = capsys.readouterr().out
    assert "Nearest: Heat" in out and "no command :what" in out
    last = out[out.rindex(" 1. ") :]
    assert last.startswith(" 1. Alien") and "Heat" not in last
    assert next(lines, None) is None


def test_interactive_ends_with_the_input(monkeypatch, run_directory: Path) -> None:
    def ended(*prompt):
        raise EOFError

    monkeypatch.setattr("builtins.input", ended)
    assert _llmrec(monkeypatch, "recommend", "--run", str(run_directory), "--interactive") == 0


# --- stages


def test_stage_verb_prints_only_json(monkeypatch, capfd, config: Path) -> None:
    def prepare(run: Run) -> None:
        print("printed by Python")
        os.system("echo printed by a child process")
        run.finish("data", {"users": 3})

    _stub_stage(monkeypatch, "data", prepare)
    for _ in range(2):  # the second time it has finished already
        assert _llmrec(monkeypatch, "prepare", str(config), "--json") == 0
        out, err = capfd.readouterr()
        assert json.loads(out) == {"users": 3}
        printed = "printed by Python" in err and "printed by a child" in err
        assert printed == ("finished before" not in err)


def test_a_run_directory_serves_as_config(monkeypatch, capsys, run_directory: Path) -> None:
    _stub_stage(monkeypatch, "data", lambda run: run.finish("data", {}))
    assert _llmrec(monkeypatch, "prepare", str(run_directory)) == 0
    assert "data: done" in capsys.readouterr().out


def test_run_shows_the_report(monkeypatch, capsys, config: Path, tmp_path: Path) -> None:
    value = {"value": 0.2, "ci95": [0.1, 0.3], "n": 9}
    report = {
        "splits": {"temporal": {"models": {"sasrec": {"hr@10": value}, "ppo": {"hr@10": value, "mrr": value}}}},
        "generation": {"ppo": {"validity": {"rate": 1.0, "n": 9}}},
        "reward": {"before": value, "after": value},
        "guard": {"best_step": 0, "fell_back_to_sft": True},
    }

    def stage_writer(stage: str):
        def write(run: Run) -> None:
            run.finish(stage, {})
            if stage == "evaluate":
                write_json(run.report_path, report)

        return write

    for stage in STAGES:
        _stub_stage(monkeypatch, stage, stage_writer(stage))
    monkeypatch.setattr(cli, "print_examples", lambda console, run: console.print("examples"))
    assert _llmrec(monkeypatch, "run", str(config)) == 0
    out = capsys.readouterr().out
    for part in (
        "sasrec",
        "0.200 [0.100, 0.300]",
        "validity 100.0%",
        "no PPO step beat",
        "examples",
        "llmrec push",
    ):
        assert part in out
    assert _llmrec(monkeypatch, "run", str(config), "--json") == 0
    assert json.loads(capsys.readouterr().out) == report


# --- errors


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UserError("mend it so"), 2, "error: mend it so"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "free some space"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 2, "free some space"),
        (KeyboardInterrupt(), 130, "run the same command again to go on"),
    ],
)
def test_errors_have_no_traceback(monkeypatch, capsys, config: Path, error, code: int, says: str) -> None:
    def fail(run: Run) -> None:
        raise error

    _stub_stage(monkeypatch, "data", fail)
    assert _llmrec(monkeypatch, "prepare", str(config), "--json") == code
    out, err = capsys.readouterr()
    assert out == "" and says in err and "Traceback" not in err


def test_faults_of_ours_show_where(monkeypatch, capsys, config: Path) -> None:
    def fail(run: Run) -> None:
        raise ZeroDivisionError("by zero")

    _stub_stage(monkeypatch, "data", fail)
    assert _llmrec(monkeypatch, "prepare", str(config)) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err and err.strip().splitlines()[-1].endswith("ZeroDivisionError: by zero")


def test_traceback_on_request(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMREC_TRACEBACK", "1")
    assert _llmrec(monkeypatch, "sft", str(tmp_path / "none.yaml")) == 2
    assert "Traceback" in capsys.readouterr().err


def _subprocess(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=variables, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["-m", "llmrec", "--version"], 0, "llmrec 0."),
        (["-m", "llmrec", "--help"], 0, "recommend"),
        (["-m", "llmrec", "sft"], 2, "Missing argument"),
        (["-m", "llmrec", "stf", "x.yaml"], 2, "No such command"),
        (["-m", "llmrec", "sft", "none.yaml"], 2, "There is no config file none.yaml"),
        (["-m", "llmrec", "push", "--run", ".", "--repo", "a/b"], 2, "is not a run directory"),
        (
            [str(ROOT / "scripts" / "train_sft.py"), "--config", "none.yaml"],
            2,
            "There is no config file none.yaml",
        ),
        ([str(ROOT / "scripts" / "train_ppo.py")], 2, "--config"),
        ([str(ROOT / "scripts" / "train_reward.py"), "--help"], 0, "--config"),
    ],
)
def test_processes(tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    done = _subprocess(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_and_config_errors_do_not_wait_for_torch(tmp_path: Path) -> None:
    code = "import sys, llmrec.cli.app; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert _subprocess("-c", code, cwd=tmp_path).returncode == 0


def test_reward_report_prints_models_baselines_and_slices(capsys):
    from llmrec.cli.printing import print_reward
    from llmrec.progress.console import console_for

    value = {"value": 0.9123, "ci95": [0.9, 0.92]}
    row = {"n": 40, "auc": value, "log_loss": value, "brier": value, "ece": value, "ece_floor": 0.01}
    quality = {**row, "baselines": {"item_item": row}, "slices": {"user_activity <=65": {**row, "auc": None}}}
    shown = {**quality, "position_bias": {"1": 0.0}, "effective_sample_size": 9.0, "propensities_clipped": 0.1}
    metrics = {
        "splits": {"temporal": {"part": "test", "ranking": {"click_ndcg@10": 0.1}, "click": quality, "purchase": None}},
        "exposures": shown,
    }
    print_reward(console_for(), metrics, Path("runs/x/reward"))
    printed = capsys.readouterr().out
    for text in ("0.912", "[0.900,", "item_item", "user_activity", "click_ndcg@10 0.1000", "effective sample size 9"):
        assert text in printed
