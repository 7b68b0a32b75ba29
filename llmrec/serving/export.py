"""Export of the feedback store as an event log, in the form that `llmrec prepare` and `llmrec off-policy` read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from llmrec.config import Config, dump_config, parse_config, run_name
from llmrec.data.dataset import InteractionData
from llmrec.data.ragged import Ragged
from llmrec.errors import UserError
from llmrec.files import atomic_directory, write_text
from llmrec.serving import tables
from llmrec.serving.people import SEEN
from llmrec.serving.store import Store

COLUMNS = ["user_id", "item_id", "event_type", "timestamp", "rating", "ranking_id", "position", "propensity", "policy"]


@dataclass(frozen=True)
class Exported:
    """What an export holds.

    Attributes:
        impressions: shown items.
        feedback: events from clients.
        logged: events of the run's own log.
        anonymous: shown items that are left out, because the request named nobody.
        unknown: shown items and events that are left out, because the catalogue of the run lacks the item.
        erased: people whose data was deleted. Their part of the run's log is left out.
    """

    impressions: int
    feedback: int
    logged: int
    anonymous: int
    unknown: int
    erased: int


def export_log(store: Store, directory: Path, trained: tuple[Config, InteractionData] | None = None) -> Exported:
    """Writes `events.parquet`, `items.parquet`, `erased_users.csv` and a `config.yaml` that reads them.

    With a run, its own events come first, and its users, facts and settings are written too, so that the config trains
    the next model.

    Args:
        store: the feedback store.
        directory: a new directory.
        trained: config and data of the run that the server uses.

    Raises:
        UserError: the directory exists, or there is no event to export.
        StoreError: the store cannot be read.
    """
    if directory.exists():
        raise UserError(f"{directory} exists already. Choose another --output, or remove it.")
    shown = store.frame(tables.impressions, ["at", "request_id", "position"])
    given = store.frame(tables.feedback, ["at", "received", "event_id"])
    erased = {row["user_id"] for row in store.rows(tables.erasures, ["user_id"])}
    named = shown[shown["user_id"].notna()]
    anonymous = len(shown) - len(named)
    unknown = 0
    if trained:  # other servers of the store may have another catalogue
        ids = trained[1].items["item_id"]
        unknown = int((~named["item_id"].isin(ids)).sum() + (~given["item_id"].isin(ids)).sum())
        named = named[named["item_id"].isin(ids)]
        given = given[given["item_id"].isin(ids)]
    logged = _logged(trained[1], erased) if trained else pd.DataFrame(columns=COLUMNS)
    parts = [logged, _impressions(named), _feedback(given, named)]
    events = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    kinds = [kind for kind in SEEN if (events["event_type"] == kind).any()]
    if not kinds:
        raise UserError("The store holds no click, purchase or rating yet, so there is no log to export.")
    with atomic_directory(directory) as temporary:
        events.to_parquet(temporary / "events.parquet", index=False)
        extra = _write_catalogue(temporary, store, trained[1] if trained else None, erased)
        pd.DataFrame({"user_id": sorted(erased)}).to_csv(temporary / "erased_users.csv", index=False)
        write_text(temporary / "config.yaml", _config(directory, kinds, extra, trained[0] if trained else None))
    return Exported(
        impressions=len(named),
        feedback=len(given),
        logged=len(logged),
        anonymous=anonymous,
        unknown=unknown,
        erased=len(erased),
    )


def _impressions(shown: pd.DataFrame) -> pd.DataFrame:
    """Rows of the log for shown items."""
    renamed = shown.rename(columns={"request_id": "ranking_id", "at": "timestamp"})
    return renamed.assign(event_type="impression", rating=np.nan)[COLUMNS]


def _feedback(given: pd.DataFrame, shown: pd.DataFrame) -> pd.DataFrame:
    """Rows of the log for events. One keeps the id of its list only if the server showed that item to that person.

    An id that a client invents would otherwise make an exposure without a propensity.
    """
    keys = ["request_id", "user_id", "item_id"]
    was_shown = given.merge(shown[keys].drop_duplicates(), on=keys, how="left", indicator=True)["_merge"] == "both"
    ranking = given["request_id"].where(was_shown.to_numpy())
    renamed = given.rename(columns={"type": "event_type", "value": "rating", "at": "timestamp"})
    return renamed.assign(ranking_id=ranking, position=np.nan, propensity=np.nan, policy=None)[COLUMNS]


def _logged(data: InteractionData, erased: set[str]) -> pd.DataFrame:
    """Clicks and purchases of the run's log, without those of people whose data was deleted."""
    histories = Ragged.of(data.histories)
    users = np.repeat(np.arange(len(data.users)), histories.lengths)
    clicks = pd.DataFrame(
        {
            "user_id": data.users["user_id"].iloc[users].reset_index(drop=True),
            "item_id": data.items["item_id"].iloc[histories.flat()].reset_index(drop=True),
            "event_type": "click",
            "timestamp": Ragged.of(data.timestamps).flat().astype(np.float64),
        }
    )
    if len(data.bought_at):  # `purchases` leaves out what was bought late, which the next training may know
        bought_at = Ragged.of(data.bought_at).flat()
    else:
        bought_at = np.where(Ragged.of(data.purchases).flat(), clicks["timestamp"], np.nan)
    purchases = clicks.assign(event_type="purchase", timestamp=bought_at).dropna(subset="timestamp")
    rows = pd.concat([clicks, purchases], ignore_index=True)
    return rows[~rows["user_id"].isin(erased)].reindex(columns=COLUMNS)


def _write_catalogue(directory: Path, store: Store, data: InteractionData | None, erased: set[str]) -> dict[str, str]:
    """Writes items, and with a run also users and facts; returns the file of each key of `data`."""
    if data is None:
        items = store.frame(tables.items, ["row"]).drop(columns="row")
        items.to_parquet(directory / "items.parquet", index=False)
        return {"items": "items.parquet"}
    data.items.to_parquet(directory / "items.parquet", index=False)
    data.users[~data.users["user_id"].isin(erased)].to_parquet(directory / "users.parquet", index=False)
    files = {"items": "items.parquet", "users": "users.parquet"}
    if len(data.facts):
        heads = data.items["item_id"].to_numpy()[data.facts["item"]]
        facts = data.facts.drop(columns="item").assign(head=heads)
        facts.to_parquet(directory / "facts.parquet", index=False)
        files["facts"] = "facts.parquet"
    return files


def _config(directory: Path, kinds: list[str], files: dict[str, str], config: Config | None) -> str:
    """The config that reads an export, with the settings of the run if there is one."""
    place = directory.resolve()
    data = {
        "format": "table",
        "path": str(place / "events.parquet"),
        "columns": {name: name for name in ("event_type", "rating", "ranking_id", "position", "propensity")},
        "click": kinds,
        "purchase": ["purchase"] if "purchase" in kinds else [],
        "min_user_events": 0,  # off-policy evaluation needs everybody whom the server showed something
        "splits": ["temporal"],
    } | {key: str(place / file) for key, file in files.items()}
    if config is not None:
        data["repeats"] = config.data.repeats
    values = {"reward": {}} if config is None else config.model_dump(mode="json")
    values["reward"]["linear"] = False  # a log with exposures trains the reward on what was shown
    return dump_config(parse_config(values | {"name": run_name(place.name, "served"), "data": data}))
