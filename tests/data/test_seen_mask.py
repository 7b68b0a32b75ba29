"""Masks of seen items: by hand, and against sets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.data.seen_mask import first_seen, seen_after_each, seen_mask, seen_since
from llmrec.errors import DataError

ITEMS = 5
HISTORIES = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=6), min_size=1, max_size=4)


def padded(histories: list[list[int]]) -> torch.Tensor:
    width = max(map(len, histories))
    rows = [history + [-1] * (width - len(history)) for history in histories]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(histories), width)


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda items: torch.tensor(items, dtype=torch.int64)])
def test_seen_items_by_hand(kind):
    mask = seen_mask([kind([2, 0, 2]), kind([]), kind([4])], ITEMS)
    assert mask.tolist() == [[True, False, True, False, False], [False] * 5, [False] * 4 + [True]]


@pytest.mark.parametrize("histories", [[], [[]], [[], []]])
def test_empty_histories_hold_nothing(histories):
    assert seen_mask(histories, ITEMS).shape == (len(histories), ITEMS)
    assert not seen_mask(histories, ITEMS).any()


@pytest.mark.parametrize("item", [-1, ITEMS])
def test_an_item_outside_the_catalogue_is_named(item):
    with pytest.raises(DataError, match=f"History 1 holds the item index {item}; expected 0 to 4"):
        seen_mask([[0], [2, item]], ITEMS)


def test_slots_by_hand():
    items = torch.tensor([[3, 1, 3, -1], [0, -1, -1, -1]])
    before = torch.zeros(2, ITEMS, dtype=torch.bool)
    before[0, [1, 4]] = True
    assert first_seen(items, ITEMS).tolist() == [[4, 1, 4, 0, 4], [0, 4, 4, 4, 4]]
    assert seen_since(items, before).tolist() == [[5, 0, 5, 1, 0], [1, 5, 5, 5, 5]]


@settings(max_examples=100, deadline=None)
@given(HISTORIES, st.data())
def test_masks_equal_sets(histories, data):
    before = [data.draw(st.sets(st.integers(0, ITEMS - 1))) for _ in histories]
    items = padded(histories)
    since = seen_since(items, torch.from_numpy(seen_mask(before, ITEMS)))
    after_each = seen_after_each(items, ITEMS)
    for row, history in enumerate(histories):
        assert set(np.flatnonzero(seen_mask(histories, ITEMS)[row])) == set(history)
        for slot in range(len(history) + 1):
            assert set((since[row] <= slot).nonzero()[:, 0].tolist()) == before[row] | set(history[:slot])
        for position in range(items.shape[1]):
            assert set(after_each[row, position].nonzero()[:, 0].tolist()) == set(history[: position + 1])
