"""Format `amazon2023`: Amazon Reviews 2023, a JSONL file of reviews and one of product metadata, plain or gzipped."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.readers.columns import (
    as_numbers,
    as_text,
    clean_categories,
    no_years,
    require_columns,
    stream_events,
    to_attribute,
    to_categories,
    to_ids,
)
from llmrec.data.readers.csv_and_json import stream_jsonl
from llmrec.data.readers.paths import find_one, resolve_path
from llmrec.data.readers.raw import RawLog, Source, Table, TableStream
from llmrec.data.readers.text_files import TextFormat
from llmrec.errors import DataError

RATING_RANGE = (0.5, 5.0)
# The collection counts 48 million items in reviews, a quarter of them without metadata (Hou et al., 2024).
WITHOUT_METADATA = "review of an item without metadata"
WITHOUT_STARS = "review with 0 stars"  # the collection has a few; the scale begins at 1
REPEATED_METADATA = "further metadata of the same item"
_REVIEW_FIELDS = ["user_id", "parent_asin", "rating", "timestamp", "verified_purchase"]
_REVIEW_COLUMNS = {"user_id": "user_id", "item_id": "parent_asin", "rating": "rating", "timestamp": "timestamp"}
_META_FIELDS = ["parent_asin", "title", "categories", "main_category", "store", "price", "average_rating"]


def _find(config: DataConfig) -> tuple[Path, Path]:
    """Paths of the review file and the metadata file."""
    path = resolve_path(config.path, "data.path")
    if path.is_dir():
        metadata = find_one(path, "meta_*.jsonl*", "data.path", "metadata file")
        name = metadata.name.removeprefix("meta_")
        return find_one(path, name, "data.path", f"review file for {metadata.name}"), metadata
    if config.items is not None:
        return path, resolve_path(config.items, "data.items")
    metadata = path.with_name(f"meta_{path.name}")
    if not metadata.is_file():
        raise DataError(
            f"`data.items`: there is no {metadata}; expected the metadata file of {path.name}. Set the key to its path."
        )
    return path, metadata


def _items(table: Table) -> pd.DataFrame:
    require_columns(table, {"item_id": "parent_asin", "title": "title"})
    frame = table.frame
    index = frame.index
    missing = pd.Series(None, index=index, dtype=object)
    main = frame.get("main_category", missing)
    categories = to_categories(frame.get("categories", missing), "|")
    # Many products have no categories except the department of the store.
    merged = [c or clean_categories([m] if isinstance(m, str) else []) for c, m in zip(categories, main, strict=True)]
    # Some prices are text, such as "from 10.99" or a dash. They are left empty.
    price = pd.to_numeric(frame.get("price", missing), errors="coerce").astype("float64")
    item_ids = to_ids(table, "parent_asin")
    table.source.drop(item_ids, item_ids.duplicated(), REPEATED_METADATA)
    return pd.DataFrame(
        {
            "item_id": item_ids,
            "title": as_text(frame["title"]),
            "categories": pd.Series(merged, index=index, dtype=object),
            "year": no_years(index),
            "main_category": to_attribute(main),
            "store": to_attribute(frame.get("store", missing)),
            "price": price,
            "average_rating": pd.to_numeric(frame.get("average_rating", missing), errors="coerce").astype("float64"),
        },
        index=index,
    )


def read_amazon(config: DataConfig) -> RawLog:
    """Reads reviews and metadata.

    `data.path` is a directory with both files, or the review file. The metadata file is then `data.items`; its default
    is `meta_` + the name of the review file. An item is a `parent_asin`, and the event type is `review`. Rules can
    use `verified_purchase` (1 or 0), e.g. `verified_purchase==1`. Review texts are not kept. Reviews of items without
    metadata and reviews with 0 stars are left out and counted, and so is all metadata of an item but the first.

    Raises:
        DataError: a file or key is missing, or a value cannot be used.
    """
    path, metadata_path = _find(config)
    text = TextFormat.of(config)
    reviews = stream_jsonl(path, _REVIEW_FIELDS, text)
    if reviews.columns:  # An empty file has no columns. `check_log` reports it.
        require_columns(reviews, _REVIEW_COLUMNS)
    metadata = stream_jsonl(metadata_path, _META_FIELDS, text).whole()
    items = _items(metadata)
    return RawLog(
        events=_events(reviews, items["item_id"], config),
        items=items,
        event_source=reviews.source,
        item_source=metadata.source,
    )


def _events(reviews: TableStream, item_ids: pd.Series, config: DataConfig) -> Iterator[pd.DataFrame]:
    """The reviews of items with metadata, in parts."""

    def read(source: Source) -> Iterator[pd.DataFrame]:
        for frame in reviews.read(source):
            reviewed = frame.reindex(columns=_REVIEW_FIELDS).assign(event_type="review")
            without = as_numbers(reviewed["rating"]) == 0
            source.drop(reviewed["rating"], without, WITHOUT_STARS)
            reviewed["rating"] = reviewed["rating"].mask(without)
            verified = pd.to_numeric(reviewed["verified_purchase"], errors="coerce").astype("float64")
            yield reviewed.assign(verified_purchase=verified)

    columns = {**_REVIEW_COLUMNS, "event_type": "event_type"}
    for events in stream_events(replace(reviews, read=read), columns, config.rating_range or RATING_RANGE):
        reviews.source.drop(events["item_id"], ~events["item_id"].isin(item_ids), WITHOUT_METADATA)
        yield events
