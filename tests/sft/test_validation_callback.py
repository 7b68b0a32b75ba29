"""The SFT callback keeps the best adapter by validation and continues its history after an interruption."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from llmrec.config import SFTConfig
from llmrec.data.decision import Decision, Decisions
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import all_item_scores
from llmrec.sft.trainer import NDCG, ValidationCallback
from tests.conftest import make_config, make_data


class FakeTrainer:
    """The attributes of a trainer that `ValidationCallback` reads."""

    def __init__(self, policy, folder, eval_steps):
        self.policy = policy
        self.section = SFTConfig(eval_steps=eval_steps)
        self.logged = []
        self.args = SimpleNamespace(output_dir=str(folder / "checkpoints"))
        self.model_wrapped = policy
        self.log = self.logged.append


def train(callback, rows, first=0, last=10):
    """Takes steps `first` + 1 .. `last` of 10; step n sets the item embeddings to `rows[n]`."""
    callback.on_train_begin(None, SimpleNamespace(global_step=first, max_steps=10), None)
    for step in range(first + 1, last + 1):
        with torch.no_grad():
            item_rows(callback.trainer.policy).copy_(rows[step])
        callback.on_step_end(None, SimpleNamespace(global_step=step, max_steps=10), None)


def item_rows(policy):
    return next(value for name, value in policy.named_parameters() if "trainable_tokens_delta" in name)


@pytest.fixture
def course(tiny_base):
    """A policy, its item embeddings at ten steps, and validation targets that the fourth step predicts perfectly."""
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
    policy, rows, decisions = course
    callback = ValidationCallback(FakeTrainer(policy, tmp_path, eval_steps), decisions)
    train(callback, rows)
    history = callback.best.history
    assert [entry["step"] for entry in history] == [2, 4, 6, 8, 10]
    assert [entry[NDCG] for entry in history].index(1.0) == 1
    assert [entry[NDCG] for entry in callback.trainer.logged] == [entry[NDCG] for entry in history]
    callback.best.restore_best(policy)
    assert torch.equal(item_rows(policy), rows[4])


def test_evaluations_continue_from_the_checkpoint(course, tmp_path):
    policy, rows, decisions = course
    train(ValidationCallback(FakeTrainer(policy, tmp_path, 2), decisions), rows, last=7)
    resumed = ValidationCallback(FakeTrainer(policy, tmp_path, 2), decisions)
    train(resumed, rows, first=5)  # the checkpoint is of step 5: the evaluation at step 6 is repeated
    assert [entry["step"] for entry in resumed.best.history] == [2, 4, 6, 8, 10]
    resumed.best.restore_best(policy)
    assert torch.equal(item_rows(policy), rows[4])
