"""Config section `data`: the event log, its clicks and purchases, and its splits."""

import codecs
from typing import Annotated, Literal, Self

from pydantic import Field, Strict, field_validator, model_validator

from llmrec.config.section import Section

EXPOSURE_COLUMNS = ("ranking_id", "position", "propensity")  # a log with one of these holds what users were shown


class ColumnsConfig(Section):
    """Names of the columns in an event log of format `table`. null: no column is read as such.

    A column from `event_type` on may be missing if the config leaves its name out.
    """

    user_id: str = Field(default="user_id", description="Column of the user id.")
    item_id: str = Field(default="item_id", description="Column of the item id.")
    timestamp: str | None = Field(
        default="timestamp",
        description="Column of the time: seconds, milliseconds, microseconds or nanoseconds since 1970, dates such as "
        "20200131, ISO-8601 dates, or dates in `data.timestamp_format`. null: the lines are in the order of time.",
    )
    event_type: str | None = Field(
        default="event_type", description="Column of the event type, such as `view` or `buy`."
    )
    rating: str | None = Field(default="rating", description="Column of the rating, a number.")
    session_id: str | None = Field(default="session_id", description="Column of the session id.")
    ranking_id: str | None = Field(
        default="ranking_id",
        description="Column of the id of the list in which the item was shown. Its rows are logged exposures.",
    )
    position: str | None = Field(
        default="position", description="Column of the item's rank in the list that was shown, 0 or more."
    )
    propensity: str | None = Field(
        default="propensity",
        description="Column of the probability, in (0, 1], with which the logging policy showed the item.",
    )
    split: str | None = Field(
        default="split", description="Column that holds `train`, `valid` or `test`, for the split `given`."
    )


class DataConfig(Section):
    """The event log: where it is, which events are clicks and purchases, and how it is split."""

    format: Literal[
        "movielens", "recbole", "table", "amazon2023", "complete_journey", "open_bandit", "minionerec", "sequences"
    ] = Field(description="Format of the event log. `table` reads any CSV, TSV, Parquet or JSONL file.")
    path: str = Field(
        description="Directory or file of the event log. `package:NAME/DIR` reads from an installed Python package."
    )
    items: str | None = Field(
        default=None,
        description="Path of the item table (format `table`), of the metadata file (format `amazon2023`) or of the "
        "file of item words (format `sequences`). null: the ids of the items are their titles (format `table`), or the "
        "file beside the log (the other two).",
    )
    users: str | None = Field(default=None, description="Path of the user table (format `table`).")
    facts: str | None = Field(
        default=None,
        description="Path of a table of facts with columns `head`, `relation` and `tail` (format `table`).",
    )
    columns: ColumnsConfig = Field(default=ColumnsConfig(), description="Names of the log's columns (format `table`).")
    separator: str | None = Field(
        default=None,
        min_length=1,
        description="Text between two fields of a line (formats `table` and `recbole`), such as `::`. null, and for a "
        "file whose header shows another: the comma, semicolon, tab or bar that cuts the header into the most fields, "
        "and also the space in format `recbole`.",
    )
    decimal: Literal[",", "."] | None = Field(
        default=None,
        description="Decimal sign of the numbers in text (formats `table` and `recbole`); the other separates "
        "thousands. null: each column shows its own, as `4,5` or `4.5` do; a column that shows both or none is an "
        "error.",
    )
    encoding: str | None = Field(
        default=None,
        description="Encoding of text files, such as `cp1252`. null: UTF-8, or UTF-16 with a byte order mark; "
        "files of format `movielens` that are not UTF-8 are latin-1.",
    )
    timestamp_format: str | None = Field(
        default=None,
        description="Format of the times in the log, in the codes of Python's `strptime`, such as `%m/%d/%Y %H:%M`. "
        "null: see `data.columns.timestamp`.",
    )
    engine: Literal["duckdb", "spark"] = Field(
        default="duckdb",
        description="Engine that groups, sorts and counts the events that were read. `duckdb`: this machine, on disk "
        "where memory is short. `spark`: the Spark that its own configuration names (extra `spark`), whose executors "
        "reach `output_dir`. Both give the same files.",
    )
    bad_rows: Literal["error", "skip"] = Field(
        default="error",
        description="Treatment of rows that cannot be used. `error`: the first one is an error. `skip`: they are left "
        "out and counted by reason.",
    )
    bad_rows_limit: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="Largest share of the rows of the log that `bad_rows: skip` may leave out; more are an error.",
    )
    rating_range: Annotated[tuple[float, float], Strict(False)] | None = Field(  # YAML has lists, no tuples
        default=None, description="Lowest and highest rating allowed; others are errors. null: the range of the format."
    )
    click: list[str] = Field(
        default=["rating>=0"],
        description="Rules for clicks, such as `view` or `rating>=1`. An event that meets one rule is a click.",
    )
    purchase: list[str] = Field(
        default=["rating>=4"],
        description="Rules for purchases, as for clicks. A purchase is also a click. An empty list means that the log "
        "has no purchases.",
    )
    drop: list[str] = Field(
        default=[],
        description="Rules for rows that are left out before anything else, such as `quantity<0`, `status==refunded` "
        "(text in any case) or `cancelled_at` (any value in this column). A row that meets one rule is left out and "
        "counted (format `table`).",
    )
    repeats: Literal["first", "keep"] = Field(
        default="first",
        description="Treatment of clicks on an item that the user has clicked before. `first`: the first click counts, "
        "and seen items are never recommended. `keep`: all clicks at different times are in histories and targets, and "
        "seen items may be recommended.",
    )
    min_user_events: int | None = Field(
        default=None,
        ge=0,
        description="Fewest clicks of a user; users with fewer are dropped. null: such users are errors. "
        "The split `leave_one_out` needs 3 or more.",
    )
    seed: int = Field(
        default=0,
        ge=0,
        description="Seed that orders events with equal timestamps and draws the targets. `llmrec run --seeds` varies "
        "it together with the training seed.",
    )
    splits: list[Literal["temporal", "leave_one_out", "given"]] = Field(
        default=["temporal", "leave_one_out"],
        min_length=1,
        description="Ways to hold events out. `temporal`: one cut in time for all users. `leave_one_out`: the last two "
        "clicks of each user. `given`: the log's own split, which cannot be combined with the others.",
    )
    temporal_valid: float = Field(
        default=0.05,
        gt=0,
        lt=0.5,
        description="Share of events, by time, in the validation part of the temporal split.",
    )
    temporal_test: float = Field(
        default=0.2,
        gt=0,
        lt=0.5,
        description="Share of events, by time, in the test part of the temporal split. A larger share tests more "
        "users, which shows smaller differences, and leaves fewer events for training.",
    )
    targets_per_user: int = Field(
        default=10,
        ge=1,
        description="Largest number of targets of a user in each part of the temporal split, drawn at random.",
    )
    given_valid: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Share of the given split's validation users that validation uses. The validation clicks of the "
        "others are training data.",
    )

    @field_validator("encoding")
    @classmethod
    def _encoding_exists(cls, encoding: str | None) -> str | None:
        if encoding is not None:
            try:
                codecs.lookup(encoding)
            except LookupError:
                raise ValueError(
                    f"data.encoding is {encoding!r}: Python knows no such encoding; expected a name such as cp1252, "
                    "latin-1 or utf-16."
                ) from None
        return encoding

    @model_validator(mode="after")
    def _drop_fits(self) -> Self:
        if self.drop and self.format != "table":
            raise ValueError(
                f"data.drop is {list(self.drop)}: expected it with data.format `table`, not `{self.format}`. Remove it."
            )
        return self

    @model_validator(mode="after")
    def _splits_fit(self) -> Self:
        least = self.min_user_events
        if "given" in self.splits and len(self.splits) > 1:
            raise ValueError(
                f"data.splits is {list(self.splits)}: expected `given` alone, because another split may hold out its "
                "training data. Use one run for each split."
            )
        if least is not None and least < 3 and "leave_one_out" in self.splits:
            raise ValueError(
                f"data.min_user_events is {least}, but leave_one_out needs 3 clicks a user: one each for training, "
                "validation and test. Set it to 3 or more, or data.splits to [temporal]."
            )
        return self
