"""The feedback store, on SQLite and PostgreSQL: what is written, when, and what survives."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa

pytest.importorskip("alembic")

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from llmrec.errors import UserError
from llmrec.serving import tables
from llmrec.serving.database import _change_journal, store_url
from llmrec.serving.store import (
    Comparison,
    Deleted,
    Feedback,
    Impression,
    Store,
    StoreBusyError,
    StoreError,
)

ROOT = Path(__file__).parents[2]


def event(number: int, user: str = "u", item: str = "i", kind: str = "click") -> Feedback:
    return Feedback(f"e{number}", user, item, kind, None, None, float(number), 100.0)


def impression(position: int, user: str | None = "u", request: str = "r") -> Impression:
    return Impression(request, position, user, f"i{position}", 0.5, 0.25, "p@1", True, 7.0)


def comparison(name: str, user: str | None = "u") -> Comparison:
    return Comparison(name, user, "p@1", "q@2", 7.0)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "new folder" / "feedback.db")
    url = request.getfixturevalue("postgres")
    engine = sa.create_engine(store_url(url))
    with engine.begin() as connection:
        connection.execute(sa.text("drop schema public cascade"))
        connection.execute(sa.text("create schema public"))
    engine.dispose()
    return url


@pytest.fixture
def store(place: str) -> Iterator[Store]:
    store = Store(place)
    yield store
    store.close()


def test_an_event_is_kept_once(store: Store) -> None:
    assert store.add_feedback([event(1), event(2)]).result() == 2
    assert store.add_feedback([replace(event(2), item_id="other"), event(3)]).result() == 1
    rows = store.rows(tables.feedback, ["event_id"])
    assert [(row["event_id"], row["item_id"], row["at"]) for row in rows] == [
        ("e1", "i", 1.0),
        ("e2", "i", 2.0),
        ("e3", "i", 3.0),
    ]


def test_a_repeated_id_in_one_batch_is_kept_once(store: Store) -> None:
    assert store.add_feedback([event(1), event(1)]).result() == 1


def test_events_of_a_person_are_in_the_order_of_time(store: Store) -> None:
    store.add_feedback([event(3, item="c"), event(1, item="a", kind="skip"), event(2, user="v")]).result()
    assert store.person("u").feedback == [("skip", "a"), ("click", "c")]
    assert not store.person("u").erased


def test_text_of_all_scripts_comes_back(store: Store) -> None:
    odd = replace(event(1), user_id="Ж 'x\" --\U0001f600")
    store.add_feedback([odd]).result()
    assert store.person(odd.user_id).feedback == [("click", "i")]


def test_erasing_takes_all_that_names_a_person(store: Store) -> None:
    store.add_feedback([event(1), event(2, user="v")]).result()
    store.add_impressions([impression(1), impression(2)]).result()
    store.add_impressions([impression(1, user=None, request="s")]).result()
    store.add_comparison(comparison("a")).result()
    store.add_comparison(comparison("b", user=None)).result()
    assert store.erase("u").result() == Deleted(feedback=1, impressions=2, comparisons=1)
    assert [row["comparison_id"] for row in store.rows(tables.comparisons, ["at"])] == ["b"]
    assert store.person("u").feedback == [] and store.person("u").erased
    assert [row["user_id"] for row in store.rows(tables.erasures, ["user_id"])] == ["u"]
    assert [row["request_id"] for row in store.rows(tables.impressions, ["position"])] == ["s"]
    assert store.person("v").feedback == [("click", "i")]


def test_a_comparison_gets_one_vote(store: Store) -> None:
    for name in ("a", "b", "c", "d"):
        store.add_comparison(comparison(name)).result()
    assert store.vote("nothing", "left").result() is None
    votes = [
        store.vote(name, verdict) for name, verdict in (("a", "left"), ("a", "right"), ("b", "left"), ("c", "tie"))
    ]
    results = [vote.result() for vote in votes]
    assert [one.verdict for one in results if one is not None] == ["left", "left", "left", "tie"]
    rows = store.rows(tables.comparisons, ["comparison_id"])
    assert [row["verdict"] for row in rows] == ["left", "left", "tie", None] and rows[3]["voted"] is None
    assert sorted(store.votes()) == [("p@1", "q@2", "left", 2), ("p@1", "q@2", "tie", 1)]


def test_two_servers_do_not_vote_twice(store: Store, place: str) -> None:
    other = Store(place)
    names = [f"c{number}" for number in range(30)]
    for name in names:
        store.add_comparison(comparison(name)).result()
    votes = [(store.vote(name, "left"), other.vote(name, "right")) for name in names]
    assert all(one.result() == two.result() for one, two in votes)
    assert sum(count for *_, count in store.votes()) == 30
    other.close()


def test_a_store_of_the_first_version_is_brought_up_to_date(store: Store, place: str) -> None:
    store.add_feedback([event(1)]).result()
    engine = sa.create_engine(store_url(place))
    with engine.begin() as connection:
        tables.comparisons.drop(connection)
        connection.execute(sa.text("update alembic_version set version_num = '0001'"))
    engine.dispose()
    again = Store(place)
    again.add_comparison(comparison("a")).result()
    assert again.person("u").feedback == [("click", "i")] and len(again.rows(tables.comparisons, ["at"])) == 1
    again.close()


def test_items_are_replaced(store: Store) -> None:
    rows = [{"item_id": "a", "row": 0, "title": "A", "categories": ""}]
    store.put_items(rows).result()
    store.put_items([rows[0] | {"title": "B", "categories": "x|y"}]).result()
    assert store.rows(tables.items, ["row"]) == [{"item_id": "a", "row": 0, "title": "B", "categories": "x|y"}]


def test_the_tables_are_those_that_the_migrations_make(store: Store, place: str) -> None:
    engine = sa.create_engine(store_url(place))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
    engine.dispose()


def test_a_store_opens_again_with_its_rows(store: Store, place: str) -> None:
    store.add_feedback([event(1)]).result()
    again = Store(place)
    assert again.person("u").feedback == [("click", "i")]
    again.close()


def test_two_servers_share_a_store(store: Store, place: str) -> None:
    other = Store(place)
    promises = [one.add_feedback([event(number)]) for number in range(50) for one in (store, other)]
    assert sum(promise.result() for promise in promises) == 50
    other.close()


def test_servers_that_start_together_make_the_tables_once(place: str) -> None:
    opened: list[Store] = []
    threads = [threading.Thread(target=lambda: opened.append(Store(place))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    for store in opened:
        store.close()


def test_the_change_of_the_journal_is_tried_again() -> None:
    answers = iter(
        [sqlite3.OperationalError("database is locked"), sqlite3.OperationalError("database is locked"), None]
    )

    class Cursor:
        def execute(self, statement: str) -> None:
            assert statement == "pragma journal_mode=wal"
            if (error := next(answers)) is not None:
                raise error

    _change_journal(cast(sqlite3.Cursor, Cursor()))
    assert next(answers, "asked three times") == "asked three times"


def test_waiting_writes_share_a_transaction(place: str) -> None:
    commits: list[int] = []
    store = Store(place, on_commit=lambda seconds, rows: commits.append(rows))
    entered, go_on = threading.Event(), threading.Event()
    first = store._enqueue(lambda _: (entered.set(), go_on.wait()), 1)
    entered.wait()
    promises = [store.add_feedback([event(number)]) for number in range(20)]
    go_on.set()
    first.result()
    assert [promise.result() for promise in promises] == [1] * 20
    store.close()
    assert commits == [1, 20]


def test_a_write_that_fails_fails_alone(store: Store) -> None:
    hold = threading.Event()
    store._enqueue(lambda _: hold.wait(), 1)
    good = store.add_feedback([event(1)])
    bad: Future[Any] = store._enqueue(lambda _: 1 / 0, 1)
    other = store.add_feedback([event(2)])
    hold.set()
    assert (good.result(), other.result()) == (1, 1)
    with pytest.raises(StoreError, match="ZeroDivisionError"):
        bad.result()
    store.check()


def test_too_many_waiting_rows_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmrec.serving.store.MAX_WAITING_ROWS", 3)
    entered, go_on = threading.Event(), threading.Event()
    store._enqueue(lambda _: (entered.set(), go_on.wait()), 1)
    entered.wait()
    waiting = store.add_feedback([event(1), event(2)])
    with pytest.raises(StoreBusyError, match="3 rows wait"):
        store.add_feedback([event(3)])
    go_on.set()
    assert waiting.result() == 2
    assert store.add_feedback([event(number) for number in range(10, 20)]).result() == 10  # larger than the limit


def test_a_closed_store_commits_what_waits(place: str) -> None:
    store = Store(place)
    promises = [store.add_feedback([event(number)]) for number in range(100)]
    store.close()
    assert sum(promise.result(timeout=0) for promise in promises) == 100
    with pytest.raises(StoreError, match="closed"):
        store.add_feedback([event(1)])


WRITER = """
import sys
from llmrec.serving.store import Feedback, Store
store = Store(sys.argv[1])
number = 0
while True:
    promises = []
    for _ in range(20):
        promises.append((number, store.add_feedback([Feedback(f"k{number}", "u", "i", "click", None, None, 0.0, 0.0)])))
        number += 1
    for known, promise in promises:
        promise.result()
        print(known, flush=True)
"""


def test_acknowledged_events_survive_a_kill(place: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, place], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(100)]
    process.kill()
    acknowledged += [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")]
    process.wait()
    store = Store(place)
    found = {row["event_id"] for row in store.rows(tables.feedback, ["event_id"])}
    store.check()
    store.close()
    assert {f"k{number}" for number in acknowledged} - found == set()


# --- SQLite alone ---


def test_a_commit_is_flushed_to_the_disk(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "f.db"))
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("pragma journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("pragma synchronous").scalar() == 2  # full
    store.close()


def test_a_full_database_refuses_and_then_goes_on(tmp_path: Path) -> None:
    """`max_page_count` makes SQLite report the same error as a full disk."""
    store = Store(str(tmp_path / "f.db"))
    pages = "pragma max_page_count = "

    def limit(count: int) -> Callable[[sa.Connection], Any]:
        return lambda connection: connection.exec_driver_sql(f"{pages}{count}").scalar()

    used = store._enqueue(lambda connection: connection.exec_driver_sql("pragma page_count").scalar(), 1).result()
    store._enqueue(limit(used + 1), 1).result()
    with pytest.raises(StoreError, match="full"):
        store.add_feedback([event(number) for number in range(2000)]).result()
    with pytest.raises(StoreError, match="full"):
        store.check()
    assert store.rows(tables.feedback, ["event_id"]) == []
    store._enqueue(limit(10**6), 1).result()
    assert store.add_feedback([event(1)]).result() == 1
    store.check()
    store.close()


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    Store(str(tmp_path / "f.db")).close()
    with sqlite3.connect(tmp_path / "f.db") as connection:
        connection.execute("update alembic_version set version_num = '9999'")
    with pytest.raises(UserError, match="a newer llmrec has written this store"):
        Store(str(tmp_path / "f.db"))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("mysql://host/database", "is a database of mysql. Expected postgresql://"),
        ("nonsense://", "Expected postgresql://"),
        ("postgresql://user:secret@127.0.0.1:1/x", r"user:\*\*\*@127.0.0.1:1/x: the store cannot be opened"),
    ],
)
def test_another_database_is_an_error(place: str, message: str) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(UserError, match=message):
        Store(place)


def test_a_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "f.db").write_text("not a database" * 1000)
    with pytest.raises(UserError, match="cannot be opened .*not a database"):
        Store(str(tmp_path / "f.db"))


def test_a_database_that_restarts_is_used_again(postgres: str) -> None:
    """The connections of the pool are dead; the first statement finds that out."""
    store = Store(postgres)
    killer = sa.create_engine(store_url(postgres))
    with killer.begin() as connection:
        others = "pid <> pg_backend_pid() and backend_type = 'client backend'"
        connection.execute(sa.text(f"select pg_terminate_backend(pid) from pg_stat_activity where {others}"))
    killer.dispose()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            assert store.add_feedback([event(int(time.time()))]).result() in (0, 1)
            break
        except StoreError:
            time.sleep(0.1)
    store.check()
    store.close()
