"""Drawn requests: true of their item, and what is held out for tests is never drawn for training."""

import random

import numpy as np
import pytest

from llmrec.data.dataset import Targets
from llmrec.data.decision import Decisions
from llmrec.requests.attributes import Attributes
from llmrec.requests.draw import KINDS, RequestSampler, ask
from llmrec.requests.request import Condition
from llmrec.requests.split import is_held_out_pair, is_held_out_value

GENRES = ("Comedy", "Drama", "Horror", "War", "Western", "Adventure", "Romance", "Musical")


@pytest.fixture(scope="module")
def sampler() -> RequestSampler:
    """Two hundred items with one or two of eight genres and one of five decades."""
    generator = np.random.default_rng(0)
    members: dict[tuple[str, str], list[int]] = {}
    for item in range(200):
        keys = [("category", GENRES[g]) for g in sorted(set(generator.integers(0, len(GENRES), 2)))]
        keys.append(("decade", f"19{5 + generator.integers(0, 5)}0s"))
        for key in keys:
            members.setdefault(key, []).append(item)
    return RequestSampler(Attributes(members, [f"Film {item}" for item in range(200)]))


def drawn(sampler: RequestSampler, kind: str, count: int = 400):
    generator = random.Random(5)
    for number in range(count):
        item = number % 200
        history = [other for other in range(0, 200, 7) if other != item]
        request = sampler.draw(item, history, generator, kind)  # pyright: ignore[reportArgumentType]
        if request is not None:
            yield item, history, request


@pytest.mark.parametrize("kind", KINDS)
def test_requests_are_true_of_their_item_and_of_a_list(sampler, kind):
    found = list(drawn(sampler, kind))
    assert len(found) > 80
    for item, _, request in found:
        satisfied = sampler.attributes.satisfied(request.conditions)
        assert satisfied[item] and satisfied.sum() >= 10
        assert request.text and 1 <= len(request.conditions) <= 2


def test_training_never_names_what_is_held_out(sampler):
    values = {
        condition for _, _, request in drawn(sampler, "trained_wording", 1200) for condition in request.conditions
    }
    held_out = [key for key in sampler.attributes.members if is_held_out_value(*key)]
    assert {("category", "Horror"), ("category", "Adventure"), ("decade", "1960s")} & set(held_out)
    assert not [value for value in values if is_held_out_value(value.attribute, value.value)]
    for _, _, request in drawn(sampler, "trained_wording", 1200):
        assert len(request.conditions) < 2 or not is_held_out_pair(*request.conditions)


def test_each_kind_holds_what_training_lacks(sampler):
    for _, _, request in drawn(sampler, "unseen_pair"):
        assert is_held_out_pair(*request.conditions)
    for _, _, request in drawn(sampler, "unseen_value"):
        (condition,) = request.conditions
        assert is_held_out_value(condition.attribute, condition.value)
    trained = {request.text for _, _, request in drawn(sampler, "trained_wording", 1200)}
    assert not trained & {request.text for _, _, request in drawn(sampler, "unseen_wording")}


def test_the_split_ignores_order_and_negation():
    pairs = [(Condition("category", a), Condition("decade", b)) for a in GENRES for b in ("1950s", "1970s", "1980s")]
    held_out = [is_held_out_pair(one, two) for one, two in pairs]
    assert held_out == [is_held_out_pair(two, one) for one, two in pairs]
    negated = [(one, Condition(two.attribute, two.value, True)) for one, two in pairs]
    assert held_out == [is_held_out_pair(one, two) for one, two in negated]
    assert 0 < sum(held_out) < len(pairs) / 2


def test_rare_values_are_asked_for_more_often_than_common_ones():
    members = {("category", "Common"): list(range(90)), ("category", "Rare"): list(range(20))}
    sampler = RequestSampler(Attributes(members, [f"{item}" for item in range(100)]))
    generator = random.Random(0)
    stated = [sampler.draw(3, [], generator, count=1) for _ in range(400)]
    values = [one.conditions[0].value for one in stated if one is not None and not one.conditions[0].negated]
    # Information: -log .9 = .105 of Common, -log .2 = 1.609 of Rare.
    assert values.count("Rare") / len(values) == pytest.approx(1.609 / 1.715, abs=0.04)


def test_likeness_names_an_item_of_the_history(sampler):
    named = 0
    for _, history, request in drawn(sampler, "trained_wording", 800):
        for condition in request.conditions:
            if condition.attribute == "like":
                named += 1
                assert sampler.attributes.titles.index(condition.value) in history
    assert named > 20


def test_an_item_without_attributes_has_no_request(data):
    sampler = RequestSampler(Attributes.from_data(data))
    assert all(sampler.draw(9, [0, 1], random.Random(seed)) is None for seed in range(20))


def test_a_share_of_decisions_asks(data):
    lengths = np.array([len(history) for history in data.histories])
    decisions = Decisions.from_targets(data, Targets(np.arange(6), lengths - 1))
    attributes = Attributes.from_data(data)
    assert ask(decisions, None, 1.0, 0) is decisions
    everyone = ask(decisions, attributes, 1.0, 0)
    assert sum(decision.request is not None for decision in everyone) >= 4
    for decision in everyone:
        if decision.request is not None:
            assert attributes.satisfied(decision.request.conditions)[decision.target]
    assert [one.request for one in ask(decisions, attributes, 0.0, 0)] == [None] * 6
    assert [one.request for one in everyone.select([3, 1])] == [everyone[3].request, everyone[1].request]
    assert list(ask(decisions, attributes, 1.0, 0).requests) == list(everyone.requests)


def test_an_unknown_target_is_replaced_by_the_newest_item(data):
    lengths = np.array([len(history) for history in data.histories])
    attributes = Attributes.from_data(data)
    decisions = Decisions.from_targets(data, Targets(np.arange(6), lengths))
    asked = [one for one in ask(decisions, attributes, 1.0, 0) if one.request is not None]
    assert asked and all(attributes.satisfied(one.request.conditions)[one.items[-1]] for one in asked)
