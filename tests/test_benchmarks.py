"""Benchmarks: the PPO comparison on a tiny model, its lower bound by hand, and the loss of S-DPO."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import typer
from transformers import AutoConfig
from typer.testing import CliRunner

from benchmarks import guard
from benchmarks.ablations import separate_reference, whole_vocabulary
from benchmarks.contenders import Ours, Workload
from benchmarks.floor import needed_flops
from benchmarks.learning import recovered, value
from benchmarks.learning_world import World
from benchmarks.piece import run_piece
from benchmarks.ppo_throughput import main
from benchmarks.privacy import table as privacy_table
from benchmarks.quantization import table
from benchmarks.research.sdpo import sdpo_loss
from llmrec.data.dataset import save_data
from llmrec.data.decision import Decision
from llmrec.policy.packing import pack, target_log_probs
from llmrec.run import Run
from tests.conftest import make_base, make_config

PHASES = {"rollout", "reference", "reward", "advantages", "update forward", "update backward", "optimizer"}


@pytest.mark.slow
def test_the_benchmark_reports_both_trainers(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # matrix products are tiny, and times are not checked
    app = typer.Typer()
    app.command()(main)
    options = ["--base", tiny_base, "--layers", "2", "--prompt-tokens", "96", "--completion-tokens", "4"]
    outcome = CliRunner().invoke(app, [*options, "--rounds", "1", "--json"], catch_exceptions=False)
    report = json.loads(outcome.stdout)
    assert set(report) == {"workload", "machine", "trainers", "floor"}
    assert set(report["trainers"]) == {"stock", "gae", "exact"}
    for name, trainer in report["trainers"].items():
        assert trainer["episodes_per_second"] > 0
        assert trainer["peak_gb"] > 0
        if name != "stock":
            assert trainer["over_stock"] > 0
            assert trainer["tokens_written"] == 32 * 4
            assert set(trainer["phases"]) == PHASES and min(trainer["phases"].values()) > 0
            assert report["floor"][name]["ours_over_floor"] > 0


@pytest.mark.parametrize("patch", [whole_vocabulary, separate_reference])
def test_an_ablated_trainer_runs_an_update(patch, tiny_base, tmp_path):
    work = Workload(base=tiny_base, layers=2, prompt_tokens=96, completion_tokens=4, episodes=16, ppo_epochs=1)
    ours = Ours(work, items=100, generations=4)
    trainer = replace(ours, patch=patch).trainer(str(tmp_path / "ablated"))
    experience, _ = trainer.collect(1)
    trainer.update(experience, 1)
    written = [completion for of_prompt in experience.completions for completion in of_prompt]
    assert [len(completion) for completion in written] == [4] * 16
    if patch is whole_vocabulary:
        complete = ours.trainer(str(tmp_path / "complete"))
        assert len(trainer.policy.decoder.tokens) > len(complete.policy.decoder.tokens)


def test_needed_operations_of_one_layer_by_hand(tmp_path):
    model = AutoConfig.from_pretrained(
        make_base(tmp_path, layers=1)
    )  # width 32, 4 heads of size 8, 2 key heads, feed-forward 64
    work = Workload(prompt_tokens=3, completion_tokens=2, episodes=2, ppo_epochs=1, lora_r=1)
    flops = needed_flops(model, Ours(work, items=10, generations=2), shown=1, text_tokens=5)
    layer = 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64)  # 18,432 per token
    assert flops["prefill"] == 3 * layer + 4 * 32 * (1 + 2 + 3) + 2 * 32 * 10
    assert flops["decode"] == 2 * layer + 4 * 32 * 2 * (3 + 1) + 2 * 32 * 5 * 2
    assert flops["reference"] == flops["prefill"] + flops["decode"]
    lora = 2 * (64 + 48 + 48 + 64 + 3 * 96)
    assert flops["update forward"] == flops["reference"] + 5 * lora
    assert flops["update backward"] == flops["reference"] + 4 * 32 * 14 + 2 * 32 * 10 + 2 * 5 * lora


def test_a_piece_reports_memory_time_and_ndcg_of_a_stage(tiny_base, data, tmp_path):
    run = Run.create(make_config(tiny_base, output_dir=str(tmp_path), report_to=[]))
    run.begin("data")
    save_data(data, run.path("data"))
    run.finish("data", {})
    row = run_piece(run, "sft", rank=True)
    assert row["peak"] > 1e8 and row["seconds"] > 0 and 0 <= row["ndcg@10"] <= 1
    rows = {"full precision": {"peak": 1.5e9, "seconds": 61.2, "ndcg@10": 0.12345}}
    assert table(rows).splitlines()[-1] == "| full precision | 1,500 | 61 | 0.1235 |"


@pytest.mark.parametrize("scheme", ["atomic"])
def test_the_loss_of_softmax_dpo(policy):
    """It is log(1 + negatives) if the policy equals its reference, and falls as taken items gain probability."""
    policy.add_rl_adapter()
    batch = pack(policy, [Decision("", [], [1, 4, 6]), Decision("", [2], [0, 5])])
    generator = torch.Generator().manual_seed(0)
    start = sdpo_loss(policy, batch, 1.0, 3, generator)
    assert start.item() == pytest.approx(math.log(4), abs=1e-4)
    optimizer = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], 1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        loss = sdpo_loss(policy, batch, 1.0, 3, generator)
        loss.backward()
        optimizer.step()
    assert loss.item() < start.item() / 2
    taken = target_log_probs(policy, batch, policy(*batch.inputs()))
    with policy.reference():
        assert (taken > target_log_probs(policy, batch, policy(*batch.inputs()))).all()


def test_the_simulated_guard_has_its_level_and_finds_large_gains():
    assert guard.mean_ndcg(guard.shift_of_gain(0.02)) - guard.mean_ndcg(0.0) == pytest.approx(0.02)
    nothing = guard.simulate(guard.Setting(users=100, evaluations=6, correlation=0.6, gain=0.0), runs=1000).rates
    assert nothing["guard"] < 0.05 < nothing["test"] < 0.2 < nothing["former"]
    large = guard.simulate(guard.Setting(users=100, evaluations=6, correlation=0.6, gain=0.1), runs=100).rates
    assert large["guard"] > 0.8
    # Wilson with z^2 = 3.8415: center (.05 + .0048) / 1.0096, margin 1.96 / 1.0096 sqrt(.0475 / 400 + 3.8415 / 640000)
    assert guard.interval(0.05, 400) == pytest.approx((0.0326, 0.0760), abs=1e-4)


def test_simulated_changes_have_the_stated_correlation():
    setting = guard.Setting(users=20_000, evaluations=2, correlation=0.6, gain=0.0)
    covariance = guard.constant_correlation(2, 0.6)
    drawn = guard.correlated(np.random.default_rng(0), (20_000,), covariance)
    assert np.allclose(np.cov(drawn.T), covariance, atol=0.05)
    first, second = guard.changes(np.random.default_rng(0), setting, 1)[0].T
    assert np.corrcoef(first, second)[0, 1] == pytest.approx(0.6, abs=0.1)
    assert 0.2 < (first != 0).mean() < 0.3 and abs(first.mean()) < 0.005


def test_the_table_of_privacy_has_a_row_for_each_training():
    ranking = {"users": 943, "private": 0.01234, "start": 0.0, "popularity": 0.0385}
    gains = {"start": {"mean": 0.01234, "lower": 0.0078}, "popularity": {"mean": -0.02616, "lower": -0.0345}}
    plain = {"ranking": ranking, "gains": gains}
    lines = privacy_table({"epsilon-8": plain | {"noise_multiplier": 0.54, "steps": 15}, "no-privacy": plain})
    assert lines.splitlines()[2:] == [
        "| epsilon-8 | 0.54 | 15 | 0.0123 | 0.0000 | 0.0385 | +0.0123, +0.0078 | -0.0262, -0.0345 |",
        "| no-privacy | none |  | 0.0123 | 0.0000 | 0.0385 | +0.0123, +0.0078 | -0.0262, -0.0345 |",
    ]


def test_the_world_changes_places_of_its_items_at_the_change():
    world = World.draw(0)
    assert np.allclose(world.before.mean(), world.after.mean(), atol=0.02)
    assert np.corrcoef(world.before.mean(0), world.after.mean(0))[0, 1] < 0.3
    assert np.array_equal(World.draw(0).after, world.after) and not np.array_equal(World.draw(1).after, world.after)


def test_the_recovered_share_by_hand():
    rows = [{"frozen": [0.1] * 3, "online": [0.26] * 3}]  # 0.16 of the lost 0.2
    assert recovered([[0.3] * 3], rows, "online") == "80 % [80, 80]"
    best = value(np.array([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]]), np.array([[-np.inf, 5.0, 4.0, 3.0, 2.0, 1.0]]))
    assert best == [0.4]  # mean of the five items whose score is above -inf
