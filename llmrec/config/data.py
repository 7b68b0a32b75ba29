"""Section `data`."""

from typing import Literal

from pydantic import Field

from llmrec.config.section import Section


class ColumnsConfig(Section):
    """Names of the columns in a CSV, Parquet or JSONL event log (right) for llmrec's own names (left)."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str = "timestamp"
    event_type: str | None = None
    rating: str | None = None
    session_id: str | None = None
    ranking_id: str | None = None
    position: str | None = None
    propensity: str | None = None
    split: str | None = None


class DataConfig(Section):
    """Where the event log is, which events count as clicks and purchases, and how it is split."""

    format: Literal["movielens", "recbole", "table", "amazon2023", "complete_journey", "open_bandit", "minionerec"]
    path: str = Field(description="directory or file; `package:NAME/DIR` reads from an installed package")
    items: str | None = Field(None, description="item table (table) or metadata file (amazon2023)")
    users: str | None = Field(None, description="user table (table)")
    facts: str | None = Field(None, description="table of head, relation, tail (table)")
    columns: ColumnsConfig = ColumnsConfig()
    rating_range: tuple[float, float] | None = Field(None, description="ratings outside are errors; null: the format's")
    click: list[str] = Field(["rating>=0"], description="rules such as `view` or `rating>=1`; one must hold")
    purchase: list[str] = Field(["rating>=4"], description="rules; a purchase is also a click; []: the log has none")
    min_user_events: int | None = Field(
        None,
        ge=0,
        description="drop users with fewer clicks; null: such users are errors; below 3 only without leave_one_out",
    )
    seed: int = Field(0, ge=0, description="orders equal timestamps, draws targets; the same for all training seeds")
    splits: list[Literal["temporal", "leave_one_out", "given"]] = Field(["temporal", "leave_one_out"], min_length=1)
    temporal_valid: float = Field(0.05, gt=0, lt=0.5, description="share of events, in time, for validation")
    temporal_test: float = Field(0.05, gt=0, lt=0.5, description="share of events, in time, for the test")
    targets_per_user: int = Field(10, ge=1, description="temporal split: at most so many seeded random targets a user")
    given_valid: float = Field(
        1.0, gt=0, le=1, description="given split: share of its validation users; what the others took is training data"
    )
