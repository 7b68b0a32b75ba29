"""Training on a large log takes a few bytes a window: histories are read when a batch needs them."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from llmrec.config import SFTConfig
from llmrec.data.dataset import InteractionData, Targets
from llmrec.data.decision import Decisions
from llmrec.data.ragged import Ragged
from llmrec.data.windows import cut_windows
from llmrec.ppo.stage import training_decisions
from llmrec.recommenders.popularity import item_counts
from llmrec.sft.windows import TrainingWindows
from reward_models.item_rates import ItemRates
from reward_models.train import epoch_steps
from reward_models.training_events import TrainingEvents, collate, training_events
from tests.conftest import TITLES, make_config

USERS = 20_000
EVENTS = 1_000_000
ITEMS = len(TITLES)


@pytest.fixture(scope="module")
def log() -> InteractionData:
    """A million events of as many users, and one user with 100,000 events."""
    rng = np.random.default_rng(0)
    lengths = np.full(USERS, EVENTS // USERS)
    lengths[7] = 100_000
    everyone = np.arange(USERS)
    total = int(lengths.sum())
    return InteractionData(
        items=pd.DataFrame({"item_id": [f"i{n}" for n in range(ITEMS)], "title": [title for title, *_ in TITLES]}),
        users=pd.DataFrame({"user_id": everyone.astype(str), "age": "20"}),
        facts=pd.DataFrame(),
        histories=Ragged.of_lengths(rng.integers(0, ITEMS, total), lengths),
        purchases=Ragged.of_lengths(rng.random(total) < 0.5, lengths),
        timestamps=Ragged.of_lengths(np.arange(total), lengths),
        train_lengths=lengths - 2,
        targets={"leave_one_out": {"valid": Targets(everyone, lengths - 2), "test": Targets(everyone, lengths - 1)}},
    )


def peak(make: Callable[[], Any]) -> tuple[Any, int]:
    """The result of a function, and the most bytes that were allocated at once while it ran."""
    tracemalloc.start()
    try:
        return make(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_sft_windows_take_bytes_and_give_rows(policy, log):
    section = SFTConfig(num_train_epochs=2.0)
    windows, size = peak(lambda: TrainingWindows(policy, log, ["age"], section, seed=0))
    assert len(windows) > 2 * log.train_lengths.sum() / 6  # at most five items a window
    assert windows.places.nbytes == 12 * len(windows.places)
    assert size < 100 * len(windows)
    users, starts, stops = windows.places.T
    late = int(np.flatnonzero((users == 7) & (starts > 90_000))[0])
    row, size = peak(lambda: windows[late])
    assert len(row["prior"]) == starts[late] and size < 10_000_000
    assert [*row["items"], policy.prompts.parse(row["completions"][0]).item] == log.histories[7][
        starts[late] : stops[late]
    ].tolist()
    assert windows[late] == row


def test_an_epoch_of_the_reward_model_takes_bytes(log):
    events, size = peak(lambda: training_events(log))
    assert size < 100_000_000  # a part of the log, and numbers of each user
    assert np.shares_memory(events.histories.values, log.histories.values)
    assert events.num_events == log.train_lengths.sum()
    assert ItemRates.from_events(events).clicks.sum() == events.num_events
    pieces, size = peak(lambda: cut_windows(events.histories, 50, np.random.default_rng(0)))
    assert size < 100 * (USERS + len(pieces))
    of_long = pieces[pieces[:, 0] == 7][:4]
    batch, size = peak(lambda: collate(events, of_long, np.random.default_rng(0)))
    assert batch.targets.shape == (4, 51) and size < 5_000_000


def test_steps_are_made_when_they_are_taken(log):
    from llmrec.config import RewardConfig
    from reward_models.exposures import NO_EXPOSURES

    class Sources:
        events: TrainingEvents = training_events(log)
        shown = NO_EXPOSURES

    rng = np.random.default_rng(0)
    steps, size = peak(lambda: sum(1 for _ in epoch_steps(Sources(), 50, RewardConfig(), rng)))  # type: ignore[arg-type]
    assert steps == pytest.approx((USERS + 2 * 100_000 / 51) / 64, rel=0.1)
    assert size < 100 * (USERS + 64 * steps)


def test_prompts_of_ppo_and_validation_take_bytes(log, tiny_base):
    config = make_config(tiny_base)
    prompts, size = peak(lambda: training_decisions(log, config))
    assert len(prompts) == (-(-log.train_lengths // 4)).sum()
    assert size < 150 * len(prompts)
    newest = prompts[0]
    assert newest.history.tolist() == log.train_histories[0].tolist() and newest.target is None
    assert prompts[1].target == log.histories[0][len(prompts[1].history)]
    targets = log.targets["leave_one_out"]["test"]
    decisions, size = peak(lambda: Decisions.from_targets(log, targets, config.catalogue))
    assert size < 150 * USERS
    assert decisions[7].target == log.histories[7][-1] and len(decisions[7].known_purchases) == 99_999


def test_counts_read_a_part_at_a_time(log):
    counts, size = peak(lambda: item_counts(log.train_histories, ITEMS))
    assert counts.tolist() == np.bincount(log.train_histories.flat(), minlength=ITEMS).tolist()
    assert size < 40_000_000


def test_parts_are_consecutive_and_bounded():
    ragged = Ragged.of([np.arange(n) for n in (3, 0, 4, 9, 1, 1)])
    parts = list(ragged.parts(5))
    assert [part.lengths.tolist() for part in parts] == [[3, 0], [4], [9], [1, 1]]
    assert [one.tolist() for part in parts for one in part] == [one.tolist() for one in ragged]
    assert list(Ragged.of([]).parts()) == []


def test_selected_and_newest_items():
    ragged = Ragged.of([np.array([1, 2, 3]), np.array([4]), np.array([5, 6])])
    assert [one.tolist() for one in ragged.select([2, 0])] == [[5, 6], [1, 2, 3]]
    assert [one.tolist() for one in ragged.newest(2)] == [[2, 3], [4], [5, 6]]
    assert ragged.select([2, 0]).items(np.array([0, 4, 2])).tolist() == [5, 3, 1]
