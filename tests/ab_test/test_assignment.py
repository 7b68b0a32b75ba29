"""Assignment: shares, stability, independence between tests, and the sample-ratio check."""

import hashlib

import numpy as np
import pytest
from scipy import stats

from llmrec.ab_test.assignment import Assigner
from llmrec.ab_test.sample_ratio import check_sample_ratio
from llmrec.errors import ConfigError
from tests.ab_test import config_of

USERS = [f"user-{number}" for number in range(20_000)]
THREE = {"live": 0.5, "one": 0.3, "two": 0.2}


def test_the_arm_is_the_share_of_the_hash_space():
    """Worked out with hashlib alone: 53 bits of SHA-256 of salt, name and user."""
    config = config_of(arms=THREE, name="any", salt="pepper")
    for found in Assigner(config).assign(["ann", "bob", "Zoë"]):
        digest = hashlib.sha256(f"pepper\x1fany\x1f{found.user_id}".encode()).hexdigest()
        place = (int(digest[:16], 16) >> 11) / 2**53
        expected = "live" if place < 0.5 else "one" if place < 0.8 else "two"
        assert (found.arm, found.propensity) == (expected, THREE[expected])


def test_shares_and_independence():
    first = Assigner(config_of(arms=THREE)).indices(USERS)
    assert (first == Assigner(config_of(arms=THREE)).indices(USERS)).all()
    # 3.3 standard errors of a share of .5 among 20,000 users are .0117.
    assert np.bincount(first) / len(USERS) == pytest.approx([0.5, 0.3, 0.2], abs=0.0117)
    for other in (config_of(arms=THREE, name="other"), config_of(arms=THREE, salt="other")):
        table = np.zeros((3, 3))
        np.add.at(table, (first, Assigner(other).indices(USERS)), 1)
        assert stats.chi2_contingency(table).pvalue > 0.001


def test_a_larger_arm_keeps_its_users():
    small = Assigner(config_of(arms={"live": 0.1, "new": 0.9})).indices(USERS)
    large = Assigner(config_of(arms={"live": 0.3, "new": 0.7})).indices(USERS)
    assert (large[small == 0] == 0).all()


def test_without_salt_nobody_is_assigned():
    with pytest.raises(ConfigError, match="`salt` is null"):
        Assigner(config_of(salt=None))


def test_sample_ratio_by_hand():
    """520 and 480 of 1,000: chi-square is 2 x 20^2 / 500 = 1.6, and its upper tail at one degree is .2059."""
    arm = np.repeat([0, 1], [520, 480])
    found = check_sample_ratio(arm, np.zeros(1000, dtype=int), {"live": 0.5, "new": 0.5})
    assert found.p == pytest.approx(0.2059, abs=1e-4) == found.worst_day_p
    assert found.users == {"live": 520, "new": 480} and found.expected == {"live": 500, "new": 500}
    assert not found.is_wrong


def test_a_bad_day_is_found_although_the_whole_is_fine():
    """Day 1 loses 120 users of an arm, day 2 has as many more. Day 4 has too few users to be tested."""
    arm = np.repeat([0, 1, 0, 1, 0], [500, 380, 500, 620, 3])
    day = np.repeat([1, 2, 4], [880, 1120, 3])
    found = check_sample_ratio(arm, day, {"live": 0.5, "new": 0.5})
    # Chi-square of 500 and 380 is 2 x 60^2 / 440 = 16.364; p is doubled, because two days are tested.
    assert found.worst_day_p == pytest.approx(2 * stats.chi2.sf(16.3636, 1), rel=1e-4) and found.worst_day == 1
    assert found.p > 0.9 and found.is_wrong
