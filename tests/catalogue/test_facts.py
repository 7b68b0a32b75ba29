"""Facts of items: tensor and set queries against the definition, the facts of a catalogue, and the file format."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.catalogue.facts import Fact, FactBook, decade
from llmrec.errors import ModelError

FACTS = [
    Fact("category", "Drama"),
    Fact("category", "War"),
    Fact("period", "1990s"),
    Fact("shared", "actor"),
    Fact("shared", "brand"),
]
OWN = st.sets(st.integers(0, 2)).map(sorted)  # indices of the first three facts
ENTITIES = st.dictionaries(st.sampled_from(["actor", "brand", "store"]), st.lists(st.integers(0, 5), max_size=4))
CATALOGUES = st.lists(st.tuples(OWN, ENTITIES), min_size=1, max_size=6)


def book_of(catalogue) -> FactBook:
    return FactBook(FACTS, [own for own, _ in catalogue], [entities for _, entities in catalogue])


def holds_for_both(catalogue, number: int, one: int, other: int) -> bool:
    """The definition of a common fact, for one item and one item of a history."""
    if other < 0:
        return False
    if FACTS[number].kind == "shared":
        relation = FACTS[number].value
        return bool(set(catalogue[one][1].get(relation, [])) & set(catalogue[other][1].get(relation, [])))
    return number in catalogue[one][0] and number in catalogue[other][0]


@settings(max_examples=200, deadline=None)
@given(CATALOGUES, st.data())
def test_common_facts_equal_the_definition(catalogue, data):
    index = st.integers(0, len(catalogue) - 1)
    items = data.draw(st.lists(index, min_size=1, max_size=4))
    width = data.draw(st.integers(0, 4))
    histories = [data.draw(st.lists(index | st.just(-1), min_size=width, max_size=width)) for _ in items]
    history = torch.tensor(histories, dtype=torch.int64).reshape(len(items), width)
    expected = [
        [[holds_for_both(catalogue, number, item, other) for other in histories[row]] for number in range(len(FACTS))]
        for row, item in enumerate(items)
    ]
    assert book_of(catalogue).on_host.common(torch.tensor(items), history).tolist() == expected


@settings(max_examples=100, deadline=None)
@given(CATALOGUES, st.data())
def test_a_fact_is_true_if_it_is_common_to_the_item_and_all_cited_items(catalogue, data):
    index = st.integers(0, len(catalogue) - 1)
    item = data.draw(index)
    cited = data.draw(st.lists(index, min_size=1, max_size=3))
    expected = [all(holds_for_both(catalogue, n, item, other) for other in cited) for n in range(len(FACTS))]
    # "All cited items share an entity with the item" is asked for each of them, so one entity need not serve them all.
    assert [book_of(catalogue).is_true(fact, item, tuple(cited)) for fact in FACTS] == expected


@settings(max_examples=50, deadline=None)
@given(CATALOGUES)
def test_own_facts_are_categories_and_periods(catalogue):
    book = book_of(catalogue)
    own = book.on_host.own(torch.arange(book.num_items))
    for item, (numbers, _) in enumerate(catalogue):
        assert own[item].nonzero()[:, 0].tolist() == numbers
        assert book.facts_of(item) == [FACTS[number] for number in numbers]
        assert [book.is_true(fact, item) for fact in FACTS] == own[item].tolist()


def test_a_fact_outside_the_catalogue_is_false(data):
    book = FactBook.from_data(data)
    assert not book.is_true(Fact("category", "Opera"), 0)
    assert not book.is_true(Fact("shared", "directed_by"), 0)  # no item is cited, so there is nothing to share


def test_facts_asked_for_in_inference_mode_can_be_used_in_training(data):
    book = FactBook.from_data(data)
    with torch.inference_mode():
        book.on_host.common(torch.tensor([0]), torch.tensor([[1]]))
    weights = torch.ones(1, len(book.facts), requires_grad=True)
    (weights * book.on_host.own(torch.tensor([0]))).sum().backward()
    assert weights.grad is not None


def test_a_category_that_cannot_be_told_from_other_text_is_left_out(data):
    categories = pd.Series([["Tools", "Tools & Paint", "No. 1"]] * data.num_items, dtype=object)
    book = FactBook.from_data(replace(data, items=data.items.assign(categories=categories)))
    assert [fact.value for fact in book.facts if fact.kind == "category"] == ["Tools & Paint"]


def test_facts_that_are_not_kept_are_left_out(data):
    book = FactBook.from_data(data, lambda fact: fact.kind == "period")
    assert {fact.kind for fact in book.facts} == {"period"}
    assert book.of_kind("period").all() and not book.of_kind("category", "shared").any()


def test_a_text_is_cut_at_its_facts():
    book = FactBook(FACTS, [[0, 2]], [{}])
    assert book.split("A Drama from the 1990s, no Dramas") == [
        ("A ", None),
        ("Drama", FACTS[0]),
        (" ", None),
        ("from the 1990s", FACTS[2]),
        (", no Dramas", None),
    ]
    assert book.find("A Drama with the same actor") == ([FACTS[0], FACTS[3]], "A    ")
    assert book.description(0) == "Drama 1990s"


def test_decades():
    assert [decade(year) for year in (1990, 1999, 2000)] == ["1990s", "1990s", "2000s"]


def test_facts_are_read_back(data, tmp_path):
    book = FactBook.from_data(data)
    book.save(tmp_path)
    again = FactBook.load(tmp_path)
    items = torch.arange(data.num_items)
    history = items.expand(data.num_items, -1)
    assert again.facts == book.facts and again.num_items == data.num_items
    assert torch.equal(again.on_host.common(items, history), book.on_host.common(items, history))


def test_facts_that_cannot_be_read(data, tmp_path):
    with pytest.raises(ModelError, match="facts.json is missing"):
        FactBook.load(tmp_path)
    FactBook.from_data(data).save(tmp_path)
    value = json.loads((tmp_path / "facts.json").read_text())
    for change, words in (({"format": 99}, "format 99"), ({"of_item": [[1000]]}, "not readable")):
        (tmp_path / "facts.json").write_text(json.dumps(value | change))
        with pytest.raises(ModelError, match=words):
            FactBook.load(tmp_path)
