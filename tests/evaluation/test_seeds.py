"""Reports over several training seeds, from made-up evaluations."""

import json

import numpy as np
import pandas as pd
import pytest

from llmrec.cli import app as cli
from llmrec.cli import stages
from llmrec.data.dataset import Targets
from llmrec.errors import RunError
from llmrec.evaluation.metrics import ndcg
from llmrec.evaluation.ranking import RANKS, Ranked, save_ranks
from llmrec.evaluation.seeds import seeded, seeds_report
from llmrec.files import write_json
from llmrec.run import STAGES, Run
from tests.conftest import make_config

USERS = 40
SFT = 3  # rank of every target
PPO = (1, 2, 30)  # rank of every target, by seed


def finish(run: Run) -> None:
    """Marks every stage as finished and writes the files of the evaluate stage, with made-up ranks."""
    ranks = {"sft": np.full(USERS, SFT), "ppo": np.full(USERS, PPO[run.config.seed]), "optimum": np.full(USERS, 1)}
    ranked = {name: Ranked(values, np.zeros((USERS, 10))) for name, values in ranks.items()}
    targets = Targets(np.arange(USERS), np.zeros(USERS, dtype=int))
    for stage in STAGES:
        run.begin(stage)
        if stage == "evaluate":
            save_ranks(run.path("evaluate", RANKS), targets, {"temporal": np.arange(USERS)}, ranked)
            rate = {"validity": {"rate": 1.0 - run.config.seed / 10, "n": 4}, "faithfulness": {"share": {"rate": 1.0}}}
            models = {name: {"coverage": {"value": 0.5 + run.config.seed / 10, "n": 9}} for name in ranks}
            objective = {
                name: {"value": value, "n": 4} for name, value in (("sft", -4.0), ("ppo", -3.0), ("optimum", -2.0))
            }
            report = {
                "splits": {
                    "temporal": {"models": models, "optimum": {"beta": 0.5, "alpha": 1.0, "objective": objective}}
                },
                "reward": {"difference": {"value": float(run.config.seed)}},
                "generation": {"sft": rate, "ppo": rate},
                "guard": {"fell_back_to_sft": run.config.seed == 2},
            }
            write_json(run.report_path, report)
        run.finish(stage, {})


@pytest.fixture
def runs(tmp_path) -> list[Run]:
    config = make_config("base", output_dir=str(tmp_path))
    return [Run.create(one) for one in seeded(config, 3)]


def test_seeds_change_only_the_training(runs):
    assert [run.config.name for run in runs] == ["tiny-seed0", "tiny-seed1", "tiny-seed2"]
    assert [run.config.seed for run in runs] == [0, 1, 2] and {run.config.data.seed for run in runs} == {0}


def test_means_and_spread(runs):
    for run in runs:
        finish(run)
    found = seeds_report(runs).as_json()
    split = found["splits"]["temporal"]
    seeds = ndcg(np.array(PPO), 10).tolist()
    model = split["models"]["ppo"]["ndcg@10"]
    assert model["seeds"] == pytest.approx(seeds) and model["value"] == pytest.approx(np.mean(seeds))
    difference = split["comparisons"]["ppo_vs_sft"]["ndcg@10"]
    assert difference["difference"] == pytest.approx(np.mean(seeds) - 0.5)
    assert difference["seeds"] == pytest.approx([seed - 0.5 for seed in seeds])
    assert difference["verdict"] == "no difference"  # every user agrees, the seeds do not
    assert split["models"]["sft"]["coverage"] == {"value": pytest.approx(0.6), "seeds": [0.5, 0.6, 0.7]}
    closed = split["optimum"]["gap_closed"]
    assert closed == {"objective": 0.5, "ndcg@10": pytest.approx((np.mean(seeds) - 0.5) / 0.5)}
    assert found["reward"]["difference"] == {"value": 1.0, "seeds": [0.0, 1.0, 2.0]}
    assert found["generation"]["ppo"] == {"validity": {"rate": pytest.approx(0.9), "seeds": [1.0, 0.9, 0.8]}}
    assert found["fell_back_to_sft"] == [False, False, True]


def test_a_verdict_stands_if_the_seeds_agree(runs):
    for run in runs[:2]:
        finish(run)
    found = seeds_report(runs[:2]).splits["temporal"].comparison("ppo", "sft", "ndcg@10")
    assert found is not None and found.verdict == "better"


def test_other_targets_are_refused(runs):
    for run in runs[:2]:
        finish(run)
    file = runs[1].path("evaluate", RANKS)
    pd.read_parquet(file).iloc[::-1].reset_index(drop=True).to_parquet(file)
    with pytest.raises(RunError, match="tiny-seed1 has other test targets"):
        seeds_report(runs[:2])


def test_a_run_without_an_evaluation_is_refused(runs):
    with pytest.raises(RunError, match="no finished"):
        seeds_report(runs)


def test_the_command_writes_and_prints_the_report(tmp_path, monkeypatch, capsys):
    config = tmp_path / "tiny.yaml"
    config.write_text(json.dumps(make_config("base", output_dir=str(tmp_path / "runs")).model_dump(mode="json")))
    monkeypatch.setattr(stages, "run_all", lambda run, say: finish(run))
    monkeypatch.setattr(stages, "_write_page", lambda run: None)
    monkeypatch.setattr("sys.argv", ["llmrec", "run", str(config), "--seeds", "2", "--json"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "runs" / "tiny-seeds.json").read_text())
    assert len(printed["runs"]) == 2
    monkeypatch.setattr("sys.argv", ["llmrec", "run", str(tmp_path), "--seeds", "2"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and "YAML" in capsys.readouterr().err
