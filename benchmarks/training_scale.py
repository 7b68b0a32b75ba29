"""What training, rankings and evaluation take on large logs.

    python -m benchmarks.training_scale make --events 1e8 --items 1e5 --directory /large/disk/log
    python -m benchmarks.training_scale sft --directory /large/disk/log
    python -m benchmarks.training_scale reward --directory /large/disk/log
    python -m benchmarks.training_scale ppo --directory /large/disk/log
    python -m benchmarks.training_scale rankings --directory /large/disk/log
    python -m benchmarks.training_scale evaluate --directory /large/disk/log

`make` writes what `llmrec prepare` writes, for synthetic users with 50 events in the mean, Zipf items and one user
with 100,000 events. `sft` is the whole stage with a few steps of a tiny model. `reward` reads the events and takes a
few steps of the click/purchase model. `ppo` is the whole stage with one batch of 8 episodes, after the stages before
it, which take few steps and are not measured. `rankings` fits baselines with their default settings. It ranks the
test items of some users by each, and by the SFT adapter if there is one. `evaluate` is the whole stage after all of
them. Peak memory counts the files that are mapped into memory; `own` is the peak without them.
"""

import argparse
import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.resident_memory import peak_bytes
from llmrec.data.dataset import InteractionData, Targets, load_data, save_data
from llmrec.data.decision import Decisions
from llmrec.data.ragged import Ragged
from llmrec.data.splits import leave_one_out

MEAN_EVENTS = 50  # of a user
LONGEST = 100_000  # events of the first user, at most the size of the catalogue less one
USERS_AT_A_TIME = 20_000
STEPS = 20
RANKED_USERS = 256


@contextmanager
def measured(stage: str) -> Iterator[None]:
    """Prints CPU seconds and peak memory of the block as JSON."""
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.1):
            status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
            peak = max(peak, 1024 * next(int(line.split()[1]) for line in status if line.startswith("RssAnon")))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.process_time()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    numbers = {"cpu_s": round(time.process_time() - started, 1), "peak_gb": peak_bytes() / 1e9, "own_gb": peak / 1e9}
    print(json.dumps({"stage": stage, **numbers}), flush=True)


# --- the log ------------------------------------------------------------------------------------------


def synthetic(events: int, items: int, seed: int = 0) -> InteractionData:
    """A prepared log of users who click different items with Zipf frequencies."""
    rng = np.random.default_rng(seed)
    users = max(20, events // MEAN_EVENTS)
    chances = 1 / np.arange(1, items + 1)
    cumulative = np.cumsum(chances / chances.sum())
    drawn = rng.poisson(MEAN_EVENTS, users) + 5
    parts = [rng.permutation(items)[: min(LONGEST, items - 1)]]
    lengths = [np.array([len(parts[0])])]
    for start in range(1, users, USERS_AT_A_TIME):
        counts = drawn[start : start + USERS_AT_A_TIME]
        owner = np.repeat(np.arange(len(counts)), counts)
        clicked = np.minimum(np.searchsorted(cumulative, rng.random(len(owner))), items - 1)
        pairs = np.unique(owner * items + clicked)
        pairs = pairs[np.lexsort((rng.random(len(pairs)), pairs // items))]
        parts.append(pairs % items)
        lengths.append(np.bincount(pairs // items, minlength=len(counts)))
    flat = np.concatenate(parts)
    of_users = np.concatenate(lengths)
    split = leave_one_out(of_users)
    return InteractionData(
        items=pd.DataFrame(
            {
                "item_id": [f"i{item}" for item in range(items)],
                "title": [f"Item {item}" for item in range(items)],
                "categories": [[f"Kind {item % 20}"] for item in range(items)],
                "year": pd.array([1980 + item % 40 for item in range(items)], dtype="Int64"),
            }
        ),
        users=pd.DataFrame({"user_id": [f"u{user}" for user in range(users)]}),
        facts=pd.DataFrame({"item": pd.Series(dtype="int64"), "relation": "", "tail": "", "named": False}),
        histories=Ragged.of_lengths(flat, of_users),
        purchases=Ragged.of_lengths(flat % 3 == 0, of_users),
        timestamps=Ragged.of_lengths(np.arange(len(flat)), of_users),
        train_lengths=of_users - 2,
        targets={"leave_one_out": split.targets},
        card={"clicks": len(flat)},
    )


def make(directory: Path, events: int, items: int, users: int) -> None:
    """Writes the log, a tiny language model and a config."""
    import yaml

    from llmrec.config import load_config
    from llmrec.run import Run
    from tests.conftest import make_base

    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    values = {
        "name": "run",
        "output_dir": str(directory),
        "data": {"format": "table", "path": "synthetic", "splits": ["leave_one_out"]},
        "model": {"base": make_base(directory / "base"), "lora_r": 4},
        "sft": {"num_train_epochs": min(1.0, STEPS * 8 / max(1, events // MEAN_EVENTS)), "eval_users": 100},
        "reward": {"num_train_epochs": 1},
        "ppo": {"total_episodes": 8, "batch_size": 8, "per_device_train_batch_size": 2, "num_mini_batches": 1}
        | {"num_ppo_epochs": 1, "eval_users": 20},
        "evaluation": {"bootstrap": 100, "users": users, "baselines": ["popularity", "transitions"]},
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    run = Run.create(load_config(directory / "config.yaml"))
    run.begin("data")
    data = synthetic(events, items)
    save_data(data, run.path("data"))
    run.finish("data", data.card)
    print(json.dumps({"clicks": data.card["clicks"], "users": data.num_users, "items": data.num_items}))


# --- stages -------------------------------------------------------------------------------------------


def sft(directory: Path) -> None:
    """The SFT stage."""
    from llmrec.run import Run
    from llmrec.sft.stage import train_sft

    train_sft(Run.open(directory / "run"))


def take_few_steps() -> None:
    """Makes an epoch of the click/purchase model end after some steps."""
    from reward_models import train

    every_step = train.epoch_steps
    train.epoch_steps = lambda *arguments: islice(every_step(*arguments), STEPS)  # type: ignore[assignment]


def reward(directory: Path) -> None:
    """Reading of the events and some steps of the click/purchase model."""
    from llmrec.run import Run
    from reward_models import train
    from reward_models.fit import new_model
    from reward_models.judge import judge_split

    run = Run.open(directory / "run")
    config = run.config.reward.model_copy(update={"num_train_epochs": 1})
    data = load_data(run.path("data"))
    users, _ = judge_split(data.num_users, config.judge_users, 0)
    sources = train.Sources.from_data(data, users, 0)
    take_few_steps()
    model = new_model(sources, config)
    train.train_epochs(model, sources, config, 0, None)
    print(json.dumps({"windows_clicks": sources.events.num_events}))


def ppo(directory: Path) -> None:
    """The PPO stage, after the stages before it."""
    from llmrec.ppo.stage import train_ppo
    from llmrec.run import Run
    from llmrec.run.stages import run_all

    take_few_steps()
    run = Run.open(directory / "run")
    run_all(run, "sft", "reward")
    with measured("ppo"):
        train_ppo(run)
    print(json.dumps(run.record("ppo")["parts"]))


def rankings(directory: Path) -> None:
    """Fits baselines, and ranks the test targets of some users by each and by the SFT adapter."""
    from llmrec.evaluation.ranking import rank, rank_policy
    from llmrec.policy.model import RecPolicy
    from llmrec.recommenders.ease import EASE
    from llmrec.recommenders.itemknn import ItemKNN
    from llmrec.recommenders.markov import Markov
    from llmrec.recommenders.popularity import Popularity
    from llmrec.recommenders.transitions import Transitions
    from llmrec.run import Run

    run = Run.open(directory / "run")
    data = load_data(run.path("data"))
    test = data.targets["leave_one_out"]["test"]
    decisions = Decisions.from_targets(data, Targets(test.users[:RANKED_USERS], test.positions[:RANKED_USERS]))
    for make_baseline in (Popularity, Transitions, Markov, ItemKNN, EASE):
        with measured(make_baseline.__name__):
            rank(make_baseline().fit(data.train_histories, data.num_items).scores, decisions, 0)
    if (run.path("sft", "adapter")).is_dir():
        with measured("policy"):
            policy = RecPolicy.from_pretrained(run.path("sft", "adapter")).eval()
            rank_policy(policy, decisions, 0, lambda _: None, keep=True)


def evaluate(directory: Path) -> None:
    """The evaluation stage, after the stages before it."""
    from llmrec.evaluation.evaluate import evaluate as measure
    from llmrec.run import Run
    from llmrec.run.stages import run_all

    run = Run.open(directory / "run")
    run_all(run, "sft", "reward", "ppo")
    with measured("evaluate"):
        measure(run)
    print(json.dumps(run.record("evaluate")["parts"]))


def main() -> None:
    """Runs one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["make", "sft", "reward", "ppo", "rankings", "evaluate"])
    parser.add_argument(
        "--directory", type=Path, required=True, help="Where the log and the run lie, 40 bytes an event."
    )
    parser.add_argument("--events", type=float, default=1e6, help="Number of events that are drawn.")
    parser.add_argument("--items", type=float, default=1e5, help="Size of the catalogue.")
    parser.add_argument("--users", type=int, default=100_000, help="Users whose targets `evaluate` measures.")
    arguments = parser.parse_args()
    if arguments.part in ("ppo", "evaluate"):  # they measure their last stage alone
        {"ppo": ppo, "evaluate": evaluate}[arguments.part](arguments.directory)
        return
    with measured(arguments.part):
        if arguments.part == "make":
            make(arguments.directory, int(arguments.events), int(arguments.items), arguments.users)
        else:
            {"sft": sft, "reward": reward, "rankings": rankings}[arguments.part](arguments.directory)


if __name__ == "__main__":
    main()
