"""All stages through the command line, on a tiny language model and the first users of MovieLens-100K."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llmrec.report.glossary import SLICES
from tests.commands import run_python
from tests.conftest import make_base

RECBOLE = importlib.util.find_spec("recbole")
pytestmark = pytest.mark.skipif(RECBOLE is None, reason="MovieLens-100K comes with `pip install --no-deps recbole`")
USERS = 60
BASELINES = ["popularity", "markov", "transitions_refit", "ease", "sasrec"]


def llmrec(*arguments: str, code: int = 0) -> subprocess.CompletedProcess:
    done = run_python("-m", "llmrec", *map(str, arguments))
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def slice_of_movielens(tmp_path_factory) -> Path:
    """A dataset directory with the first users of MovieLens-100K and all files of the format."""
    source = Path(RECBOLE.submodule_search_locations[0]) / "dataset_example" / "ml-100k"
    target = tmp_path_factory.mktemp("ml-slice")
    for file in source.iterdir():
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        if file.suffix in (".inter", ".user"):
            lines = lines[:1] + [line for line in lines[1:] if int(line.split("\t")[0]) <= USERS]
        (target / file.name.replace("ml-100k", target.name)).write_text("".join(lines), encoding="utf-8")
    return target


@pytest.fixture(scope="module")
def config(slice_of_movielens, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("experiment")
    values = {
        "name": "tiny",
        "output_dir": str(folder / "runs"),
        "data": {"format": "recbole", "path": str(slice_of_movielens), "click": ["rating>=1"],
                 "targets_per_user": 2, "temporal_test": 0.05},
        "catalogue": {"max_history": 12, "user_attributes": ["age", "occupation"]},
        "model": {"base": make_base(folder / "base"), "lora_r": 4},
        "sft": {"num_train_epochs": 0.25, "save_steps": 5, "learning_rate": 2.0e-3, "dropout": 0.0,
                "per_device_train_batch_size": 16},
        "reward": {"num_train_epochs": 2, "ensemble": 2, "linear": True, "conversion_weight": 1.0,
                   "popularity_weight": 1.0},
        "ppo": {"total_episodes": 64, "eval_users": 60, "eval_steps": 1, "response_length": 24,
                "item_entropy_coef": 1.0, "item_kl_coef": 0.6, "kl_coef": 0.1, "ptx_coef": 0.5, "ema_decay": 0.9,
                "learning_rate": 1.0e-4, "cliprange": 0.2, "num_mini_batches": 1, "num_ppo_epochs": 2},
        "evaluation": {"bootstrap": 200, "baselines": BASELINES, "sasrec": {"dropout": [0.2], "epochs": 3}},
    }  # fmt: skip
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def run(config) -> Path:
    output = llmrec("run", config).stdout
    assert "HR@10" in output and "llmrec recommend" in output
    return config.parent / "runs" / "tiny"


def test_the_report_has_all_documented_keys(run):
    report = json.loads((run / "report.json").read_text())
    for split in ("temporal", "leave_one_out"):
        models = report["splits"][split]["models"]
        policies = {"sft", "ppo", "sft_new_user", "ppo_new_user"}
        assert set(models) == {*BASELINES, *policies, "reward_model", "optimum"}
        for metrics in models.values():
            expected = {f"{m}@{k}" for m in ("hr", "ndcg") for k in (1, 5, 10, 20)} | {"mrr", "coverage", "gini"}
            expected |= {"purchase_hr@10", "purchase_ndcg@10", "purchases@10", "expected_purchases@10"}
            assert set(metrics) == expected | {"diversity", "novelty", "popularity_bias", "miscalibration"}
            assert 0 <= metrics["purchases@10"]["value"] <= metrics["hr@10"]["value"]
            assert 0 < metrics["expected_purchases@10"]["value"] < 1
            low, high = metrics["hr@10"]["ci95"]
            assert 0 <= low <= metrics["hr@10"]["value"] <= high <= 1
        comparisons = report["splits"][split]["comparisons"]
        rivals = {"sasrec", "markov", "reward_model", report["best_rival"]}
        assert set(comparisons) == {"ppo_vs_sft", *(f"{one}_vs_{two}" for one in ("ppo", "sft") for two in rivals)}
        tested = comparisons["ppo_vs_sft"]["ndcg@10"]
        assert set(tested) == {"difference", "ci95", "p", "p_holm", "verdict", "detectable"}
        assert set(comparisons["ppo_vs_sft"]["hr@10"]) == {"difference", "ci95"}  # a descriptive metric
        weighted = report["splits"][split]["purchases"]
        assert set(weighted) == {"0", "0.5", "1"}
        for ranked in weighted.values():
            assert set(ranked["models"]) == {"optimum", "sft_reranked", "reward_model"}
        assert weighted["0"]["models"]["sft_reranked"]["ndcg@10"] == models["sft"]["ndcg@10"]
        assert weighted["1"]["models"]["optimum"]["ndcg@10"] == models["optimum"]["ndcg@10"]  # the config's weight
        assert weighted["1"]["models"]["reward_model"]["ndcg@10"] == models["reward_model"]["ndcg@10"]
        sliced = report["splits"][split]["slices"]
        assert set(sliced) == set(SLICES) - {"seen_targets", "new_targets"} and set(sliced["cold_items"]) == set(models)
        activity = [sliced[f"{name}_activity"]["sft"]["hr@10"]["n"] for name in ("low", "middle", "high")]
        assert sum(activity) == report["splits"][split]["users"] >= report["splits"][split]["users_with_training"] > 0
        best = report["splits"][split]["optimum"]
        assert best["beta"] == 0.6 and set(best["gap_closed"]) == {"objective", "ndcg@10"}
        reached = [best["objective"][name]["value"] for name in ("sft", "ppo", "optimum")]
        assert max(reached) == reached[2] > reached[0]
    assert set(report["baselines"]) == set(BASELINES)
    assert [name for name, one in report["baselines"].items() if one["refitted"]] == ["transitions_refit"]
    assert all(one["seconds"] > 0 and one["cpu_seconds"] > 0 for one in report["baselines"].values())
    assert set(report["baselines"]["sasrec"]["chosen"]) == {
        "hidden_size",
        "num_layers",
        "dropout",
        "learning_rate",
        "epochs",
    }
    assert "valid_ndcg@10" in report["baselines"]["ease"]["grid"][0]
    assert report["splits"]["leave_one_out"]["models"]["sft"]["hr@10"]["n"] == USERS
    for adapter in ("sft", "ppo"):
        rates = report["generation"][adapter]
        assert rates["unseen"] == {"rate": 1.0, "n": USERS}
        assert set(rates) == {"validity", "unseen", "groundedness", "repeats", "factual_precision", "distinct_1",
                              "distinct_2", "unique_sentences", "feature_coverage", "distinct_wordings", "mean_words",
                              "faithfulness"}  # fmt: skip
        faithful = rates["faithfulness"]
        assert 0 < faithful["share"]["n"] == faithful["fall"]["n"] <= USERS
    assert {"before", "after", "difference", "list_reward_difference", "list_judge_after"} <= set(report["reward"])
    assert report["guard"]["users"] == 18
    assert len(report["examples"]) == 6
    assert {"user", "history", "took", "sft", "ppo"} == set(report["examples"][0])
    page = (run / "report.html").read_text()
    assert report["examples"][0]["user"] in page and "Learning curves" in page and "Reliability, temporal" in page
    assert set(report["seconds"]) == {"data", "sft", "reward", "ppo"}


def test_a_second_run_skips_all_stages(run, config):
    before = {p: p.stat().st_mtime_ns for p in run.rglob("metrics.json")}
    output = llmrec("run", config).stdout
    assert output.count("skipped") == 5
    assert {p: p.stat().st_mtime_ns for p in run.rglob("metrics.json")} == before


def test_recommend_for_a_known_user(run):
    done = llmrec("recommend", "--run", run, "--user", "7", "--top-k", "4", "--json")
    ranked = json.loads(done.stdout)["recommendations"]
    assert len(ranked) == 4
    scores = [item["score"] for item in ranked]
    assert scores == sorted(scores, reverse=True) and 0 < sum(scores) <= 1
    assert all(item["title"] for item in ranked)


def test_recommend_for_a_new_user(run, command_here):
    titles = ["Toy Story (1995)", "aladdin (1992)"]
    done = command_here("recommend", "--run", run, *titles, "--exclude", "Fargo (1996)", "--json")
    ranked = [item["title"] for item in json.loads(done.stdout)["recommendations"]]
    assert not {"Toy Story (1995)", "Aladdin (1992)", "Fargo (1996)"} & set(ranked)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["Toy Storey (1995)"], "Toy Story (1995)"),
        (["--user", "4711"], "There is no user 4711"),
        ([], "--user ID"),
    ],
)
def test_invalid_requests_exit_with_an_explanation(run, command_here, arguments, words):
    refused = command_here("recommend", "--run", run, *arguments)
    assert refused.returncode == 2 and words in refused.stderr


def test_another_config_is_refused_and_no_file_changes(run, config, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    values = yaml.safe_load(config.read_text())
    values["sft"]["learning_rate"] = 1.0e-4
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(values))
    error = llmrec("run", other, code=2).stderr
    assert "sft.learning_rate: 0.002 -> 0.0001" in error
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()} == before


def test_an_interrupted_stage_resumes(run, config, tmp_path):
    """SFT that is killed after its first checkpoint ends with the same adapter as an uninterrupted run."""
    values = yaml.safe_load(config.read_text())
    values |= {"name": "killed", "output_dir": str(tmp_path)}
    path = tmp_path / "killed.yaml"
    path.write_text(yaml.safe_dump(values))
    llmrec("prepare", path)
    process = subprocess.Popen([sys.executable, "-m", "llmrec", "sft", str(path)], stderr=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL)  # fmt: skip
    checkpoint = tmp_path / "killed" / "sft" / "checkpoints" / "checkpoint-5" / "trainer_state.json"
    while not checkpoint.is_file():
        assert process.poll() is None, "SFT ended before its first checkpoint"
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "sft" / "metrics.json").exists()
    llmrec("sft", path)
    name = "sft/adapter/adapter_model.safetensors"
    assert (tmp_path / "killed" / name).read_bytes() == (run / name).read_bytes()
