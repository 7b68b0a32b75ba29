"""Exposures: what makes one impression, and what the dataset card says of them, by hand."""

import numpy as np
import pandas as pd
import pytest

from llmrec.data.exposures import check_exposures, exposure_curves, find_exposures


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
