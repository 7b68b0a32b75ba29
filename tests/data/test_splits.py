"""Splits against numbers worked by hand."""

import subprocess
import sys

import numpy as np
import pandas as pd

from llmrec.data.splits import (
    Clicks,
    Split,
    cut_times,
    leave_one_out,
    positions_in_user,
    seeded_hash,
    shared_train_lengths,
    temporal,
)

#            user 0           user 1       user 2
USERS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
TIMES = np.array([1, 2, 8, 9, 3, 4, 10, 5, 6, 7])


def clicks(users, timestamps) -> Clicks:
    """Clicks of a log without a split of its own."""
    users = np.array(users)
    return Clicks(
        users=users, timestamps=np.array(timestamps), parts=np.full(len(users), -1), num_users=len(set(users))
    )


def split() -> Split:
    return temporal(clicks(USERS, TIMES), np.arange(10), valid=0.2, test=0.2, targets_per_user=10)


def test_positions_count_from_zero_in_every_user():
    assert positions_in_user(USERS).tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1, 2]


def test_leave_one_out_holds_out_the_last_two_clicks():
    result = leave_one_out(np.array([3, 5]))
    assert result.train_lengths.tolist() == [1, 3]
    assert result.targets["valid"].users.tolist() == [0, 1]
    assert result.targets["valid"].positions.tolist() == [1, 3]
    assert result.targets["test"].positions.tolist() == [2, 4]


def test_cuts_leave_the_given_shares_after_them():
    # Ten clicks at times 1 to 10: six for training, two for validation (7, 8) and two for the test (9, 10).
    assert cut_times(TIMES, 0.2, 0.2) == (7, 9)


def test_a_cut_never_separates_equal_timestamps():
    # Half of six clicks would separate the two clicks at 5. Both go to the later part.
    assert cut_times(np.array([1, 2, 5, 5, 6, 7]), 0.25, 0.25)[0] == 5


def test_temporal_windows():
    result = split()
    assert result.cuts == (7, 9)
    # Clicks before 7: 1 and 2 of user 0, 3 and 4 of user 1, 5 and 6 of user 2.
    assert result.train_lengths.tolist() == [2, 2, 2]
    # From 7 to 9: 8 of user 0 and 7 of user 2, both at position 2. From 9 on: 9 of user 0 and 10 of user 1.
    assert list(zip(result.targets["valid"].users, result.targets["valid"].positions, strict=True)) == [
        (0, 2),
        (2, 2),
    ]
    assert list(zip(result.targets["test"].users, result.targets["test"].positions, strict=True)) == [
        (0, 3),
        (1, 2),
    ]


def test_the_first_click_of_a_user_is_no_temporal_target():
    log = clicks([0, 0, 0, 1, 1], [1, 2, 3, 4, 5])
    result = temporal(log, np.arange(5), valid=0.2, test=0.4, targets_per_user=10)
    assert result.cuts == (3, 4)
    # The first click of user 1 is in the test window. There is no history to predict it from.
    assert result.targets["test"].users.tolist() == [1]
    assert result.targets["test"].positions.tolist() == [1]
    assert result.train_lengths.tolist() == [2, 0]


def test_temporal_takes_the_smallest_draws_of_each_user():
    draws = np.array([0, 0, 9, 3, 7, 1])
    result = temporal(clicks([0] * 6, range(6)), draws, valid=0.3, test=0.4, targets_per_user=1)
    # The cuts are at clicks ceil(.3 * 6) = 2 and ceil(.6 * 6) = 4. The windows hold positions 2, 3 and 4, 5.
    assert result.targets["valid"].positions.tolist() == [3]
    assert result.targets["test"].positions.tolist() == [5]


def test_train_length_is_the_minimum_over_splits():
    both = [leave_one_out(np.array([4, 3, 3])), split()]
    assert shared_train_lengths(both).tolist() == [2, 1, 1]


def test_hash_depends_on_seed_purpose_user_and_item():
    one = pd.Series(["u"])
    two = pd.Series(["v"])
    base = seeded_hash(0, "ties", one, two)
    others = [
        seeded_hash(1, "ties", one, two),
        seeded_hash(0, "targets", one, two),
        seeded_hash(0, "ties", two, two),
        seeded_hash(0, "ties", one, one),
    ]
    assert all(other[0] != base[0] for other in others)


def test_hash_is_the_same_in_another_process():
    code = (
        "import pandas as pd; from llmrec.data.splits import seeded_hash;"
        "print(seeded_hash(7, 'ties', pd.Series(['u1', 'u2']), pd.Series(['a', 'b'])).tolist())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "123"},
    ).stdout
    here = seeded_hash(7, "ties", pd.Series(["u1", "u2"]), pd.Series(["a", "b"])).tolist()
    assert printed.strip() == str(here)
