"""The dataset card against a recount: the raw files are read by plain pandas, and every number is counted again."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from llmrec.config import DataConfig
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from llmrec.data.readers.paths import resolve_path
from tests.data.recount import Tables, recount

NO_NUMBERS = ("source", "rules", "repeats", "tie_break", "min_user_events", "warnings")  # copied from the config
NO_ID = ["", "NULL", "nan", "None"]
UNKNOWN = ["i900", "i901"]


def leaves(card: dict[str, Any], path: str = "") -> dict[str, Any]:
    """The values of nested dictionaries by their path."""
    found = {}
    for key, value in card.items():
        found |= leaves(value, f"{path}{key}: ") if isinstance(value, dict) else {f"{path}{key}": value}
    return found


def assert_card(card: dict[str, Any], expected: dict[str, Any]) -> None:
    """Every number of the card is that of the recount, and the recount covers the whole card."""
    found = {key: value for key, value in card.items() if key not in NO_NUMBERS}
    found["losses"] = {key: value for key, value in found["losses"].items() if key != "warnings"}
    counted = leaves(expected)
    assert leaves(found) == {
        path: pytest.approx(value) if isinstance(value, float) else value for path, value in counted.items()
    }


# --- a dirty log --------------------------------------------------------------------------------------


def write_log(folder: Path, rows: int = 1500) -> pd.DataFrame:
    """A log with each kind of dirt. Some rows have two kinds, so the order of the checks decides on the reason."""
    rng = np.random.default_rng(5)

    def some(share: float) -> np.ndarray:
        return rng.random(rows) < share

    log = pd.DataFrame(
        {
            "user_id": [f"u{n}" for n in rng.integers(0, 60, rows)],
            "item_id": [f"i{n}" for n in rng.zipf(1.4, rows) % 80],
            "timestamp": (1_600_000_000 + rng.integers(0, 40 * 86_400, rows) // 600 * 600).astype(str),
            "rating": rng.integers(0, 6, rows).astype(str),
            "ranking_id": rng.choice(["", "", "r1", "r2"], rows),
            "position": rng.choice(["", "0", "1"], rows),
            "propensity": rng.choice(["", "", "0.25", "0.5"], rows),
        }
    )
    log["split"] = pd.cut(log["timestamp"].astype(int), 10, labels=False).map(
        lambda tenth: "train" if tenth < 6 else "valid" if tenth < 8 else "test"
    )
    log.loc[some(0.02), "user_id"] = rng.choice(NO_ID, rows)[0]
    log.loc[some(0.02), "item_id"] = "NULL"
    log.loc[some(0.02), "item_id"] = "i900"
    log.loc[some(0.02), "timestamp"] = "yesterday"
    log.loc[some(0.01), "timestamp"] = "9999999999"  # the year 2286
    log.loc[some(0.05), "rating"] = ""
    log.loc[some(0.01), "rating"] = "good"
    log.loc[some(0.01), "propensity"] = "0"
    few = [("rare", f"i{n}", str(1_600_000_000 + n), "4", "", "", "", "train") for n in range(2)]
    late = [("u1", "i3", "4000000000", "5", "", "", "", "test")]  # the year 2096
    log = pd.concat([log, pd.DataFrame([*few, *late], columns=log.columns)])
    log = pd.concat([log, log.sample(rows // 10, random_state=0)], ignore_index=True)
    log.to_csv(folder / "log.csv", index=False)
    return log


def write_tables(folder: Path) -> None:
    """Tables of items, users and facts with repeated rows, missing values and entities."""
    items = [f"i{n},Title {n % 70},{'Drama|War' if n % 3 else ''},{1950 + n if n % 4 else ''}" for n in range(90)]
    items[7] = "i7,,,"  # without a title
    items[8] = "i8,Tom &amp; Jerry,Film,"
    items += [items[5], items[5], "i6,Another title,,"]
    (folder / "items.csv").write_text("item_id,title,categories,year\n" + "\n".join(items) + "\n")
    users = [f"u{n},{20 + n if n % 2 else ''},{'DE' if n % 5 == 0 else ''}" for n in range(70)] + ["u3,23,"]
    (folder / "users.csv").write_text("user_id,age,country\n" + "\n".join(users) + "\n")
    facts = [f"i{n},by,p{n % 9}" for n in range(0, 90, 6)] + ["i950,by,p1", "i0,,p1"]
    (folder / "facts.csv").write_text("head,relation,tail\n" + "\n".join(facts) + "\n")


def plain_tables(log: pd.DataFrame, folder: Path, given: bool) -> Tables:
    """The same files by plain pandas, row by row in the order of the reading contract."""
    reasons = pd.Series("", index=log.index)
    times = pd.to_numeric(log["timestamp"], errors="coerce")
    ratings = pd.to_numeric(log["rating"], errors="coerce")
    propensities = pd.to_numeric(log["propensity"], errors="coerce")
    for reason, bad in (
        ("unusable user_id", log["user_id"].isin(NO_ID)),
        ("unusable item_id", log["item_id"].isin(NO_ID)),
        ("unusable timestamp", ~times.between(0, 4_102_444_800)),
        ("unusable rating", (log["rating"] != "") & ratings.isna()),
        ("unusable propensity", (log["propensity"] != "") & ~(propensities > 0)),
        ("item that the item table lacks", log["item_id"].isin(UNKNOWN)),
    ):
        reasons = reasons.mask((reasons == "") & bad, reason)
    events = log.assign(timestamp=times, click=ratings >= 1, purchase=ratings >= 4)[reasons == ""]
    events = events.astype({"timestamp": "int64"}).replace({"ranking_id": "", "position": "", "propensity": ""}, np.nan)
    items = pd.read_csv(folder / "items.csv", dtype=str, keep_default_na=False)
    same = items.duplicated()
    other = items["item_id"].duplicated() & ~same
    untitled = items["title"] == ""
    encoded = items["title"].str.contains("&")
    items = items.assign(described=(items["categories"] != "") | (items["year"] != ""))
    items["title"] = items["title"].mask(untitled, items["item_id"]).str.replace("&amp;", "&")
    users = pd.read_csv(folder / "users.csv", dtype=str, keep_default_na=False)
    facts = pd.read_csv(folder / "facts.csv", dtype=str, keep_default_na=False)
    no_relation, no_item = facts["relation"] == "", facts["head"] == "i950"
    left_out = {
        "events": reasons[reasons != ""].value_counts().to_dict(),
        "items": {
            "repeated row": int(same.sum()),
            "second row of the same item_id": int(other.sum()),
            "title with HTML entities, decoded": int(encoded.sum()),
            "title missing, the id stands in": int(untitled.sum()),
        },
        "users": {"repeated row": int(users.duplicated().sum())},
        "facts": {
            "unusable relation": int(no_relation.sum()),
            "item that the item table lacks": int(no_item.sum()),
        },
    }
    return Tables(
        events=events if given else events.drop(columns="split"),
        items=items[~same & ~other],
        users=users.drop_duplicates(),
        facts=facts[~no_relation & ~no_item],
        left_out=left_out,
    )


@pytest.mark.parametrize("repeats", ["first", "keep"])
@pytest.mark.parametrize("splits", [["temporal", "leave_one_out"], ["given"]])
def test_a_dirty_log(tmp_path, monkeypatch, repeats, splits):
    monkeypatch.setattr("llmrec.data.readers.delimited.BLOCK", 20_000)  # about 5 parts
    log = write_log(tmp_path)
    write_tables(tmp_path)
    given = splits == ["given"]
    if not given:
        log = log.drop(columns="split")
        log.to_csv(tmp_path / "log.csv", index=False)
        log["split"] = "train"
    names = {"path": "log", "items": "items", "users": "users", "facts": "facts"}
    section = DataConfig(
        format="table",
        **{key: str(tmp_path / f"{name}.csv") for key, name in names.items()},
        click=["rating>=1"],
        purchase=["rating>=4"],
        bad_rows="skip",
        min_user_events=3,
        splits=splits,
        repeats=repeats,
        targets_per_user=3,
    )
    card = build_data(read_log(section), section, seed=0).card
    assert_card(card, recount(plain_tables(log, tmp_path, given), section, least=3))
    assert card["dropped_users"] == 1 and card["losses"]["events_left_out"]["unusable user_id"] > 10
    assert card["exposures"] > 500 and card["items_without_clicks"] > 10
    assert not given or 0 < card["checks"]["test_rows_seen_in_training"] < 1
    assert any("1 event is in the future" in warning for warning in card["losses"]["warnings"])


# --- MovieLens-100K -----------------------------------------------------------------------------------


def movielens_tables(folder: Path) -> Tables:
    """The atomic files of MovieLens-100K by plain pandas."""
    inter, item, user, kg, link = (
        pd.read_csv(folder / f"ml-100k.{kind}", sep="\t", dtype=str, keep_default_na=False, quoting=3).rename(
            columns=lambda name: name.rpartition(":")[0]
        )
        for kind in ("inter", "item", "user", "kg", "link")
    )
    events = inter.assign(
        timestamp=inter["timestamp"].astype(int), click=True, purchase=inter["rating"].astype(float) >= 4
    )
    kg = kg.assign(kind=kg["relation_id"].str.rsplit(".", n=1).str[0], name=kg["relation_id"].str.rsplit(".").str[-1])
    is_film = kg["head_id"].isin(link["entity_id"])
    of_films = is_film.groupby(kg["kind"]).mean()
    films = kg[is_film & kg["kind"].map(of_films >= 0.5) & ~kg["name"].isin(["genre", "language", "country"])]
    facts = films.merge(link, left_on="head_id", right_on="entity_id")
    facts = facts[["item_id", "name", "tail_id"]].drop_duplicates().rename(columns={"item_id": "head"})
    titles = item["movie_title"] + " " + item["release_year"]
    described = (item["class"] != "") | (item["release_year"] != "")
    return Tables(
        events=events,
        items=pd.DataFrame({"item_id": item["item_id"], "title": titles, "described": described}),
        users=user,
        facts=facts,
    )


@pytest.mark.slow
@pytest.mark.parametrize("repeats", ["first", "keep"])
@pytest.mark.skipif(
    importlib.util.find_spec("recbole") is None,
    reason="needs the ML-100K files of recbole: pip install --no-deps recbole",
)
def test_movielens_100k(repeats):
    section = DataConfig(format="recbole", path="package:recbole/dataset_example/ml-100k", repeats=repeats)
    card = build_data(read_log(section), section, seed=0).card
    assert_card(card, recount(movielens_tables(resolve_path(section.path, "data.path")), section, least=3))
