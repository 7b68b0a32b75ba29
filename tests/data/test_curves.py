"""The curves of a log against hand-counted numbers."""

from dataclasses import replace

import numpy as np
import pytest

from llmrec.data import curves
from llmrec.data.curves import measure_curves
from llmrec.data.dataset import InteractionData, Targets
from llmrec.data.ragged import Ragged
from tests.conftest import make_data

DAY = 86_400


def log() -> InteractionData:
    """Three users with 4, 2 and 2 clicks on four items, and a test target of each."""
    histories = [[0, 1, 2, 0], [0, 3], [1, 0]]
    times = [[0, 0, 60, 2 * DAY], [DAY, DAY + 30 * 60], [3 * DAY, 3 * DAY + 30 * 60 + 1]]
    data = make_data()
    return replace(
        data,
        items=data.items.iloc[:4].reset_index(drop=True),
        users=data.users.iloc[:3].reset_index(drop=True),
        histories=Ragged.of([np.array(one) for one in histories]),
        purchases=Ragged.of([np.zeros(len(one), dtype=bool) for one in histories]),
        timestamps=Ragged.of([np.array(one) for one in times]),
        train_lengths=np.array([3, 1, 1]),
        targets={"leave_one_out": {"test": Targets(np.arange(3), np.array([3, 1, 1]))}},
    )


def test_clicks_by_day() -> None:
    curve = measure_curves(log(), timed=True)["clicks_by_day"]
    width = 3.02 / 40  # days; the log ends 30 minutes into the fourth day
    assert sum(y for _, y in curve) * width == pytest.approx(8, rel=0.01)
    assert curve[0][1] * width == pytest.approx(3, rel=0.01)


def test_shares_of_the_largest() -> None:
    found = measure_curves(log(), timed=True)
    assert dict(found["clicks_of_users"])[0.0] == 0 and dict(found["clicks_of_users"])[1.0] == 1
    # Item 0 has 4 of 8 clicks and is a quarter of the items; of the users, the first third has half.
    for name, share in (("clicks_of_items", 1 / 4), ("clicks_of_users", 1 / 3)):
        x, y = zip(*found[name], strict=True)
        assert np.interp(share, x, y) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("part", [1, 3, 100])
def test_sessions_and_gaps(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ragged.parts, "__defaults__", (part,))
    found = measure_curves(log(), timed=True)
    # Sessions of 3, 1, 2, 1 and 1 clicks: 30 minutes are one session, a second more are two.
    assert found["sessions"][:3] == [(1.0, 0.6), (2.0, 0.8), (3.0, 1.0)]
    # Gaps of 0, 60, 2 days less 60 s, 1,800 and 1,801 seconds.
    assert [round(share, 9) for _, share in found["gaps"]] == [0.2, 0.2, 0.4, 0.4, 0.8, 0.8, 1, 1, 1, 1]


def test_cold_targets() -> None:
    curve = dict(measure_curves(log(), timed=True)["cold_leave_one_out"])
    # Training clicks: item 0 two, item 1 two, item 2 one, item 3 none. Targets are the items 0, 3 and 0.
    assert (curve[0.0], curve[1.0], curve[2.0]) == pytest.approx((1 / 3, 1 / 3, 1))


def test_a_log_without_times_has_no_curve_of_time() -> None:
    assert not {"clicks_by_day", "sessions", "gaps"} & set(measure_curves(log(), timed=False))


def test_a_user_with_one_click_has_no_gap() -> None:
    alone = Ragged.of([np.array([5])])
    assert set(curves._sessions_and_gaps(alone)) == {"sessions"}
