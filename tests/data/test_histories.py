"""First clicks, known purchases and the order of users."""

import numpy as np

from llmrec.data.histories import known_purchases, natural_key


def test_digits_in_user_ids_are_compared_as_numbers():
    assert sorted(["10", "9", "u10", "u9", "1a", "1"], key=natural_key) == ["1", "1a", "9", "10", "u9", "u10"]


def test_purchases_after_the_training_part_do_not_count_in_it():
    # Two users with four clicks each train on two. User 0 buys the first item in time and the second too late.
    times = np.array([1, 2, 3, 4, 1, 2, 3, 4])
    bought_at = np.array([2, 9, 9, np.nan, 3, np.nan, 4, 5])
    known = known_purchases(times, bought_at, np.array([4, 4]), np.array([2, 2]))
    assert known.tolist() == [True, False, True, False, True, False, True, True]
