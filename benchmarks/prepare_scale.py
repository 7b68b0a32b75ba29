"""What `prepare` costs on large logs, beside scripts that only read, deduplicate and sort.

    python benchmarks/prepare_scale.py --events 1e6 --events 1e7 --directory /large/disk

The log is synthetic: users with 50 events in the mean, items with Zipf frequencies, ratings from 1 to 5, 1 % of the
catalogue's size in events. The scripts read the same CSV file, keep each user's first click on each item with the time
of the first rating of 4 or more, and sort by user and time. They check no value and hold nothing out. Contenders take
turns, each as a process of its own. CPU seconds depend less on the load of the machine than seconds do. Peak memory is
the largest resident set of the process. Polars is no dependency of llmrec and must be installed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.resident_memory import peak_bytes

ROWS_AT_A_TIME = 1_000_000
CONTENDERS = ("llmrec", "pandas", "polars", "duckdb")


def write_log(path: Path, events: int, seed: int = 0) -> None:
    """Writes a log and its item table `items.csv`."""
    rng = np.random.default_rng(seed)
    users = max(10, events // 50)
    items = max(100, events // 100)
    chances = 1 / np.arange(1, items + 1)
    cumulative = np.cumsum(chances / chances.sum())
    for start in range(0, events, ROWS_AT_A_TIME):
        rows = min(ROWS_AT_A_TIME, events - start)
        frame = pd.DataFrame(
            {
                "user_id": rng.integers(0, users, rows),
                "item_id": np.minimum(np.searchsorted(cumulative, rng.random(rows)), items - 1),
                "timestamp": rng.integers(1_500_000_000, 1_600_000_000, rows),
                "rating": rng.integers(1, 6, rows),
            }
        )
        frame.to_csv(path, mode="a" if start else "w", header=not start, index=False)
    titles = pd.DataFrame({"item_id": np.arange(items), "title": [f"Item {item}" for item in range(items)]})
    titles.to_csv(path.with_name("items.csv"), index=False)


# --- contenders ---------------------------------------------------------------------------------------


def by_llmrec(path: Path) -> int:
    from llmrec.config import DataConfig
    from llmrec.data.dataset import save_data
    from llmrec.data.prepare import build_data
    from llmrec.data.readers import read_log

    items = str(path.with_name("items.csv"))
    config = DataConfig(format="table", path=str(path), items=items, min_user_events=3)
    data = build_data(read_log(config), config, seed=0, directory=path.parent)
    save_data(data, path.with_name("data"))
    return data.card["clicks"]


def by_pandas(path: Path) -> int:
    frame = pd.read_csv(path)
    bought = frame[frame["rating"] >= 4].groupby(["user_id", "item_id"])["timestamp"].min().rename("bought_at")
    first = frame.sort_values("timestamp", kind="stable").drop_duplicates(["user_id", "item_id"])
    joined = first.join(bought, on=["user_id", "item_id"])
    return len(joined.sort_values(["user_id", "timestamp"], kind="stable"))


def by_polars(path: Path) -> int:
    import polars  # pyright: ignore[reportMissingImports]

    time_of = polars.col("timestamp")
    first = polars.scan_csv(path).group_by("user_id", "item_id")
    first = first.agg(time_of.min(), time_of.filter(polars.col("rating") >= 4).min().alias("bought_at"))
    return len(first.sort("user_id", "timestamp").collect(engine="streaming"))


def by_duckdb(path: Path) -> int:
    import duckdb

    with duckdb.connect(config={"temp_directory": str(path.parent / "duckdb")}) as connection:
        query = f"""SELECT user_id, item_id, MIN("timestamp") AS first_click,
            MIN("timestamp") FILTER (rating >= 4) AS bought_at
            FROM read_csv('{path}') GROUP BY user_id, item_id ORDER BY user_id, first_click"""
        return connection.sql(query).to_arrow_table().num_rows


def measure(name: str, path: Path) -> None:
    """Runs one contender in this process and prints its numbers as JSON."""
    run = {"llmrec": by_llmrec, "pandas": by_pandas, "polars": by_polars, "duckdb": by_duckdb}[name]
    started = time.perf_counter()
    clicks = run(path)
    seconds = time.perf_counter() - started
    print(json.dumps({"clicks": clicks, "seconds": seconds, "cpu_s": time.process_time(), "peak_bytes": peak_bytes()}))


def spent(name: str, path: Path) -> dict[str, float] | None:
    """The numbers of one contender; None if it ends with an error, such as too little memory."""
    command = [sys.executable, "-m", "benchmarks.prepare_scale", "--contender", name, "--log", str(path)]
    root = Path(__file__).parents[1]
    variables = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=variables, stdout=subprocess.PIPE, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def main() -> None:
    """Measures all contenders on logs of each size and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=float, action="append", help="Size of a log; may be given several times.")
    parser.add_argument("--directory", type=Path, help="Where logs and temporary files lie, 60 bytes an event.")
    parser.add_argument("--only", choices=CONTENDERS, action="append", help="Contenders; all without it.")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        measure(arguments.contender, arguments.log)
        return
    print("| events | contender | clicks | seconds | CPU s | peak GB |\n|---|---|---|---|---|---|")
    for events in arguments.events or [1e6]:
        with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
            path = Path(folder) / "log.csv"
            write_log(path, int(events))
            for name in arguments.only or CONTENDERS:
                found = spent(name, path)
                numbers = (
                    "failed | | | "
                    if found is None
                    else (
                        f"{found['clicks']:,} | {found['seconds']:.1f} | {found['cpu_s']:.1f} | "
                        f"{found['peak_bytes'] / 1e9:.2f}"
                    )
                )
                print(f"| {int(events):,} | {name} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
