"""From a raw log to histories, targets and files."""

import json
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from llmrec.data.dataset import InteractionData, Targets, load_data, save_data
from llmrec.data.histories import known_purchases, natural_key
from llmrec.data.prepare import build_data, prepare_stage
from llmrec.data.readers import RawLog
from llmrec.errors import ConfigError, DataError, RunError
from tests.data.logs import config, raw_log

ROWS = [
    ("u10", "a", 10, 5.0),
    ("u10", "b", 20, 2.0),
    ("u10", "a", 30, 1.0),  # a second time: the first counts
    ("u10", "c", 40, 4.0),
    ("u2", "d", 35, 3.0),
    ("u2", "a", 15, 4.0),
    ("u2", "b", 25, 5.0),
]


def test_histories_are_first_clicks_in_time_order():
    data = build_data(raw_log(ROWS), config(), seed=0)
    assert data.users["user_id"].tolist() == ["u2", "u10"]
    assert [history.tolist() for history in data.histories] == [[0, 1, 3], [0, 1, 2]]
    assert [bought.tolist() for bought in data.purchases] == [[True, True, False], [True, False, True]]
    assert [times.tolist() for times in data.timestamps] == [[15, 25, 35], [10, 20, 40]]
    assert data.train_lengths.tolist() == [1, 1]
    assert data.items["item_id"].tolist() == list("abcde")  # e has no events and stays


def test_natural_order():
    assert sorted(["10", "9", "u10", "u9", "1a", "1"], key=natural_key) == ["1", "1a", "9", "10", "u9", "u10"]


def test_ties_do_not_depend_on_the_order_of_the_file_but_on_the_seed():
    rows = [(f"u{user}", item, 7, 5.0) for user in range(10) for item in "abcde"]
    forward = build_data(raw_log(rows), config(), seed=0)
    backward = build_data(raw_log(rows[::-1]), config(), seed=0)
    other = build_data(raw_log(rows), config(), seed=1)
    order = np.concatenate(forward.histories).tolist()
    assert order == np.concatenate(backward.histories).tolist()
    assert order != np.concatenate(other.histories).tolist()
    assert len({tuple(history) for history in forward.histories}) > 1  # not by item id
    assert forward.card["tied_events"] == 1.0


def test_both_splits_share_one_training_prefix():
    rows = [("u", item, time, 5.0) for time, item in enumerate("abcde")] + [
        ("v", item, time, 5.0) for time, item in enumerate("abc", start=10)
    ]
    both = config(splits=["temporal", "leave_one_out"], temporal_valid=0.25, temporal_test=0.25)
    data = build_data(raw_log(rows), both, seed=0)
    # Eight clicks: the fifth (u's e, time 4) starts validation, the seventh (v's b) the test.
    assert data.targets["temporal"]["valid"].users.tolist() == [0]
    assert data.targets["temporal"]["valid"].positions.tolist() == [4]
    assert data.targets["temporal"]["test"].positions.tolist() == [1, 2]
    # u: temporal leaves 4, leave-one-out 3. v: temporal 0, leave-one-out 1.
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
        ("u", "b", 5, "click", None, None, None),  # organic: no impression
        ("u", "c", 6, "click", None, None, None),
    ]
    log = raw_log(rows, "user_id item_id timestamp event_type ranking_id position propensity")
    data = build_data(log, config(click=["click"], purchase=[]), seed=0)
    assert data.exposures["item"].tolist() == [0, 1]
    assert data.exposures["click"].tolist() == [True, False]
    assert data.exposures["position"].tolist() == [0, 1]
    assert data.exposures["propensity"].tolist() == [0.5, 0.25]


def _with_everything() -> RawLog:
    rows = [(*row, f"r{number}", number, 0.5) for number, row in enumerate(ROWS)]
    log = raw_log(rows, "user_id item_id timestamp rating ranking_id position propensity")
    users = pd.DataFrame({"user_id": ["u2"], "age": ["24"]}, dtype="str")
    facts = pd.DataFrame({"head": ["b"], "relation": ["director"], "tail": ["T. Gilliam"], "named": [True]})
    items = log.items.assign(price=[1.5, None, 2.0, 3.0, 4.0])
    return RawLog(events=log.events, items=items, users=users, facts=facts)


def test_roundtrip(tmp_path):
    data = build_data(_with_everything(), config(), seed=0)
    save_data(data, tmp_path / "data")
    loaded = load_data(tmp_path / "data")
    for field in fields(data):
        old, new = getattr(data, field.name), getattr(loaded, field.name)
        if isinstance(old, pd.DataFrame):
            pd.testing.assert_frame_equal(old, new)
        elif isinstance(old, list):
            assert old, field.name
            for a, b in zip(old, new, strict=True):
                assert a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        elif field.name == "train_lengths":
            assert old.tolist() == new.tolist() and old.dtype == new.dtype
        elif field.name == "card":
            assert old == new
    for split, parts in data.targets.items():
        for part, targets in parts.items():
            assert loaded.targets[split][part].users.tolist() == targets.users.tolist()
            assert loaded.targets[split][part].positions.tolist() == targets.positions.tolist()
    assert data.users["age"].tolist() == ["24", ""]
    assert data.facts["item"].tolist() == [1]
    assert len(data.exposures) == 7


def test_load_without_a_finished_stage(tmp_path):
    with pytest.raises(RunError, match="run the prepare stage first"):
        load_data(tmp_path)


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


def test_duplicate_item_and_empty_title():
    log = raw_log(ROWS)
    twice = pd.concat([log.items, log.items.iloc[:1]], ignore_index=True)
    twice.index += 1
    with pytest.raises(DataError, match=r"row 6: `item_id` is 'a'; .*also on row 1"):
        build_data(RawLog(events=log.events, items=twice), config(), seed=0)
    untitled = log.items.assign(title=["A", " ", "C", "D", "E"])
    with pytest.raises(DataError, match=r"row 2: `title` is ' '"):
        build_data(RawLog(events=log.events, items=untitled), config(), seed=0)


def test_short_users_are_dropped_and_counted_when_asked():
    rows = [*ROWS, ("u7", "a", 1, 1.0), ("u8", "b", 1, 1.0)]
    data = build_data(raw_log(rows), config(min_user_events=3), seed=0)
    assert data.users["user_id"].tolist() == ["u2", "u10"]
    assert data.card["dropped_users"] == 2
    assert data.card["events"] == 7


def _run(directory: Path, **values):
    """The part of a run that the stage uses; `finished` collects what it reports."""
    finished = {}

    def begin(stage):
        (directory / stage).mkdir(parents=True, exist_ok=True)
        (directory / stage / "started.json").write_text("{}")

    return SimpleNamespace(
        config=SimpleNamespace(data=config(**values), seed=0),
        path=lambda *parts: directory.joinpath(*parts),
        begin=begin,
        finish=finished.__setitem__,
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
    assert run.finished["data"]["users"] == 2
    assert load_data(tmp_path / "run" / "data").num_items == 3


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


def test_a_purchase_after_the_training_part_is_not_known_in_it():
    # Two users of four clicks; training is the first two. Item 0 is bought in time, item 1 only after the cut.
    history = pd.DataFrame(
        {
            "timestamp": [1, 2, 3, 4, 1, 2, 3, 4],
            "bought_at": [2, 9, 9, np.nan, 3, np.nan, 4, 5],
        }
    )
    known = known_purchases(history, np.array([4, 4]), np.array([2, 2]))
    assert known.tolist() == [True, False, True, False, True, False, True, True]


def test_models_are_never_chosen_on_events_of_the_temporal_test():
    targets = {
        "leave_one_out": {"valid": Targets(np.array([0, 1]), np.array([1, 1]))},
        "temporal": {"test": Targets(np.array([1]), np.array([2]))},
    }
    data = InteractionData(
        items=pd.DataFrame({"item_id": list("abc")}),
        users=pd.DataFrame({"user_id": ["u", "v"]}),
        facts=pd.DataFrame(),
        histories=[np.arange(3), np.arange(3)],
        purchases=[np.zeros(3, bool)] * 2,
        timestamps=[np.array([1, 2, 3]), np.array([1, 5, 4])],
        train_lengths=np.array([1, 1]),
        targets=targets,
    )
    assert data.selection_targets().users.tolist() == [0]  # user 1's validation event lies after the test began


def test_a_purchase_is_known_from_its_time_on(tmp_path):
    """User u clicks a to e at 0, 10, ..., 40 and buys a at once, b at 35, and d, which is held out, at 45."""
    rows = [(user, item, "click", 10 * number) for user in "uv" for number, item in enumerate("abcde")]
    rows += [("u", "a", "buy", 0), ("u", "b", "buy", 35), ("u", "d", "buy", 45)]
    log = raw_log(rows, "user_id item_id event_type timestamp")
    data = build_data(log, config(click=["click"], purchase=["buy"]), seed=0)
    save_data(data, tmp_path / "data")
    for one in (data, load_data(tmp_path / "data")):
        assert one.purchases[0].tolist() == [True, False, False, True, False]
        assert one.purchases_before(0, 4).tolist() == [True, True, False, False]
        assert one.purchases_before(0, 5).tolist() == [True, True, False, True, False]
    without = replace(data, bought_at=[])
    assert without.purchases_before(0, 4).tolist() == [True, False, False, True]
