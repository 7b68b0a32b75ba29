"""The decision on a round's adapter: estimated clicks where the log has exploration, otherwise NDCG@10."""

import pytest

from llmrec.learning.assessment import HeldOut, OffPolicy, decide
from llmrec.off_policy.bootstrap import Estimate
from llmrec.selection.guard import Difference

WORSE = HeldOut(users=100, present=0.5, new=0.4, gain=Difference(-0.1, -0.12, -0.08))
BETTER = HeldOut(users=100, present=0.4, new=0.5, gain=Difference(0.1, 0.08, 0.12))
REFUSED = OffPolicy(1000, {}, {}, None, "too little data")


def estimated(low: float, high: float) -> OffPolicy:
    return OffPolicy(1000, {"present": 90.0, "new": 80.0}, {}, Estimate((low + high) / 2, (low, high)), None)


def test_more_estimated_clicks_are_accepted_although_people_clicked_on_what_the_present_version_shows() -> None:
    accepted, why = decide(WORSE, estimated(0.01, 0.03))
    assert accepted
    assert why == (
        "estimated clicks per shown item of 1,000 held-out ones change by +0.0200 (95 % interval +0.0100 to +0.0300)"
    )


@pytest.mark.parametrize(("low", "high"), [(-0.01, 0.03), (-0.03, -0.01)])
def test_an_estimate_that_is_not_significant_is_rejected_whatever_ndcg_says(low: float, high: float) -> None:
    assert not decide(BETTER, estimated(low, high))[0]


def test_ndcg_decides_without_exploration() -> None:
    assert decide(BETTER, REFUSED)[0]
    accepted, why = decide(WORSE, REFUSED)
    assert not accepted and why.startswith("NDCG@10 of 100 users on held-out clicks changes by -0.1000")
    unsure = HeldOut(100, 0.4, 0.5, Difference(0.1, -0.01, 0.21))
    assert not decide(unsure, REFUSED)[0]
    few = HeldOut(29, 0.4, 0.5, BETTER.gain)
    accepted, why = decide(few, REFUSED)
    assert not accepted and why.endswith("; a decision needs 30 users")
