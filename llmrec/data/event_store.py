"""The event store: the usable events of a log as a file of numbers, and the queries that turn them into histories.

`collect_events` reads a log once, part by part, and writes a row of integers for every event. `EventStore` queries that
file with an engine (`llmrec.data.engines`), which sorts and groups what does not fit into memory. All engines run the
same SQL.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from llmrec.config import DataConfig
from llmrec.data.engines import Engine, open_duckdb, open_spark, row_of
from llmrec.data.feedback import NOT_FOR_RULES, Rule, compared_column, resolve
from llmrec.data.readers.raw import RawLog, places
from llmrec.data.readers.values import as_numbers
from llmrec.data.splits import PARTS
from llmrec.errors import DataError

_EXPOSURE_COLUMNS = {"ranking_id": pa.large_string(), "position": pa.int64(), "propensity": pa.float64()}
# The first click on an item is the one with the earliest time; of equal times, the one on the earliest row.
_EARLIEST = "timestamp * 2147483648 + row"


@dataclass
class Collected:
    """What a log holds, apart from the events themselves.

    Attributes:
        file: the events, a Parquet file of `row, user, item, type, timestamp`; optional `part` (index in `PARTS`),
            `ranking_id`, `position`, `propensity`; and `n0`, `n1` and so on, the columns that rules compare.
        log: the log that was read.
        columns: names of its columns that rules can compare.
        user_ids: user ids by number, in the order of their first events.
        types: event types by number.
        compared: names of the columns `n0`, `n1` and so on.
        numbers: how many numbers each of them holds.
        has_split: whether the log has a column `split` that the config uses.
        exposure_columns: those of `ranking_id`, `position` and `propensity` that the log has.
        events: number of events.
        used: whether each item has an event, bool [N].
        ratings: lowest and highest rating; infinity without ratings.
        first: earliest time, and the number of its line.
        last: latest time, and the number of its line.
        future: number of events after `now`.
        now: the time after which an event is in the future, seconds since 1970.
    """

    file: Path
    log: RawLog
    used: np.ndarray
    now: float
    columns: list[str] = field(default_factory=list)
    user_ids: dict[str, int] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    compared: list[str] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    has_split: bool = False
    exposure_columns: list[str] = field(default_factory=list)
    events: int = 0
    ratings: tuple[float, float] = (np.inf, -np.inf)
    first: tuple[int, Any] = (np.iinfo(np.int64).max, None)
    last: tuple[int, Any] = (-1, None)
    future: int = 0


def collect_events(
    log: RawLog, config: DataConfig, file: Path, now: float, advance: Callable[[int], Any] = lambda events: None
) -> Collected:
    """Reads the events of a log once and writes them as numbers.

    Args:
        log: the checked log.
        config: its rules say which columns are kept.
        file: the Parquet file to write.
        now: see `Collected`.
        advance: called with the number of events that have been read so far.

    Raises:
        DataError: an event cannot be used, or the log lacks the split that the config names.
    """
    found = Collected(file, log, used=np.zeros(len(log.items), dtype=bool), now=now)
    item_index = pd.Index(log.items["item_id"])
    writer = None
    try:
        for part in log.events:
            if writer is None:
                _describe(found, part, config)
            _check_given(part, log, config)
            rows = _rows(found, part, item_index)
            writer = writer or pq.ParquetWriter(file, rows.schema)
            writer.write_table(rows)
            _count(found, part)
            advance(found.events)
    finally:
        if writer is not None:
            writer.close()
    return found


def _describe(found: Collected, part: pd.DataFrame, config: DataConfig) -> None:
    """Notes which columns the log has, from its first part."""
    found.columns = [str(name) for name in part.columns if name not in NOT_FOR_RULES]
    rules = [*config.click, *config.purchase]
    found.compared = list(dict.fromkeys(name for rule in rules if (name := compared_column(rule)) in found.columns))
    found.numbers = dict.fromkeys(found.compared, 0)
    found.has_split = "split" in part and "given" in config.splits
    found.exposure_columns = [name for name in _EXPOSURE_COLUMNS if name in part]


def _rows(found: Collected, part: pd.DataFrame, item_index: pd.Index) -> pa.Table:
    """The rows of one part as numbers."""
    items = places(part["item_id"], item_index).astype(np.int32)
    found.used[items] = True
    columns: dict[str, Any] = {
        "row": np.arange(found.events, found.events + len(part)),
        "user": _numbered(part["user_id"], found.user_ids),
        "item": items,
        "type": _numbered(part["event_type"], found.types),
        "timestamp": part["timestamp"].to_numpy(dtype=np.int64),
    }
    if found.has_split:
        columns["part"] = pd.Index(PARTS).get_indexer(pd.Index(part["split"])).astype(np.int8)
    for name in found.exposure_columns:
        columns[name] = pa.array(part[name], _EXPOSURE_COLUMNS[name], from_pandas=True)
    for number, name in enumerate(found.compared):
        values = as_numbers(part[name])
        found.numbers[name] += int(values.notna().sum())
        columns[f"n{number}"] = pa.array(values, from_pandas=True)
    return pa.table(columns)


def _numbered(values: pd.Series, known: dict[str, int]) -> np.ndarray:
    """The number of each value, int32 [E]; new values get the next numbers."""
    codes, distinct = pd.factorize(values)
    numbers = [known.setdefault(value, len(known)) for value in distinct.tolist()]
    return np.array(numbers, dtype=np.int32)[codes] if len(codes) else np.zeros(0, dtype=np.int32)


def _count(found: Collected, part: pd.DataFrame) -> None:
    """Adds the counts of one part."""
    if part.empty:
        return
    times = part["timestamp"]
    found.events += len(part)
    found.first = min(found.first, (int(times.min()), times.idxmin()), key=lambda one: one[0])
    found.last = max(found.last, (int(times.max()), times.idxmax()), key=lambda one: one[0])
    found.future += int((times > found.now).sum())
    if "rating" in part and part["rating"].notna().any():
        low, high = found.ratings
        found.ratings = min(low, part["rating"].min()), max(high, part["rating"].max())


def _check_given(part: pd.DataFrame, log: RawLog, config: DataConfig) -> None:
    """Checks that the log says which part of the split each event belongs to, if the config uses its split."""
    if "given" not in config.splits:
        return
    if "split" not in part:
        raise DataError(
            f"{log.event_source.path}: `data.splits` names `given`, but there is no column `split`; expected a column "
            f"with {', '.join(PARTS)}. Add it, name it in `data.columns.split`, or choose other splits."
        )
    bad = ~part["split"].isin(PARTS)
    if bad.any():
        fix = "Correct it, or choose other splits in `data.splits`."
        raise log.event_source.error(part["split"], bad, f"one of {', '.join(PARTS)}", fix)


# --- queries ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EventCounts:
    """Counts of the events of the users that were kept.

    Attributes:
        events: number of events.
        clicks: number of events that are clicks.
        purchases: number of events that are purchases.
        items: number of items with an event.
        pairs: number of distinct pairs of user and item among the clicks.
        moments: number of distinct triples of user, item and time among the clicks.
        first: earliest time, seconds since 1970.
        last: latest time.
        tied: share of the clicks that share their time with a click of the same user on another item.
        test_rows: clicks that the log's own split marks as test; None without a split.
        test_rows_in_training: those of them whose pair of user and item is also a training row.
        unmatched: number of events of each event type that no rule matches, among all users.
    """

    events: int
    clicks: int
    purchases: int
    items: int
    pairs: int
    moments: int
    first: int
    last: int
    tied: float
    test_rows: int | None
    test_rows_in_training: int
    unmatched: dict[str, int]


class EventStore:
    """Queries about collected events.

    Args:
        engine: runs the queries.
        found: the collected events.
        config: rules for clicks and purchases.

    Raises:
        ConfigError: a rule cannot be used with this log.
    """

    def __init__(self, engine: Engine, found: Collected, config: DataConfig):
        self.engine = engine
        self.found = found
        self.repeats = config.repeats == "keep"
        purchase = self._condition(config.purchase, "data.purchase")
        click = self._condition(config.click, "data.click")
        engine.open_file("stored", found.file)
        engine.define("events", f"SELECT *, {purchase} AS purchase, ({click}) OR ({purchase}) AS click FROM stored")

    def _condition(self, rules: list[str], key: str) -> str:
        """Some rules as an SQL condition that is never NULL."""
        resolved = [resolve(rule, key, self.found.columns, list(self.found.types)) for rule in rules]
        return " OR ".join(self._sql(rule, key) for rule in resolved) or "FALSE"

    def _sql(self, rule: Rule, key: str) -> str:
        if rule.event_type is not None:
            return f"type = {self.found.types[rule.event_type]}"
        if not self.found.numbers[rule.column]:
            raise rule.without_numbers(key)
        name = f"n{self.found.compared.index(rule.column)}"
        sign = {"==": "=", "!=": "<>"}.get(rule.sign, rule.sign)
        return f"({name} IS NOT NULL AND {name} {sign} CAST('{rule.number!r}' AS DOUBLE))"

    def find_clicks(self) -> np.ndarray:
        """Finds the clicks of histories: the first of each user on each item, or all at different times.

        Returns:
            how many there are of each user, by number of the user, int64.
        """
        part = f"MIN_BY(part, {_EARLIEST})" if self.found.has_split else "-1"
        group = "user, item, timestamp" if self.repeats else "user, item"
        self.engine.store(
            "clicks",
            f"""SELECT user, item, MIN(timestamp) AS timestamp, MIN(CASE WHEN purchase THEN timestamp END) AS bought_at,
                CAST({part} AS TINYINT) AS part
            FROM events WHERE click GROUP BY {group}""",
        )
        counts = np.zeros(len(self.found.user_ids), dtype=np.int64)
        for batch in self.engine.batches("SELECT user, COUNT(*) AS clicks FROM clicks GROUP BY user"):
            counts[batch["user"].to_numpy()] = batch["clicks"].to_numpy()
        return counts

    def keep_users(self, numbers: np.ndarray) -> None:
        """Chooses the users of all later queries.

        Args:
            numbers: number of each user, in the order of the prepared data, int64 [U].
        """
        chosen = pa.table({"number": numbers.astype(np.int32), "u": np.arange(len(numbers), dtype=np.int32)})
        self.engine.add_table("kept", chosen)
        self.engine.define("kept_events", "SELECT * FROM events JOIN kept ON events.user = kept.number")

    def histories(self) -> dict[str, np.ndarray]:
        """The clicks of the histories of the chosen users, sorted by user, time, part of the log's split and item.

        Returns:
            `user` (int32), `item`, `timestamp` (int64), `bought_at` (float64, NaN without a purchase) and `part`
            (int8), each [E].
        """
        (clicks,) = self._one("SELECT COUNT(*) AS clicks FROM clicks JOIN kept ON user = number")
        kinds = {"u": np.int32, "item": np.int64, "timestamp": np.int64, "bought_at": np.float64, "part": np.int8}
        columns = {name: np.empty(clicks, dtype=kind) for name, kind in kinds.items()}
        table = "clicks JOIN kept ON user = number"
        query = f"SELECT {', '.join(columns)} FROM {table} ORDER BY u, timestamp, part, item"
        row = 0
        for batch in self.engine.batches(query):
            for name, values in columns.items():
                values[row : row + len(batch)] = batch[name].to_numpy(zero_copy_only=False)
            row += len(batch)
        columns["user"] = columns.pop("u")
        return columns

    def counts(self) -> EventCounts:
        """Counts of the events of the chosen users."""
        events, clicks, purchases, items, first, last = self._one(
            """SELECT COUNT(*) AS events, SUM(CAST(click AS INTEGER)) AS clicks,
            SUM(CAST(purchase AS INTEGER)) AS purchases, COUNT(DISTINCT item) AS items,
            MIN(timestamp) AS first_time, MAX(timestamp) AS last_time FROM kept_events"""
        )
        moments, pairs = self._distinct_clicks()
        (tied,) = self._one(
            "SELECT SUM(n) AS tied FROM "
            "(SELECT COUNT(*) AS n FROM kept_events WHERE click GROUP BY u, timestamp HAVING MIN(item) <> MAX(item))"
        )
        test_rows, seen = None, 0
        if self.found.has_split:
            test_rows, seen = self._one(
                f"""SELECT COUNT(*) AS test_rows, COUNT(known.u) AS known_rows FROM
                (SELECT u, item FROM kept_events WHERE click AND part = {PARTS.index("test")}) AS test LEFT JOIN
                (SELECT DISTINCT u, item FROM kept_events WHERE click AND part = {PARTS.index("train")}) AS known
                ON test.u = known.u AND test.item = known.item"""
            )
        return EventCounts(
            events=events,
            clicks=int(clicks),
            purchases=int(purchases),
            items=items,
            pairs=pairs,
            moments=moments,
            first=first,
            last=last,
            tied=int(tied or 0) / int(clicks),
            test_rows=test_rows,
            test_rows_in_training=seen,
            unmatched=self._unmatched(),
        )

    def _distinct_clicks(self) -> tuple[int, int]:
        """Numbers of distinct triples of user, item and time, and of distinct pairs of user and item."""
        # The table `clicks` has one row a pair, or with repeats one row a triple.
        chosen = "SELECT u, item FROM clicks JOIN kept ON user = number"
        triples = "SELECT DISTINCT u, item, timestamp FROM kept_events WHERE click"
        tables = (chosen, f"{chosen} GROUP BY u, item") if self.repeats else (triples, chosen)
        moments, pairs = (self._one(f"SELECT COUNT(*) AS n FROM ({table})")[0] for table in tables)
        return moments, pairs

    def _unmatched(self) -> dict[str, int]:
        """Number of events of each event type that no rule matches, the most common one first.

        Types whose events are all exposures are left out, because users need not click on what they are shown.
        """
        names = list(self.found.types)
        query = f"""SELECT type, COUNT(*) AS n FROM events GROUP BY type
            HAVING SUM(CASE WHEN click THEN 1 ELSE 0 END) = 0
            AND SUM(CASE WHEN {self._exposed()} THEN 1 ELSE 0 END) < COUNT(*)"""
        rows = [row for batch in self.engine.batches(f"{query} ORDER BY n DESC, type") for row in batch.to_pylist()]
        return {names[row["type"]]: row["n"] for row in rows}

    def shown(self) -> pd.DataFrame:
        """The events that show what users were shown, in the order of the log, see `find_exposures`."""
        marks = self.found.exposure_columns
        if not marks:
            return pd.DataFrame()
        columns = ["u", "item", "timestamp", "click", *marks]
        query = f"SELECT {', '.join(columns)} FROM kept_events WHERE {self._exposed()} ORDER BY row"
        batches = list(self.engine.batches(query))
        if not batches:
            return pd.DataFrame()
        frame = pa.Table.from_batches(batches).to_pandas().rename(columns={"u": "user"})
        kinds = {"user": "int64", "item": "int64", "position": "Int64"}
        return frame.astype({name: kind for name, kind in kinds.items() if name in frame})

    def _exposed(self) -> str:
        """The SQL condition for an event that shows what a user was shown."""
        return " OR ".join(f"{name} IS NOT NULL" for name in self.found.exposure_columns) or "FALSE"

    def _one(self, query: str) -> tuple[Any, ...]:
        return row_of(self.engine, query)


@contextmanager
def open_store(found: Collected, config: DataConfig) -> Iterator[EventStore]:
    """Opens a store, whose temporary files lie beside the collected events.

    Raises:
        ConfigError: a rule cannot be used with this log, or the engine is missing.
        UserError: there is too little memory or disk for the queries.
    """
    open_engine = {"duckdb": open_duckdb, "spark": open_spark}[config.engine]
    with open_engine(found.file.parent) as engine:
        yield EventStore(engine, found, config)
