"""From rows to users: typed rows, enrollment and outcomes, by hand and against pandas."""

import numpy as np
import pandas as pd
import pytest

from llmrec.ab_test.enrollment import DAY, day_text, enroll, seconds_of
from llmrec.ab_test.log import Events, read_events, typed_events
from llmrec.ab_test.outcomes import measure
from llmrec.config import ABTestConfig
from llmrec.data.readers.raw import Source, Table
from llmrec.errors import ConfigError, DataError
from tests.ab_test import EXAMPLE, config_of

START = seconds_of("2026-03-01")
HOUR = 3600
COLUMNS = {"data": {"path": "log.csv"}}


def events_of(rows: list[tuple], config: ABTestConfig, skip: bool = False) -> Events:
    """Events from rows of user, hours since the start, arm, click, purchase and rating."""
    frame = pd.DataFrame(rows, columns=["user_id", "hour", "arm", "click", "purchase", "rating"])
    frame["timestamp"] = START + (frame.pop("hour") * HOUR).astype(int)
    frame.index = pd.RangeIndex(2, len(frame) + 2)
    return typed_events(Table(frame, Source("log.csv", "line", skip)), config)


def plain_config(**changes) -> ABTestConfig:
    """No salt, so any arm is as assigned."""
    return config_of(salt=None, **(COLUMNS | changes))


ROWS = [
    ("ann", -50, None, 1, 0, 4),
    ("ann", -49.9, None, 0, 0, None),
    ("ann", -1, "live", 1, 0, None),  # before the start: no exposure of this test
    ("ann", 10, "live", 1, 1, 5),
    ("ann", 10.1, "live", 0, 0, None),
    ("ann", 40, None, 1, 0, 2),  # no arm, but the user is in the test
    ("ann", 10 + 7 * 24, "live", 1, 1, 1),  # the first second after the seven days
    ("bob", 30, "new", 0, 0, None),
    ("bob", 31, "new", 1, 0, 3),
    ("cat", -20, None, 1, 0, None),  # never exposed
    ("dan", 10 * 24, "new", 1, 0, None),  # after the last day
]


def values_of(metric: str) -> dict[str, list[float]]:
    """Numerator, denominator, and those of the covariate, by user."""
    config = plain_config()
    events = events_of(ROWS, config)
    enrollment = enroll(events, config)
    chosen = next(one for one in config.metrics if one.name == metric)
    found = measure(events, enrollment, chosen, covariate_days=7)
    return dict(zip(events.ids[enrollment.user], found.values.tolist(), strict=True))


@pytest.mark.parametrize(
    ("metric", "ann", "bob"),
    [
        ("click_rate", [2, 3, 2, 3], [1, 2, 0, 0]),
        ("conversion", [1, 1, 0, 1], [0, 1, 0, 1]),
        ("satisfaction", [7, 2, 4, 1], [3, 1, 0, 0]),
        ("retention", [1, 1, 2, 1], [0, 1, 0, 1]),  # ann had events on two days before
        # ann: two sessions; before, the rows are 49.9 and 50 hours, and 1 hour before the start: two sessions.
        ("session_length", [3, 2, 3, 2], [2, 2, 0, 0]),
    ],
)
def test_outcomes_by_hand(metric, ann, bob):
    assert values_of(metric) == {"ann": ann, "bob": bob}


def test_enrollment_by_hand():
    config = plain_config()
    events = events_of(ROWS, config)
    found = enroll(events, config)
    assert events.ids[found.user].tolist() == ["ann", "bob"]
    assert found.arm.tolist() == [0, 1] and found.day.tolist() == [0, 1]
    assert ((found.first - START) / HOUR).tolist() == [10, 30]
    assert measure(events, found, config.metrics[0], None).ready.tolist() == [
        START + 10 * HOUR + 7 * DAY,
        START + 30 * HOUR + 7 * DAY,
    ]
    assert enroll(events, config, START + DAY).user.tolist() == [0]
    # Days after the end of the log are not observed, so no user's days are over there.
    assert enroll(events, config, START + 90 * DAY).until == found.until == START + 10 * DAY + 1
    assert day_text(START) == "2026-03-01"


def test_outcomes_are_those_of_pandas(log, config):
    """An independent computation of the click rate and of sessions for every user of a generated log."""
    events = typed_events(Table(log, Source()), config)
    enrollment = enroll(events, config)
    exposed = log[log["arm"].notna()]
    first = exposed.groupby("user_id")["timestamp"].min()
    first = first[first < START + 10 * DAY]
    rows = log[log["user_id"].isin(first.index)]
    since = rows["timestamp"] - rows["user_id"].map(first)
    inside = rows[(since >= 0) & (since < 7 * DAY)].groupby("user_id")
    before = rows[(since < 0) & (since >= -7 * DAY)].groupby("user_id")
    ids = events.ids[enrollment.user]
    assert len(ids) == len(first) > 300
    for metric, numerator, denominator in (
        ("click_rate", lambda part: part["click"].sum(), lambda part: part.size()),
        ("session_length", lambda part: part.size(), lambda part: part["session_id"].nunique()),
    ):
        chosen = next(one for one in config.metrics if one.name == metric)
        parts = [numerator(inside), denominator(inside), numerator(before), denominator(before)]
        expected = np.column_stack([part.reindex(ids).fillna(0) for part in parts])
        assert measure(events, enrollment, chosen, 7).values == pytest.approx(expected)


def test_rules_name_event_types_and_a_rate_has_its_own_denominator():
    metric = {"name": "buys", "kind": "rate", "event": "buy", "per": "view", "role": "primary"}
    config = plain_config(
        metrics=[metric], data={"path": "log.csv", "columns": {"event_type": "kind"}}, covariate_days=None
    )
    kinds = ["view", "view", "buy", "open"]
    frame = pd.DataFrame({"user_id": "a", "timestamp": START, "arm": "live", "kind": kinds})
    events = typed_events(Table(frame, Source()), config)
    assert measure(events, enroll(events, config), config.metrics[0], None).values.tolist() == [[1, 2, 0, 0]]
    wrong = config.metrics[0].model_copy(update={"per": "views"})
    with pytest.raises(ConfigError, match=r"metrics.buys.per.*Did you mean `view`"):
        measure(events, enroll(events, config), wrong, None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("ann", 1, "lve", 0, 0, None), r"line 2: `arm` is 'lve'.*Did you mean `live`"),
        (("", 1, "live", 0, 0, None), r"line 2: `user_id` is empty"),
        (("ann", -1e6, "live", 0, 0, None), r"line 2: `timestamp` is -"),
    ],
)
def test_bad_rows_are_errors_or_counted(row, message):
    rows = [row, ("bob", 1, "live", 0, 0, None)]
    with pytest.raises(DataError, match=message):
        events_of(rows, plain_config())
    events = events_of(rows, plain_config(), skip=True)
    assert len(events.user) == 1 and [loss.count for loss in events.source.losses.values()] == [1]
    with pytest.raises(DataError, match="all rows were left out"):
        events_of([row], plain_config(), skip=True)


def test_the_column_of_a_mean_must_hold_numbers():
    config = plain_config()
    satisfaction = config.metrics[2]
    for values, message in (([None, "good"], "'good'; expected a finite number"), ([None, None], "holds no number")):
        events = events_of([("a", 1, "live", 0, 0, value) for value in values], config)
        with pytest.raises(DataError, match=message):
            measure(events, enroll(events, config), satisfaction, None)
    events = events_of([("a", 1, "live", 0, 0, 4), ("a", 1, "live", 0, 0, "?")], config, skip=True)
    assert measure(events, enroll(events, config), satisfaction, None).values.tolist() == [[4, 1, 0, 0]]
    assert events.source.losses["unusable rating"].count == 1
    with pytest.raises(DataError, match=r"`metrics.satisfaction.column` is `stars`; the log has click, pu"):
        measure(events, enroll(events, config), satisfaction.model_copy(update={"column": "stars"}), None)


def test_users_in_two_arms_are_left_out_and_many_are_an_error():
    rows = [(f"u{n}", 1, "live", 0, 0, None) for n in range(2000)]
    later = [("u1", 400, "new", 0, 0, None), ("u2", 2, "new", 0, 0, None)]  # one of them after the last day
    found = enroll(events_of(rows + later, plain_config()), plain_config())
    assert found.in_two_arms == 2 and len(found.user) == 1998
    with pytest.raises(DataError, match=r"3 of 2,000 users are in two arms; expected at most 0.1%"):
        enroll(events_of([*rows, *later, ("u3", 2, "new", 0, 0, None)], plain_config()), plain_config())


def test_a_log_of_another_salt_or_other_shares_is_an_error(log, config):
    events = typed_events(Table(log, Source("log.csv")), config)
    assert enroll(events, config).in_other_arm == 0
    for changed in (config_of(salt="other"), config_of(name="other"), config_of(arms={"new": 0.5, "live": 0.5})):
        other = typed_events(Table(log, Source("log.csv")), changed)
        with pytest.raises(DataError, match=r"are in another arm than the hash.*start a test of another name"):
            enroll(other, changed)
    shares = config_of(arms={"live": 0.4, "new": 0.6})
    with pytest.raises(DataError, match=r"the propensity of the arm `\w+` is 0.5 .*expected its share, 0.[46]"):
        enroll(typed_events(Table(log, Source("log.csv")), shares), shares)


def test_a_log_without_exposures_is_an_error():
    with pytest.raises(DataError, match="no row with an arm lies between 2026-03-01 and 2026-03-11"):
        enroll(
            events_of([("ann", -1, "live", 0, 0, None), ("ann", 500, None, 0, 0, None)], plain_config()), plain_config()
        )


def test_the_example_names_every_kind_of_metric():
    assert {one["kind"] for one in EXAMPLE["metrics"]} == {
        "rate",
        "conversion",
        "mean",
        "session_length",
        "retention",
    }


def test_decimal_commas_are_read_where_numbers_belong(tmp_path):
    lines = ["ann;2026-03-01;live;0,5;1;0;4,5;1,5", "bob;2026-03-02;new;0,5;0;0;2;2,5"]
    header = "user_id;timestamp;arm;propensity;click;purchase;rating;note"
    (tmp_path / "log.csv").write_text("\n".join([header, *lines]) + "\n")
    data = {"path": str(tmp_path / "log.csv"), "columns": {"propensity": "propensity"}}
    found = read_events(config_of(data=data))
    assert found.propensity.tolist() == [0.5, 0.5]
    assert found.columns["rating"].astype(float).tolist() == [4.5, 2.0]
    assert found.columns["note"].tolist() == ["1,5", "2,5"]  # no metric reads it
    (tmp_path / "log.csv").write_text(f"{header}\n{lines[0].replace('4,5', '1,234')}\n")
    with pytest.raises(DataError, match=r"log.csv, line 2: `rating` is '1,234', which may be .*`data.decimal: ','`"):
        read_events(config_of(data=data))
    decided = read_events(config_of(data=data | {"decimal": ","}))
    assert decided.columns["rating"].astype(float).tolist() == [1.234]
