"""The prepared data and its files."""

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest

from llmrec.data.dataset import InteractionData, Targets, load_data, save_data
from llmrec.data.prepare import build_data
from llmrec.data.readers import RawLog
from llmrec.errors import RunError
from tests.data.logs import ROWS, config, raw_log


def full_log() -> RawLog:
    """A log with users, facts, exposures and an extra item column."""
    rows = [(*row, f"r{number}", number, 0.5) for number, row in enumerate(ROWS)]
    log = raw_log(rows, "user_id item_id timestamp rating ranking_id position propensity")
    users = pd.DataFrame({"user_id": ["u2"], "age": ["24"]}, dtype="str")
    facts = pd.DataFrame({"head": ["b"], "relation": ["director"], "tail": ["T. Gilliam"], "named": [True]})
    items = log.items.assign(price=[1.5, None, 2.0, 3.0, 4.0])
    return RawLog(events=log.events, items=items, users=users, facts=facts)


def test_saved_data_is_read_back(tmp_path):
    data = build_data(full_log(), config(), seed=0)
    save_data(data, tmp_path / "data")
    loaded = load_data(tmp_path / "data")
    for field in fields(data):
        old = getattr(data, field.name)
        new = getattr(loaded, field.name)
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


def test_selection_targets_lie_before_the_temporal_test():
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
    assert data.selection_targets().users.tolist() == [0]  # the validation click of user 1 lies in the test window


def test_a_purchase_is_known_from_its_time_on(tmp_path):
    # User u clicks a to e at 0, 10, ..., 40 and buys a at 0, b at 35 and the held-out d at 45.
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
