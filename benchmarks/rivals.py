"""All baselines of `llmrec evaluate` on one data set: quality on validation and test, and seconds.

    python benchmarks/rivals.py configs/movielens.yaml --seeds 3 --json rivals.json

Each baseline is fitted on training events and its setting is chosen on the validation targets. The test targets are
those of the first split. Baselines that depend on a seed are fitted with each seed. The last columns compare each row
with the row that is best on validation: the mean over users of the paired difference in NDCG@10, with its 95 %
bootstrap interval.

With `--json` each row is written as soon as it is measured, and a row that is in the file is not measured again.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np
import torch

from llmrec.config import BaselineName, Config, load_config
from llmrec.data.dataset import InteractionData, load_data
from llmrec.data.decision import Decisions
from llmrec.errors import UserError
from llmrec.evaluation.metrics import hit_rate, ndcg, paired_bootstrap, per_user
from llmrec.files import read_json, write_json
from llmrec.recommenders.registry import REGISTRY, fit_one
from llmrec.recommenders.tuning import FittedBaseline, Tuning, target_ranks
from llmrec.run import Run, run_all

SAMPLES = 10_000  # bootstrap resamples


@dataclass
class Row:
    """One baseline under one seed.

    Attributes:
        name: name of the baseline.
        seed: training seed.
        valid: NDCG@10 on validation of the chosen setting.
        hr: HR@10 on test, mean over users.
        ndcg: NDCG@10 on test, mean over users.
        by_user: NDCG@10 on test of each user, in order of the user's index.
        refitted: whether it was fitted again with the validation items.
        seconds: wall-clock time of fitting and tuning, with the baselines that it consists of.
        cpu_seconds: process time of the same.
        chosen: the chosen setting.
    """

    name: str
    seed: int
    valid: float
    hr: float
    ndcg: float
    by_user: list[float]
    refitted: bool
    seconds: float
    cpu_seconds: float
    chosen: dict[str, object]


def prepared(config: Config) -> InteractionData:
    """The data of a config, prepared in a temporary run directory."""
    with TemporaryDirectory() as directory:
        run = Run.create(config.model_copy(update={"output_dir": directory}))
        run_all(run, "data", say=lambda _: None)
        return load_data(run.path("data"))


def measure(name: BaselineName, seed: int, one: FittedBaseline, test: Decisions) -> Row:
    """Measures a fitted baseline on the test decisions."""
    ranks = target_ranks(one.scores, test)
    by_user = per_user(ndcg(ranks, 10), test.users)[1]
    return Row(
        name=name,
        seed=seed,
        valid=one.valid_ndcg,
        hr=float(per_user(hit_rate(ranks, 10), test.users)[1].mean()),
        ndcg=float(by_user.mean()),
        by_user=by_user.tolist(),
        refitted=one.refitted,
        seconds=one.seconds,
        cpu_seconds=one.cpu_seconds,
        chosen=one.chosen,
    )


def read_rows(path: Path | None, data: InteractionData) -> list[Row]:
    """The rows that a file holds; none if it does not exist.

    Raises:
        UserError: the file is of other data.
    """
    if path is None or not path.exists():
        return []
    found = read_json(path)
    if found["data"] != _fingerprint(data):
        raise UserError(
            f"{path} holds rows of other data {found['data']}, expected {_fingerprint(data)}: name another."
        )
    return [Row(**row) for row in found["rows"]]


def _fingerprint(data: InteractionData) -> dict[str, int]:
    """What tells two prepared data sets apart: their sizes, and a sum over the order of training events."""
    events = np.concatenate(data.train_histories).astype(np.int64)
    order = int((events * (np.arange(len(events)) % 9973)).sum())
    return {"users": data.num_users, "items": data.num_items, "training_events": len(events), "order": order}


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table, ordered by NDCG@10 on validation, with means over seeds."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row.name, []).append(row)
    ordered = sorted(by_name, key=lambda name: -np.mean([row.valid for row in by_name[name]]))
    users = {name: np.mean([row.by_user for row in by_name[name]], axis=0) for name in ordered}
    lines = [
        "| model | valid NDCG@10 | HR@10 | NDCG@10 | of each seed | CPU s | wall s | refitted with validation "
        f"| less {ordered[0]} [95 %] |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in ordered:
        of_seeds = by_name[name]
        mean = {key: np.mean([getattr(row, key) for row in of_seeds]) for key in Row.__annotations__ if key in _MEANS}
        difference, low, high, _ = paired_bootstrap(users[name], users[ordered[0]], SAMPLES)
        cells = [
            name,
            f"{mean['valid']:.4f}",
            f"{mean['hr']:.4f}",
            f"{mean['ndcg']:.4f}",
            ", ".join(f"{row.ndcg:.4f}" for row in of_seeds) if len(of_seeds) > 1 else "",
            f"{mean['cpu_seconds']:.0f}",
            f"{mean['seconds']:.0f}",
            "yes" if of_seeds[0].refitted else "no",
            f"{difference:+.4f} [{low:+.4f}, {high:+.4f}]" if name != ordered[0] else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


_MEANS = ("valid", "hr", "ndcg", "cpu_seconds", "seconds")


def main() -> None:
    """Measures the rows that are missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="Config whose data, SASRec grid and first seed are used.")
    parser.add_argument("--seeds", type=int, default=3, help="Number of seeds of the baselines that depend on one.")
    parser.add_argument("--only", default=",".join(get_args(BaselineName)), help="Names of baselines, with commas.")
    parser.add_argument("--json", type=Path, help="File of the rows; it is read first and written after each row.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(arguments.config)
    data = prepared(config)
    split = next(iter(data.targets))
    test = Decisions.from_targets(data, data.targets[split]["test"])
    rows = read_rows(arguments.json, data)
    for seed in range(config.seed, config.seed + arguments.seeds):
        tuning = Tuning(data, config.model_copy(update={"seed": seed}))
        fitted: dict[str, FittedBaseline] = {}
        for name in arguments.only.split(","):
            if (seed > config.seed and not REGISTRY[name].random) or (name, seed) in {(r.name, r.seed) for r in rows}:
                continue
            rows.append(measure(name, seed, fit_one(name, tuning, fitted), test))
            if arguments.json is not None:
                write_json(arguments.json, {"data": _fingerprint(data), "rows": [asdict(row) for row in rows]})
            print(
                f"{name}, seed {seed}: {json.dumps({k: v for k, v in asdict(rows[-1]).items() if k != 'by_user'})}",
                flush=True,
            )
    print(f"{data.num_users} users, {data.num_items} items, split {split}, {len(test)} test targets")
    print(table(rows))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
