"""`prepare --check` on data sets that `data.format` names, and on files of kinds that are not read."""

import gzip
import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from llmrec.config import parse_config
from llmrec.data.check import LogCheck, check_file
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from llmrec.data.readers.csv_and_json import read_any_table
from llmrec.errors import DataError, UserError

USERS = 6
ITEMS = 10
# User, item, stars and time; a user meets each item once.
ROWS = [(n % USERS, n // USERS, 1 + n % 5, 1_000_000_000 + 90_000 * n) for n in range(USERS * ITEMS)]


def lines(separator: str, header: str = "", rows: list[tuple] = ROWS) -> str:
    head = f"{header}\n" if header else ""
    return head + "".join(separator.join(map(str, row)) + "\n" for row in rows)


def json_lines(*records: dict) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def prediction_rows(item: int) -> str:
    """A row a user: the items 0 to `item` - 1, then `item`."""
    header = "user_id,history_item_id,item_id,item_title\n"
    return header + "".join(f'u{user},"{list(range(item))}",{item},Pan\n' for user in range(USERS))


REVIEWS = json_lines(
    *(
        {
            "rating": float(stars),
            "title": "Good",
            "text": "Works.",
            "asin": f"A{item}",
            "parent_asin": f"P{item}",
            "user_id": f"U{user}",
            "timestamp": 1000 * time,
            "helpful_vote": 0,
            "verified_purchase": True,
        }
        for user, item, stars, time in ROWS
    )
)
META = json_lines(*({"parent_asin": f"P{n}", "title": f"Pan {n}", "categories": ["Pans"]} for n in range(ITEMS)))
SETS = {
    "ml-100k": (
        {
            "u.data": lines("\t"),
            "u.genre": "unknown|0\nDrama|1\n",
            "u.item": "".join(f"{n}|Film {n} (1990)|01-Jan-1990||x|0|1\n" for n in range(ITEMS)),
        },
        "u.data",
        "movielens",
    ),
    "ml-1m": (
        {"ratings.dat": lines("::"), "movies.dat": "".join(f"{n}::Film {n} (1990)::Drama\n" for n in range(ITEMS))},
        "ratings.dat",
        "movielens",
    ),
    "ml-latest": (
        {
            "ratings.csv": lines(",", "userId,movieId,rating,timestamp"),
            "movies.csv": "movieId,title,genres\n" + "".join(f"{n},Film {n} (1990),Drama\n" for n in range(ITEMS)),
        },
        "ratings.csv",
        "movielens",
    ),
    "recbole": (
        {"x.inter": lines("\t", "user_id:token\titem_id:token\trating:float\ttimestamp:float")},
        "x.inter",
        "recbole",
    ),
    "recbole in parts": (
        {
            f"x.{part}.inter": lines("\t", "user_id:token\titem_id:token\trating:float\ttimestamp:float", rows)
            for part, rows in (("train", ROWS[:-12]), ("valid", ROWS[-12:-6]), ("test", ROWS[-6:]))
        },
        "x.train.inter",
        "recbole",
    ),
    "amazon": ({"Home.jsonl": REVIEWS, "meta_Home.jsonl": META}, "Home.jsonl", "amazon2023"),
    "amazon.gz": ({"Home.jsonl.gz": REVIEWS, "meta_Home.jsonl.gz": META}, "Home.jsonl.gz", "amazon2023"),
    "sequences": (
        {
            "user_sequence.txt": "".join(
                f"u{n} " + " ".join(f"i{k}" for k in range(ITEMS)) + "\n" for n in range(USERS)
            ),
            "item_words.txt": "".join(f"i{k} pan {k}\n" for k in range(ITEMS)),
        },
        "user_sequence.txt",
        "sequences",
    ),
    "minionerec": (
        {
            "valid.csv": prediction_rows(ITEMS - 2),
            "test.csv": prediction_rows(ITEMS - 1),
            "items.json": json.dumps({str(n): {"title": f"Pan {n}", "categories": ""} for n in range(ITEMS)}),
        },
        "valid.csv",
        "minionerec",
    ),
}


def write(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        content = text.encode()
        (directory / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


def prepared(check: LogCheck):
    """The data that the suggested config gives."""
    assert check.config is not None, check.notes
    config = parse_config(json.loads(json.dumps(check.config)))
    return build_data(read_log(config.data), config.data, seed=0)


@pytest.mark.parametrize("name", SETS)
def test_a_known_data_set_gets_its_format(tmp_path, name):
    """The directory and its file of events give the same config, up to the name."""
    files, log, kind = SETS[name]
    write(tmp_path, files)
    check = check_file(tmp_path / log)
    assert check.config is not None and check.config["data"]["format"] == kind
    assert check_file(tmp_path).config == {**check.config, "name": tmp_path.name.strip("_")}
    data = prepared(check)
    assert (data.card["events"], data.num_users, data.num_items) == (len(ROWS), USERS, ITEMS)


def test_a_config_that_prepare_refuses_is_not_suggested(tmp_path, monkeypatch):
    """All users rate at one time, then one rates much later: no time leaves validation targets."""
    log = [(user, item, 4, 10**9) for user in range(USERS) for item in range(5)] + [(0, 9, 4, 2 * 10**9)]
    files, _, _ = SETS["ml-latest"]
    write(tmp_path, files | {"ratings.csv": lines(",", "userId,movieId,rating,timestamp", log)})
    check = check_file(tmp_path)
    assert check.config is not None and check.config["data"]["splits"] == ["leave_one_out"]
    assert any("leaves out `temporal`" in note for note in check.notes)
    assert len(prepared(check).targets["leave_one_out"]["test"])
    few = [(0, item, 4, 10**9) for item in range(2)]
    write(tmp_path, {"ratings.csv": lines(",", "userId,movieId,rating,timestamp", few)})
    refused = check_file(tmp_path)
    assert refused.config is None and refused.notes[-1].startswith("No config can be suggested: ")
    monkeypatch.setattr("llmrec.data.check.log.LARGEST_TRIED", 10)
    large = check_file(tmp_path)
    assert large.config is not None and "was not tried on them" in large.notes[-1]


def test_a_data_set_in_a_package_keeps_its_path():
    path = "package:recbole/dataset_example/ml-100k"
    check = check_file(Path(path))
    assert check.config is not None and check.config["data"]["path"] == path
    with pytest.raises(UserError, match="needs the package `nonsuch`"):
        check_file(Path("package:nonsuch/data"))


def test_complete_journey_gets_its_format(tmp_path):
    """All its purchases count, those of the same product too."""
    bought = [(user, item % 4, 1, 0.0, pd.Timestamp(time, unit="s")) for user, item, _, time in ROWS]
    columns = ["household_id", "product_id", "quantity", "retail_disc", "transaction_timestamp"]
    pd.DataFrame(bought, columns=columns).to_parquet(tmp_path / "transactions.parquet")
    words = {f"product_{name}": ["Milk"] * 4 for name in ("type", "category")} | {"department": ["Food"] * 4}
    pd.DataFrame({"product_id": range(4)} | words).to_parquet(tmp_path / "products.parquet")
    pd.DataFrame({"household_id": [1], "age": ["65+"]}).to_parquet(tmp_path / "demographics.parquet")
    check = check_file(tmp_path / "transactions.parquet")
    assert check.config is not None and check.config["data"]["format"] == "complete_journey"
    data = prepared(check)
    assert data.repeats and (sum(map(len, data.histories)), data.num_items) == (len(ROWS), 4)


def test_open_bandit_gets_its_format(tmp_path):
    header = "timestamp,item_id,position,click,propensity_score," + ",".join(f"user_feature_{n}" for n in range(4))
    rows = [
        f"2019-11-{24 + n % 5} 00:0{n % 9}:00+00:00,{n % 10},{1 + n % 3},{int(n % 2 == 0)},0.1,a{n % 7},b,c,d"
        for n in range(400)
    ]
    context = "item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3\n"
    context += "".join(f"{n},0.5,x{n},y,z\n" for n in range(10))
    write(tmp_path, {"men.csv": "\n".join([header, *rows]) + "\n", "item_context.csv": context})
    check = check_file(tmp_path / "men.csv")
    assert check.config is not None and check.config["data"]["format"] == "open_bandit"
    assert prepared(check).num_users == 7
    (tmp_path / "item_context.csv").unlink()
    alone = check_file(tmp_path / "men.csv")
    assert alone.config is None and any("columns are those of Open Bandit" in note for note in alone.notes)


def test_reviews_without_their_metadata_are_a_table(tmp_path):
    write(tmp_path, {"Home.jsonl": REVIEWS})
    check = check_file(tmp_path / "Home.jsonl")
    assert check.config is not None
    assert check.config["data"]["format"] == "table"
    assert check.config["data"]["columns"] == {"item_id": "parent_asin"}
    assert any("metadata file meta_Home.jsonl" in note for note in check.notes)
    assert prepared(check).num_items == ITEMS


def test_a_directory_of_other_files_names_them(tmp_path):
    write(tmp_path, {"b.csv": "x\n", "a.jsonl": "", "readme.md": ""})
    with pytest.raises(DataError, match=r"knows by its files\. Name a file in it, such as a\.jsonl, b\.csv\."):
        check_file(tmp_path)


TABLE = "user,item,ts\n" + "".join(f"u{user},i{item},{time}\n" for user, item, _, time in ROWS)
OBJECTS = [{"user": f"u{user}", "item": f"i{item}", "ts": time} for user, item, _, time in ROWS]


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("log.txt", TABLE, "It is a table separated by `,`. Rename it: `mv {}/log.txt {}/log.csv`."),
        ("log.txt", TABLE.replace(",", "\t"), "separated by tabs. Rename it: `mv {}/log.txt {}/log.tsv`."),
        ("log.psv", TABLE.replace(",", "|"), "separated by `|`. Rename it: `mv {}/log.psv {}/log.csv`."),
        ("log.dat", TABLE.replace(",", "::"), "separated by `::`. Rename it: `mv {}/log.dat {}/log.csv`."),
        ("LOG.CSV", TABLE, "Rename it: `mv {}/LOG.CSV {}/log.csv`."),
        ("log.txt.gz", TABLE, "Rename it: `mv {}/log.txt.gz {}/log.csv.gz`."),
        ("log.json", json_lines(*OBJECTS), "one object per line. Rename it: `mv {}/log.json {}/log.jsonl`."),
        ("log.json", json.dumps(OBJECTS), "It holds a list of objects. Write one object per line: `python -c"),
        ("log.json", json.dumps({"events": OBJECTS}, indent=1), "Write the events in it one per line"),
        ("log.zip", "PK", "Unpack it: `unzip {}/log.zip`."),
        ("log.csv.zst", "x", "Unpack it: `unzstd {}/log.csv.zst`."),
        ("log.tar.gz", "x", "Unpack it: `tar -xf {}/log.tar.gz`."),
        ("log.xlsx", "PK", "Convert it (`pip install openpyxl` first): `python -c"),
        ("log.feather", "x", "Convert it: `python -c"),
    ],
)
def test_a_file_that_is_not_read_comes_with_a_remedy(tmp_path, name, content, advice):
    """`prepare` and its check say it in one line, and the command gives a file that is read."""
    write(tmp_path, {name: content})
    expected = re.escape(advice.replace("{}", str(tmp_path)))
    with pytest.raises(DataError, match=expected) as error:
        check_file(tmp_path / name)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=expected):
        read_any_table(tmp_path / name)
    command = re.search(r"`((?:mv|python -c) .*)`", str(error.value))
    if command is not None and name.lower().endswith((".txt", ".psv", ".dat", ".csv", ".json", ".txt.gz")):
        words = shlex.split(command[1])
        if words[0] == "mv":
            Path(words[1]).rename(words[2])
        else:
            exec(words[2])
        (written,) = set(tmp_path.iterdir()) - {tmp_path / name}
        assert prepared(check_file(written)).num_users == USERS


def test_feather_is_converted(tmp_path):
    pd.DataFrame(OBJECTS).to_feather(tmp_path / "log.feather")
    with pytest.raises(DataError) as error:
        check_file(tmp_path / "log.feather")
    command = re.search(r"`(python -c .*)`", str(error.value))
    assert command is not None
    exec(shlex.split(command[1])[2])
    assert prepared(check_file(tmp_path / "log.csv")).num_items == ITEMS
