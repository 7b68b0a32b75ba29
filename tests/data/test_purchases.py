"""What is known to be purchased when: in training histories, before a target, and in an export."""

import numpy as np

from llmrec.data.losses import summary
from llmrec.data.prepare import build_data
from llmrec.data.purchases import bought_by, known_purchases
from tests.data.logs import config, raw_log


def test_a_purchase_is_known_before_a_moment_or_by_its_own_click():
    times, bought_at = np.array([10, 10, 10, 10]), np.array([10.0, 19.0, 20.0, np.nan])
    assert bought_by(times, bought_at, 20).tolist() == [True, True, False, False]
    assert bought_by(times, bought_at, 10).tolist() == [True, False, False, False]  # of equal times, its own click only


def test_purchases_after_the_training_part_do_not_count_in_it():
    # Two users with four clicks each train on two. User 0 buys the first item in time and the second too late.
    times = np.array([1, 2, 3, 4, 1, 2, 3, 4])
    bought_at = np.array([2, 9, 9, np.nan, 3, np.nan, 4, 5])
    known = known_purchases(times, bought_at, np.array([4, 4]), np.array([2, 2]))
    assert known.tolist() == [True, False, True, False, False, False, True, True]


def test_training_knows_nothing_after_the_cut():
    times, bought_at = np.array([10, 20, 30, 10, 20]), np.array([25.0, 40.0, 50.0, 25.0, 20.0])
    lengths, train = np.array([3, 2]), np.array([2, 2])
    assert known_purchases(times, bought_at, lengths, train).tolist() == [True, False, True, True, True]
    assert known_purchases(times, bought_at, lengths, train, cut=22).tolist() == [False, False, True, False, True]


def test_a_user_without_held_out_clicks_has_no_later_purchases_in_training():
    rows = [("ann", "a", 10, 1.0), ("ann", "b", 20, 1.0), ("ann", "a", 1000, 5.0)]
    rows += [
        (f"u{n}", item, 10 + n + at, 1.0) for n in range(8) for item, at in zip("abcd", (1, 2, 500, 900), strict=True)
    ]
    split = config(splits=["temporal"], purchase=["rating>=4"], min_user_events=2)
    data = build_data(raw_log(rows), split, seed=0)
    ann = data.user_index["ann"]
    assert data.train_lengths[ann] == len(data.histories[ann]) == 2
    assert data.purchases[ann].tolist() == [False, False]
    assert (data.card["purchases"], data.card["hidden_purchases"]) == (0, 1)
    assert "0 purchases (1 more are later than training may know)" in summary(data.card)
    assert data.purchases_before(ann, 2).tolist() == [True, False]  # at the end, for recommending


def test_a_column_split_that_is_not_used_orders_no_ties():
    rows = [(f"u{n}", item, 7, 5.0, "test" if item == "a" else "train") for n in range(20) for item in "abcde"]
    columns = "user_id item_id timestamp rating split"
    data = build_data(raw_log(rows, columns), config(), seed=0)
    plain = build_data(raw_log([row[:4] for row in rows]), config(), seed=0)
    assert np.concatenate(data.histories).tolist() == np.concatenate(plain.histories).tolist()
