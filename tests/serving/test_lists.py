"""Lists and their propensities: against enumeration of all lists, and against the value of toy policies."""

from functools import cache
from itertools import permutations

import numpy as np
import pytest

from llmrec.serving.lists import Candidates, RankedList, choose_list

PROBABILITIES = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
CLICK_RATES = np.array([0.1, 0.2, 0.9, 0.3, 0.6])
SHARE = 0.3
LENGTH = 3


def toy(probabilities: np.ndarray = PROBABILITIES, categories: np.ndarray | None = None) -> Candidates:
    categories = np.zeros((len(probabilities), 1)) if categories is None else categories
    return Candidates(np.arange(len(probabilities)), np.log(probabilities), categories)


def plackett_luce(order: tuple[int, ...]) -> float:
    """Probability of a list that is drawn without replacement, by its definition."""
    left = 1.0
    probability = 1.0
    for item in order:
        probability *= PROBABILITIES[item] / left
        left -= PROBABILITIES[item]
    return probability


def served(order: tuple[int, ...]) -> float:
    """Probability that the server shows a list."""
    return SHARE * plackett_luce(order) + (1 - SHARE) * (order == (0, 1, 2))


@pytest.fixture(scope="module")
def drawn() -> list[RankedList]:
    random = np.random.default_rng(0)
    candidates = toy()
    return [choose_list(candidates, LENGTH, SHARE, 0.0, random) for _ in range(10_000)]


def test_the_best_list_holds_the_most_probable_items() -> None:
    best = choose_list(toy(), 2, 0.0, 0.0, np.random.default_rng(0))
    assert best.items.tolist() == [0, 1] and not best.sampled
    assert best.scores == pytest.approx([0.4, 0.3])
    assert best.propensities.tolist() == [1.0, 1.0]


def test_propensities_multiply_to_the_probability_of_the_list(drawn: list[RankedList]) -> None:
    seen = {tuple(one.items.tolist()): one.propensities for one in drawn}
    assert len(seen) > 50  # of 60 lists of three out of five
    for order, propensities in seen.items():
        assert np.prod(propensities) == pytest.approx(served(order), rel=1e-9), order


def test_a_propensity_by_hand(drawn: list[RankedList]) -> None:
    """The list 0, 2, 1: 0.3 * 0.4 + 0.7 = 0.82 at the top; then 0.3 * 0.4 * 0.25 / 0.82; then 0.3 / 0.45."""
    one = next(one for one in drawn if one.items.tolist() == [0, 2, 1])
    assert one.propensities == pytest.approx([0.82, 0.03 / 0.82, 2 / 3])


def test_lists_appear_as_often_as_their_propensities_say(drawn: list[RankedList]) -> None:
    lists = [tuple(one.items.tolist()) for one in drawn]
    for order in permutations(range(5), LENGTH):
        expected = served(order)
        error = np.sqrt(expected * (1 - expected) / len(lists))
        assert abs(lists.count(order) / len(lists) - expected) < 4.5 * error, order


def test_the_importance_weighted_value_of_the_logged_policy_is_unbiased(drawn: list[RankedList]) -> None:
    """The policy's probabilities come from enumeration and the weights' denominators from the log."""
    orders = list(permutations(range(5), LENGTH))
    truth = sum(served(order) * CLICK_RATES[list(order)].sum() for order in orders)
    random = np.random.default_rng(3)
    values = []
    for one in drawn:
        clicks = random.random(LENGTH) < CLICK_RATES[one.items]
        order = tuple(one.items.tolist())
        ratios = [_conditional(order[: depth + 1]) / one.propensities[depth] for depth in range(LENGTH)]
        values.append((np.array(ratios) * clicks).sum())
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values) - truth) < 4 * error


@cache
def _conditional(prefix: tuple[int, ...]) -> float:
    """Probability of the last item of a prefix given those above it, by enumeration of all lists."""

    def reached(start: tuple[int, ...]) -> float:
        return sum(served(order) for order in permutations(range(5), LENGTH) if order[: len(start)] == start)

    return reached(prefix) / reached(prefix[:-1])


def test_another_policy_is_evaluated_without_bias(drawn: list[RankedList]) -> None:
    """The value of uniform lists from the log of the server: 3 times the mean click rate, 3 * 0.42."""
    random = np.random.default_rng(5)
    values = []
    for one in drawn:
        clicks = random.random(LENGTH) < CLICK_RATES[one.items]
        weights = np.cumprod(np.array([1 / 5, 1 / 4, 1 / 3]) / one.propensities)
        values.append((weights * clicks).sum())
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values) - 3 * 0.42) < 4 * error and error < 0.1


def test_without_exploration_of_the_best_list_every_list_is_drawn() -> None:
    random = np.random.default_rng(7)
    one = choose_list(toy(), 5, 1.0, 0.0, random)
    assert one.sampled
    assert np.prod(one.propensities) == pytest.approx(plackett_luce(tuple(one.items.tolist())))
    assert one.propensities[-1] == pytest.approx(1)  # one item is left


def test_very_improbable_items_keep_their_propensity() -> None:
    """A prefix probability of 1e-600 is below the smallest float, the propensity of the next item is not."""
    log_probs = np.array([0.0, -700.0, -700.0, -700.0])
    candidates = Candidates(np.arange(4), log_probs, np.zeros((4, 1)))
    one = choose_list(candidates, 4, 1.0, 0.0, np.random.default_rng(8))
    assert one.items[0] == 0
    assert one.propensities == pytest.approx([1, 1 / 3, 1 / 2, 1])


def test_diversity_moves_an_item_of_a_new_category_up() -> None:
    """Item 1 shares the category of item 0: log 0.3 - 1 < log 0.15. Item 3 shares half of its categories."""
    categories = np.array([[1, 0], [1, 0], [0, 1], [1, 1], [0, 0]])
    best = choose_list(toy(categories=categories), 5, 0.0, 1.0, np.random.default_rng(0))
    assert best.items.tolist() == [0, 2, 1, 3, 4]
    plain = choose_list(toy(categories=categories), 5, 0.0, 0.0, np.random.default_rng(0))
    assert plain.items.tolist() == [0, 1, 2, 3, 4]


def test_propensities_with_diversity_sum_to_one() -> None:
    categories = np.array([[1, 0], [1, 0], [0, 1], [1, 1], [0, 0]])
    random = np.random.default_rng(9)
    lists = [choose_list(toy(categories=categories), 2, SHARE, 1.5, random) for _ in range(3000)]
    seen = {tuple(one.items.tolist()): np.prod(one.propensities) for one in lists}
    assert len(seen) == 20
    assert sum(seen.values()) == pytest.approx(1)


def test_items_that_look_the_same_are_one_candidate() -> None:
    scores = np.log(np.array([0.1, 0.2, 0.3, 0.4]))
    scores[3] = -np.inf
    candidates = Candidates.from_scores(scores, np.array([0, 0, 2, 3]), np.zeros((4, 2), dtype=bool))
    assert candidates.items.tolist() == [1, 2]
    assert np.exp(candidates.log_probs) == pytest.approx([0.4, 0.6])


def test_a_list_is_as_long_as_there_are_candidates() -> None:
    assert len(choose_list(toy(), 50, 0.5, 0.0, np.random.default_rng(0)).items) == 5
