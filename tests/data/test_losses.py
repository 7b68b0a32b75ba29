"""Counts of what became of a log's rows, and warnings about ratios that are unlikely to be meant."""

import json
from dataclasses import replace

import pandas as pd

from llmrec.data.losses import summary
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from tests.data.logs import ROWS, config, raw_log

DAY = 86400
# Times from 2001 on, so that nothing is unusual.
NORMAL = [(user, item, 10**9 + time * DAY, rating) for user, item, time, rating in ROWS]


def losses(log, **values) -> dict:
    card = build_data(log, config(**values), seed=0).card
    json.dumps(card, allow_nan=False)
    return card["losses"]


def warned(log, **values) -> str:
    return " ".join(losses(log, **values)["warnings"])


def test_a_normal_log_has_no_warnings():
    assert losses(raw_log(NORMAL)) == {
        "events_read": 7,
        "events_left_out": {"repeated click on an item": 1},
        "users_with_attributes": 0,
        "items_with_facts": 5,
        "warnings": [],
    }


def test_events_are_counted_by_what_became_of_them():
    rows = [*NORMAL, ("u7", "a", 10**9, 1.0), ("u2", "c", 10**9, 0.0)]
    log = raw_log(rows)
    found = losses(log, click=["rating>=1"], min_user_events=3)
    assert found["events_read"] == 9
    assert found["events_left_out"] == {
        "user with too few clicks": 1,
        "neither click nor purchase": 1,
        "repeated click on an item": 1,
    }
    assert "Apart from repeated clicks, 2 of 9 events (22%) are in no history" in found["warnings"][0]


def test_event_types_that_no_rule_matches_are_named():
    """One of them with all its counts, but none of a type whose events are all exposures."""
    columns = "user_id item_id timestamp rating event_type position"
    rows = [(*row, "view", pd.NA) for row in NORMAL]
    rows += [("u1", "b", 10**9, 1.0, "buy", pd.NA)] * 3 + [("u1", "a", 10**9, 1.0, "sale", 1)]
    rows += [("u9", "a", 10**9, 1.0, "sale", pd.NA), ("u1", "a", 10**9, 1.0, "shown", 1)]
    found = warned(raw_log(rows, columns), click=["view"], purchase=[], min_user_events=3)
    assert "No rule matches the event types `buy` (3), `sale` (2). Add" in found and "shown" not in found
    assert "No rule" not in warned(raw_log(rows, columns), click=["view", "sale"], purchase=["buy"], min_user_events=3)


def test_the_largest_loss_names_the_key_that_mends_it():
    rows = [*NORMAL, *((f"v{n}", "a", 10**9, 1.0) for n in range(9))]
    assert "user with too few clicks (9). Lower `data.min_user_events`" in warned(raw_log(rows), min_user_events=3)
    rows = [*NORMAL, *(("u2", "a", 10**9 + n, 0.0) for n in range(9))]
    assert "Check `data.click`" in warned(raw_log(rows), click=["rating>=1"])


def test_views_in_a_log_of_exposures_are_no_loss():
    rows = [(*row, 1) for row in NORMAL]
    rows += [("u2", "a", 10**9 + n, 0.0, 2) for n in range(9)]
    log = raw_log(rows, "user_id item_id timestamp rating position")
    assert warned(log, click=["rating>=1"]) == ""


def test_purchases_without_a_match():
    log = raw_log([(user, item, time, 1.0) for user, item, time, _ in NORMAL])
    assert "`data.purchase` (rating>=4)" in warned(log)
    assert warned(log, purchase=[]) == ""


def test_purchases_that_no_history_may_show():
    """The only purchase comes 10 days after the first held-out click of its user; it repeats the first click."""
    rows = [("u", item, 10**9 + DAY * time, 1.0) for time, item in enumerate("abc")]
    rows += [("u", "a", 10**9 + DAY * 12, 5.0)]
    found = warned(raw_log(rows, items=3))
    assert "1 events are purchases, but none comes before" in found
    assert "No event is a purchase" not in found


def test_missing_titles_name_a_table_that_the_format_has(tmp_path):
    (tmp_path / "shop").mkdir()
    lines = [f"{user}\t{item}\t{10**9 + DAY * item}" for user in (1, 2) for item in (1, 2, 3)]
    log = tmp_path / "shop" / "shop.inter"
    log.write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "\n".join(lines) + "\n")

    def of_recbole() -> str:
        section = config(format="recbole", path=str(log.parent), click=["interaction"], purchase=[])
        return warned(read_log(section), **section.model_dump(exclude_unset=True))

    assert "3 of 3 items have no title" in of_recbole() and "Add NAME.item with the columns" in of_recbole()
    items = log.with_suffix(".item")
    items.write_text("item_id:token\ttitle:token_seq\n1\tAlien\n2\t\n3\tBrazil\n")
    assert "1 of 3 items have no title" in of_recbole() and "Complete the titles in shop.item" in of_recbole()
    assert "data.items" not in of_recbole()


def test_unusual_times():
    assert "from 1970-01-01 (the event log, row 1)" in warned(raw_log(ROWS))
    assert "All events have the same time" in warned(raw_log([(*row[:2], 10**9, row[3]) for row in NORMAL]))
    future = [*NORMAL, ("u2", "e", 4 * 10**9, 5.0)]
    assert "1 event is in the future, on 2096-10-02 (the event log, row 8)" in warned(raw_log(future))
    assert warned(replace(raw_log(ROWS), timed=False)) == ""


def test_items_without_events():
    rows = [row for row in NORMAL if row[1] in "ab"]
    rows += [(user, "c", 10**9 + 90 * DAY, 5.0) for user in ("u2", "u10")]
    log = raw_log(rows)
    more = pd.DataFrame({"item_id": list("fghi"), "title": list("FGHI"), "categories": [[]] * 4, "year": pd.NA})
    items = pd.concat([log.items, more.astype({"year": "Int64"})], ignore_index=True)
    found = losses(replace(log, items=items))
    assert "6 of 9 items have no event" in " ".join(found["warnings"])
    assert found["items_with_facts"] == 5


def test_attributes_that_match_no_user():
    users = pd.DataFrame({"user_id": ["2", "10"], "country": ["DE", "FR"]})
    log = replace(raw_log(NORMAL), users=users)
    assert "None of the 2 rows of the user table" in warned(log) and "`data.columns.user_id`" in warned(log)
    matched = replace(log, users=users.assign(user_id=["u2", "u10"], country=["DE", ""]))
    assert losses(matched)["users_with_attributes"] == 1 and warned(matched) == ""


def test_ids_in_place_of_titles():
    log = raw_log(NORMAL)
    untitled = replace(log, items=log.items.assign(title=["", *log.items["title"][1:]]))
    found = losses(untitled)
    assert found["items_left_out"] == {"title missing, the id stands in": 1}
    assert "1 of 5 items have no title" in found["warnings"][0]


def test_summary_in_one_line():
    card = build_data(raw_log(NORMAL), config(), seed=0).card
    assert summary(card) == (
        "7 events read, 1 in no history (1 repeated click on an item); 6 clicks, 4 purchases; 2 users (0 with "
        "attributes); 5 items (5 with facts); 2001-09-19 to 2001-10-19"
    )
