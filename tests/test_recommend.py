"""Recommendations for one person: which items are ranked, how they are scored, and errors that help."""

from dataclasses import replace

import pytest

from llmrec.catalogue.lookup import similar_titles
from llmrec.data.dataset import InteractionData
from llmrec.errors import CatalogueError, ModelError
from llmrec.policy.model import RecPolicy
from llmrec.recommend import Recommender
from tests.conftest import make_config

LENGTH = 24  # tokens of a completion
ALL_ITEMS = set(range(10))


@pytest.fixture
def recommender(policy: RecPolicy, data: InteractionData) -> Recommender:
    return Recommender(policy, LENGTH, data)


def items_of(recommender: Recommender, **arguments) -> list[int]:
    ranked = recommender.recommend(top_k=100, **arguments)
    return [recommender.policy.vocabulary.item_ids.index(item.item_id) for item in ranked]


def test_unseen_items_are_ranked_by_probability(recommender: Recommender) -> None:
    ranked = recommender.recommend(history=[0, 1, 2], top_k=100)
    scores = [item.score for item in ranked]
    assert {item.item_id for item in ranked} == {f"i{n}" for n in range(3, 10)}
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-4)
    assert [item.item_id for item in recommender.recommend(history=[0, 1, 2], top_k=2)] == [
        item.item_id for item in ranked[:2]
    ]


def test_items_before_the_prompt_window_and_excluded_items_are_left_out(recommender: Recommender) -> None:
    history = [0, 1, 2, 3, 4, 5]  # the prompt shows four items
    assert set(items_of(recommender, history=history, exclude=[9])) == {6, 7, 8}


def test_a_user_of_the_log_gets_what_their_history_leaves(recommender: Recommender, data: InteractionData) -> None:
    assert set(items_of(recommender, user="u3")) == ALL_ITEMS - set(data.histories[3].tolist())


def test_somebody_without_a_history_can_be_served(recommender: Recommender) -> None:
    assert set(items_of(recommender)) == ALL_ITEMS


def test_justifications_are_written_for_each_item(recommender: Recommender) -> None:
    ranked = recommender.recommend(history=[0, 1], top_k=3)
    assert len(ranked) == 3 and all(isinstance(item.justification, str) for item in ranked)
    assert {type(item.grounded) for item in ranked} == {bool}


def test_nothing_left_is_an_error(recommender: Recommender) -> None:
    with pytest.raises(CatalogueError):
        recommender.recommend(history=sorted(ALL_ITEMS))


def test_an_unknown_user_is_an_error_with_a_suggestion(recommender: Recommender) -> None:
    with pytest.raises(CatalogueError, match="no user u33 among the 6 users of the log; did you mean u3"):
        recommender.recommend(user="u33")


def test_without_a_log_no_user_is_known(policy: RecPolicy) -> None:
    with pytest.raises(CatalogueError, match="has no user data"):
        Recommender(policy, LENGTH).recommend(user="u3")


def test_titles_are_found_without_regard_to_case_and_spaces(recommender: Recommender) -> None:
    assert recommender.resolve_titles(["  quiet   STORM", "Delta"]) == [7, 8]


def test_an_ambiguous_title_is_an_error_that_lists_names_and_ids(recommender: Recommender) -> None:
    expected = r'"blue note" may mean "Blue Note \[1987\]" \(id i2\), "Blue Note \[1999\]" \(id i3\)\. Give the full'
    with pytest.raises(CatalogueError, match=expected):
        recommender.resolve_titles(["blue note"])
    assert recommender.resolve_titles(["Blue Note [1999]", "i2"]) == [3, 2]


def test_ids_are_found(recommender: Recommender) -> None:
    assert recommender.resolve_ids(["i7", "i0"]) == [7, 0]
    with pytest.raises(CatalogueError, match="no item with the id i77 in the catalogue; did you mean i7"):
        recommender.resolve_ids(["i77"])


def test_a_title_written_exactly_comes_before_one_in_another_case(tiny_base: str, data: InteractionData) -> None:
    items = data.items.assign(title=["QUIET", "Red Sea", *data.items["title"][2:]])
    recommender = Recommender(RecPolicy.create(make_config(tiny_base), replace(data, items=items)), LENGTH)
    assert recommender.resolve_titles(["QUIET", "Quiet"]) == [0, 6]
    with pytest.raises(CatalogueError, match=r'"quiet" may mean "QUIET" \(id i0\), "Quiet" \(id i6\)'):
        recommender.resolve_titles(["quiet"])


def test_items_that_look_the_same_count_as_one(tiny_base: str, data: InteractionData) -> None:
    rows = data.items.index[[0, 0, *range(2, 10)]]  # item 1 looks like item 0
    items = data.items.loc[rows].reset_index(drop=True).assign(item_id=data.items["item_id"])
    recommender = Recommender(RecPolicy.create(make_config(tiny_base), replace(data, items=items)), LENGTH)
    assert recommender.policy.vocabulary.titles[:2] == ("Red Sky", "Red Sky [i1]")
    assert set(items_of(recommender, history=[0])) == set(items_of(recommender, history=[1])) == set(range(2, 10))
    assert set(items_of(recommender, history=[2], exclude=[1])) == set(range(3, 10))
    assert len({0, 1} & set(items_of(recommender, history=[2]))) == 1


def test_an_unknown_title_is_an_error_with_suggestions(recommender: Recommender) -> None:
    with pytest.raises(CatalogueError, match='no item "Quiet Strom" in the catalogue; did you mean "Quiet Storm"'):
        recommender.resolve_titles(["Quiet Strom"])
    with pytest.raises(CatalogueError, match=r"in the catalogue\.$"):
        recommender.resolve_titles(["zzzz"])


@pytest.fixture
def asked(tiny_base: str, data: InteractionData) -> Recommender:
    """A recommender whose policy was created for requests."""
    return Recommender(RecPolicy.create(make_config(tiny_base, sft={"requests": 0.5}), data), LENGTH, data)


def test_a_request_reaches_the_prompt_and_its_conditions_the_answer(asked: Recommender) -> None:
    plain = asked.recommend(history=[0], top_k=100)
    found = asked.recommend(history=[0], top_k=100, request=" funny,  not from the eighties ")
    assert {item.item_id for item in found} == {item.item_id for item in plain}  # nothing is filtered
    assert [item.score for item in found] != [item.score for item in plain]
    assert {item.item_id for item in found if item.satisfies} == {"i1"}
    assert {item.satisfies for item in plain} == {None}
    assert {item.satisfies for item in asked.recommend(history=[0], request="something darker")} == {None}


def test_a_request_that_no_unseen_item_satisfies_is_an_error(asked: Recommender) -> None:
    assert asked.recommend(user="u1", request="from the eighties")
    with pytest.raises(CatalogueError, match=r"Nearest: Musical \(1 item\) or Comedy \(2 items\)"):
        asked.recommend(history=[2], request="a funny musical")


def test_a_policy_without_requests_refuses_them(recommender: Recommender) -> None:
    with pytest.raises(ModelError, match=r"trained without requests.*`sft.requests`"):
        recommender.recommend(history=[0], request="funny")


def test_a_saved_policy_still_reads_requests(asked: Recommender, tmp_path) -> None:
    asked.policy.save_pretrained(tmp_path / "adapter")
    again = Recommender.from_pretrained(tmp_path / "adapter")
    expected = asked.recommend(history=[0, 1], request="funny")
    found = again.recommend(history=[0, 1], request="funny")
    assert [(item.item_id, item.satisfies) for item in found] == [(item.item_id, item.satisfies) for item in expected]


def test_suggested_titles_are_the_most_similar_one_and_those_that_contain_the_words() -> None:
    titles = ["toy story (1995)", "toy story 2 (1999)", "boy story", "the toy"]
    assert similar_titles("toy stori", titles)[0] in ("toy story (1995)", "boy story")
    assert similar_titles("story", titles) == ["boy story", "toy story (1995)", "toy story 2 (1999)"]
    assert similar_titles("", titles) == []
