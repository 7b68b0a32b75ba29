"""Readers: each turns the files of one data set format into a `RawLog`.

Where to change what:

- how a config value becomes a path: `paths`
- file syntax (separators, quotes, encodings, JSON lines, Parquet): `csv_and_json`
- files without a header: `headers`
- column quirks (missing columns, ids, timestamps, ratings, categories): `columns`
- decimal commas and separators of thousands: `decimals`; ids that are `123` in one file and `123.0` in another:
  `whole_ids`
- the result of all readers and its checks: `raw`
- one format: the module of that name; a new format is a module and an entry in `_READERS`
"""

from llmrec.config import DataConfig
from llmrec.data.readers.amazon import read_amazon
from llmrec.data.readers.complete_journey import read_complete_journey
from llmrec.data.readers.minionerec import read_minionerec
from llmrec.data.readers.movielens import read_movielens
from llmrec.data.readers.open_bandit import read_open_bandit
from llmrec.data.readers.raw import RawLog, check_log
from llmrec.data.readers.recbole import read_recbole
from llmrec.data.readers.sequences import read_sequences
from llmrec.data.readers.table import read_table_log
from llmrec.errors import ConfigError

__all__ = ["RawLog", "check_log", "read_log"]

_READERS = {
    "movielens": read_movielens,
    "recbole": read_recbole,
    "table": read_table_log,
    "amazon2023": read_amazon,
    "complete_journey": read_complete_journey,
    "open_bandit": read_open_bandit,
    "minionerec": read_minionerec,
    "sequences": read_sequences,
}


def read_log(config: DataConfig) -> RawLog:
    """Reads the event log, items, users and facts that the `data` section of a config names.

    Raises:
        ConfigError: `data.rating_range` is not an interval, or `data.splits` names `temporal` for a log without times.
        DataError: a file is missing or has an unusable value; the message names the file, line and column.
        UserError: `package:NAME/DIR` names a package that is not installed.
    """
    if config.rating_range is not None and not config.rating_range[0] < config.rating_range[1]:
        raise ConfigError(
            f"`data.rating_range` is {list(config.rating_range)}; expected [lowest, highest], such as [1, 5]."
        )
    log = _READERS[config.format](config)
    if not log.timed and "temporal" in config.splits:
        raise ConfigError(
            "`data.splits` names `temporal`, but the events of this log have no times; expected `leave_one_out`, or "
            "`given` (the split of the log). Change `data.splits`."
        )
    return log
