"""The commands push, list and diff: arguments and tables. Their work is tested in `tests/hub`."""

from pathlib import Path
from typing import Any

import pytest

from llmrec.cli.hub import print_difference, print_entries, push_if_configured
from llmrec.config import parse_config
from llmrec.evaluation.report import Estimate
from llmrec.hub.compare import Difference, EstimatePair, RunEntry, ValuePair
from llmrec.progress.console import console_for
from llmrec.run import Run

ESTIMATE = Estimate(value=0.1, ci95=(0.05, 0.15), n=9)


def test_unknown_parts_are_refused(llmrec, capsys, run_directory: Path) -> None:
    arguments = ["--run", str(run_directory), "--repo", "alice/tiny", "--include", "reward, rewards"]
    assert llmrec("push", *arguments) == 2
    assert "--include rewards: expected reward or report" in capsys.readouterr().err


def test_list_takes_a_directory_or_a_repository(llmrec, capsys, tmp_path: Path) -> None:
    assert llmrec("list", str(tmp_path), "--repo", "alice/tiny") == 2
    assert "Give one of them" in capsys.readouterr().err


def test_runs_are_printed_with_and_without_results(capsys) -> None:
    common: dict[str, Any] = {"directory": "runs/x", "finished": ["data"], "report_readable": True}
    entries = [
        RunEntry(name="a", when="2026-01-02T03:04:05", ndcg={"leave_one_out": {"ppo": ESTIMATE}}, **common),
        RunEntry(name="b", when=None, ndcg={}, **common),
    ]
    print_entries(console_for(), entries, ("run", "finished"))
    printed = capsys.readouterr().out
    for text in ("PPO, leave-one-out", "0.100", "[0.050, 0.150]", "2026-01-02", "03:04"):
        assert text in printed
    assert "T03" not in printed


def test_differences_are_printed_side_by_side(capsys) -> None:
    difference = Difference(
        a="runs/a",
        b="[b]",  # rich would read brackets as markup
        config={"ppo.kl_coef": ValuePair(a=0.1, b=None)},
        metrics={"temporal": {"sasrec": {"hr@10": EstimatePair(a=ESTIMATE, b=None)}}},
    )
    print_difference(console_for(), difference)
    printed = capsys.readouterr().out
    for text in ("ppo.kl_coef", "None", "SASRec HR@10", "0.100 [0.050, 0.150]", "runs/a", "[b]"):
        assert text in printed


@pytest.mark.parametrize("configured", [True, False])
def test_a_run_is_pushed_if_its_config_says_so(monkeypatch, tmp_path: Path, configured: bool) -> None:
    pushed: list[Run] = []
    monkeypatch.setattr("llmrec.hub.push.push_as_configured", lambda run, say: pushed.append(run))
    hub = {"hub": {"repo": "alice/tiny"}} if configured else {}
    data = {"format": "movielens", "path": "x"}
    run = Run.create(parse_config({"name": "a", "output_dir": str(tmp_path), "data": data, **hub}))
    push_if_configured(run, console_for())
    assert pushed == ([run] if configured else [])
