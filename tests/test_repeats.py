"""All stages on groceries that households buy again and again, with a tiny language model."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from llmrec.data.dataset import load_data
from llmrec.errors import DataError
from llmrec.recommend import Recommender
from llmrec.run import Run, run_all
from llmrec.simulator.stage import refuse_repeats
from tests.conftest import TINY_SETTINGS

ITEMS = 20
HOUSEHOLDS = 24


def write_groceries(folder: Path) -> None:
    """A log in which every household buys three own items most of the time."""
    rng = np.random.default_rng(0)
    rows = []
    for household in range(HOUSEHOLDS):
        own = rng.permutation(ITEMS)[:3]
        for day in range(16):
            item = rng.choice(own) if rng.random() < 0.9 else rng.integers(ITEMS)
            rows.append((f"h{household}", f"i{item}", 1_600_000_000 + 86_400 * day + household, "buy"))
    columns = ["user_id", "item_id", "timestamp", "event_type"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "log.csv", index=False)
    categories = ["Drama", "Comedy"]
    items = [(f"i{n}", f"Milk {n}", categories[n % 2]) for n in range(ITEMS)]
    pd.DataFrame(items, columns=["item_id", "title", "categories"]).to_csv(folder / "items.csv", index=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_base) -> Run:
    folder = tmp_path_factory.mktemp("groceries")
    write_groceries(folder)
    values = {
        "name": "groceries",
        "output_dir": str(folder / "runs"),
        "report_to": [],
        "data": {
            "format": "table", "path": str(folder / "log.csv"), "items": str(folder / "items.csv"),
            "columns": {"event_type": "event_type"}, "click": ["buy"], "purchase": [], "repeats": "keep",
            "splits": ["leave_one_out"],
        },
        "catalogue": {"max_history": 8},
        "model": {"base": tiny_base, "lora_r": 4},
        "sft": {**TINY_SETTINGS["sft"], "num_train_epochs": 1.0},
        "reward": {"num_train_epochs": 2, "ensemble": 1, "linear": True, "conversion_weight": 0.0},
        "ppo": {**TINY_SETTINGS["ppo"], "total_episodes": 16, "response_length": 16, "advantage": "exact"},
        "evaluation": {"bootstrap": 100, "baselines": ["popularity", "personal_popularity", "markov"]},
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    from llmrec.config import load_config

    run = Run.create(load_config(path))
    run_all(run, say=lambda _: None)
    return run


def test_the_report_counts_targets_that_were_seen(run):
    report = json.loads(run.report_path.read_text())
    models = report["splits"]["leave_one_out"]["models"]
    # A household's own three items are among its first ten, and 20 items have no such order by popularity.
    assert models["personal_popularity"]["hr@10"]["value"] > models["popularity"]["hr@10"]["value"] + 0.2
    assert models["optimum"]["hr@10"]["n"] == HOUSEHOLDS
    sliced = report["splits"]["leave_one_out"]["slices"]
    counts = [sliced[name]["sft"]["hr@10"]["n"] for name in ("seen_targets", "new_targets")]
    assert sum(counts) == HOUSEHOLDS and counts[0] > counts[1]
    for policy in report["generation"].values():
        assert "unseen" not in policy and policy["seen"]["n"] == HOUSEHOLDS
    assert report["data"]["repeats"] == "keep" and report["data"]["repeated_items"] > 0.5


def test_the_adapter_recommends_what_a_household_has_bought(run):
    recommender = Recommender.from_run(run)
    found = recommender.recommend(user="h0", top_k=ITEMS)
    assert len(found) == ITEMS and sum(one.score or 0.0 for one in found) == pytest.approx(1, abs=1e-4)


def test_simulated_worlds_are_refused(run):
    with pytest.raises(DataError, match="`data.repeats` is `keep`"):
        refuse_repeats(load_data(run.path("data")))
