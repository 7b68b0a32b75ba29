"""The text reward model: pairs, learning, saving and loading, and errors for broken files."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from llmrec.catalogue.facts import FactBook
from llmrec.config import Config
from llmrec.data.dataset import InteractionData, Targets
from llmrec.data.decision import Decision
from llmrec.errors import DataError, ModelError
from llmrec.language.prompt import Recommendation
from llmrec.reward.composite import CompositeReward
from llmrec.reward.stage import train_reward
from llmrec.run import Run
from reward_models.text.model import TextRewardModel
from reward_models.text.pairs import preference_pairs, skipped_exposures
from reward_models.text.train import fit_text_reward, new_model
from reward_models.training_events import training_events
from tests.conftest import make_config

ITEMS, LIKED = 40, 20  # users click dramas, the first half of the items, and purchase even items


@pytest.fixture(scope="module")
def log() -> InteractionData:
    rng = np.random.default_rng(0)
    histories = [rng.permutation(LIKED)[:12] for _ in range(60)]
    shown = [
        {"user": u, "item": int(i), "timestamp": int(t), "click": False, "propensity": float("nan"), "position": None}
        for u in range(60)
        for t, i in zip(range(1, 10), rng.integers(LIKED, ITEMS, 9), strict=True)
    ]
    users, lengths = np.arange(60), np.full(60, 12)
    return InteractionData(
        items=pd.DataFrame(
            {
                "item_id": [f"i{i}" for i in range(ITEMS)],
                "title": [f"{'Drama' if i < LIKED else 'Horror'} {('with', 'same')[i % 2]} {i}" for i in range(ITEMS)],
                "categories": [["Drama"] if i < LIKED else ["Horror"] for i in range(ITEMS)],
                "year": pd.array([1995] * ITEMS, dtype="Int64"),
            }
        ),
        users=pd.DataFrame({"user_id": [f"u{u}" for u in users]}),
        facts=pd.DataFrame(),
        histories=histories,
        purchases=[history % 2 == 0 for history in histories],
        timestamps=[np.arange(12) for _ in users],
        train_lengths=lengths - 2,
        targets={"leave_one_out": {"valid": Targets(users, lengths - 2), "test": Targets(users, lengths - 1)}},
        exposures=pd.DataFrame(shown),
    )  # fmt: skip


def settings(base: str, **text) -> Config:
    text = {"pairs": 400, "learning_rate": 1e-2, "num_train_epochs": 2, "max_history": 2} | text
    return make_config(base, reward={"text": text}, catalogue={"scheme": "atomic"})


@pytest.fixture(scope="module", params=["pairwise", "pointwise"])
def fitted(request, tiny_base, log, tmp_path_factory):
    return fit_text_reward(log, settings(tiny_base, loss=request.param), np.arange(60), tmp_path_factory.mktemp("logs"))


def answers() -> tuple[list[Recommendation], list[Decision]]:
    row = Decision("new user", [0], [1, 2], [True, False, True])
    given = [Recommendation(item, (" Like", 1, ", it is Drama."), True) for item in (4, 5, 24)]
    return [*given, Recommendation(-1, (), False)], [row] * 4


def test_held_out_pairs_are_in_the_right_order(fitted):
    _, metrics = fitted
    after, before = metrics["accuracy"], metrics["accuracy_before_training"]
    chance = 0.5 + 3 * 0.5 / after["n"] ** 0.5
    assert after["value"] > max(chance, before["value"])
    assert metrics["clicked_accuracy"]["value"] > 0.9
    assert metrics["clicked_accuracy"]["n"] + metrics["purchased_accuracy"]["n"] == metrics["accuracy"]["n"] > 50


def test_scores_are_log_odds_of_each_answer(fitted):
    model, metrics = fitted
    scores = model.scores(*answers())
    assert scores.shape == (4,) and scores.isfinite().all()
    assert scores[0] > 0 > scores[2] and metrics["calibration"]["scale"] > 0
    one_by_one = torch.cat([model.scores([r], [row]) for r, row in zip(*answers(), strict=True)])
    torch.testing.assert_close(scores, one_by_one, atol=1e-4, rtol=1e-4)


def test_a_loaded_model_gives_the_same_scores(fitted, log, tmp_path):
    model, _ = fitted
    model.save_pretrained(tmp_path / "text")
    again = TextRewardModel.from_pretrained(tmp_path / "text", log.items)
    assert torch.equal(model.scores(*answers()), again.scores(*answers()))


def test_broken_files_are_refused(fitted, log, tmp_path):
    fitted[0].save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="trained on other items"):
        TextRewardModel.from_pretrained(tmp_path, log.items[::-1])
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="adapter_model.safetensors cannot be read"):
        TextRewardModel.from_pretrained(tmp_path, log.items)
    weights.rename(tmp_path / "adapter_model.bin")
    with pytest.raises(ModelError, match="never from a pickle"):
        TextRewardModel.from_pretrained(tmp_path, log.items)
    (tmp_path / "text_reward.json").unlink()
    with pytest.raises(ModelError, match="There is no"):
        TextRewardModel.from_pretrained(tmp_path, log.items)


def test_a_base_is_never_unpickled(tiny_base, log, tmp_path):
    other = Path(shutil.copytree(tiny_base, tmp_path / "other"))
    (other / "model.safetensors").unlink()
    weights = AutoModelForSequenceClassification.from_pretrained(tiny_base, num_labels=1).state_dict()
    torch.save(weights, other / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        new_model(log, settings(str(other)))


def test_pairs_come_from_training_events_only(log):
    events = training_events(log)
    for pair in preference_pairs(events, skipped_exposures(log, np.arange(60)), 10_000, seed=0):
        history, bought = log.train_histories[pair.user].tolist(), log.purchases[pair.user]
        assert pair.chosen in history
        if pair.kind == "purchased":
            assert bought[history.index(pair.chosen)] and not bought[history.index(pair.rejected)]
            assert {history.index(pair.chosen), history.index(pair.rejected)} == {pair.position, pair.position + 1}
        else:
            assert history[pair.position] == pair.chosen and pair.rejected not in history


def test_without_exposures_clicks_of_others_replace_skipped_items(data):
    events = training_events(data)
    nothing = skipped_exposures(data, np.arange(data.num_users))
    assert not sum(map(len, nothing))
    pairs = [pair for pair in preference_pairs(events, nothing, 1000, seed=0) if pair.kind == "clicked"]
    clicked = set(np.concatenate(events.histories).tolist())
    assert pairs and all(pair.rejected in clicked - set(events.histories[pair.user]) for pair in pairs)


def test_too_few_users_are_refused(tiny_base, log, tmp_path):
    with pytest.raises(DataError, match="at least 2 users"):
        fit_text_reward(log, settings(tiny_base), np.array([3]), tmp_path)


def test_the_stage_trains_the_model_and_the_composite_reward_uses_it(tiny_base, log, tmp_path, monkeypatch):
    monkeypatch.setattr("llmrec.reward.stage.load_data", lambda path: log)
    reward = {"num_train_epochs": 1, "text": {"pairs": 8, "weight": 2.0}}
    run = Run.create(make_config(tiny_base, output_dir=str(tmp_path), catalogue={"scheme": "atomic"}, reward=reward))
    run.begin("reward")
    metrics = train_reward(run)
    assert metrics["text"]["training_pairs"] == 8 and run.finished("reward")
    facts, section = FactBook.from_data(log), run.config.reward
    composite = CompositeReward.from_pretrained(run.path("reward"), log, facts, section)
    batch = composite(*answers())
    scores = TextRewardModel.from_pretrained(run.path("reward", "text"), log.items).scores(*answers())
    torch.testing.assert_close(batch.parts["text"], scores.clamp(-12, 12))
    without = CompositeReward(composite.model, facts, section.model_copy(update={"text": None}), log)(*answers())
    torch.testing.assert_close(batch.text, without.text + 2 * scores.clamp(-12, 12))
    torch.testing.assert_close(batch.item, without.item)
