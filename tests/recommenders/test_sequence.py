"""The sequential baselines: their batches, losses by hand, and the training loop that they share."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from llmrec.recommenders.gru4rec import GRU4Rec, bpr_max
from llmrec.recommenders.gsasrec import GSASRec, gbce
from llmrec.recommenders.sasrec import SASRec, unseen_cross_entropy
from llmrec.recommenders.sequence import Batch, _average

CPU = torch.device("cpu")
# Item i + 1 follows item i. No history holds an item twice.
ITEMS = 9
HISTORIES = [np.arange(start, start + 5) % ITEMS for start in range(ITEMS)] * 8


def batch() -> Batch:
    """Two windows: items 2, 0 of a history that starts with 3, and item 1 alone."""
    return Batch.of([np.array([3, 2, 0]), np.array([1])], np.array([(0, 1, 3), (1, 0, 1)]), CPU)


def excluded(one: Batch, num_items: int) -> list[tuple[int, int]]:
    """Decisions and items that the batch excludes."""
    mask = torch.zeros(len(one.targets), num_items, dtype=torch.bool)
    one.exclude_seen(mask, True)
    return [(row, item) for row, item in mask.nonzero().tolist()]


def test_a_batch_holds_next_items_and_what_was_seen_before_them():
    one = batch()
    assert one.inputs.tolist() == [[2], [0]]  # the window of one item is padding alone
    assert one.is_decision.tolist() == [[True], [False]]
    assert one.targets.tolist() == [0]
    # Item 3 lies before the window and counts as seen.
    assert excluded(one, 4) == [(0, 2), (0, 3)]


def test_a_target_that_was_seen_is_not_masked():
    one = Batch.of([np.array([4, 5, 4])], np.array([(0, 0, 3)]), CPU)
    assert one.targets.tolist() == [5, 4]
    assert excluded(one, 6) == [(0, 4), (1, 5)]


def test_cross_entropy_leaves_seen_items_out_by_hand():
    logits = torch.log(torch.tensor([[1.0, 3.0, 100.0, 50.0]]))
    # Items 2 and 3 are seen, so the target 0 has probability 1 / (1 + 3).
    assert unseen_cross_entropy(logits, batch()).item() == pytest.approx(math.log(4))


def test_gradients_of_seen_items_are_zero():
    weights = torch.zeros(1, 4, requires_grad=True)
    unseen_cross_entropy(weights * 1.0, batch()).backward()
    assert weights.grad is not None
    assert weights.grad.tolist() == [[-0.5, 0.5, 0.0, 0.0]]


def test_bpr_max_by_hand():
    # The only negative is item 1 with score 2, weight 1 and margin 3 - 2; the penalty is 2^2.
    loss = bpr_max(torch.tensor([[3.0, 2.0, 9.0, 9.0]]), batch())
    assert loss.item() == pytest.approx(4 + math.log(1 + math.exp(-1)))


def test_gbce_by_hand():
    # With all 3 negatives of 4 items beta is 1: binary cross-entropy, divided by 4 items.
    assert gbce(torch.zeros(1, 4), 4).item() == pytest.approx(math.log(2))
    # With 1 of 3 negatives a = 1/3 and beta = (0.75 (1 - 3) + 3) / 3 = 0.5.
    assert gbce(torch.zeros(1, 2), 4).item() == pytest.approx(1.5 * math.log(2) / 2)


def test_the_average_keeps_little_of_early_weights():
    for updates, moved in ((1, 1 - 2 / 11), (10_000, 0.01)):
        averages = [torch.tensor(0.0), torch.zeros(2)]
        _average(averages, [torch.tensor(1.0), torch.ones(2)], updates)
        assert torch.cat([one.flatten() for one in averages]).tolist() == pytest.approx([moved] * 3)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (SASRec, {}),
        (GRU4Rec, {"num_layers": 1}),
        (GRU4Rec, {"num_layers": 1, "loss_name": "bpr_max"}),
        (GSASRec, {"epochs": 96}),  # it has one signal a decision where the softmax has one an item
    ],
)
def test_every_kind_learns_the_order_of_items(kind, settings):
    def accuracy(scores) -> float:
        found = scores([history[:4] for history in HISTORIES[:ITEMS]])
        for row, history in enumerate(HISTORIES[:ITEMS]):
            found[row, history[:4]] = -np.inf
        return float((found.argmax(1) == [history[4] for history in HISTORIES[:ITEMS]]).mean())

    shared = {"hidden_size": 16, "dropout": 0.0, "learning_rate": 2e-2, "epochs": 24, "window": 8}
    model = kind(accuracy, **shared | settings)
    model.fit(HISTORIES, ITEMS)
    assert max(model.validation) == 1.0
    assert accuracy(model.scores) == 1.0
    assert isinstance(model.encoder, nn.Module) and not model.encoder.training


def test_evaluations_are_as_many_as_those_of_ppo_with_its_defaults():
    model = SASRec(lambda scores: 0.0, hidden_size=4, epochs=24, window=8).fit(HISTORIES, ITEMS)
    assert len(model.validation) == 12
    assert not model.still_rises
