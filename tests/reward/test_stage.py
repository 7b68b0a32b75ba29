"""The reward stage: what it writes, and which processes of a launch fit the click/purchase model."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmrec.config import RewardConfig
from llmrec.data.dataset import InteractionData
from llmrec.reward import stage
from llmrec.reward.stage import train_reward
from reward_models import ClickPurchaseModel, EaseJudge
from tests.reward_models.conftest import make_data


class Run:
    """The parts of a run that the reward stage uses."""

    def __init__(self, root: Path):
        self.root = root
        self.config = SimpleNamespace(
            reward=RewardConfig(num_train_epochs=1, hidden_size=16, num_layers=1, judge_users=0.2, linear=False), seed=0
        )
        self.finished: dict[str, Any] = {}

    def path(self, stage: str) -> Path:
        return self.root / stage

    def finish(self, stage: str, metrics: dict[str, Any]) -> None:
        self.finished[stage] = metrics


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> InteractionData:
    data = make_data()
    monkeypatch.setattr(stage, "load_data", lambda path: data)
    return data


def test_the_stage_writes_model_judge_and_plots(data, tmp_path):
    run = Run(tmp_path)
    metrics = train_reward(run)
    assert run.finished["reward"] is metrics
    directory = run.path("reward")
    assert (directory / "roc.png").is_file() and (directory / "reliability.png").is_file()
    json.dumps(metrics)
    ClickPurchaseModel.from_pretrained(directory, data.items["item_id"])
    EaseJudge.from_pretrained(directory, data.items["item_id"])


def test_only_the_main_process_fits_and_writes(data, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "fit_reward", lambda *_: pytest.fail("the second process fitted the model again"))
    monkeypatch.setenv("RANK", "1")
    assert train_reward(Run(tmp_path)) == {}
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
