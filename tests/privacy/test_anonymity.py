"""k-anonymity of histories and profiles, against counts by hand and by brute force."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from llmrec.data.dataset import InteractionData
from llmrec.data.ragged import Ragged
from llmrec.privacy.anonymity import Index, Precision, precisions, profile_anonymity, published, singling_out
from tests.conftest import make_data

DAY = 86_400
# Items 0 and 1 are Comedy, 2 is Drama, 3 is War. The times are days after the start of 1970.
HISTORIES = [[0, 1, 2], [0, 1], [0, 2, 3], [0, 3]]
DAYS = [[0, 1, 40], [0, 2], [0, 40, 400], [0, 401]]


@pytest.fixture
def data() -> InteractionData:
    items = pd.DataFrame(
        {"item_id": list("abcd"), "title": list("abcd"), "categories": [["Comedy"], ["Comedy"], ["Drama"], ["War"]]}
    )
    users = pd.DataFrame({"user_id": list("wxyz"), "age": ["20", "20", "31", "31"], "city": ["B", "B", "B", "K"]})
    return replace(
        make_data(),
        items=items,
        users=users,
        histories=[np.array(history) for history in HISTORIES],
        timestamps=[np.array(days) * DAY for days in DAYS],
        card={"time": {"first": "1970-01-01"}},
    )


def counts(data: InteractionData, precision: Precision) -> list[int]:
    """Number of people who have all clicks of each history."""
    log = published(data, precision)
    return [Index(log).count(row.tolist()) for row in log]


def test_people_who_have_all_clicks_of_somebody(data: InteractionData) -> None:
    """Only the first has 0, 1 and 2; the first two have 0 and 1; only the third has 0, 2, 3; the last two 0 and 3."""
    assert counts(data, Precision("item", "none")) == [1, 2, 1, 2]


def test_categories_count_as_often_as_they_are_known(data: InteractionData) -> None:
    """Two comedies: the first two people. Comedy and War: the last two. One comedy alone: all."""
    assert counts(data, Precision("categories", "none")) == [1, 2, 1, 2]
    assert Index(published(data, Precision("categories", "none"))).count([0]) == 4


def test_dates_tell_more_the_finer_they_are(data: InteractionData) -> None:
    """By day, x's second click is on another day than w's. By month it is in the same one. 401 and 400 are in 1971."""
    assert counts(data, Precision("item", "day")) == [1, 1, 1, 1]
    assert counts(data, Precision("item", "month")) == [1, 2, 1, 2]
    assert counts(data, Precision("item", "year")) == [1, 2, 1, 2]


def test_counts_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(0)
    log = Ragged.of([rng.integers(0, 12, rng.integers(1, 15)) for _ in range(60)])
    index = Index(log)
    for _ in range(300):
        known = rng.integers(0, 13, rng.integers(1, 5)).tolist()
        wanted = Counter(known)
        assert index.count(known) == sum(wanted <= Counter(row.tolist()) for row in log)


def test_the_share_that_is_singled_out(data: InteractionData) -> None:
    """Two known clicks: w has 0, 1 (k = 2), 0, 2 (2) or 1, 2 (1); x 0, 1 (2); y 0, 2 (2), 0, 3 (2), 2, 3 (1); z 2."""
    one, two, three = singling_out(data, Precision("item", "none"))
    assert [found.users for found in (one, two, three)] == [4, 4, 2]
    assert one.alone == (0, 0, 0) and one.few == (1, 1, 1)  # each item is in two histories or more, and there are four
    assert three.alone[0] == 1 and three.median_k == 1
    many = [singling_out(data, Precision("item", "none"), seed)[1].alone[0] for seed in range(40)]
    assert np.mean(many) == pytest.approx((1 / 3 + 0 + 1 / 3 + 0) / 4, abs=0.04)
    assert two.alone[1] <= two.alone[0] <= two.alone[2]


def test_what_a_log_lacks_is_left_out(data: InteractionData) -> None:
    assert len(precisions(data)) == 8 and precisions(data)[0] == Precision("item", "day")
    timeless = replace(data, card={"time": None}, items=data.items.assign(categories=[[]] * 4))
    assert precisions(timeless) == [Precision("item", "none")]


def test_profiles(data: InteractionData) -> None:
    assert profile_anonymity(data, ["age", "city"]) == {"attributes": ["age", "city"], "alone": 0.5, "few": 1.0}
    assert profile_anonymity(data, ["age"])["alone"] == 0.0
