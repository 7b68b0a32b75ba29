"""The item trie: allowed continuations, steps and unknown tokens, by hand and against brute force."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.catalogue.trie import ItemTrie
from llmrec.errors import CatalogueError

# Items 0 to 3: 5 1 9, 5 2 9, 7 9 and 5 1 8.
HAND = [(5, 1, 9), (5, 2, 9), (7, 9), (5, 1, 8)]


def allowed_tokens(trie: ItemTrie, node: int, available: list[bool]) -> set[int]:
    mask = trie.allowed(torch.tensor([node]), torch.tensor([available]))[0]
    return set(trie.tokens[mask].tolist())


def walk(trie: ItemTrie, tokens: tuple[int, ...]) -> int:
    """The node that a token sequence leads to from the root."""
    node = torch.tensor([0])
    for token in tokens:
        node = trie.step(node, trie.columns_of(torch.tensor([token])))
    return int(node)


def test_continuations_by_hand():
    trie = ItemTrie(HAND)
    every = [True] * 4
    assert allowed_tokens(trie, 0, every) == {5, 7}
    assert allowed_tokens(trie, walk(trie, (5,)), every) == {1, 2}
    assert allowed_tokens(trie, walk(trie, (5, 1)), every) == {8, 9}
    # Items 0 and 3 are unavailable, so no item is left below (5, 1).
    some = [False, True, True, False]
    assert allowed_tokens(trie, 0, some) == {5, 7}
    assert allowed_tokens(trie, walk(trie, (5,)), some) == {2}
    assert allowed_tokens(trie, 0, [False, False, True, False]) == {7}


def test_leaves_name_their_items():
    trie = ItemTrie(HAND)
    for item, sequence in enumerate(HAND):
        assert trie.node_item[walk(trie, sequence)] == item
        assert trie.node_item[walk(trie, sequence[:-1])] == -1


def test_a_token_that_does_not_follow_leads_nowhere():
    trie = ItemTrie(HAND)
    assert trie.step(torch.tensor([0]), trie.columns_of(torch.tensor([9]))) == -1


def test_a_token_outside_all_items_has_no_column():
    trie = ItemTrie(HAND)
    assert trie.columns_of(torch.tensor([[0, 1, 3], [6, 9, 100]])).tolist() == [[-1, 0, -1], [-1, 5, -1]]
    nodes = torch.arange(len(trie.node_item))
    assert trie.step(nodes, trie.columns_of(torch.full_like(nodes, 6))).tolist() == [-1] * len(nodes)


def test_an_unknown_token_does_not_follow_the_last_column_of_the_node_before():
    # The root's edge along column 1 has the key 0 * 2 + 1. Node 1 and column -1 have the same key: 1 * 2 - 1.
    trie = ItemTrie([(5, 9), (9,)])
    assert trie.step(torch.tensor([0]), torch.tensor([1])) == 2
    assert trie.step(torch.tensor([1]), torch.tensor([-1])) == -1


def test_flat_trie_equals_its_columns():
    trie = ItemTrie([(30,), (10,), (20,)])
    assert trie.flat
    assert allowed_tokens(trie, 0, [True, False, True]) == {30, 20}


@pytest.mark.parametrize(
    ("sequences", "words"),
    [
        ([], "no items"),
        ([(1,), ()], "Item 1 has no tokens"),
        ([(1, 2), (1,)], "item 1 are the beginning of those of item 0"),
        ([(1,), (1,)], "item 0 are the beginning of those of item 1"),
    ],
)
def test_impossible_catalogues(sequences, words):
    with pytest.raises(CatalogueError, match=words):
        ItemTrie(sequences)


@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.lists(st.integers(0, 5), min_size=1, max_size=4).map(lambda s: (*s, 9)), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
def test_masks_equal_brute_force(sequences, random):
    sequences = sorted(sequences, key=lambda s: random.random())
    trie = ItemTrie(sequences)
    available = [random.random() < 0.6 for _ in sequences]
    kept = [s for s, keep in zip(sequences, available, strict=True) if keep]
    for depth in range(4):
        for prefix in {s[:depth] for s in sequences if len(s) > depth}:
            expected = {s[depth] for s in kept if s[:depth] == prefix and len(s) > depth}
            assert allowed_tokens(trie, walk(trie, prefix), available) == expected


@settings(max_examples=60, deadline=None)
@given(st.sets(st.lists(st.integers(0, 5), min_size=1, max_size=4).map(lambda s: (*s, 9)), min_size=1, max_size=12))
def test_steps_equal_brute_force(sequences):
    sequences = sorted(sequences)
    trie = ItemTrie(sequences)
    prefixes = {s[:depth] for s in sequences for depth in range(len(s) + 1)}
    for prefix in prefixes:
        for token in range(-1, 11):
            assert (walk(trie, (*prefix, token)) >= 0) == ((*prefix, token) in prefixes)


@settings(max_examples=30, deadline=None)
@given(st.sets(st.lists(st.integers(0, 3), min_size=1, max_size=3).map(lambda s: (*s, 9)), min_size=1, max_size=9))
def test_probabilities_over_paths_sum_to_one(sequences):
    sequences = sorted(sequences)
    trie = ItemTrie(sequences)
    available = torch.ones(1, len(sequences), dtype=torch.bool)
    total = 0.0
    for sequence in sequences:
        node = torch.tensor([0])
        probability = 1.0
        for token in sequence:
            mask = trie.allowed(node, available)[0]
            probability /= int(mask.sum())
            node = trie.step(node, trie.columns_of(torch.tensor([token])))
        total += probability
    assert math.isclose(total, 1.0)
