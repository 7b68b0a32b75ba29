"""Exposures: what makes one impression, and what the dataset card says of them, by hand."""

import numpy as np
import pandas as pd
import pytest

from llmrec.data.exposures import check_exposures, exposure_curves, find_exposures, unlikely_exposures


def test_events_of_one_list_are_one_impression():
    events = pd.DataFrame(
        {
            "user": [1, 0, 1, 1, 1, 0],
            "item": [5, 5, 5, 5, 5, 4],
            "timestamp": [30, 20, 10, 40, 40, 20],
            "click": [False, False, True, False, True, False],
            "ranking_id": ["x", "x", "x", None, None, "x"],
            "position": pd.array([None, 2, 3, 1, 1, None], dtype="Int64"),
            "propensity": [0.5, np.nan, 0.25, np.nan, 0.1, 0.2],
        }
    )
    found = find_exposures(events)
    # Rows 0 and 2 are one impression: the earliest time, a click, and the first values known. The two rows without a
    # list stay apart. Users 0 and 1 both have a list `x`, and these are two lists.
    assert found["user"].tolist() == [1, 0, 0, 1, 1]
    assert found["item"].tolist() == [5, 4, 5, 5, 5]
    assert found["timestamp"].tolist() == [10, 20, 20, 40, 40]
    assert found["click"].tolist() == [True, False, False, False, True]
    assert found["position"].tolist() == [3, pd.NA, 2, 1, 1]
    assert found["propensity"].tolist() == pytest.approx([0.5, 0.2, np.nan, np.nan, 0.1], nan_ok=True)
    lists = found["ranking"].tolist()
    assert lists[1] == lists[2] != lists[0] >= 0 and lists[3:] == [-1, -1]
    assert found.dtypes.astype(str).tolist() == ["int64", "int64", "int64", "int64", "bool", "Int64", "float64"]


def test_impressions_hold_no_text():
    count = 50_000
    events = pd.DataFrame({"user": 0, "item": 0, "timestamp": np.arange(count), "click": False, "propensity": 0.1})
    assert len(find_exposures(events)) == count
    assert find_exposures(events).memory_usage(deep=True).sum() / count < 51


EXPOSURES = pd.DataFrame(
    {
        "click": [True, False, False, True],
        "position": pd.array([0, 1, 1, 30], dtype="Int64"),
        "propensity": [0.5, 0.1, 0.01, np.nan],
    }
)


def test_checks_by_hand():
    # The weights are 2, 10 and 100: 112^2 / (3 * (4 + 100 + 10,000)).
    assert check_exposures(EXPOSURES) == {
        "click_rate": 0.5,
        "without_propensity": 0.25,
        "smallest_propensity": 0.01,
        "median_propensity": 0.1,
        "uniform_sample_size": pytest.approx(112**2 / (3 * 10_104)),
    }
    assert check_exposures(pd.DataFrame()) is None
    unknown = check_exposures(EXPOSURES.assign(propensity=np.nan))
    assert unknown is not None
    assert (unknown["without_propensity"], unknown["smallest_propensity"]) == (1.0, None)


def test_curves_by_hand():
    curves = exposure_curves(EXPOSURES)
    assert curves["click_rate"] == [(0.0, 1.0), (1.0, 0.0)]  # position 30 is beyond the last one
    shares = {round(x, 2): y for x, y in curves["propensities"]}
    assert (shares[-3.0], shares[-1.95], shares[0.0]) == (0.0, pytest.approx(1 / 3), 1.0)
    assert exposure_curves(pd.DataFrame()) == {}
    assert set(exposure_curves(EXPOSURES.assign(propensity=np.nan))) == {"click_rate"}
    assert exposure_curves(EXPOSURES.assign(propensity=1.0))["propensities"][-1] == (0.0, 1.0)


def shown(**values) -> pd.DataFrame:
    """Six exposures a minute apart, of which the first is clicked, with other values by column."""
    frame = pd.DataFrame({"user": 0, "item": range(6), "timestamp": [60 * n for n in range(6)], "click": False})
    frame = frame.assign(ranking=-1, position=pd.array([1] * 6, dtype="Int64"), propensity=0.5)
    frame.loc[0, "click"] = True
    return frame.assign(**values)


def test_exposures_that_are_likely_give_no_warning():
    assert unlikely_exposures(shown()) == [] and unlikely_exposures(pd.DataFrame()) == []
    assert unlikely_exposures(shown(item=[0, 1, 0, 1, 0, 1])) == []  # shown again, as often without a click


def test_clicks_alone_are_no_exposures():
    (warning,) = unlikely_exposures(shown(click=True, propensity=np.nan))
    assert warning.text.startswith("100% of the 6 exposures are clicked") and warning.harm == "wrong"
    assert "set `data.columns.position: null` if" in warning.text


def test_rows_of_clicks_are_no_exposures_of_their_own():
    """Items 0 and 1 are shown, then clicked; items 2 and 3 are shown."""
    both = shown(item=[0, 1, 0, 1, 2, 3], click=[False, False, True, True, False, False])
    (warning,) = unlikely_exposures(both)
    assert warning.text.startswith("100% of the clicked exposures without a `ranking_id` come within an hour")
    assert "leave `position` and `propensity` empty in rows that are no impressions" in warning.text
    assert unlikely_exposures(both.assign(timestamp=[0, 0, 3601, 3601, 0, 0])) == []
    assert unlikely_exposures(both.assign(ranking=[0, 1, 2, 3, 4, 5])) == []


def test_a_large_position_is_no_rank():
    (warning,) = unlikely_exposures(shown(position=pd.array([1, 2, 3, 4, 5, 48_137], dtype="Int64")))
    assert "The largest position of an exposure is 48,137" in warning.text
    assert "`data.columns.position: null`" in warning.text
