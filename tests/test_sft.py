import json

import pytest
import torch

from llmrec.config import SFTSection
from llmrec.policy.constraint import ITEM
from llmrec.policy.packed import Window, pack
from llmrec.sft import newest_checkpoint, sft_losses, training_windows


def test_windows_cover_the_training_part_and_nothing_else(policy, data):
    rows = training_windows(policy, data, ["age"], SFTSection(num_train_epochs=2.0), seed=0)
    allowed = {tuple(history.tolist()) for history in data.train_histories}
    taught = set()
    for row in rows:
        recommendation = policy.prompts.parse(row["completions"][0])
        whole = (*row["prior"], *row["items"], recommendation.item)
        assert any(history[: len(whole)] == whole for history in allowed)
        assert len(row["items"]) <= policy.catalogue.max_history
        assert recommendation.finished
        taught.add(whole)
    assert {history for history in allowed if len(history) <= 5} <= taught


def test_every_taught_token_is_allowed_by_the_mask(policy, data):
    rows = list(training_windows(policy, data, ["age"], SFTSection(num_train_epochs=4.0), seed=1))
    batch = pack(policy, [Window(**row) for row in rows])
    with torch.no_grad():
        hidden = policy(*batch.inputs())
        item_loss, text_loss = sft_losses(policy, batch, hidden)
    assert item_loss.isfinite() and text_loss.isfinite()


def test_the_item_loss_is_the_mean_over_separate_prompts(policy):
    """Two shown items and one to come: three decisions, each also asked alone."""
    history, end = [3, 5, 8], policy.prompts.end
    window = Window("42", [], history[:2], [[*policy.vocabulary.sequences[8], end]])
    batch = pack(policy, [window])
    with torch.no_grad():
        item_loss, text_loss = sft_losses(policy, batch, policy(*batch.inputs()))
        values = []
        for stop in range(3):
            completion = [*policy.vocabulary.sequences[history[stop]], end]
            alone = pack(policy, [Window("42", [], history[:stop], [completion])])
            scores = alone.score(policy, policy(*alone.inputs()))
            values += scores.log_probs[scores.region == ITEM].tolist()
    assert item_loss.item() == pytest.approx(-sum(values) / len(values), abs=1e-4)


def test_a_checkpoint_that_was_being_written_is_passed_over(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    for step, state in ((9, {"global_step": 9}), (10, {"global_step": 10})):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "checkpoint-20").mkdir()  # its state would have come last
    (tmp_path / "checkpoint-30").mkdir()
    (tmp_path / "checkpoint-30" / "trainer_state.json").write_text('{"global_st')
    assert newest_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
