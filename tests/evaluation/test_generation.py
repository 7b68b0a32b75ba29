"""Metrics of written recommendations, on texts small enough to count by hand."""

import pytest

from llmrec.catalogue.facts import FactBook
from llmrec.evaluation.generation import rates, text_metrics
from llmrec.evaluation.report import Count, Estimate, Rate
from llmrec.language.prompt import Recommendation

WRITTEN = [
    Recommendation(7, (" More War, as in", 0, "."), True),  # both items are War
    Recommendation(6, (" More War, as in", 1, "."), True),  # neither item is War; the citation is true
    Recommendation(1, (" So good, so good",), False),  # unfinished, already seen, repeats a pair of words
]
HISTORIES = [{0, 1}, {1}, {1, 2}]


def test_rates(data):
    found = rates(WRITTEN, HISTORIES, FactBook.from_data(data), data.num_items)
    thirds = {"validity": 2, "unseen": 2, "groundedness": 1, "repeats": 1}
    for name, count in thirds.items():
        assert found[name] == Rate(rate=count / 3, n=3), name
    assert found["factual_precision"] == Rate(rate=3 / 4, n=4)


def test_nothing_written_gives_undefined_rates(data):
    facts = FactBook.from_data(data)
    found = rates([], [], facts, data.num_items) | text_metrics([], facts)
    assert found["validity"] == found["factual_precision"] == found["distinct_1"] == Rate(rate=None, n=0)
    assert found["mean_words"] == Estimate(value=None, n=0)


def test_text_metrics(data):
    facts = FactBook.from_data(data)
    found = text_metrics(WRITTEN, facts)
    # more war as in X (twice); so good so good: 7 distinct of 14 words, 4 + 2 distinct of 4 + 4 + 3 pairs.
    assert found["distinct_1"] == Rate(rate=7 / 14, n=14)
    assert found["distinct_2"] == Rate(rate=6 / 11, n=11)
    assert found["unique_sentences"] == Rate(rate=2 / 3, n=3)
    assert found["feature_coverage"] == Rate(rate=1 / len(facts.facts), n=len(facts.facts))
    assert found["mean_words"].number == pytest.approx(14 / 3) and found["mean_words"].n == 3
    assert found["distinct_wordings"] == Count(count=2, n=3)
