"""The feedback store: what was shown and what people did with it, in SQLite or PostgreSQL.

One thread writes. It commits all waiting writes in one transaction, so many requests share one flush to the disk. A
write is acknowledged after its commit, so what was acknowledged survives a crash of the process or the machine.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from llmrec.errors import UserError
from llmrec.serving import tables
from llmrec.serving.database import connect, reason_of, store_url

MAX_WAITING_ROWS = 20_000  # rows that wait for the writer; more are refused
ROWS_AT_A_TIME = 100_000  # rows that are read before they become part of a data frame
_KINDS = {float: "float64", int: "int64", bool: "bool"}  # of columns in a data frame; all others are text


class StoreError(Exception):
    """The database cannot be read or written at present. Nothing of the failed write was kept."""


class StoreBusyError(StoreError):
    """More writes are waiting than the database can take at present."""


@dataclass(frozen=True)
class Feedback:
    """What a person did; a row of the table `feedback`.

    Attributes:
        event_id: id that the client chose.
        user_id: the person.
        item_id: the item.
        type: `impression`, `click`, `purchase`, `skip` or `rating`.
        value: the rating; None for other types.
        request_id: the list that the person saw, if the client knows it.
        at: when it happened, seconds since 1970.
        received: when the server received it, seconds since 1970.
    """

    event_id: str
    user_id: str
    item_id: str
    type: str
    value: float | None
    request_id: str | None
    at: float
    received: float


@dataclass(frozen=True)
class Impression:
    """An item that was shown; a row of the table `impressions`, whose comments describe the fields."""

    request_id: str
    position: int
    user_id: str | None
    item_id: str
    propensity: float
    score: float
    policy: str
    sampled: bool
    at: float


@dataclass(frozen=True)
class Comparison:
    """Two lists side by side; a row of the table `comparisons`, whose comments describe the fields."""

    comparison_id: str
    user_id: str | None
    left_policy: str
    right_policy: str
    at: float
    verdict: str | None = None
    voted: float | None = None


@dataclass(frozen=True)
class StoredPerson:
    """What the store knows of a person.

    Attributes:
        feedback: type and item id of each event, oldest first.
        erased: whether the data of this person was deleted. Data from before that must not be used any more.
    """

    feedback: list[tuple[str, str]]
    erased: bool


@dataclass(frozen=True)
class Deleted:
    """Rows that the deletion of a person's data removed."""

    feedback: int
    impressions: int
    comparisons: int


@dataclass(frozen=True)
class _Write:
    """A write that waits for the writer: what it does in a transaction, its rows, and the promise of its result."""

    action: Callable[[sa.Connection], Any]
    rows: int
    done: "Future[Any]"


class Store:
    """A connection to the feedback store. It creates or updates the tables when it opens.

    Args:
        place: URL or path, see `store_url`.
        on_commit: called after each transaction with its seconds and the number of its rows.

    Raises:
        UserError: the database cannot be opened, or a newer llmrec has written it.
    """

    def __init__(self, place: str, on_commit: Callable[[float, int], None] = lambda seconds, rows: None):
        url = store_url(place)
        self._on_commit = on_commit
        self._insert = sqlite.insert if url.get_backend_name() == "sqlite" else postgresql.insert
        self._engine = connect(url)
        self._waiting: list[_Write] = []
        self._waiting_rows = 0
        self._changed = threading.Condition()
        self._closed = False
        self._last_error: str | None = None
        self._writer = threading.Thread(target=self._write_all, name="store-writer", daemon=True)
        self._writer.start()

    def close(self) -> None:
        """Commits what is waiting and closes the database."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._writer.join()
        self._engine.dispose()

    # --- writes ---

    def add_feedback(self, events: Sequence[Feedback]) -> "Future[int]":
        """Writes events. Those whose id is in the store already are ignored.

        Returns:
            the promise of the number of new events.

        Raises:
            StoreBusyError: too many writes are waiting.
        """
        insert = self._insert(tables.feedback).on_conflict_do_nothing(index_elements=["event_id"])
        statement = insert.returning(tables.feedback.c.event_id)
        rows = [asdict(one) for one in events]
        return self._enqueue(lambda connection: len(_run_each(connection, statement, rows).all()), len(rows))

    def add_impressions(self, shown: Sequence[Impression]) -> "Future[Any]":
        """Writes the items of a list; errors as in `add_feedback`."""
        statement = sa.insert(tables.impressions)
        rows = [asdict(impression) for impression in shown]
        return self._enqueue(lambda connection: _run_each(connection, statement, rows), len(rows))

    def add_comparison(self, shown: Comparison) -> "Future[Any]":
        """Writes a comparison; errors as in `add_feedback`."""
        statement = sa.insert(tables.comparisons)
        return self._enqueue(lambda connection: _run_each(connection, statement, [asdict(shown)]), 1)

    def vote(self, comparison_id: str, verdict: str) -> "Future[Comparison | None]":
        """Writes the verdict of a comparison, unless it has one. Errors as in `add_feedback`.

        Returns:
            the promise of the comparison with the verdict that it has now; None if there is no such comparison.
        """
        table = tables.comparisons
        ours = table.c.comparison_id == comparison_id
        voted = sa.update(table).where(ours, table.c.verdict.is_(None)).values(verdict=verdict, voted=time.time())

        def write(connection: sa.Connection) -> Comparison | None:
            connection.execute(voted)
            row = connection.execute(sa.select(table).where(ours)).mappings().first()
            return None if row is None else Comparison(**dict(row))

        return self._enqueue(write, 1)

    def put_items(self, rows: Sequence[dict[str, Any]]) -> "Future[Any]":
        """Writes or replaces items of the catalogue, rows of the table `items`."""
        insert = self._insert(tables.items)
        changed = {name: insert.excluded[name] for name in ("row", "title", "categories")}
        statement = insert.on_conflict_do_update(index_elements=["item_id"], set_=changed)
        return self._enqueue(lambda connection: _run_each(connection, statement, rows), len(rows))

    def erase(self, user_id: str) -> "Future[Deleted]":
        """Deletes all that is known of a person, and lists the person for the next training."""
        listed = self._insert(tables.erasures).values(user_id=user_id, at=time.time())
        listed = listed.on_conflict_do_update(index_elements=["user_id"], set_={"at": listed.excluded["at"]})

        def delete(connection: sa.Connection) -> Deleted:
            connection.execute(listed)
            of_person = (tables.feedback, tables.impressions, tables.comparisons)
            return Deleted(
                *(connection.execute(sa.delete(one).where(one.c.user_id == user_id)).rowcount for one in of_person)
            )

        return self._enqueue(delete, 1)

    def _enqueue(self, action: Callable[[sa.Connection], Any], rows: int) -> "Future[Any]":
        write = _Write(action, rows, Future())
        with self._changed:
            if self._closed:
                raise StoreError("The store is closed.")
            if self._waiting and self._waiting_rows + rows > MAX_WAITING_ROWS:
                raise StoreBusyError(f"{self._waiting_rows} rows wait for the database.")
            self._waiting.append(write)
            self._waiting_rows += rows
            self._changed.notify()
        return write.done

    def _write_all(self) -> None:
        """The writer's loop: takes all waiting writes and commits them together."""
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                writes = self._waiting
                self._waiting = []
            if not writes:
                return
            self._commit([write for write in writes if write.done.set_running_or_notify_cancel()])
            with self._changed:
                self._waiting_rows -= sum(write.rows for write in writes)

    def _commit(self, writes: list[_Write]) -> None:
        """Commits writes in one transaction. If that fails, each is tried alone, so that one cannot fail the others."""
        if not writes:
            return
        started = time.perf_counter()
        try:
            with self._engine.begin() as connection:
                results = [write.action(connection) for write in writes]
        except Exception as error:  # whatever happens, the writer goes on and the clients hear of it
            if len(writes) > 1:
                for write in writes:
                    self._commit([write])
                return
            self._last_error = reason_of(error)
            writes[0].done.set_exception(StoreError(self._last_error))
            return
        self._last_error = None
        self._on_commit(time.perf_counter() - started, sum(write.rows for write in writes))
        for write, result in zip(writes, results, strict=True):
            write.done.set_result(result)

    # --- reads ---

    def person(self, user_id: str) -> StoredPerson:
        """What is known of a person.

        Raises:
            StoreError: the database cannot be read.
        """
        table = tables.feedback
        events = sa.select(table.c.type, table.c.item_id).where(table.c.user_id == user_id)
        erased = sa.select(tables.erasures.c.at).where(tables.erasures.c.user_id == user_id)
        with self._reading() as connection:
            rows = connection.execute(events.order_by(table.c.at, table.c.received, table.c.event_id)).all()
            return StoredPerson([(kind, item) for kind, item in rows], connection.execute(erased).first() is not None)

    def rows(
        self, table: sa.Table, order: Iterable[str], where: sa.ColumnElement[bool] | None = None
    ) -> list[dict[str, Any]]:
        """Rows of a small table in an order.

        Args:
            table: the table.
            order: names of the columns that order the rows.
            where: condition of the rows; None for all.

        Raises:
            StoreError: the database cannot be read.
        """
        statement = sa.select(table).order_by(*(table.c[name] for name in order))
        with self._reading() as connection:
            found = connection.execute(statement if where is None else statement.where(where))
            return [dict(row) for row in found.mappings()]

    def frame(
        self,
        table: sa.Table,
        order: Iterable[str],
        where: sa.ColumnElement[bool] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Rows of a table as a data frame, in a fourth of the memory of `rows`.

        Args:
            table: the table.
            order: names of the columns that order the rows.
            where: condition of the rows; None for all.
            columns: names of the columns that are read; None for all.

        Raises:
            StoreError: the database cannot be read.
        """
        chosen = [table.c[name] for name in columns] if columns is not None else list(table.columns)
        statement = sa.select(*chosen).order_by(*(table.c[name] for name in order))
        kinds = {column.name: _KINDS.get(column.type.python_type, "str") for column in chosen}
        empty = pd.DataFrame(columns=list(kinds)).astype(kinds)
        with self._reading() as connection:
            found = connection.execution_options(yield_per=ROWS_AT_A_TIME).execute(
                statement if where is None else statement.where(where)
            )
            parts = [pd.DataFrame(part, columns=list(kinds)).astype(kinds) for part in found.partitions()]
        return pd.concat(parts, ignore_index=True) if parts else empty

    def votes(self) -> list[tuple[str, str, str, int]]:
        """How often which verdict was given: policy of the left list, that of the right list, verdict and count.

        Raises:
            StoreError: the database cannot be read.
        """
        table = tables.comparisons
        kinds = (table.c.left_policy, table.c.right_policy, table.c.verdict)
        statement = sa.select(*kinds, sa.func.count()).where(table.c.verdict.is_not(None)).group_by(*kinds)
        with self._reading() as connection:
            return [(left, right, verdict, count) for left, right, verdict, count in connection.execute(statement)]

    def check(self) -> None:
        """Checks that the database answers and that its last write succeeded.

        Raises:
            StoreError: it does not; the message says what the database reported.
        """
        with self._reading() as connection:
            connection.execute(sa.select(1))
        if self._last_error is not None:
            raise StoreError(self._last_error)

    def waiting_rows(self) -> int:
        """Rows that wait for the writer."""
        return self._waiting_rows

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        """A connection for reads. Errors of the database become StoreErrors."""
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreError(reason_of(error)) from None


@contextmanager
def opened(place: str) -> Iterator[Store]:
    """A store for a command; its errors are those of the user.

    Raises:
        UserError: the store cannot be opened, read or written.
    """
    store = Store(place)
    try:
        yield store
    except StoreError as error:
        raise UserError(f"The feedback store failed ({error}). Check its disk, or that its server runs.") from None
    finally:
        store.close()


def _run_each(connection: sa.Connection, statement: Any, rows: Sequence[dict[str, Any]]) -> sa.CursorResult[Any]:
    """Runs a statement for each row, of which there is at least one."""
    return connection.execute(statement, list(rows))
