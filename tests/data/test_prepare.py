"""The prepare stage: from a raw log to histories, targets, the card and files."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from llmrec.data.dataset import load_data
from llmrec.data.prepare import build_data, prepare_stage
from llmrec.data.readers import RawLog, read_log
from llmrec.errors import ConfigError, DataError
from tests.data.logs import ROWS, config, raw_log


def test_histories_are_first_clicks_in_time_order():
    data = build_data(raw_log(ROWS), config(), seed=0)
    assert data.users["user_id"].tolist() == ["u2", "u10"]
    assert [history.tolist() for history in data.histories] == [[0, 1, 3], [0, 1, 2]]
    assert [bought.tolist() for bought in data.purchases] == [[True, True, False], [True, False, True]]
    assert [times.tolist() for times in data.timestamps] == [[15, 25, 35], [10, 20, 40]]
    assert data.train_lengths.tolist() == [1, 1]
    assert data.items["item_id"].tolist() == list("abcde")  # e has no events and is kept


def test_order_of_equal_timestamps_depends_on_the_seed_and_not_on_the_file():
    rows = [(f"u{user}", item, 7, 5.0) for user in range(10) for item in "abcde"]
    forward = build_data(raw_log(rows), config(), seed=0)
    backward = build_data(raw_log(rows[::-1]), config(), seed=0)
    other = build_data(raw_log(rows), config(), seed=1)
    order = np.concatenate(forward.histories).tolist()
    assert order == np.concatenate(backward.histories).tolist()
    assert order != np.concatenate(other.histories).tolist()
    assert len({tuple(history) for history in forward.histories}) > 1  # the order is not by item id
    assert forward.card["tied_events"] == 1.0


def test_impressions_are_no_ties():
    rows = [("u", item, 100 + n, "click") for n, item in enumerate("abcd")]
    rows += [("u", item, 99, "impression") for item in "abcde"]
    columns = "user_id item_id timestamp event_type"
    assert build_data(raw_log(rows, columns), config(click=["click"], purchase=[]), seed=0).card["tied_events"] == 0
    tied = [*rows, ("u", "e", 103, "click")]
    assert build_data(raw_log(tied, columns), config(click=["click"], purchase=[]), seed=0).card["tied_events"] == 2 / 5


def test_both_splits_share_one_training_prefix():
    rows = [("u", item, time, 5.0) for time, item in enumerate("abcde")]
    rows += [("v", item, time, 5.0) for time, item in enumerate("abc", start=10)]
    both = config(splits=["temporal", "leave_one_out"], temporal_valid=0.25, temporal_test=0.25)
    data = build_data(raw_log(rows), both, seed=0)
    # Of eight clicks, the fifth (u's e at time 4) starts validation and the seventh (v's b) starts the test.
    assert data.targets["temporal"]["valid"].users.tolist() == [0]
    assert data.targets["temporal"]["valid"].positions.tolist() == [4]
    assert data.targets["temporal"]["test"].positions.tolist() == [1, 2]
    # The temporal split leaves 4 clicks of u and none of v, leave-one-out leaves 3 and 1.
    assert data.train_lengths.tolist() == [3, 0]
    assert data.card["splits"]["temporal"]["train"] == 4
    assert data.card["train_clicks"] == 3


def test_card_counts():
    card = build_data(raw_log(ROWS), config(), seed=3).card
    assert (card["users"], card["items"], card["events"], card["clicks"]) == (2, 5, 7, 6)
    assert (card["purchases"], card["purchase_events"], card["items_without_events"]) == (4, 4, 1)
    assert card["density"] == pytest.approx(0.6)
    assert card["time"] == {"first": "1970-01-01T00:00:10+00:00", "last": "1970-01-01T00:00:40+00:00"}
    assert card["tie_break"]["seed"] == 3
    assert card["splits"]["leave_one_out"]["test"] == {"targets": 2, "users": 2}
    json.dumps(card, allow_nan=False)


def test_exposures_join_the_events_of_one_ranking():
    rows = [
        ("u", "a", 1, "view", "r1", 0, 0.5),
        ("u", "a", 3, "click", "r1", None, None),
        ("u", "b", 1, "view", "r1", 1, 0.25),
        ("u", "b", 5, "click", None, None, None),  # a click without a ranking is no impression
        ("u", "c", 6, "click", None, None, None),
        ("u", "c", 9, "view", None, 0, 0.1),  # an impression that names no list
    ]
    log = raw_log(rows, "user_id item_id timestamp event_type ranking_id position propensity")
    data = build_data(log, config(click=["click"], purchase=[]), seed=0)
    assert data.exposures["item"].tolist() == [0, 1, 2]
    assert data.exposures["click"].tolist() == [True, False, False]
    assert data.exposures["position"].tolist() == [0, 1, 0]
    assert data.exposures["propensity"].tolist() == [0.5, 0.25, 0.1]
    assert data.exposures["ranking"].tolist() == [0, 0, -1]


@pytest.mark.parametrize(
    ("log", "changes", "parts"),
    [
        (raw_log([]), {}, ["there are no events"]),
        (
            raw_log([*ROWS, ("u2", "z", 1, 1.0)]),
            {},
            ["row 8", "`item_id` is 'z'", "an item of the item table"],
        ),
        (
            raw_log([*ROWS, ("u7", "a", 1, 1.0)]),
            {},
            ["1 of 3 users", "'u7' (1)", "data.min_user_events", "fewer than 3"],
        ),
        (raw_log(ROWS), {"min_user_events": 4}, ["No user clicked 4", "The most is 3"]),
        (
            raw_log(ROWS),
            {"click": ["rating>9"], "purchase": ["rating>9"]},
            ["no event matches", "rating>9", "go from 1 to 5"],
        ),
        (raw_log(ROWS), {"splits": ["temporal"]}, ["temporal split has no valid targets", "temporal_valid"]),
    ],
)
def test_bad_logs(log, changes, parts):
    with pytest.raises(DataError) as error:
        build_data(log, config(**changes), seed=0)
    assert error.value.exit_code == 2
    for part in parts:
        assert part in str(error.value)


def test_no_training_data_is_an_error():
    rows = [(user, item, 7, 5.0) for user in "uv" for item in "abc"]
    with pytest.raises(DataError, match="no (training data|valid targets)"):
        build_data(raw_log(rows), config(splits=["temporal"]), seed=0)


def test_two_different_rows_of_an_item_are_an_error():
    log = raw_log(ROWS)
    twice = pd.concat([log.items, log.items.iloc[:1].assign(title="Aliens")], ignore_index=True)
    twice.index += 1
    with pytest.raises(DataError, match=r"row 6: `item_id` is 'a'; .*also on row 1"):
        build_data(RawLog(events=log.events, items=twice), config(), seed=0)


def test_short_users_are_dropped_and_counted_when_asked():
    rows = [*ROWS, ("u7", "a", 1, 1.0), ("u8", "b", 1, 1.0)]
    data = build_data(raw_log(rows), config(min_user_events=3), seed=0)
    assert data.users["user_id"].tolist() == ["u2", "u10"]
    assert data.card["dropped_users"] == 2
    assert data.card["events"] == 7


def _run(directory: Path, **values):
    """A stand-in for a run; `finished` collects what the stage reports."""
    finished = {}

    def begin(stage):
        (directory / stage).mkdir(parents=True, exist_ok=True)
        (directory / stage / "started.json").write_text("{}")

    return SimpleNamespace(
        config=SimpleNamespace(data=config(**values), seed=0),
        path=directory.joinpath,
        begin=begin,
        finish=lambda stage, metrics, inputs: finished.update({stage: metrics}),
        finished=finished,
    )


def _write_tables(directory: Path, last_user: str = "v") -> dict[str, str]:
    lines = [f"u,{item},{time},5" for time, item in enumerate("abc")]
    lines += [f"{last_user},{item},{time},5" for time, item in enumerate("abc")]
    (directory / "log.csv").write_text("user_id,item_id,timestamp,rating\n" + "\n".join(lines) + "\n")
    (directory / "items.csv").write_text("item_id,title\na,Alien\nb,Brazil\nc,Contact\n")
    return {"path": str(directory / "log.csv"), "items": str(directory / "items.csv")}


def test_stage_writes_and_reports(tmp_path):
    run = _run(tmp_path / "run", **_write_tables(tmp_path))
    prepare_stage(run)
    reported = run.finished["data"]
    assert reported["users"] == 2 and reported["examples"] == {}
    assert reported["summary"][0].startswith("6 events read, 0 in no history; 6 clicks, 6 purchases; 2 users")
    assert reported["summary"][1].startswith("warning: The first event is from 1970-01-01 (log.csv, line 2)")
    assert reported["losses"]["events_read"] == 6
    assert load_data(tmp_path / "run" / "data").num_items == 3


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("change", ["longer", "shorter"])
def test_a_log_that_changes_between_two_passes_is_refused(tmp_path, monkeypatch, suffix, change):
    """Also where the shorter file has rows that look wrong, or none that do."""
    write_tables = _write_tables(tmp_path)
    frame = pd.read_csv(write_tables["path"])
    path = tmp_path / f"log{suffix}"

    def write(rows: pd.DataFrame) -> None:
        if suffix == ".csv":
            rows.to_csv(path, index=False)
        elif suffix == ".jsonl":
            rows.to_json(path, orient="records", lines=True)
        else:
            rows.to_parquet(path)

    def read_then_change(section):
        log = read_log(section)
        write(pd.concat([frame, frame]) if change == "longer" else frame.iloc[:3])
        return log

    write(frame)
    monkeypatch.setattr("llmrec.data.prepare.read_log", read_then_change)
    run = _run(tmp_path / "run", path=str(path))
    with pytest.raises(DataError, match=rf"log{suffix}: the file changed while it was read"):
        prepare_stage(run)
    assert not list(tmp_path.glob("run/data*"))


def test_stage_writes_nothing_on_failure(tmp_path):
    run = _run(tmp_path / "run", **_write_tables(tmp_path, last_user=""))
    with pytest.raises(DataError, match=r"log.csv, line 5: `user_id` is empty"):
        prepare_stage(run)
    assert list((tmp_path / "run").iterdir()) == []
    assert run.finished == {}


def test_stage_keeps_an_earlier_result_on_failure(tmp_path):
    tables = _write_tables(tmp_path)
    prepare_stage(_run(tmp_path / "run", **tables))
    with pytest.raises(ConfigError, match="data.click"):
        prepare_stage(_run(tmp_path / "run", **tables, click=["buy"]))
    assert load_data(tmp_path / "run" / "data").num_users == 2
