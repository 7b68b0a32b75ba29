"""Training windows cover the training part of every history, and only that part."""

import torch

from llmrec.config import SFTConfig
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack, target_log_probs
from llmrec.requests.reading import Reader
from llmrec.sft.windows import TrainingWindows, decision_of
from tests.conftest import make_config


def test_windows_cover_the_training_part_only(policy, data):
    rows = TrainingWindows(policy, data, ["age"], SFTConfig(num_train_epochs=2.0), seed=0)
    allowed = {tuple(history.tolist()) for history in data.train_histories}
    covered = set()
    for row in rows:
        recommendation = policy.prompts.parse(row["completions"][0])
        whole = (*row["prior"], *row["items"], recommendation.item)
        assert any(history[: len(whole)] == whole for history in allowed)
        assert len(row["items"]) <= policy.catalogue.max_history
        assert recommendation.finished
        covered.add(whole)
    assert {history for history in allowed if len(history) <= 5} <= covered


def test_a_share_of_windows_has_a_request_that_is_true_of_the_recommended_item(tiny_base, data):
    without = RecPolicy.create(make_config(tiny_base), data)
    section = SFTConfig(num_train_epochs=20.0, requests=0.5)
    config = make_config(tiny_base, sft={"requests": 0.5})
    policy = RecPolicy.create(config, data)
    rows = list(TrainingWindows(policy, data, ["age"], section, seed=0))
    plain = list(TrainingWindows(without, data, ["age"], section.model_copy(update={"requests": 0.0}), seed=0))
    asked = [row for row in rows if row["request"]]
    assert 0.3 < len(asked) / len(rows) < 0.6
    reader = Reader(policy.attributes)
    for row in asked:
        satisfied = policy.attributes.satisfied(reader.read(row["request"]).conditions)
        assert satisfied[policy.prompts.parse(row["completions"][0]).item]
        assert row["learned"] == satisfied[row["items"]].tolist()
    assert any(False in row["learned"] for row in asked)
    added = ("request", "learned")
    assert [{k: row[k] for k in row if k not in added} for row in rows] == [
        {k: row[k] for k in row if k not in added} for row in plain
    ]
    assert all(row["request"] == "" and all(row["learned"]) for row in plain)


def test_items_that_do_not_satisfy_the_request_are_no_targets(policy, data):
    row = {"profile": "20", "request": "funny", "prior": [], "items": [0, 1, 2], "learned": [False, True, False]}
    batch = pack(policy, [decision_of(row)])
    kept = batch.with_choices([row["learned"]])
    assert set(kept.slot.tolist()) == {1} and set(batch.slot.tolist()) == {0, 1, 2}
    assert kept.target.tolist() == list(policy.vocabulary.sequences[1])
    with torch.no_grad():
        hidden = policy(*batch.inputs())
        expected = target_log_probs(policy, batch, hidden)[batch.slot == 1]
        torch.testing.assert_close(target_log_probs(policy, kept, hidden), expected)
