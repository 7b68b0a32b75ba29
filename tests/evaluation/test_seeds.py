"""Reports over several seeds, from made-up evaluations."""

import json

import numpy as np
import pandas as pd
import pytest

from llmrec.cli import app as cli
from llmrec.cli import stages
from llmrec.errors import RunError
from llmrec.evaluation.metrics import ndcg
from llmrec.evaluation.ranking import OBJECTIVES, RANKS, save_values
from llmrec.evaluation.seeds import seeded, seeds_report
from llmrec.files import write_json
from llmrec.run import STAGES, Run
from tests.conftest import make_config

USERS = 40
SFT = 3  # rank of every target
PPO = (1, 2, 30)  # rank of every target, by seed


def finish(run: Run) -> None:
    """Marks every stage as finished and writes the files of the evaluate stage, with made-up ranks.

    The first user of seed 0 has no target under the other seeds, which have one more user instead.
    """
    seed = run.config.seed
    ranks = {"sft": np.full(USERS, SFT), "ppo": np.full(USERS, PPO[seed]), "optimum": np.full(USERS, 1)}
    baselines = {"ease": (0.1, 0.3, 0.3)[seed], "bpr": (0.2, 0.1, 0.1)[seed]}
    ranks |= {name: np.full(USERS, 5) for name in baselines}
    targets = pd.DataFrame({"user": np.arange(USERS), "user_id": [f"u{n + (seed > 0)}" for n in range(USERS)],
                            "position": 0, "purchased": np.arange(USERS) % 2 == 0})  # fmt: skip
    rows = {"temporal": np.arange(USERS)}
    for stage in STAGES:
        run.begin(stage)
        if stage == "evaluate":
            save_values(run.path("evaluate", RANKS), targets, rows, ranks)
            objective = {"sft": np.full(USERS, -4.0), "ppo": np.full(USERS, -3.0), "optimum": np.full(USERS, -2.0)}
            save_values(run.path("evaluate", OBJECTIVES), targets, rows, objective)
            rate = {"validity": {"rate": 1.0 - seed / 10, "n": 4}, "faithfulness": {"share": {"rate": 1.0}}}
            models = {name: {"coverage": {"value": 0.5 + seed / 10, "n": 9}} for name in ranks}
            purchases = {"0.5": {"models": {"optimum": {"purchases@10": {"value": seed / 10}}}}}
            report = {
                "splits": {"temporal": {"models": models, "purchases": purchases}},
                "baselines": {name: {"grid": [{"valid_ndcg@10": value}]} for name, value in baselines.items()},
                "reward": {"difference": {"value": float(seed)}},
                "generation": {"sft": rate, "ppo": rate},
                "guard": {"fell_back_to_sft": seed == 2},
            }
            write_json(run.report_path, report)
        run.finish(stage, {})


@pytest.fixture
def runs(tmp_path) -> list[Run]:
    config = make_config("base", output_dir=str(tmp_path))
    return [Run.create(one) for one in seeded(config, 3)]


def test_a_seed_varies_the_training_and_the_data(runs):
    assert [run.config.name for run in runs] == ["tiny-seed0", "tiny-seed1", "tiny-seed2"]
    assert [run.config.seed for run in runs] == [run.config.data.seed for run in runs] == [0, 1, 2]
    assert runs[1].config.data.path == runs[0].config.data.path


def test_means_and_spread(runs):
    for run in runs:
        finish(run)
    found = seeds_report(runs).as_json()
    split = found["splits"]["temporal"]
    seeds = ndcg(np.array(PPO), 10).tolist()
    model = split["models"]["ppo"]["ndcg@10"]
    assert model["seeds"] == pytest.approx(seeds) and model["value"] == pytest.approx(np.mean(seeds))
    assert split["users"] == model["n"] == USERS + 1  # users are matched by id
    difference = split["comparisons"]["ppo_vs_sft"]["ndcg@10"]
    assert difference["difference"] == pytest.approx(np.mean(seeds) - 0.5)
    assert difference["seeds"] == pytest.approx([seed - 0.5 for seed in seeds])
    assert difference["verdict"] == "no difference"  # every user agrees, the seeds do not
    # All users are alike, so the interval holds nothing but the draw of seeds: three times the worst and the best.
    assert model["ci95"] == pytest.approx([seeds[2], seeds[0]])
    assert split["models"]["sft"]["coverage"] == {"value": pytest.approx(0.6), "seeds": [0.5, 0.6, 0.7]}
    closed = split["optimum"]["gap_closed"]
    assert closed["objective"]["value"] == 0.5 and closed["objective"]["ci95"] == [0.5, 0.5]
    assert closed["ndcg@10"]["value"] == pytest.approx((np.mean(seeds) - 0.5) / 0.5)
    assert split["models"]["ppo"]["purchase_ndcg@10"]["seeds"] == pytest.approx(seeds)
    assert split["purchases"]["0.5"]["models"]["optimum"]["purchases@10"]["value"] == pytest.approx(0.1)
    assert found["reward"]["difference"] == {"value": 1.0, "seeds": [0.0, 1.0, 2.0]}
    assert found["generation"]["ppo"] == {"validity": {"rate": pytest.approx(0.9), "seeds": [1.0, 0.9, 0.8]}}
    assert found["fell_back_to_sft"] == [False, False, True]


def test_the_rival_is_the_best_on_validation_in_the_mean_of_seeds(runs):
    for run in runs:
        finish(run)
    found = seeds_report(runs)
    assert found.best_rival == "ease"  # 0.23 against 0.13; under seed 0 alone it would be `bpr`
    assert set(found.splits["temporal"].comparisons) == {"ppo_vs_sft", "ppo_vs_ease", "sft_vs_ease"}


def test_a_verdict_stands_if_the_seeds_agree(runs):
    for run in runs[:2]:
        finish(run)
    found = seeds_report(runs[:2]).splits["temporal"].comparison("ppo", "sft", "ndcg@10")
    assert found is not None and found.verdict == "better"


def test_tables_of_earlier_versions_are_refused(runs):
    for run in runs[:2]:
        finish(run)
    file = runs[1].path("evaluate", RANKS)
    pd.read_parquet(file).drop(columns="user_id").to_parquet(file)
    with pytest.raises(RunError, match="tiny-seed1.*again"):
        seeds_report(runs[:2])


def test_other_splits_are_refused(runs):
    for run in runs[:2]:
        finish(run)
    write_json(runs[1].report_path, {"splits": {"given": {}}})
    with pytest.raises(RunError, match="tiny-seed1 has the splits"):
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
