"""One round of learning: the stages of a run, on the newest feedback and a replay of old, from the present adapter.

A round is a run directory of its own, whose SFT stage is the present adapter. So PPO starts there and stays near it (it
is the reference policy). PPO has no guard here, because `assessment` decides on its last adapter. A round that was
killed continues where it was: its plan is written first, stages resume, and it becomes a version by one rename. Its
folder, which holds copies of people's events, is removed at the end.

    RUN/learn/0003/plan.json    what the round learns from
    RUN/learn/0003/log/         the events
    RUN/learn/0003/run/         the run
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmrec.config import Config, DataConfig, load_config, parse_config
from llmrec.data.dataset import load_data
from llmrec.errors import DataError
from llmrec.files import atomic_directory, plain, read_json, write_json, write_with
from llmrec.learning.assessment import Assessment, assess
from llmrec.learning.drift import Drift, calibration, log_loss, measure_drift
from llmrec.ppo.stage import train_ppo
from llmrec.run import Run, run_all
from llmrec.serving import tables
from llmrec.serving.export import export_log
from llmrec.serving.people import SEEN
from llmrec.serving.store import Store
from llmrec.versions.registry import Registry, Version
from reward_models import load_reward_model

FOLDER = "learn"
PLAN_FILE = "plan.json"
CHOSEN_FILE = "chosen.parquet"
REWARD_FOLDER = "reward"
STRAYS = 100  # one new event in so many may be older than the others by mistake


@dataclass(frozen=True)
class Plan:
    """What a round learns from.

    Attributes:
        number: number of the version that it makes.
        parent: number of the version that it begins with.
        events: clicks, purchases and ratings since the last round.
        received: when the server received the newest of them, seconds since 1970.
        since: time of the oldest event that the parent was not trained on, seconds since 1970.
    """

    number: int
    parent: int
    events: int
    received: float
    since: float


def new_events(registry: Registry, store: Store) -> Plan:
    """The feedback since the last round, as the plan of the next one.

    Raises:
        StoreError: the store cannot be read.
    """
    parent = registry.current()
    received = _received_until(registry)
    known = parent.metrics.get("round", {})
    column = tables.feedback.c
    is_new = column.type.in_(SEEN) & (column.received > known.get("received", 0.0))
    rows = store.frame(tables.feedback, ["at"], is_new, ["at", "received"])
    # A client whose clock is wrong must not make the whole log new.
    oldest = float(rows["at"].iloc[len(rows) // STRAYS]) if len(rows) else 0.0
    return Plan(
        number=registry.next_number(),
        parent=parent.number,
        events=int((rows["received"] > received).sum()),
        received=float(rows["received"].max()) if len(rows) else received,
        since=min(oldest, known.get("trained_until", oldest)),
    )


def _received_until(registry: Registry) -> float:
    """When the server received the newest event of the last round, accepted or not; 0 before the first one."""
    rounds = [version.metrics["round"] for version in registry.versions() if "round" in version.metrics]
    return rounds[-1]["received"] if rounds else 0.0


def run_round(registry: Registry, store: Store, plan: Plan, say: Callable[[str], Any]) -> Version:
    """Runs or continues a round and registers its result, accepted or rejected.

    Args:
        registry: the versions of the run.
        store: the feedback.
        plan: what to learn from; an interrupted round keeps its own plan.
        say: takes a line for people.

    Raises:
        DataError: the events are too few to hold some out; the message says why.
    """
    folder = registry.run.directory / FOLDER / f"{plan.number:04d}"
    if (folder / PLAN_FILE).is_file():
        plan = Plan(**read_json(folder / PLAN_FILE))
        say(f"round {plan.number}: continued")
    else:
        write_json(folder / PLAN_FILE, asdict(plan))
    try:
        version = _train_and_register(registry, store, plan, folder, say)
    except DataError:  # for instance too few people; the next round begins with more events
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)
    return version


def _train_and_register(
    registry: Registry, store: Store, plan: Plan, folder: Path, say: Callable[[str], Any]
) -> Version:
    parent = registry.find(plan.parent)
    inner = _open(folder, registry.run, store, plan, say)
    run_all(inner, "data", say=say)
    _start_from(inner, parent)
    run_all(inner, "reward", say=say)
    if not inner.finished("ppo"):
        say("ppo: running")
        train_ppo(inner, guarded=False)
    say(f"round {plan.number}: measuring")
    assessment = assess(inner)
    drift, own_loss = _drift(inner, registry.run, parent, plan)
    return _register(registry, inner, plan, assessment, drift, own_loss)


def remove_finished(registry: Registry) -> None:
    """Removes folders of rounds that have become versions, which a kill has left behind."""
    number = registry.next_number()
    for folder in (registry.run.directory / FOLDER).glob("[0-9]*"):
        if folder.name.isdecimal() and int(folder.name) < number:
            shutil.rmtree(folder)


def _open(folder: Path, run: Run, store: Store, plan: Plan, say: Callable[[str], Any]) -> Run:
    """The run of a round; exports the events if that has not happened."""
    place = folder / "run"
    if (place / "config.yaml").is_file():
        return Run.open(place)
    if not (folder / "log").is_dir():
        found = export_log(store, folder / "log", (run.config, load_data(run.path("data"))))
        if found.erased:
            say(
                f"{found.erased:,} people were deleted from the events, but the present adapter was trained before "
                "that. `llmrec feedback export` and `llmrec run` train one without them."
            )
    return Run.create(_config_of_round(load_config(folder / "log" / "config.yaml"), run.config, folder, plan))


def _config_of_round(exported: Config, config: Config, folder: Path, plan: Plan) -> Config:
    """The config of a round: the settings of the run, with validation and test cut from the new events."""
    seed = config.seed + plan.number
    chosen = newest_and_replay(_events(exported), exported.data, plan.since, config.learn.replay, seed)
    write_with(folder / "log" / CHOSEN_FILE, lambda path: chosen.to_parquet(path, index=False))
    clicks = _counted_clicks(chosen, exported.data)
    new = int((clicks["timestamp"] >= plan.since).sum())
    if not new:
        raise DataError(
            "No new event counts as a click; expected some. Without `data.repeats: keep`, only a person's first click "
            "on an item counts. Wait for more events."
        )
    held_out = min(config.learn.held_out * new / len(clicks), 0.98)
    values = exported.model_dump(mode="json")
    values |= {"name": "run", "output_dir": str(folder), "seed": seed, "hub": None}
    values["data"] |= {
        "path": str((folder / "log" / CHOSEN_FILE).resolve()),
        "temporal_valid": held_out / 3,
        "temporal_test": 2 * held_out / 3,
    }
    values["reward"]["next_click_weight"] = config.learn.next_click_weight
    return parse_config(values, "the config of the round")


def _events(exported: Config) -> pd.DataFrame:
    return pd.read_parquet(exported.data.path)


def newest_and_replay(events: pd.DataFrame, data: DataConfig, since: float, replay: float, seed: int) -> pd.DataFrame:
    """All events of people with new clicks, and those of others, drawn at random until they have enough clicks.

    Args:
        events: rows of an export.
        data: which event types are clicks, and whether repeated clicks count.
        since: time of the oldest new event, seconds since 1970.
        replay: clicks of others for each click of the former.
        seed: seed of the draw.
    """
    clicks = _counted_clicks(events, data)
    counts = clicks.groupby("user_id").size()
    newest = clicks.groupby("user_id")["timestamp"].max() >= since
    others = counts[~newest]
    order = others.index[np.random.default_rng((seed, 14)).permutation(len(others))]
    enough = int(np.searchsorted(others[order].cumsum(), replay * counts[newest].sum(), side="right"))
    people = {*counts.index[newest], *order[:enough]}
    return events[events["user_id"].isin(people)]


def _counted_clicks(events: pd.DataFrame, data: DataConfig) -> pd.DataFrame:
    """The clicks that `prepare` counts: the first of each person on each item, with repeats all at different times."""
    clicks = events[events["event_type"].isin(data.click)].sort_values("timestamp", kind="stable")
    same = ["user_id", "item_id"] if data.repeats == "first" else ["user_id", "item_id", "timestamp"]
    return clicks.drop_duplicates(same)


def _start_from(inner: Run, parent: Version) -> None:
    """Makes the present adapter the result of the SFT stage."""
    if inner.finished("sft"):
        return
    inner.begin("sft")
    with atomic_directory(inner.path("sft", "adapter")) as temporary:
        shutil.copytree(parent.adapter, temporary, dirs_exist_ok=True)
    inner.finish("sft", {"version": parent.number, "label": parent.label})


def _drift(inner: Run, run: Run, parent: Version, plan: Plan) -> tuple[Drift, float | None]:
    """The drift since the parent was trained, and the log loss of the round's own reward model on its test events."""
    data = load_data(inner.path("data"))
    seed = inner.config.seed
    before = parent.metrics.get("reward_log_loss")
    new = own = None
    items = data.items["item_id"].tolist()
    if (folder := _reward_of(run, parent)) is not None:
        model = load_reward_model(folder, items)
        new = log_loss(model, data, seed)
        if before is None and parent.number == 0:
            before = log_loss(model, load_data(run.path("data")), seed)
    own = log_loss(load_reward_model(inner.path("reward"), items), data, seed)
    return measure_drift(data, plan.since, calibration(before, new), seed), own


def _reward_of(run: Run, version: Version) -> Path | None:
    """The reward models that a version was trained with; None if the run has none."""
    if version.number:
        return version.folder / REWARD_FOLDER
    return run.path("reward") if run.finished("reward") else None


def _register(
    registry: Registry, inner: Run, plan: Plan, assessment: Assessment, drift: Drift, own_loss: float | None
) -> Version:
    """Registers the adapter and the reward models of a round; of a rejected one, the numbers alone."""
    data = load_data(inner.path("data"))
    valid_start, _ = data.temporal_cuts()
    metrics = {
        "round": asdict(plan) | {"trained_until": valid_start},
        "assessment": assessment.as_json(),
        "drift": drift.as_json(),
        "reward_log_loss": own_loss,
    }
    with atomic_directory(inner.directory.parent / "result") as temporary:
        if assessment.accepted:
            shutil.copytree(inner.path("ppo", "adapter"), temporary / "adapter")
            shutil.copytree(
                inner.path("reward"), temporary / REWARD_FOLDER, ignore=shutil.ignore_patterns("logs", "*.png", "*.svg")
            )
    return registry.register(
        plan.number,
        plan.parent,
        inner.directory.parent / "result",
        assessment.why,
        plain(metrics),
        rejected=not assessment.accepted,
    )
