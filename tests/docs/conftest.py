"""A directory as a reader of the guides has it after the quickstart, with a tiny run in `runs/quickstart`."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmrec.config import parse_config
from llmrec.data.dataset import load_data
from llmrec.files import write_json
from llmrec.policy.model import RecPolicy
from llmrec.run import Run, run_stage

ITEMS = 30
USERS = range(1, 61)


def _write_log(folder: Path) -> None:
    """Writes an event log in which each user takes 8 of 30 items."""
    generator = np.random.default_rng(0)
    titles = [f"Film {number} ({1960 + number})" for number in range(ITEMS)]
    titles[:3] = ["Toy Story (1995)", "Aladdin (1992)", "Babe (1995)"]
    genres = ["Comedy|Drama", "Drama", "Sci-Fi|War", "Comedy"]
    items = pd.DataFrame(
        {
            "item_id": range(ITEMS),
            "title": titles,
            "categories": [genres[number % len(genres)] for number in range(ITEMS)],
            "year": [1960 + number for number in range(ITEMS)],
        }
    )
    items.to_csv(folder / "items.csv", index=False)
    taken = [(user, item) for user in USERS for item in generator.permutation(ITEMS)[:8]]
    events = pd.DataFrame(taken, columns=["user_id", "item_id"])
    events["timestamp"] = np.arange(len(events))
    events["rating"] = generator.integers(1, 6, len(events))
    events.to_csv(folder / "events.csv", index=False)


@pytest.fixture(scope="session")
def quickstart_directory(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds `runs/quickstart`: real data, adapters and reward models, and a short report."""
    folder = tmp_path_factory.mktemp("quickstart_directory")
    _write_log(folder)
    config = parse_config(
        {
            "name": "quickstart",
            "output_dir": str(folder / "runs"),
            "data": {
                "format": "table",
                "path": str(folder / "events.csv"),
                "items": str(folder / "items.csv"),
                "click": ["rating>=1"],
                "splits": ["leave_one_out"],
            },
            "catalogue": {"max_history": 8},
            "model": {"base": tiny_base, "lora_r": 4, "lora_alpha": 8},
            "sft": {"requests": 0.5},
            "reward": {"num_train_epochs": 1, "hidden_size": 8, "num_layers": 1},
            "ppo": {"response_length": 24},
        }
    )
    run = Run.create(config)
    run_stage(run, "data")
    run_stage(run, "reward")
    policy = RecPolicy.create(config, load_data(run.path("data")))
    for stage in ("sft", "ppo"):
        run.begin(stage)
        policy.save_pretrained(run.path(stage, "adapter"))
        run.finish(stage, {})
    _write_report(run)
    return folder


def _write_report(run: Run) -> None:
    metric = {"value": 0.1, "ci95": [0.05, 0.15], "n": len(USERS)}
    compared = {"difference": 0.01, "ci95": [-0.01, 0.03], "p_holm": 0.4, "verdict": "no difference"}
    split = {
        "models": {name: {"hr@10": metric, "ndcg@10": metric} for name in ("popularity", "sft", "ppo")},
        "comparisons": {"ppo_vs_sft": {"hr@10": compared, "ndcg@10": compared, "mrr": compared}},
        "targets": len(USERS),
        "users": len(USERS),
    }
    run.begin("evaluate")
    write_json(run.report_path, {"splits": {"leave_one_out": split}})
    run.finish("evaluate", {})
