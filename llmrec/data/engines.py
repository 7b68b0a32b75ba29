"""Engines that run the queries of the event store: DuckDB in this process, or Spark.

Both take the same SQL and give the same rows. DuckDB sorts and groups on the disk of one machine. Spark spreads that
over its executors, which must reach the folder of the run under the same path.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from llmrec.errors import ConfigError, UserError

if TYPE_CHECKING:
    import duckdb
    from pyspark.sql import SparkSession  # pyright: ignore[reportMissingImports]

SHARE_OF_MEMORY = 0.4  # of the free memory, for DuckDB's queries; beyond it they use the disk
BATCH_ROWS = 1_000_000


class Engine(Protocol):
    """Runs SQL on named tables. An ordered query gives its rows in that order."""

    def open_file(self, name: str, file: Path) -> None:
        """Names a Parquet file."""
        ...

    def add_table(self, name: str, table: pa.Table) -> None:
        """Names a table of this process."""
        ...

    def define(self, name: str, query: str) -> None:
        """Names a query, which runs whenever the name is used."""
        ...

    def store(self, name: str, query: str) -> None:
        """Runs a query once and names its result."""
        ...

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """The rows of a query."""
        ...


def row_of(engine: Engine, query: str) -> tuple[Any, ...]:
    """The only row of a query."""
    (row,) = [row for batch in engine.batches(query) for row in batch.to_pylist()]
    return tuple(row.values())


class DuckDBEngine:
    """DuckDB in this process.

    Args:
        connection: a database that may write temporary files.
    """

    def __init__(self, connection: "duckdb.DuckDBPyConnection"):
        self.connection = connection

    def open_file(self, name: str, file: Path) -> None:
        """See `Engine`."""
        self.connection.read_parquet(str(file)).create_view(name)

    def add_table(self, name: str, table: pa.Table) -> None:
        """See `Engine`."""
        self.connection.register(f"{name}_here", table)
        self.store(name, f"SELECT * FROM {name}_here")

    def define(self, name: str, query: str) -> None:
        """See `Engine`."""
        self.connection.execute(f"CREATE VIEW {name} AS {query}").fetchall()

    def store(self, name: str, query: str) -> None:
        """See `Engine`."""
        self.connection.execute(f"CREATE TABLE {name} AS {query}").fetchall()

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """See `Engine`."""
        yield from self.connection.sql(query).to_arrow_reader(BATCH_ROWS)


class SparkEngine:
    """A Spark session. Tables and results are Parquet files in a folder that the executors share.

    Args:
        session: the session.
        folder: where files may lie; emptied by the caller.
    """

    def __init__(self, session: "SparkSession", folder: Path):
        self.session = session
        self.folder = folder
        self.results = 0

    def open_file(self, name: str, file: Path) -> None:
        """See `Engine`."""
        self.session.read.parquet(file.resolve().as_uri()).createOrReplaceTempView(name)

    def add_table(self, name: str, table: pa.Table) -> None:
        """See `Engine`."""
        file = self.folder / f"{name}.parquet"
        pq.write_table(table, file)
        self.open_file(name, file)

    def define(self, name: str, query: str) -> None:
        """See `Engine`."""
        self.session.sql(query).createOrReplaceTempView(name)

    def store(self, name: str, query: str) -> None:
        """See `Engine`."""
        self.open_file(name, self._written(query))

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """See `Engine`. Spark numbers the files of an ordered result in that order."""
        for part in sorted(self._written(query).glob("part-*.parquet")):
            with pq.ParquetFile(part) as file:
                yield from file.iter_batches(BATCH_ROWS)

    def _written(self, query: str) -> Path:
        """The folder of the files of a result."""
        self.results += 1
        folder = self.folder / f"result-{self.results}"
        self.session.sql(query).write.parquet(folder.resolve().as_uri())
        return folder


@contextmanager
def open_duckdb(folder: Path) -> Iterator[DuckDBEngine]:
    """DuckDB, whose temporary files lie in a folder.

    Raises:
        UserError: there is too little memory or disk for a query.
    """
    import duckdb

    memory = int(SHARE_OF_MEMORY * psutil.virtual_memory().available)
    settings: dict[str, Any] = {
        "memory_limit": f"{max(memory, 256 << 20)}B",
        "temp_directory": str(folder / "sorting"),
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
    }
    with duckdb.connect(config=settings) as connection:
        try:
            yield DuckDBEngine(connection)
        except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
            raise _no_room(error) from None


@contextmanager
def open_spark(folder: Path) -> Iterator[SparkEngine]:
    """Spark, with the master and the settings that its own configuration names; without any, all cores of this machine.

    A session that exists already is used and stays open.

    Raises:
        ConfigError: PySpark is missing, or Spark cannot start.
        UserError: a query failed.
    """
    try:
        from py4j.protocol import Py4JError  # pyright: ignore[reportMissingImports]
        from pyspark.errors import PySparkException  # pyright: ignore[reportMissingImports]
        from pyspark.sql import SparkSession  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError(
            "`data.engine` is `spark`, but PySpark is missing: pip install 'llmrec[spark]', and install Java 17 or 21. "
            "Or set `data.engine: duckdb`."
        ) from None
    ours = SparkSession.getActiveSession() is None
    try:
        session = SparkSession.builder.appName("llmrec prepare").getOrCreate()
    except (PySparkException, Py4JError, OSError) as error:
        raise ConfigError(
            f"`data.engine` is `spark`, but Spark does not start: {error} Install Java 17 or 21, or set `data.engine: "
            "duckdb`."
        ) from None
    try:
        yield SparkEngine(session, folder)
    except (PySparkException, Py4JError) as error:
        raise _no_room(error) from None
    finally:
        if ours:
            session.stop()


def _no_room(error: Exception) -> UserError:
    return UserError(
        f"Cannot sort the events: {error} Free memory and space on the disk of `output_dir`, and run the same command "
        "again."
    )
