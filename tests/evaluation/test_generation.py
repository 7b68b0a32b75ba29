"""What is counted in written recommendations, on texts small enough to count by hand."""

import pytest

from llmrec.catalogue.facts import FactBook
from llmrec.evaluation.generation import rates, text_metrics
from llmrec.language.prompt import Recommendation

WRITTEN = [
    Recommendation(7, (" More War, as in", 0, "."), True),  # both are War
    Recommendation(6, (" More War, as in", 1, "."), True),  # neither is, and the citation is true
    Recommendation(1, (" So good, so good",), False),  # broke off, was had, says one pair twice
]
HISTORIES = [{0, 1}, {1}, {1, 2}]


def test_rates(data):
    found = rates(WRITTEN, HISTORIES, FactBook.from_data(data), data.num_items)
    thirds = {"validity": 2, "unseen": 2, "groundedness": 1, "repeats": 1}
    for name, count in thirds.items():
        assert found[name] == {"rate": pytest.approx(count / 3), "n": 3}, name
    assert found["factual_precision"] == {"rate": pytest.approx(3 / 4), "n": 4}


def test_text_metrics(data):
    facts = FactBook.from_data(data)
    found = text_metrics(WRITTEN, facts)
    # more war as in X (twice); so good so good: 7 distinct of 14 words, 4 + 2 distinct of 4 + 4 + 3 pairs.
    assert found["distinct_1"] == {"rate": pytest.approx(7 / 14), "n": 14}
    assert found["distinct_2"] == {"rate": pytest.approx(6 / 11), "n": 11}
    assert found["unique_sentences"] == {"rate": pytest.approx(2 / 3), "n": 3}
    assert found["feature_coverage"] == {"rate": pytest.approx(1 / len(facts.facts)), "n": len(facts.facts)}
    assert found["mean_words"] == {"value": pytest.approx(14 / 3), "n": 3}
    assert found["distinct_wordings"] == {"count": 2, "n": 3}
