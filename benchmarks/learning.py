"""Does `llmrec learn` recover what a change of tastes has cost? A generated world, a tiny Llama, real rounds.

    python -m benchmarks.learning [--seeds 3] [--days 8] [--folder runs/learning_benchmark] [--json]

Each seed has its own world (`benchmarks/learning_world.py`). An SFT adapter of a tiny Llama is trained on a month of
clicks and then serves everybody once a day. The tastes change after the first day. Lists, propensities, store, rounds
and canary are those of the server and of `llmrec learn`; only the clock is simulated. A seed that has finished is read
from the folder.

| arm | serves |
|---|---|
| frozen | the first adapter |
| online | what `llmrec learn` has made of it |
| counts | not served: the items with the most clicks per shown item of the last two days of `online` |
| oracle | not served: the items that the person clicks most probably now |

Value is the expected click of a shown item of the best lists, over all people. The recovered share is (value - frozen)
/ (before the change - frozen). The control is a round that learns the clicks of exchanged items; it must be rejected.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import torch
import typer

from benchmarks.learning_world import DAY, ITEMS, START, USERS, World
from llmrec.config import parse_config
from llmrec.data.dataset import InteractionData, load_data, save_data
from llmrec.data.decision import Decision
from llmrec.files import read_json, write_json
from llmrec.learning import round as learning_round
from llmrec.learning.loop import learn
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import all_item_scores
from llmrec.recommend import Recommender
from llmrec.run import Run, run_all
from llmrec.run.records import METRICS_FILE
from llmrec.serving import tables
from llmrec.serving.items import Items
from llmrec.serving.lists import Candidates, choose_list
from llmrec.serving.people import People
from llmrec.serving.store import Feedback, Impression, Store, opened
from llmrec.versions.registry import Registry
from tests.conftest import make_base

LENGTH = 5  # items of a list
SAMPLED_SHARE = 0.3
RESAMPLES = 1000
ARMS = ("frozen", "online", "counts", "oracle")
SETTINGS: dict[str, Any] = {
    "model": {"lora_r": 8, "lora_alpha": 16},
    "catalogue": {"max_history": 12},
    "sft": {"num_train_epochs": 10, "learning_rate": 3e-3, "per_device_train_batch_size": 32, "text_weight": 0.1},
    "reward": {"hidden_size": 32, "num_layers": 1, "num_train_epochs": 16},
    "ppo": {"total_episodes": 256, "text": "off"},
    "learn": {"min_events": 600, "canary_share": 0.5, "canary_users": 400, "canary_days": 4},
    "report_to": [],
}
Row = dict[str, Any]


class Shop:
    """A server of a run, its people, and a simulated clock.

    Args:
        world: who clicks on what.
        run: a run with an SFT adapter.
        store: its feedback store.
        seed: seed of lists and clicks.
    """

    def __init__(self, world: World, run: Run, store: Store, seed: int):
        self.world = world
        self.run = run
        self.store = store
        self.random = np.random.default_rng((seed, 2))
        self.recommender = Recommender.from_run(run, "sft")
        self.items = Items(self.recommender)
        self.people = People(self.recommender, self.items, store)
        self.now = START
        self.registry = Registry(run, lambda: self.now)
        self.loaded: dict[str, RecPolicy] = {}

    def decisions(self) -> list[Decision]:
        """The prompts of all people."""
        people = [self.people.find(f"u{user}") for user in range(USERS)]
        return [self.recommender.decision(one.history, one.skipped, one.profile) for one in people]

    def scores(self, decisions: Sequence[Decision]) -> tuple[np.ndarray, list[str]]:
        """Log-probabilities of all items for everybody, float [U, N], and the version that gives them."""
        traffic = self.registry.traffic()
        versions = {version.number: version for version in self.registry.versions()}
        served = np.array([traffic.version_of(f"u{user}") for user in range(USERS)])
        scores = np.empty((USERS, ITEMS))
        for version in (versions[number] for number in np.unique(served).tolist()):
            if version.label not in self.loaded:
                self.loaded[version.label] = RecPolicy.from_pretrained(version.adapter)
            rows = np.flatnonzero(served == version.number)
            asked = [decisions[row] for row in rows.tolist()]
            found = all_item_scores(self.loaded[version.label], asked).numpy()
            scores[rows] = np.where(masks(asked), -np.inf, found)
        return scores, [versions[number].label for number in served.tolist()]

    def serve(self, scores: np.ndarray, labels: Sequence[str], probabilities: np.ndarray, day: int) -> int:
        """Shows everybody one list and stores what happens; returns the number of clicks."""
        shown: list[Impression] = []
        clicks: list[Feedback] = []
        for place, user in enumerate(map(int, self.random.permutation(USERS))):
            at = START + DAY * (day + 0.9 * place / USERS)
            candidates = Candidates.from_scores(scores[user], self.items.representatives, self.items.has_category)
            chosen = choose_list(candidates, LENGTH, SAMPLED_SHARE, 0.0, self.random)
            request = f"{day}-{user}"
            for position, item in enumerate(chosen.items.tolist(), start=1):
                propensity, score = float(chosen.propensities[position - 1]), float(chosen.scores[position - 1])
                shown.append(
                    Impression(
                        request_id=request,
                        position=position,
                        user_id=f"u{user}",
                        item_id=f"i{item}",
                        propensity=propensity,
                        score=score,
                        policy=labels[user],
                        sampled=chosen.sampled,
                        at=at,
                    )
                )
                if self.random.random() < probabilities[user, item]:
                    clicks.append(
                        Feedback(
                            event_id=f"{request}-{position}",
                            user_id=f"u{user}",
                            item_id=f"i{item}",
                            type="click",
                            value=None,
                            request_id=request,
                            at=at + position,
                            received=at + position,
                        )
                    )
        self.store.add_impressions(shown).result()
        self.store.add_feedback(clicks).result()
        self.now = START + DAY * (day + 0.99)
        return len(clicks)

    def counts(self) -> np.ndarray:
        """Clicks per shown item of the last two days, with one click in ten showings added, float [N]."""
        since = self.now - 2 * DAY
        shown, clicked = (
            self.store.frame(table, ["at"], table.c.at >= since, ["item_id"])["item_id"]
            .str[1:]
            .astype(int)
            .value_counts()
            .reindex(range(ITEMS), fill_value=0)
            .to_numpy()
            for table in (tables.impressions, tables.feedback)
        )
        return (clicked + 1) / (shown + 10)


def masks(decisions: Sequence[Decision]) -> np.ndarray:
    """Items that must not be recommended, bool [U, N]."""
    return np.array([np.isin(np.arange(ITEMS), decision.masked) for decision in decisions])


def value(probabilities: np.ndarray, scores: np.ndarray) -> list[float]:
    """Expected click of a shown item of each person's best list, [U]."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :LENGTH]
    return np.take_along_axis(probabilities, best, 1).mean(1).round(4).tolist()


def live(world: World, run: Run, seed: int, days: int, learns: bool, say: Any) -> list[Row]:
    """Lets a server live through the change.

    Returns:
        a row for each day: values of each arm for each person before that day's lists, and clicks since the change.
    """
    rows: list[Row] = []
    clicks = 0
    with opened(str(run.directory / "feedback.db")) as store:
        shop = Shop(world, run, store, seed)
        for day in range(days + 1):
            probabilities = world.after if day else world.before
            decisions = shop.decisions()
            scores, labels = shop.scores(decisions)
            row: Row = {"day": day, "clicks": clicks}
            row["online" if learns else "frozen"] = value(probabilities, scores)
            if learns and day:
                mask = masks(decisions)
                row["counts"] = value(probabilities, np.where(mask, -np.inf, shop.counts()))
                row["oracle"] = value(probabilities, np.where(mask, -np.inf, probabilities))
            found = shop.serve(scores, labels, probabilities, day)
            clicks += found if day else 0
            rows.append(row | {"said": []})
            while learns:
                outcome = learn(run, store, lambda _: None, lambda: shop.now)
                rows[-1]["said"].append(f"{outcome.action}: {outcome.why}")
                say(f"seed {seed}, day {day}: {rows[-1]['said'][-1]}")
                if outcome.action in ("waited", "started a canary", "rolled back"):
                    break
    return rows


def replace_data(run: Run, data: InteractionData) -> None:
    """Replaces the data of a finished stage, whose record stays."""
    record = run.path("data", METRICS_FILE)
    kept = record.read_bytes()
    save_data(data, run.path("data"))
    record.write_bytes(kept)


@contextmanager
def exchanged_items(seed: int) -> Iterator[None]:
    """In this block, rounds learn from clicks on other items than those that were clicked, and are assessed rightly."""
    start_from, assess = learning_round._start_from, learning_round.assess
    true: list[InteractionData] = []

    def exchange(inner: Run, parent: Any) -> None:
        true.append(load_data(inner.path("data")))
        data = true[0]
        other = np.random.default_rng((seed, 3)).permutation(data.num_items)
        histories = [other[history] for history in data.histories]
        shown = data.exposures.assign(item=other[data.exposures["item"]])
        replace_data(inner, replace(data, histories=histories, exposures=shown))
        start_from(inner, parent)

    def assess_truly(inner: Run) -> Any:
        replace_data(inner, true[0])
        return assess(inner)

    with patch.object(learning_round, "_start_from", exchange), patch.object(learning_round, "assess", assess_truly):
        yield


def control(world: World, run: Run, seed: int, days: int) -> str:
    """What a round says that has learned the clicks of exchanged items, after some days of the frozen server."""
    with opened(str(run.directory / "feedback.db")) as store, exchanged_items(seed):
        outcome = learn(run, store, lambda _: None, lambda: START + DAY * (days + 0.99))
    return f"{outcome.action}: {outcome.why}"


def play(seed: int, days: int, folder: Path, say: Any) -> Row:
    """Both arms and the control of one seed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    world = World.draw(seed)
    world.write_log(folder, np.random.default_rng((seed, 1)))
    data = {"format": "table", "path": str(folder / "log.csv"), "items": str(folder / "items.csv")}
    data |= {"click": ["interaction"], "purchase": [], "min_user_events": 3, "splits": ["leave_one_out"]}
    model = SETTINGS["model"] | {"base": make_base(folder / "base")}
    values = SETTINGS | {"name": "frozen", "output_dir": str(folder), "seed": seed, "data": data, "model": model}
    frozen = Run.create(parse_config(values))
    run_all(frozen, "data", "sft", say=lambda _: None)
    shutil.copytree(frozen.directory, folder / "online")
    rows = live(world, Run.open(folder / "online"), seed, days, True, say)
    for row, other in zip(rows, live(world, frozen, seed, days, False, say), strict=True):
        row["frozen"] = other["frozen"]
    refused = control(world, frozen, seed, days)
    say(f"seed {seed}, exchanged items: {refused}")
    return {"rows": rows, "control": refused}


# -- table --


def table(results: Sequence[Row]) -> str:
    """Values and recovered shares by day, in Markdown."""
    before = [one["rows"][0]["frozen"] for one in results]
    lines = [f"Before the change: {np.mean(before):.3f}.\n"]
    lines.append("| day | clicks since | frozen | online | counts | oracle | recovered by online | by counts |")
    lines.append("|---" * 8 + "|")
    for day in range(1, len(results[0]["rows"])):
        rows = [one["rows"][day] for one in results]
        means = " | ".join(f"{np.mean([row[arm] for row in rows]):.3f}" for arm in ARMS)
        shares = " | ".join(recovered(before, rows, arm) for arm in ("online", "counts"))
        lines.append(f"| {day} | {np.mean([row['clicks'] for row in rows]):,.0f} | {means} | {shares} |")
    return "\n".join(lines)


def recovered(before: Sequence[Sequence[float]], rows: Sequence[Row], arm: str) -> str:
    """Recovered share in percent with its 95 % bootstrap interval over seeds and, within each, over people."""
    start = np.array(before)
    frozen, found = (np.array([row[name] for row in rows]) for name in ("frozen", arm))
    random = np.random.default_rng(0)
    shares: list[float] = []
    for _ in range(RESAMPLES):
        seeds = random.integers(0, len(found), len(found))
        people = random.integers(0, found.shape[1], found.shape[1])
        a, b, c = (values[seeds][:, people].mean() for values in (start, frozen, found))
        shares.append((c - b) / (a - b))
    low, high = np.quantile(shares, [0.025, 0.975])
    share = (found.mean() - frozen.mean()) / (start.mean() - frozen.mean())
    return f"{100 * share:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Number of worlds.")] = 3,
    days: Annotated[int, typer.Option(min=1, help="Days after the change.")] = 8,
    folder: Annotated[Path, typer.Option(help="Folder of the runs and results.")] = Path("runs/learning_benchmark"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Let a server live through a change of tastes, with and without learning."""
    torch.set_num_threads(1)
    results: list[Row] = []
    for seed in range(seeds):
        file = folder / f"seed-{seed}-days-{days}.json"
        if not file.is_file():
            found = play(seed, days, folder / str(seed), lambda line: typer.echo(line, err=True))
            write_json(file, found)
        results.append(read_json(file))
    if as_json:
        typer.echo(json.dumps(results))
        return
    typer.echo(table(results))
    typer.echo("\nExchanged items: " + "; ".join(one["control"] for one in results))


if __name__ == "__main__":
    typer.run(main)
