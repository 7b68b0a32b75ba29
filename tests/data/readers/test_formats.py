"""The readers of MovieLens, RecBole, tables and Amazon, on small files and on the ML-100K of the recbole package."""

import gzip
import importlib.util
import json
from pathlib import Path

import pandas as pd
import pytest

from llmrec.config import ColumnsConfig, DataConfig
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from llmrec.data.readers.movielens import natural_titles
from llmrec.errors import UserError
from tests.data.logs import events_of, in_memory


def write(directory: Path, **files: str) -> None:
    """Writes files; `u_data` becomes `u.data`."""
    for name, text in files.items():
        (directory / name.replace("_", ".")).write_text(text, encoding="latin-1")


def read(directory: Path, kind: str, **values):
    return in_memory(read_log(DataConfig(format=kind, path=str(directory), **values)))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("Lion King, The (1994)", "The Lion King (1994)"),
        ("Fish Called Wanda, A", "A Fish Called Wanda"),
        ("Good, The Bad and The Ugly, The (1966)", "The Good, The Bad and The Ugly (1966)"),
        ("Avventura, L' (1960)", "L'Avventura (1960)"),
        (
            "Horseman on the Roof, The (Hussard sur le toit, Le) (1995)",
            "The Horseman on the Roof (Le Hussard sur le toit) (1995)",
        ),
        ("Crossing, The (a.k.a. Bridge, A) (1990)", "The Crossing (a.k.a. A Bridge) (1990)"),
        ("Paris, Texas (1984)", "Paris, Texas (1984)"),
        ("I, Robot (2004)", "I, Robot (2004)"),
    ],
)
def test_trailing_articles(found, expected):
    assert natural_titles(pd.Series([found])).tolist() == [expected]


def test_movielens_100k(tmp_path):
    write(
        tmp_path,
        u_data="7\t1\t3\t881250949\n8\t2\t5\t881250950\n",
        u_genre="unknown|0\nAction|1\nChildren's|2\n\n",
        u_item=(
            "1|Caf\xe9, The (1995)|01-Jan-1995||http://x|0|1|1\n"
            "2|unknown||||1|0|0\n"
            '3|"8" or so (1990)|01-Jan-1990||http://x|0|0|1\n'
        ),
        u_user="7|24|M|technician|85711\n8|53|F|other|T8H1N\n",
    )
    log = read(tmp_path, "movielens")
    assert log.items["title"].tolist() == ["The Caf\xe9 (1995)", "unknown", '"8" or so (1990)']
    assert log.items["categories"].tolist() == [["Action", "Children's"], [], ["Children's"]]
    assert log.items["year"].tolist() == [1995, pd.NA, 1990]
    assert events_of(log)["user_id"].tolist() == ["7", "8"]
    assert events_of(log)["rating"].tolist() == [3.0, 5.0]
    assert events_of(log)["timestamp"].tolist() == [881250949, 881250950]
    assert set(events_of(log)["event_type"]) == {"rating"}
    assert log.users.iloc[1].to_dict() == {
        "user_id": "8",
        "age": "53",
        "gender": "F",
        "occupation": "other",
        "zip_code": "T8H1N",
    }


def test_movielens_1m(tmp_path):
    write(
        tmp_path,
        ratings_dat="1::2::4::978300760\n1::1::5::978302109\n",
        movies_dat="1::Toy Story (1995)::Animation|Children's\n2::Mis\xe9rables, Les (1995)::Drama\n",
        users_dat="1::F::1::10::48067\n",
    )
    log = read(tmp_path, "movielens")
    assert log.items["title"].tolist() == ["Toy Story (1995)", "Les Mis\xe9rables (1995)"]
    assert log.items["categories"].tolist() == [["Animation", "Children's"], ["Drama"]]
    assert events_of(log)["item_id"].tolist() == ["2", "1"]
    assert log.users.iloc[0][["age", "occupation"]].tolist() == ["under 18", "K-12 student"]


def test_movielens_csv(tmp_path):
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,0.5,1000000000\n")
    (tmp_path / "movies.csv").write_text(
        'movieId,title,genres\n1,"Am\xe9lie, or so (2001)",Comedy|Romance\n2,Babylon 5,(no genres listed)\n',
        encoding="utf-8",
    )
    log = read(tmp_path, "movielens")
    assert log.items["title"].tolist() == ["Am\xe9lie, or so (2001)", "Babylon 5"]
    assert log.items["categories"].tolist() == [["Comedy", "Romance"], []]
    assert log.items["year"].tolist() == [2001, pd.NA]
    assert log.users.empty


RECBOLE = {
    "x_inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\t4\t1.0e9\n",
    "x_item": (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tLion King, The\t1994\tAnimation Children's\n"
        "2\tunknown\tunkonwn\tunknown\n"
        "3\tTwelve\tV\tDrama\n"
    ),
}


def test_recbole(tmp_path):
    write(
        tmp_path,
        **RECBOLE,
        x_user="user_id:token\tage:token\n1\t24\n",
        x_link="item_id:token\tentity_id:token\n1\tm.1\n3\tm.3\n9\tm.9\n",
        x_kg=(
            "head_id:token\trelation_id:token\ttail_id:token\n"
            "m.1\tfilm.film.actor\tm.a\n"
            "m.a\tfilm.actor.film\tm.1\n"
            "m.b\tfilm.actor.film\tm.9\n"
            "m.3\tfilm.actor.film\tm.1\n"  # a film instead of an actor
            "m.3\tfilm.film.directed_by\tm.d\n"
            "m.3\tfilm.film.directed_by\tm.d\n"
            "m.3\tfilm.film.genre\tm.g\n"
            "m.9\tfilm.film.actor\tm.a\n"  # linked, but missing from the item table
        ),
    )
    log = read(tmp_path, "recbole")
    assert log.items["title"].tolist() == ["The Lion King (1994)", "unknown", "Twelve"]
    assert log.items["year"].tolist() == [1994, pd.NA, pd.NA]
    assert log.items["categories"].tolist() == [["Animation", "Children's"], [], ["Drama"]]
    assert events_of(log)["timestamp"].tolist() == [1000000000]
    assert log.facts[["head", "relation", "tail"]].to_numpy().tolist() == [
        ["1", "actor", "m.a"],
        ["3", "directed_by", "m.d"],
    ]
    assert not log.facts["named"].any()
    assert log.users.to_dict("records") == [{"user_id": "1", "age": "24"}]


@pytest.mark.skipif(
    importlib.util.find_spec("recbole") is None,
    reason="needs the ML-100K files of recbole: pip install --no-deps recbole",
)
def test_real_ml_100k():
    config = DataConfig(format="recbole", path="package:recbole/dataset_example/ml-100k")
    data = build_data(read_log(config), config, seed=0)
    assert (data.num_users, data.num_items, data.card["events"]) == (943, 1682, 100000)
    assert data.card["purchases"] == 55375  # ratings of 4 and 5
    assert data.items["title"][0] == "Toy Story (1995)"
    assert data.items["categories"][0] == ["Animation", "Children's", "Comedy"]
    assert data.items["year"].isna().sum() == 2
    assert data.users["user_id"].tolist() == [str(n) for n in range(1, 944)]
    assert (data.facts["relation"] == "directed_by").sum() == 1727
    assert data.card["tied_events"] == pytest.approx(0.758, abs=0.001)
    assert len(data.targets["leave_one_out"]["test"]) == 943
    assert all((times[1:] >= times[:-1]).all() for times in data.timestamps)


LOG = pd.DataFrame(
    {
        "who": [7, 8],
        "what": ["a", "b"],
        "when": ["2024-01-01T00:00:00Z", "2024-01-01T01:00:00+01:00"],
        "kind": ["view", "buy"],
        "dwell": [1.5, 2.5],
    }
)
COLUMNS = ColumnsConfig(user_id="who", item_id="what", timestamp="when", event_type="kind")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl", ".csv.gz"])
def test_tables(tmp_path, suffix):
    path, items = tmp_path / f"log{suffix}", tmp_path / "items.jsonl"
    if suffix == ".parquet":
        LOG.to_parquet(path)
    elif suffix == ".jsonl":
        LOG.to_json(path, orient="records", lines=True)
    else:
        LOG.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    items.write_text(
        '{"what": "a", "title": "Alien", "categories": ["Horror"], "year": 1979, "more": {"k": 1}}\n'
        '{"what": "b", "title": "Brazil", "categories": "Satire|Sci-Fi"}\n'
    )
    (tmp_path / "users.csv").write_text("user_id,age\n7,30\n")
    (tmp_path / "facts.csv").write_text("head,relation,tail\na,director,R. Scott\n")
    config = DataConfig(
        format="table",
        path=str(path),
        items=str(items),
        users=str(tmp_path / "users.csv"),
        facts=str(tmp_path / "facts.csv"),
        columns=COLUMNS,
    )
    log = in_memory(read_log(config))
    assert events_of(log)["user_id"].tolist() == ["7", "8"]
    assert events_of(log)["timestamp"].tolist() == [1704067200, 1704067200]
    assert events_of(log)["event_type"].tolist() == ["view", "buy"]
    assert events_of(log)["dwell"].astype(float).tolist() == [1.5, 2.5]
    assert log.items["categories"].tolist() == [["Horror"], ["Satire", "Sci-Fi"]]
    assert log.items["year"].tolist() == [1979, pd.NA]
    assert log.items["more"][1] == '{"k": 1}'
    assert log.users.to_dict("records") == [{"user_id": "7", "age": "30"}]
    assert log.facts["named"].tolist() == [True]


@pytest.mark.parametrize("stamp", [1704067200, 1704067200000, "2024-01-01", pd.Timestamp("2024-01-01")])
def test_timestamps(tmp_path, stamp):
    frame = pd.DataFrame({"user_id": [1], "item_id": ["a"], "timestamp": [stamp]})
    frame.to_parquet(tmp_path / "log.parquet")
    (tmp_path / "items.csv").write_text("item_id,title\na,Alien\n")
    log = read(tmp_path / "log.parquet", "table", items=str(tmp_path / "items.csv"))
    assert events_of(log)["timestamp"].tolist() == [1704067200]
    assert events_of(log)["event_type"].tolist() == ["interaction"]


def test_ids_of_a_float_column_are_whole_numbers(tmp_path):
    frame = pd.DataFrame({"user_id": [1.0, 2.0], "item_id": [5, 6], "timestamp": [1, 2]})
    frame.to_parquet(tmp_path / "log.parquet")
    (tmp_path / "items.csv").write_text("item_id,title\n5,Alien\n6,Brazil\n")
    log = read(tmp_path / "log.parquet", "table", items=str(tmp_path / "items.csv"))
    assert events_of(log)["user_id"].tolist() == ["1", "2"]


def test_amazon(tmp_path):
    review = {
        "rating": 4.0,
        "title": "Good",
        "text": "...",
        "asin": "B1-red",
        "parent_asin": "B1",
        "user_id": "U",
        "timestamp": 1588687728923,
        "verified_purchase": True,
    }
    meta = [
        {"parent_asin": "B1", "title": "Pan", "categories": ["Home", "Pans"], "price": 9.5, "store": "S"},
        {"parent_asin": "B2", "title": "Pot", "categories": [], "main_category": "Home", "price": "from 3"},
    ]
    with gzip.open(tmp_path / "Home.jsonl.gz", "wt") as file:
        file.write(json.dumps(review) + "\n" + json.dumps({**review, "verified_purchase": False}) + "\n")
    (tmp_path / "meta_Home.jsonl").write_text("".join(json.dumps(m) + "\n" for m in meta))
    log = read(tmp_path / "Home.jsonl.gz", "amazon2023", items=str(tmp_path / "meta_Home.jsonl"))
    assert (
        events_of(log)[["user_id", "item_id", "event_type", "timestamp"]].to_numpy().tolist()
        == [["U", "B1", "review", 1588687728]] * 2
    )
    assert events_of(log)["verified_purchase"].tolist() == [1, 0]
    assert "text" not in events_of(log)
    assert log.items["categories"].tolist() == [["Home", "Pans"], ["Home"]]
    assert log.items["price"][1] == 9.5 and pd.isna(log.items["price"][2])
    with gzip.open(tmp_path / "meta_Home.jsonl.gz", "wt") as file:
        file.write((tmp_path / "meta_Home.jsonl").read_text())
    (tmp_path / "meta_Home.jsonl").unlink()
    assert len(read(tmp_path, "amazon2023").items) == 2


def test_package_that_is_not_installed():
    with pytest.raises(UserError, match="pip install --no-deps no_such_package"):
        read_log(DataConfig(format="recbole", path="package:no_such_package/data"))
