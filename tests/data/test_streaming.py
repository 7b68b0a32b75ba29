"""A log that is read in small parts gives the same data as a log in memory, whatever its format."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmrec.config import DataConfig
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from llmrec.data.splits import Clicks, seeded_hash, temporal
from llmrec.errors import DataError
from tests.data.logs import events_of, read_all, target_pairs
from tests.data.reference import reference_histories

ITEMS = [f"i{number}" for number in range(30)]
FORMATS = [".csv", ".tsv", ".csv.gz", ".jsonl", ".parquet", " quoted.csv"]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr("llmrec.data.readers.delimited.BLOCK", 200)
    monkeypatch.setattr("llmrec.data.readers.delimited.PART_ROWS", 7)
    monkeypatch.setattr("llmrec.data.readers.csv_and_json.PART_ROWS", 7)
    monkeypatch.setattr("llmrec.data.splits._HASHED_AT_A_TIME", 11)


def random_log(seed: int, rows: int = 400) -> pd.DataFrame:
    """Events with many repeated clicks, equal times and gaps in the ratings."""
    rng = np.random.default_rng(seed)
    rating = pd.Series(rng.integers(0, 6, rows)).astype("Int64").mask(rng.random(rows) < 0.1)
    return pd.DataFrame(
        {
            "user_id": rng.choice(["u2", "u10", "u1", "7", "x"], rows),
            "item_id": rng.choice(ITEMS, rows),
            "timestamp": 1_500_000_000 + rng.integers(0, 60, rows),
            "rating": rating,
            "note": rng.choice(["a", "b c", "é"], rows),
        }
    )


def write(log: pd.DataFrame, directory: Path, suffix: str) -> DataConfig:
    """Writes a log and its item table, and the config that reads them."""
    path = directory / f"log{suffix}"
    if suffix == ".parquet":
        log.to_parquet(path, index=False)
    elif suffix == ".jsonl":
        rows = [{name: value for name, value in row.items() if value is not pd.NA} for row in log.to_dict("records")]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        text = log.to_csv(index=False, sep="\t" if suffix == ".tsv" else ",", quoting=2 if "quoted" in suffix else 0)
        path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    items = directory / "items.csv"
    items.write_text("item_id,title\n" + "".join(f"{item},Title of {item}\n" for item in ITEMS))
    return DataConfig(
        format="table",
        path=str(path),
        items=str(items),
        min_user_events=3,
        targets_per_user=2,
        click=["rating>=2"],
        purchase=["rating==5"],
    )


@pytest.mark.parametrize("suffix", FORMATS)
def test_each_format_equals_a_log_in_memory(tmp_path, suffix):
    log = random_log(seed=len(suffix))
    config = write(log, tmp_path, suffix)
    data = build_data(read_log(config), config, seed=4)
    rating = log["rating"].fillna(-1)
    expected = reference_histories(log.assign(click=rating >= 2, purchase=rating == 5), ITEMS, seed=4, least=3)
    assert data.users["user_id"].tolist() == list(expected)
    for user, rows in enumerate(expected.values()):
        assert data.histories[user].tolist() == rows["item"].tolist()
        assert data.timestamps[user].tolist() == rows["timestamp"].tolist()
        assert np.array_equal(data.bought_at[user], rows["bought_at"], equal_nan=True)
    flat = pd.concat(expected.values())
    users = np.repeat(np.arange(len(expected)), [len(rows) for rows in expected.values()])
    clicks = Clicks(users, flat["timestamp"].to_numpy(), np.full(len(flat), -1), len(expected))
    draws = seeded_hash(4, "targets", flat["user_id"], flat["item_id"])
    split = temporal(clicks, draws, valid=0.05, test=0.2, targets_per_user=2)
    for part, targets in split.targets.items():
        assert target_pairs(data.targets["temporal"][part]) == target_pairs(targets)
    kept = log["user_id"].isin(list(expected))
    assert data.card["events"] == kept.sum()
    tied = (log[kept & (rating >= 2)].groupby(["user_id", "timestamp"])["item_id"].transform("nunique") > 1).mean()
    assert data.card["tied_events"] == pytest.approx(tied)


@pytest.mark.parametrize("suffix", FORMATS)
def test_lines_are_numbered_through_all_parts(tmp_path, suffix):
    log = random_log(seed=1).assign(rating=3)
    log.loc[317, "item_id"] = "missing"
    config = write(log, tmp_path, suffix)
    place = "row 318" if suffix == ".parquet" else f"line {318 if suffix == '.jsonl' else 319}"
    with pytest.raises(DataError, match=rf"{place}: `item_id` is 'missing'"):
        read_all(config)
    skipping = config.model_copy(update={"bad_rows": "skip"})
    found = read_all(skipping)
    assert len(events_of(found)) == 399
    assert found.event_source.losses["item that the item table lacks"].examples[0].endswith(f"{place}: 'missing'")


def test_bad_lines_and_line_breaks_in_fields_keep_the_numbers(tmp_path):
    lines = [f"u,i{n % 30},{1_500_000_000 + n},3,x" for n in range(100)]
    lines[40] += ",one,too,many"
    lines[60] = 'u,i1,1500000000,3,"a note\non two lines"'
    lines[80] = "u,missing,1500000000,3,x"
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp,rating,note\n" + "\n".join(lines) + "\n")
    config = write(random_log(0), tmp_path, ".tsv").model_copy(update={"path": str(tmp_path / "log.csv")})
    with pytest.raises(DataError, match=r"log.csv, line 42: 8 fields"):
        read_all(config)
    found = read_all(config.model_copy(update={"bad_rows": "skip"}))
    assert len(events_of(found)) == 98
    losses = found.event_source.losses
    assert losses["line that cannot be read"].examples[0].startswith(f"{tmp_path}/log.csv, line 42: 8 fields")
    assert losses["item that the item table lacks"].examples == [f"{tmp_path}/log.csv, line 83: 'missing'"]


def test_a_separator_of_two_characters_is_cut_in_every_part(tmp_path):
    rows = "".join(f"{n % 3 + 1}::{n % 5}::4::{1_500_000_000 + n}\n" for n in range(90))
    (tmp_path / "ratings.dat").write_text(rows)
    (tmp_path / "movies.dat").write_text("".join(f"{n}::Film {n} (1999)::Drama\n" for n in range(5)))
    events = events_of(read_all(DataConfig(format="movielens", path=str(tmp_path))))
    assert events["item_id"].tolist() == [str(n % 5) for n in range(90)]
    assert events.index.tolist() == list(range(1, 91))


def test_dates_that_look_like_numbers_are_dates_only_if_all_are(tmp_path):
    for last, first_time in ((20200131, 1577836800), (20201301, 20200101)):
        log = random_log(0, rows=60).assign(rating=3, timestamp=20200101)
        log.loc[59, "timestamp"] = last  # month 13 is no date, so all are seconds
        events = events_of(read_all(write(log, tmp_path, ".csv")))
        assert events["timestamp"].iloc[0] == first_time


def test_whole_floats_are_ids_only_if_all_are(tmp_path):
    log = random_log(0, rows=60).assign(rating=3, user_id=1.0)
    assert set(events_of(read_all(write(log, tmp_path, ".parquet")))["user_id"]) == {"1"}
    log.loc[59, "user_id"] = 1.5
    assert set(events_of(read_all(write(log, tmp_path, ".parquet")))["user_id"]) == {"1.0", "1.5"}


def test_a_key_that_appears_late_is_a_column(tmp_path):
    rows = [{"user_id": "u", "item_id": ITEMS[n], "timestamp": 10**9 + n} for n in range(20)]
    rows[-1]["rating"] = 5
    config = write(random_log(0), tmp_path, ".jsonl")
    Path(config.path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    events = events_of(read_all(config))
    assert events["rating"].notna().sum() == 1 and set(events["event_type"]) == {"rating"}


def test_recbole_benchmark_files_and_items_without_a_table(tmp_path):
    header = "user_id:token\titem_id:token\ttimestamp:float\n"
    for part, first in (("train", 0), ("valid", 40), ("test", 50)):
        rows = "".join(f"u{n % 2}\t{n}\t{1000 + n}\n" for n in range(first, first + 40))
        (tmp_path / f"x.{part}.inter").write_text(header + rows)
    log = read_all(DataConfig(format="recbole", path=str(tmp_path), splits=["given"]))
    assert len(log.items) == 90
    assert events_of(log)["split"].value_counts(sort=False).to_dict() == {"train": 40, "valid": 40, "test": 40}


@pytest.mark.parametrize("suffix", [*FORMATS, ".csv.gz"])
def test_progress_counts_events_and_estimates_all_of_them(tmp_path, suffix):
    log = random_log(0)
    config = write(log.assign(rating=3), tmp_path, suffix)
    shown: list[tuple[int, int, str]] = []
    build_data(read_log(config), config, seed=0, progress=lambda *now: shown.append(now))
    reading = [now for now in shown if now[2] == "reading"]
    assert len(reading) > 1 and [now[0] for now in reading] == sorted(now[0] for now in reading)
    assert reading[-1][0] == shown[-1][0] == shown[-1][1] == len(log)
    assert all(total == pytest.approx(len(log), rel=0.1) for _, total, _ in reading)


def test_a_file_that_grows_is_refused(tmp_path):
    config = write(random_log(0).assign(rating=3), tmp_path, ".csv")
    log = read_log(config)
    parts = iter(log.events)
    next(parts)
    with Path(config.path).open("a") as file:
        file.write("u2,i1,1500000000,3,x\n")
    with pytest.raises(DataError, match=r"log.csv: the file changed while it was read; .*Wait until it is complete"):
        list(parts)


def test_a_gzip_that_ends_early_is_refused(tmp_path):
    config = write(random_log(0).assign(rating=3), tmp_path, ".csv.gz")
    Path(config.path).write_bytes(Path(config.path).read_bytes()[:-40])
    with pytest.raises(DataError, match=r"log.csv.gz: cannot be read: Compressed file ended"):
        build_data(read_log(config), config, seed=0)


def test_nested_columns_are_refused_where_they_are_used(tmp_path):
    log = random_log(0).assign(rating=3)
    nested = log.assign(note=[{"a": 1}] * len(log))
    assert len(events_of(read_all(write(nested, tmp_path, ".parquet")))) == len(log)
    for column, expected in (("user_id", "an id"), ("timestamp", "seconds"), ("rating", "a number")):
        config = write(log.assign(**{column: [{"a": 1}] * len(log)}), tmp_path, ".parquet")
        with pytest.raises(DataError, match=rf"row 1: `{column}` is {{'a': 1}} .*expected {expected}"):
            read_all(config)
