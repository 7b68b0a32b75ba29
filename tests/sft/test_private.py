"""SFT with user-level differential privacy: samples, sensitivity, the start, resuming, refusals and results."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmrec.cli.app import main
from llmrec.config import Config
from llmrec.data.dataset import InteractionData, Targets, save_data
from llmrec.errors import ConfigError, RunError
from llmrec.policy.model import RecPolicy
from llmrec.run import Run, run_all, run_stage
from llmrec.sft.accountant import spent
from llmrec.sft.ledger import Ledger
from llmrec.sft.private import LEDGER_FILE, PrivateSFTTrainer, plan_of, private_trainer
from llmrec.sft.private_ranking import popularity_ranked, ranking_report
from llmrec.sft.user_gradients import NoisySum
from llmrec.sft.windows import UserWindows
from tests.conftest import make_config, make_data
from tests.processes import run_processes

PRIVACY = {"epsilon": 8.0, "delta": 0.01}
SFT = {"batch_size": 3, "num_train_epochs": 3.0, "save_steps": 2}  # 6 users: half of them a step, 6 steps


def private_config(base: str, **sections: Any) -> Config:
    return make_config(base, **{"privacy": PRIVACY, "sft": SFT, "report_to": []} | sections)


def prepared(base: str, folder: Path, **sections: Any) -> Run:
    run = Run.create(private_config(base, output_dir=str(folder), **sections))
    run.begin("data")
    save_data(make_data(), run.path("data"))
    run.finish("data", {})
    return run


def long_data() -> InteractionData:
    """The last user has nine training clicks, which are several windows of five items."""
    data = make_data()
    histories = [*list(data.histories)[:-1], np.array([2, 0, 8, 1, 3, 4, 5, 6, 7, 9])]
    lengths = np.array([len(history) for history in histories])
    everyone = np.arange(6)
    targets = {"valid": Targets(everyone, lengths - 2), "test": Targets(everyone, lengths - 1)}
    purchases = [np.zeros(n, dtype=bool) for n in lengths]
    timestamps = [np.arange(n) for n in lengths]
    return replace(
        data,
        histories=histories,
        purchases=purchases,
        timestamps=timestamps,
        train_lengths=lengths - 1,
        targets={"leave_one_out": targets},
    )


def windows_of(policy: RecPolicy, data: InteractionData, config: Config, rate: float, seed: int = 0) -> UserWindows:
    return UserWindows(policy, data, ["age"], config.sft, rate, 500, seed)


# --- samples of users -----------------------------------------------------------------------------


def test_users_are_drawn_independently_of_each_other_and_often_none_is(tiny_base: str, monkeypatch) -> None:
    """Counts of 500 steps follow the binomial distribution of 6 users with probability 0.2; 26 % of steps are empty."""
    config = private_config(tiny_base)
    windows = windows_of(RecPolicy.create(config, make_data()), make_data(), config, rate=0.2)
    monkeypatch.setattr(windows, "of_user", lambda user, step: user)
    rows = [windows.of_row(step) for step in range(len(windows))]
    assert windows.of_row(7) == rows[7] and all(len(set(map(int, row))) == len(row) for row in rows)
    counts = np.array([len(row) for row in rows])
    assert counts.mean() == pytest.approx(6 * 0.2, abs=4 * np.sqrt(6 * 0.2 * 0.8 / 500))
    assert counts.var() == pytest.approx(6 * 0.2 * 0.8, rel=0.3)
    assert (counts == 0).mean() == pytest.approx(0.8**6, abs=0.08)
    together = np.mean([{0, 1} <= set(row) for row in rows])
    assert together == pytest.approx(0.04, abs=0.035)


def test_a_user_gives_one_window_a_step_however_long_the_history_is(tiny_base: str) -> None:
    config = private_config(tiny_base)
    data = long_data()
    windows = windows_of(RecPolicy.create(config, data), data, config, rate=1.0)
    shown = [windows.of_row(step)[-1] for step in range(20)]
    assert all(len(windows.of_row(step)) == 6 for step in range(3))
    assert all(1 <= len(window["items"]) <= 4 for window in shown)
    assert len({tuple(window["items"]) for window in shown}) > 2  # another part of the history every time


# --- sensitivity ----------------------------------------------------------------------------------


def test_a_user_more_changes_the_sum_by_the_clipping_norm_at_most(tiny_base: str, tmp_path: Path) -> None:
    """Also the user with several windows. The gradients are far longer than the norm, so the bound is reached."""
    data = long_data()
    clip = 0.5
    config = private_config(tiny_base, output_dir=str(tmp_path), privacy=PRIVACY | {"clip": clip})
    policy = RecPolicy.create(config, data)
    assert config.privacy is not None
    ledger = Ledger(tmp_path / "ledger.jsonl", plan_of(config, config.privacy, data.num_users))
    trainer = private_trainer(Run(config, tmp_path), policy, data, ledger)
    windows = windows_of(policy, data, config, rate=1.0)
    everybody = summed(trainer, windows, range(6))
    changes = [
        float((everybody - summed(trainer, windows, [user for user in range(6) if user != left_out])).norm())
        for left_out in range(6)
    ]
    assert max(changes) <= clip * 1.001 and changes[-1] == pytest.approx(clip, rel=1e-3)


def summed(trainer: PrivateSFTTrainer, windows: UserWindows, users: Any) -> torch.Tensor:
    """The sum of the clipped gradients of some users."""
    gradients = NoisySum(trainer.weights, trainer.ledger.plan.clip)
    for user in users:
        inputs: Any = trainer.pack_windows([windows.of_user(user, 1)])
        gradients.add(trainer.compute_loss(trainer.policy, inputs))
    return gradients.total


# --- what enters the adapter ----------------------------------------------------------------------


def test_the_start_depends_on_no_history(tiny_base: str) -> None:
    """Without privacy, both the item rows and the refitted norm of a cut base depend on them."""
    model = {"base": tiny_base, "lora_r": 4, "lora_alpha": 8, "layers": 1}
    data = make_data()
    other = replace(data, histories=[np.roll(history[::-1], 1) for history in data.histories])

    def start(config: Config, log: InteractionData) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return RecPolicy.create(config, log).adapter_weights()

    private = private_config(tiny_base, model=model)
    first, second = start(private, data), start(private, other)
    assert any("norm" in name for name in first)
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    plain = make_config(tiny_base, model=model)
    first, second = start(plain, data), start(plain, other)
    assert any(not torch.equal(weight, second[name]) for name, weight in first.items() if "norm" in name)


# --- a training -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tiny_base: str, tmp_path_factory) -> Run:
    """A finished private run."""
    run = prepared(tiny_base, tmp_path_factory.mktemp("private"), model={"base": tiny_base, "lora_dropout": 0.1})
    said: list[str] = []
    run_all(run, say=said.append)
    assert [line.split(":")[0] for line in said if line.endswith("running")] == ["sft"]
    return run


def test_a_run_records_what_it_has_cost(trained: Run) -> None:
    record = trained.metrics("sft")["privacy"]
    assert (record["unit"], record["steps"], record["users"], record["sampling_rate"]) == ("user", 6, 6, 0.5)
    assert record["epsilon"] == spent(record["noise_multiplier"], 0.01, 0.5, 6) <= record["budget"] == 8.0
    assert 0 <= record["clipped_share"] <= 1 and record["clip"] == 1.0
    assert any("catalogue" in sentence for sentence in record["outside"])
    assert set(record["ranking"]) == {"users", "private", "start", "popularity"}
    assert record["ranks"] == (record["verdict"] == "private and useful: the adapter ranks better than its untrained "
                               "start and than popularity")  # fmt: skip


def test_all_trained_weights_move(trained: Run) -> None:
    """Noise reaches every trained number, so a weight that stays has been left out."""
    torch.manual_seed(trained.config.seed)
    start = RecPolicy.create(trained.config, make_data()).adapter_weights()
    end = RecPolicy.from_pretrained(trained.adapter("sft")).adapter_weights()
    assert start.keys() == end.keys() and len(start) > 10
    assert all(not torch.equal(weight, end[name]) for name, weight in start.items())


def test_two_trainings_draw_other_noise(trained: Run, tmp_path: Path) -> None:
    """The seed of the config must not tell the noise, the samples or dropout."""
    policy = RecPolicy.create(trained.config, make_data())
    assert trained.config.privacy is not None
    ledger = Ledger(tmp_path / "ledger.jsonl", plan_of(trained.config, trained.config.privacy, 6))
    first, second = (private_trainer(trained, policy, make_data(), ledger) for _ in range(2))
    assert first.noise.initial_seed() != second.noise.initial_seed()
    assert first.windows.seed != second.windows.seed and first.args.seed != second.args.seed


def test_the_other_stages_are_refused(trained: Run, monkeypatch, capsys) -> None:
    for stage in ("reward", "ppo", "evaluate"):
        with pytest.raises(ConfigError, match=f"`privacy`: found with `{stage}`.*Only the SFT adapter"):
            trained.begin(stage)
    assert call(["reward", str(trained.directory)], monkeypatch) == 2
    assert "only the SFT adapter is protected" in " ".join(capsys.readouterr().err.split()).replace("Only", "only")


def test_the_commands_show_the_guarantee(trained: Run, monkeypatch, capsys) -> None:
    assert not call(["privacy", str(trained.directory)], monkeypatch)
    out = " ".join(capsys.readouterr().out.split())
    assert "user-level differential privacy: epsilon" in out and "outside of the guarantee: the catalogue" in out
    assert "untrained start" in out and "privacy: " in out
    assert not call(["run", str(trained.directory), "--json"], monkeypatch)
    assert json.loads(capsys.readouterr().out) == trained.metrics("sft")["privacy"]


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The exit code of a command."""
    monkeypatch.setattr("sys.argv", ["llmrec", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


# --- interruptions --------------------------------------------------------------------------------


def train_and_die(directory: Path, killed_at: int) -> None:
    """Trains as the command does, until the process dies by SIGKILL inside a step."""
    begin = Ledger.begin

    def dying(self: Ledger, step: int) -> None:
        begin(self, step)
        if step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    Ledger.begin = dying
    run_stage(Run.open(directory), "sft")


@pytest.mark.slow
def test_a_killed_training_counts_the_steps_that_it_runs_again(tiny_base: str, tmp_path: Path) -> None:
    """Killed inside step 4, after the checkpoint of step 2: steps 3 and 4 are paid twice, so it ends after step 4.

    Begun: 1 2 3 4 | 3 4. These are the six steps of the budget.
    """
    run = prepared(tiny_base, tmp_path)
    assert run_processes(1, train_and_die, run.directory, 4) == [-signal.SIGKILL]
    assert not run.finished("sft")
    run_stage(run, "sft")
    lines = [json.loads(line) for line in run.path("sft", LEDGER_FILE).read_text().splitlines()]
    assert [line["begun"] for line in lines if "begun" in line] == [1, 2, 3, 4, 3, 4]
    metrics = run.metrics("sft")
    assert metrics["steps"] == 4 and metrics["privacy"]["steps"] == 6
    assert metrics["privacy"]["epsilon"] <= 8.0
    run.path("sft", "metrics.json").unlink()  # killed after the last step: the newest checkpoint is the result
    run_stage(run, "sft")
    assert run.metrics("sft")["privacy"]["steps"] == 6 and run.metrics("sft")["steps"] == 4


def test_a_spent_budget_without_a_checkpoint_is_refused(tiny_base: str, tmp_path: Path) -> None:
    run = prepared(tiny_base, tmp_path)
    assert run.config.privacy is not None
    ledger = Ledger(run.path("sft", LEDGER_FILE), plan_of(run.config, run.config.privacy, 6))
    for step in range(6):
        ledger.begin(step)
    with pytest.raises(RunError, match=r"spent the whole privacy budget.*sft\.save_steps"):
        run_stage(run, "sft")


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"privacy": PRIVACY | {"epsilon": 0}}, "privacy.epsilon"),
        ({"privacy": PRIVACY | {"epsilon": float("inf")}}, "privacy.epsilon"),
        ({"privacy": PRIVACY | {"delta": 1.0}}, "privacy.delta"),
        ({"privacy": PRIVACY | {"delta": 0.0}}, "privacy.delta"),
        ({"privacy": PRIVACY | {"clip": -1.0}}, "privacy.clip"),
        ({"privacy": PRIVACY | {"unit": "event"}}, "privacy.unit"),
        ({"privacy": {"epsilon": 1.0}}, "privacy.delta"),
        ({"catalogue": {"cooccurrence_weight": 0.5}}, "catalogue.cooccurrence_weight is 0.5.*set it to 0"),
        ({"hub": {"repo": "a/b", "include": ["reward"]}}, "hub.include holds reward"),
    ],
)
def test_a_config_that_cannot_be_private_is_refused(tiny_base: str, sections: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        private_config(tiny_base, **sections)


def test_the_defaults_beside_privacy_protect(tiny_base: str) -> None:
    config = private_config(tiny_base, catalogue={}, sft={})
    assert (config.catalogue.cooccurrence_weight, config.sft.save_steps) == (0.0, 5)


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"privacy": PRIVACY | {"delta": 0.2}}, r"`privacy\.delta`: found 0\.2, expected less than 1 / 6 users"),
        ({"sft": SFT | {"batch_size": 7}}, r"`sft\.batch_size`: found 7, expected at most the 6 users"),
    ],
)
def test_a_budget_that_does_not_fit_the_log_is_refused(tiny_base: str, sections: dict[str, Any], says: str) -> None:
    config = private_config(tiny_base, **sections)
    assert config.privacy is not None
    with pytest.raises(ConfigError, match=says):
        plan_of(config, config.privacy, 6)


def test_several_processes_are_refused(tiny_base: str, monkeypatch) -> None:
    config = private_config(tiny_base)
    assert config.privacy is not None
    monkeypatch.setattr("llmrec.sft.private.num_processes", lambda: 2)
    with pytest.raises(ConfigError, match="found 2 processes, expected 1"):
        plan_of(config, config.privacy, 6)


# --- the ranking ----------------------------------------------------------------------------------


class SixDecisions:
    """The columns of decisions that a ranking report reads: six users, their targets and what they have seen."""

    users = np.arange(6)
    targets = np.array([2, 3, 1, 4, 6, 8])
    masked = (np.array([0, 1]),) * 6

    def __len__(self) -> int:
        return 6


def test_popularity_ranks_by_training_clicks_of_unseen_items(data: InteractionData) -> None:
    """Training clicks: item 5 has 3; 0, 1, 2, 3, 4, 7, 8, 9 have 2 or fewer. Items 0 and 1 are seen and not ranked."""
    clicks = np.bincount(np.concatenate(list(data.train_histories)), minlength=10)
    found = popularity_ranked(data, SixDecisions())  # pyright: ignore[reportArgumentType]
    for row, target in enumerate(SixDecisions.targets):
        if target in (0, 1):
            assert found[row] == 0
            continue
        others = np.delete(clicks[2:], target - 2)
        rank = 1 + (others > clicks[target]).sum() + 0.5 * (others == clicks[target]).sum()
        assert found[row] == pytest.approx(1 / np.log2(rank + 1), rel=1e-5)


def test_an_adapter_must_rank_better_than_its_start_and_popularity(data: InteractionData) -> None:
    decisions: Any = SixDecisions()
    popular = popularity_ranked(data, decisions)
    better = ranking_report(np.zeros(6), popular + 0.1 + 0.01 * np.arange(6), decisions, data)
    assert better["ranks"] and better["verdict"].startswith("private and useful")
    assert better["gains"]["popularity"]["mean"] == pytest.approx(0.125)
    same = ranking_report(np.zeros(6), popular, decisions, data)
    assert not same["ranks"] and "no better than popularity" in same["verdict"]
    assert "its untrained start" not in same["verdict"]
    worse = ranking_report(popular, np.zeros(6), decisions, data)
    assert worse["verdict"] == (
        "not called private: the guarantee holds, but the adapter ranks no better than its untrained start and no "
        "better than popularity"
    )
