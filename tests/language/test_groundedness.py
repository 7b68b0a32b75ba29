"""Counterfactual faithfulness: dropping what was cited, against log-probabilities worked out one by one."""

import pytest
import torch

from llmrec.catalogue.facts import FactBook
from llmrec.data.decision import Decision
from llmrec.evaluation.faithfulness import faithfulness, item_log_probs
from llmrec.language.groundedness import check
from llmrec.language.prompt import Recommendation
from llmrec.policy.ranking import item_scores
from tests.conftest import make_data

WINDOWS = [Decision("20", [], [0, 1, 2]), Decision("31", [8], [5, 4, 3]), Decision("42", [], [6])]


@pytest.fixture(scope="module")
def data():
    """The catalogue of the tiny policy, not this package's own log."""
    return make_data()


def citing(item: int, *cited: int) -> Recommendation:
    segments = [part for one in cited for part in (" Like", one)]
    return Recommendation(item, (*segments, "."), True)


def log_prob(policy, window: Decision, item: int) -> float:
    return item_log_probs(policy, [(window, item)])[0].item()


def test_item_log_probs_are_those_of_the_ranking(policy):
    scores = torch.cat(list(item_scores(policy, WINDOWS)))
    for row, (window, item) in enumerate(zip(WINDOWS, (7, 9, 1), strict=True)):
        assert log_prob(policy, window, item) == pytest.approx(scores[row, item].item(), abs=1e-4)


def test_the_fall_is_that_of_the_counterfactual_prompt(policy):
    found = faithfulness(policy, WINDOWS, [citing(7, 1), citing(9, 4, 5), citing(1, 6)], seed=0, batch=4)
    one = log_prob(policy, WINDOWS[0], 7) - log_prob(policy, Decision("20", [1], [0, 2]), 7)
    two = log_prob(policy, WINDOWS[1], 9) - log_prob(policy, Decision("31", [8, 4, 5], [3]), 9)
    # The third cites all that its prompt shows: there is nothing to compare with.
    assert found["fall"] == {"value": pytest.approx((one + two) / 2, abs=1e-4), "n": 2}
    assert found["share"] == {"rate": ((one > 0) + (two > 0)) / 2, "n": 2}
    last = log_prob(policy, WINDOWS[1], 9) - log_prob(policy, Decision("31", [8, 3], [5, 4]), 9)
    firsts = [log_prob(policy, WINDOWS[0], 7) - log_prob(policy, Decision("20", [d], rest), 7)
              for d, rest in ((0, [1, 2]), (2, [0, 1]))]  # fmt: skip
    expected = [pytest.approx((first + last) / 2, abs=1e-4) for first in firsts]
    assert found["fall_of_others"]["value"] in expected


def test_a_policy_that_copies_what_it_cites_is_faithful(policy, monkeypatch):
    """Where only the cited items count, dropping them loses all and dropping others loses nothing."""
    monkeypatch.setattr(
        "llmrec.evaluation.faithfulness.item_log_probs",
        lambda policy, asked: torch.tensor([float(1 in w.items or 4 in w.items) for w, _ in asked]),
    )
    found = faithfulness(policy, WINDOWS, [citing(7, 1), citing(9, 4), citing(1)], seed=0)
    assert found == {
        "share": {"rate": 1.0, "n": 2},
        "fall": {"value": 1.0, "n": 2},
        "fall_of_others": {"value": 0.0, "n": 2},
    }


def test_nothing_to_measure(policy):
    found = faithfulness(policy, WINDOWS[:1], [Recommendation(-1, (), False)], seed=0)
    assert found["share"] == {"rate": None, "n": 0} and found["fall"] == {"value": None, "n": 0}


@pytest.mark.parametrize("segments", [(" Drama Spielberg made, like", 0, "."), (0, " Spielberg made it, a Drama.")])
def test_a_name_after_a_fact_or_a_citation_opens_no_sentence(data, segments):
    drama = next(i for i, values in enumerate(data.items["categories"]) if i and "Drama" in values)
    found = check(FactBook.from_data(data), Recommendation(drama, segments, True), {0})
    assert found.statements == 3 and not found.grounded
