import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers.trainer import TRAINER_STATE_NAME

from llmrec.config import SFTConfig
from llmrec.data.decision import Decision, Decisions
from llmrec.files import newest_checkpoint
from llmrec.language.grammar import ITEM
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack
from llmrec.selection.validation import all_item_scores, mean_ndcg
from llmrec.sft.stage import NDCG, BestAdapter, sft_losses, training_windows
from tests.conftest import make_config, make_data


def test_windows_cover_the_training_part_and_nothing_else(policy, data):
    rows = training_windows(
        policy, data, ["age"], SFTConfig(num_train_epochs=2.0, per_device_train_batch_size=16), seed=0
    )
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
    section = SFTConfig(num_train_epochs=4.0, per_device_train_batch_size=16)
    rows = list(training_windows(policy, data, ["age"], section, seed=1))
    decisions = [Decision(row["profile"], row["prior"], row["items"]) for row in rows]
    batch = pack(policy, decisions, [row["completions"] for row in rows])
    with torch.no_grad():
        hidden = policy(*batch.inputs())
        item_loss, text_loss = sft_losses(policy, batch, hidden)
    assert item_loss.isfinite() and text_loss.isfinite()


def test_the_item_loss_is_the_mean_over_separate_prompts(policy):
    """Two shown items and one to come: three decisions, each also asked alone."""
    history, end = [3, 5, 8], policy.prompts.end
    batch = pack(policy, [Decision("42", [], history[:2])], [[[*policy.vocabulary.sequences[8], end]]])
    with torch.no_grad():
        item_loss, text_loss = sft_losses(policy, batch, policy(*batch.inputs()))
        values = []
        for stop in range(3):
            completion = [*policy.vocabulary.sequences[history[stop]], end]
            alone = pack(policy, [Decision("42", [], history[:stop])], [[completion]])
            scores = alone.score(policy, policy(*alone.inputs()))
            values += scores.log_probs[scores.region == ITEM].tolist()
    assert item_loss.item() == pytest.approx(-sum(values) / len(values), abs=1e-4)


def test_a_checkpoint_that_was_being_written_is_passed_over(tmp_path):
    assert newest_checkpoint(tmp_path, TRAINER_STATE_NAME) is None
    for step, state in ((9, {"global_step": 9}), (10, {"global_step": 10})):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "checkpoint-20").mkdir()  # its state would have come last
    (tmp_path / "checkpoint-30").mkdir()
    (tmp_path / "checkpoint-30" / "trainer_state.json").write_text('{"global_st')
    assert newest_checkpoint(tmp_path, TRAINER_STATE_NAME) == tmp_path / "checkpoint-10"


def test_ndcg_by_hand():
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, -torch.inf]])
    # Second; tied for first with one other, so at 1.5; not found.
    expected = (1 / math.log2(3) + 1 / math.log2(2.5) + 0) / 3
    assert mean_ndcg(scores, torch.tensor([1, 0, 2])) == pytest.approx(expected)
    assert mean_ndcg(scores, torch.tensor([1, 0, 2]), k=1) == 0


class Steps:
    """What `BestAdapter` asks of a trainer."""

    def __init__(self, policy, folder, eval_steps):
        self.policy, self.section, self.logged = policy, SFTConfig(eval_steps=eval_steps), []
        self.args = SimpleNamespace(output_dir=str(folder / "checkpoints"), should_save=True)
        self.is_fsdp_enabled, self.log = False, self.logged.append
        self.accelerator = SimpleNamespace(wait_for_everyone=lambda: None)


def walk(best, rows, first=0, last=10):
    """Steps `first` + 1 .. `last` of 10; at each the item embeddings become what `rows` says."""
    best.on_train_begin(None, SimpleNamespace(global_step=first, max_steps=10), None)
    for step in range(first + 1, last + 1):
        with torch.no_grad():
            item_rows(best.trainer.policy).copy_(rows[step])
        best.on_step_end(None, SimpleNamespace(global_step=step, max_steps=10), None)


def item_rows(policy):
    return next(value for name, value in policy.named_parameters() if "trainable_tokens_delta" in name)


@pytest.fixture
def course(tiny_base):
    """A policy, its item embeddings at ten steps, and a validation that likes those of the fourth step best."""
    policy = RecPolicy.create(make_config(tiny_base), make_data())
    torch.manual_seed(0)
    rows = {step: torch.randn_like(item_rows(policy)) for step in range(1, 11)}
    asked = [Decision("42", [], [3, 5]), Decision("7", [], [8])]
    with torch.no_grad():
        item_rows(policy).copy_(rows[4])
    decisions = Decisions.from_decisions(asked, max_history=50)
    return policy, rows, replace(decisions, targets=all_item_scores(policy, decisions).argmax(1).numpy())


@pytest.mark.parametrize("eval_steps", [2, 0.2])
def test_the_best_adapter_by_validation_is_kept(course, tmp_path, eval_steps):
    policy, rows, held = course
    best = BestAdapter(Steps(policy, tmp_path, eval_steps), held)
    walk(best, rows)
    assert [entry["step"] for entry in best.history] == [2, 4, 6, 8, 10]
    assert [entry[NDCG] for entry in best.history].index(1.0) == 1
    assert [entry[NDCG] for entry in best.trainer.logged] == [entry[NDCG] for entry in best.history]
    best.restore()
    assert torch.equal(item_rows(policy), rows[4])


def test_validation_goes_on_where_training_does(course, tmp_path):
    policy, rows, held = course
    walk(BestAdapter(Steps(policy, tmp_path, 2), held), rows, last=7)
    again = BestAdapter(Steps(policy, tmp_path, 2), held)
    walk(again, rows, first=5)  # from a checkpoint: the look at step 6 is taken once more
    assert [entry["step"] for entry in again.history] == [2, 4, 6, 8, 10]
    again.restore()
    assert torch.equal(item_rows(policy), rows[4])
