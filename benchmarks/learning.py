"""Learning online where taste changes on a known day: the learning system beside a frozen one and beside counts.

    python benchmarks/learning.py --seeds 3 --output learning.json

The world is generated. It has 40 items, of which 20 are in fashion, and people who like one of four categories. On day
0 the other 20 come into fashion. Each day 240 new people ask for four lists of five. The policy is a tiny random
language model, trained by SFT on a log from before. Everything else is what `llmrec serve` and `llmrec learn` run:
lists with propensities, the store, rounds, the registry and the canary. The clock is simulated.

Value: expected clicks per item of the best lists that people are served. Lost: the value before the shift minus that of
the frozen system after it. Recovered: the share of it that the learning system has back.
"""

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmrec.config import parse_config
from llmrec.data.decision import Decisions
from llmrec.learning.loop import learn
from llmrec.policy.ranking import all_item_scores
from llmrec.recommend import Recommender
from llmrec.run import Run, run_all
from llmrec.serving.lists import Candidates, choose_list
from llmrec.serving.live import load_version
from llmrec.serving.store import Feedback, Impression, Store
from llmrec.versions.registry import Registry
from tests.conftest import make_base

CATEGORIES = ("Action", "Comedy", "Drama", "War")
ITEMS = 40
PEOPLE = 240  # each day
LISTS = 4
LENGTH = 5
SHARE = 0.3  # of lists that are drawn at random
DAY = 86_400
START = 1_800_000_000 // DAY * DAY
SMALL: dict[str, Any] = {
    "catalogue": {"max_history": 10, "cooccurrence_weight": 0.0},
    "sft": {"num_train_epochs": 3, "learning_rate": 3e-3, "per_device_train_batch_size": 16, "dropout": 0.0},
    "reward": {"num_train_epochs": 8, "hidden_size": 16, "num_layers": 1, "ensemble": 1, "linear": False},
    "ppo": {"total_episodes": 384, "batch_size": 64, "num_mini_batches": 1, "response_length": 16, "text": "off",
            "learning_rate": 1e-2, "item_kl_coef": 0.05, "eval_users": 400, "eval_steps": 3},
    "learn": {"min_events": 800, "held_out": 0.4, "replay": 0.2, "canary_share": 0.5, "canary_users": 400,
              "canary_days": 3},
}  # fmt: skip


@dataclass
class World:
    """People and their clicks.

    Attributes:
        random: source of all that is drawn.
        shifted: whether the fashion has changed.
    """

    random: np.random.Generator
    shifted: bool = False

    def rates(self, liked: np.ndarray) -> np.ndarray:
        """Probability of a click of each person on each item, if it is shown, float64 [U, N]."""
        item = np.arange(ITEMS)
        fashionable = (item // len(CATEGORIES)) % 2 == int(self.shifted)
        fits = item % len(CATEGORIES) == liked[:, None]
        return np.where(fashionable, 0.5, 0.12) * np.where(fits, 1.0, 0.5)


@dataclass
class Day:
    """One day of a system: the value of its lists, and what it has learned at the end of the day."""

    day: int
    value: float
    counts: float
    best: float
    events: int
    outcomes: list[str] = field(default_factory=list)


def make_run(folder: Path, world: World, seed: int) -> Run:
    """A run with an SFT adapter, trained on people who were shown random items before the shift."""
    items = {"item_id": [f"i{n}" for n in range(ITEMS)], "title": [f"Title {n}" for n in range(ITEMS)]}
    categories = [CATEGORIES[n % len(CATEGORIES)] for n in range(ITEMS)]
    pd.DataFrame(items | {"categories": categories}).to_csv(folder / "items.csv", index=False)
    liked = world.random.integers(0, len(CATEGORIES), 300)
    clicks = world.random.random((300, ITEMS)) < world.rates(liked)
    rows = [
        {"user_id": f"log-{user}", "item_id": f"i{item}", "timestamp": START - 10 * DAY + 60 * user + at}
        for user in range(300)
        for at, item in enumerate(world.random.permutation(np.flatnonzero(clicks[user])))
    ]
    pd.DataFrame(rows).assign(event="click").to_csv(folder / "log.csv", index=False)
    data = {
        "format": "table",
        "path": str(folder / "log.csv"),
        "items": str(folder / "items.csv"),
        "columns": {"event_type": "event"},
        "click": ["click"],
        "purchase": [],
        "min_user_events": 3,
        "splits": ["leave_one_out"],
    }
    base = make_base(folder / "base")
    model = {"model": {"base": base, "lora_r": 8, "lora_alpha": 16}}
    config = {"name": "run", "output_dir": str(folder), "data": data, "seed": seed, "report_to": []} | SMALL | model
    run = Run.create(parse_config(config))
    run_all(run, "data", "sft", say=lambda line: None)
    return run


class System:
    """A served run, with or without learning.

    Args:
        run: the run.
        seed: seed of the people, the same for all systems.
        learns: whether it learns at the end of each day.
    """

    def __init__(self, run: Run, seed: int, learns: bool):
        self.run = run
        self.world = World(np.random.default_rng((seed, 1)))
        self.store = Store(str(run.directory / "feedback.db"))
        self.now = float(START)
        self.registry = Registry(run, lambda: self.now)
        self.learns = learns
        self.loaded: dict[int, Recommender] = {}
        self.shown = np.zeros(ITEMS)
        self.clicked = np.zeros(ITEMS)

    def play(self, day: int) -> Day:
        """Serves the people of a day, and learns from them. Nothing is kept of the day before the shift, -1."""
        self.world.shifted = day >= 0
        liked = self.world.random.integers(0, len(CATEGORIES), PEOPLE)
        rates = self.world.rates(liked)
        found: list[tuple[float, float, float]] = []
        history: list[list[int]] = [[] for _ in range(PEOPLE)]
        events = 0
        before = (self.shown.copy(), self.clicked.copy())
        for turn in range(LISTS):
            scores = self._scores(day, history)
            for person in range(PEOPLE):
                at = self.now + 60.0 * person + 10_000 * turn
                found.append(self._values(scores[person], rates[person], history[person], before))
                events += self._serve(f"{day}-{person}", turn, scores[person], rates[person], history[person], at)
        self.now += DAY
        value, counts, best = np.mean(found, axis=0)
        played = Day(day, float(value), float(counts), float(best), events)
        while self.learns and day >= 0:
            outcome = learn(self.run, self.store, lambda line: None, lambda: self.now)
            played.outcomes.append(f"{outcome.action}: {outcome.why}")
            if outcome.action != "rolled back":
                break
        # In the counts, each day weighs half as much as the day after it.
        self.shown -= before[0] / 2
        self.clicked -= before[1] / 2
        return played

    def _scores(self, day: int, history: list[list[int]]) -> np.ndarray:
        """Log-probability of each item for each person, by the version that serves the person, [U, N]."""
        versions = {version.number: version for version in self.registry.versions()}
        traffic = self.registry.traffic()
        number_of = np.array([traffic.version_of(f"{day}-{person}") for person in range(PEOPLE)])
        scores = np.zeros((PEOPLE, ITEMS))
        for number in np.unique(number_of).tolist():
            if number not in self.loaded:
                self.loaded[number] = load_version(self.run, versions[number])
            recommender = self.loaded[number]
            rows = np.flatnonzero(number_of == number)
            asked = [recommender.decision(history[row]) for row in rows]
            decisions = Decisions.from_decisions(asked, self.run.config.catalogue.max_history)
            scores[rows] = all_item_scores(recommender.policy, decisions).cpu().numpy()
        self.labels = [versions[number].label for number in number_of.tolist()]
        return scores

    def _values(
        self, scores: np.ndarray, rates: np.ndarray, seen: list[int], before: tuple[np.ndarray, np.ndarray]
    ) -> tuple[float, float, float]:
        """Expected clicks per item of the best list by the policy, by the counts until yesterday, and by the truth."""
        left = np.setdiff1d(np.arange(ITEMS), seen)
        counts = (before[1] + 1) / (before[0] + 10)
        best_lists = (left[np.argsort(-values[left])][:LENGTH] for values in (scores, counts, rates))
        policy, by_counts, best = (float(rates[one].mean()) for one in best_lists)
        return policy, by_counts, best

    def _serve(self, person: str, turn: int, scores: np.ndarray, rates: np.ndarray, seen: list[int], at: float) -> int:
        """Shows a list and records clicks; returns their number."""
        candidates = Candidates.from_scores(scores, np.arange(ITEMS), np.zeros((ITEMS, 1), dtype=bool))
        chosen = choose_list(candidates, LENGTH, SHARE, 0.0, self.world.random)
        request = f"{person}-{turn}"
        label = self.labels[int(person.rpartition("-")[2])]
        rows = zip(chosen.items.tolist(), chosen.scores.tolist(), chosen.propensities.tolist(), strict=True)
        shown = [
            Impression(request, position, person, f"i{item}", propensity, score, label, chosen.sampled, at)
            for position, (item, score, propensity) in enumerate(rows, start=1)
        ]
        clicked = [item for item in chosen.items.tolist() if self.world.random.random() < rates[item]]
        if self.world.shifted:
            self.store.add_impressions(shown)
            self.shown[chosen.items] += 1
        if clicked and self.world.shifted:
            given = [
                Feedback(f"{request}-{item}", person, f"i{item}", "click", None, request, at + 5, at + 5)
                for item in clicked
            ]
            self.store.add_feedback(given).result()
            self.clicked[clicked] += 1
        seen += clicked
        return len(clicked)


def play(run: Run, seed: int, learns: bool, days: int) -> list[Day]:
    """All days of one system."""
    system = System(run, seed, learns)
    played = []
    for day in range(-1, days):
        started = time.process_time()
        played.append(system.play(day))
        name = "learning" if learns else "frozen"
        print(f"seed {seed} {name} {played[-1]} {time.process_time() - started:.0f} s CPU", flush=True)
    system.store.close()
    return played


def recovered(frozen: list[Day], learning: list[Day]) -> list[dict[str, float]]:
    """What was lost on each day after the shift, how much of it came back, and after how many events."""
    start = frozen[0].value
    events = np.cumsum([day.events for day in learning])
    return [
        {
            "day": one.day,
            "events": int(events[index] - other.events),
            "lost": start - one.value,
            "recovered": (other.value - one.value) / (start - one.value),
            "recovered_by_counts": (other.counts - one.value) / (start - one.value),
        }
        for index, (one, other) in enumerate(zip(frozen, learning, strict=True))
        if one.day >= 0
    ]


def main() -> None:
    """Plays all seeds and writes every day."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--output", type=Path, default=Path("learning.json"))
    arguments = parser.parse_args()
    results = []
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            run = make_run(Path(folder), World(np.random.default_rng((seed, 0))), seed)
            shutil.copytree(run.directory, Path(folder) / "frozen")
            frozen = play(Run.open(Path(folder) / "frozen"), seed, False, arguments.days)
            learning = play(run, seed, True, arguments.days)
        days = recovered(frozen, learning)
        for one in days:
            print(seed, {key: round(value, 3) for key, value in one.items()}, flush=True)
        results.append({"seed": seed, "frozen": [vars(day) for day in frozen],
                        "learning": [vars(day) for day in learning], "days": days})  # fmt: skip
        arguments.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
