"""Faithfulness: the effect of dropping cited items, against log-probabilities computed one by one."""

import pytest
import torch

from llmrec.data.decision import Decision
from llmrec.evaluation.faithfulness import faithfulness, recommended_item_log_prob
from llmrec.evaluation.report import Estimate, Faithfulness, Rate
from llmrec.language.prompt import Recommendation
from llmrec.policy.ranking import item_scores
from tests.conftest import make_data

DECISIONS = [Decision("20", [], [0, 1, 2]), Decision("31", [8], [5, 4, 3]), Decision("42", [], [6])]


@pytest.fixture(scope="module")
def data():
    """The catalogue of the tiny policy."""
    return make_data()


def citing(item: int, *cited: int) -> Recommendation:
    segments = [part for one in cited for part in (" Like", one)]
    return Recommendation(item, (*segments, "."), True)


def log_prob(policy, decision: Decision, item: int) -> float:
    return recommended_item_log_prob(policy, [(decision, item)])[0].item()


def test_log_probabilities_equal_those_of_the_ranking(policy):
    scores = torch.cat(list(item_scores(policy, DECISIONS)))
    for row, (decision, item) in enumerate(zip(DECISIONS, (7, 9, 1), strict=True)):
        assert log_prob(policy, decision, item) == pytest.approx(scores[row, item].item(), abs=1e-4)


def test_the_fall_is_that_of_the_counterfactual_prompt(policy):
    found = faithfulness(policy, DECISIONS, [citing(7, 1), citing(9, 4, 5), citing(1, 6)], seed=0, batch=4)
    one = log_prob(policy, DECISIONS[0], 7) - log_prob(policy, Decision("20", [1], [0, 2]), 7)
    two = log_prob(policy, DECISIONS[1], 9) - log_prob(policy, Decision("31", [8, 4, 5], [3]), 9)
    # The third recommendation cites all shown items, so it has no control and is left out.
    assert found.fall is not None and found.fall.n == 2
    assert found.fall.value == pytest.approx((one + two) / 2, abs=1e-4)
    assert found.share == Rate(rate=((one > 0) + (two > 0)) / 2, n=2)
    last = log_prob(policy, DECISIONS[1], 9) - log_prob(policy, Decision("31", [8, 3], [5, 4]), 9)
    firsts = [log_prob(policy, DECISIONS[0], 7) - log_prob(policy, Decision("20", [d], rest), 7)
              for d, rest in ((0, [1, 2]), (2, [0, 1]))]  # fmt: skip
    expected = [pytest.approx((first + last) / 2, abs=1e-4) for first in firsts]
    assert found.fall_of_others is not None and found.fall_of_others.value in expected


def test_a_policy_that_depends_on_cited_items_alone_is_faithful(policy, monkeypatch):
    monkeypatch.setattr(
        "llmrec.evaluation.faithfulness.recommended_item_log_prob",
        lambda policy, asked: torch.tensor([float(1 in one.items or 4 in one.items) for one, _ in asked]),
    )
    found = faithfulness(policy, DECISIONS, [citing(7, 1), citing(9, 4), citing(1)], seed=0)
    assert found == Faithfulness(
        share=Rate(rate=1.0, n=2), fall=Estimate(value=1.0, n=2), fall_of_others=Estimate(value=0.0, n=2)
    )


def test_without_citations_faithfulness_is_undefined(policy):
    found = faithfulness(policy, DECISIONS[:1], [Recommendation(-1, (), False)], seed=0)
    assert found.as_json() == {
        "share": {"rate": None, "n": 0}, "fall": {"value": None, "n": 0}, "fall_of_others": {"value": None, "n": 0}
    }  # fmt: skip
