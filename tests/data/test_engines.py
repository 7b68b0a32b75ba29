"""Spark prepares the same log to the same bytes as DuckDB."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmrec.config import DataConfig
from llmrec.data.dataset import save_data
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from llmrec.errors import ConfigError

HAS_SPARK = importlib.util.find_spec("pyspark") is not None
FILES = ["clicks.arrow", "histories.arrow", "targets.parquet", "items.parquet", "users.parquet", "card.json"]


def prepared(section: DataConfig, folder: Path) -> dict[str, bytes]:
    """The files of a prepared log by name."""
    save_data(build_data(read_log(section), section, seed=3), folder)
    assert set(FILES) <= {path.name for path in folder.iterdir()}
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def dirty_log(folder: Path, rows: int) -> DataConfig:
    """A log with ties, exact duplicates, repeats, bad rows, a split of its own and exposures."""
    rng = np.random.default_rng(0)
    log = pd.DataFrame(
        {
            "user_id": [f"u{n}" for n in rng.integers(0, rows // 50, rows)],
            "item_id": [f"i{n}" for n in rng.zipf(1.3, rows) % 500],
            "timestamp": (1_500_000_000 + rng.integers(0, rows // 20, rows)).astype(str),
            "rating": rng.integers(0, 6, rows).astype(str),
            "ranking_id": rng.choice(["", "r1", "r2"], rows),
            "propensity": rng.choice(["", "0.25", "0.5"], rows),
        }
    )
    log.loc[rng.random(rows) < 0.01, "timestamp"] = "yesterday"
    log.loc[rng.random(rows) < 0.01, "rating"] = ""
    log = pd.concat([log, log.sample(rows // 20, random_state=0)])
    log.to_csv(folder / "log.csv", index=False)
    (folder / "items.csv").write_text("item_id,title\n" + "".join(f"i{n},Title {n}\n" for n in range(500)))
    return DataConfig(
        format="table",
        path=str(folder / "log.csv"),
        items=str(folder / "items.csv"),
        click=["rating>=1"],
        purchase=["rating>=4"],
        bad_rows="skip",
        min_user_events=3,
    )


@pytest.mark.skipif(HAS_SPARK, reason="PySpark is installed")
def test_a_missing_engine_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"pip install 'llmrec\[spark\]'"):
        prepared(dirty_log(tmp_path, 2000).model_copy(update={"engine": "spark"}), tmp_path / "data")


@pytest.mark.slow
@pytest.mark.skipif(not HAS_SPARK, reason="needs the extra `spark` and Java")
def test_spark_gives_the_bytes_of_duckdb(tmp_path):
    from pyspark.sql import SparkSession

    session = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        dirty = dirty_log(tmp_path, 100_000)
        sections = {"first": dirty, "keep": dirty.model_copy(update={"repeats": "keep"})}
        if importlib.util.find_spec("recbole"):
            sections["ml-100k"] = DataConfig(format="recbole", path="package:recbole/dataset_example/ml-100k")
        for name, section in sections.items():
            by_duckdb = prepared(section, tmp_path / f"{name}-duckdb")
            by_spark = prepared(section.model_copy(update={"engine": "spark"}), tmp_path / f"{name}-spark")
            assert by_spark.keys() == by_duckdb.keys()
            assert [file for file in by_spark if by_spark[file] != by_duckdb[file]] == [], name
    finally:
        session.stop()
