"""What counts reach: on a log worked out by hand, and on the logs of the papers."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmrec.config import Config
from llmrec.data.dataset import InteractionData, Targets
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from llmrec.recommenders import counts as counts_module
from llmrec.recommenders.counts import accuracy_of_counts, fits_of, histories_before_test, sampled_targets, sizes_of
from llmrec.recommenders.transitions import Transitions
from llmrec.recommenders.tuning import evaluated_users
from tests.data.logs import config

DATA = Path(os.environ.get("LLMREC_TEST_DATA", "data"))


def data_of(histories: list[list[int]], times: list[list[int]], targets: dict[str, dict[str, Targets]]):
    count = len(histories)
    return InteractionData(
        items=pd.DataFrame({"item_id": [f"i{n}" for n in range(30)]}),
        users=pd.DataFrame({"user_id": [str(n) for n in range(count)]}),
        facts=pd.DataFrame(),
        histories=[np.array(one) for one in histories],
        purchases=[np.zeros(len(one), dtype=bool) for one in histories],
        timestamps=[np.array(one) for one in times],
        train_lengths=np.array([len(one) - 2 for one in histories]),
        targets=targets,
    )


def held_out(*pairs: tuple[int, int]) -> Targets:
    users, positions = zip(*pairs, strict=True)
    return Targets(np.array(users), np.array(positions))


def test_a_transition_of_the_validation_item_counts_only_after_refitting():
    histories = [[0, 1, 20, 21], [2, 3, 20, 21]]  # 20 -> 21 is nowhere in training or before the test
    histories += [[4, 20, 21, 5]]  # 20 -> 21 is in the validation item of this user
    targets = {"leave_one_out": {"valid": held_out((0, 2), (1, 2)), "test": held_out((0, 3), (1, 3), (2, 3))}}
    data = data_of(histories, [list(range(4))] * 3, targets)
    assert [one.tolist() for one in histories_before_test(data, "leave_one_out")] == [one[:3] for one in histories]
    found = accuracy_of_counts(data)["leave_one_out"]["first_order"]
    # Item 5 of the third user is among 22 unseen items without clicks. Their mean rank is above 10 in both fits.
    assert found["train"].hr == 0
    assert found["refitted"].hr == pytest.approx(2 / 3)
    assert found["refitted"].ndcg == pytest.approx(2 / 3)


def test_before_the_test_of_a_temporal_split_is_before_its_time():
    targets = {"temporal": {"valid": held_out((0, 2)), "test": held_out((0, 3))}}
    data = data_of([[0, 1, 2, 3], [4, 5, 6, 7]], [[0, 1, 5, 8], [3, 7, 8, 9]], targets)
    assert [one.tolist() for one in histories_before_test(data, "temporal")] == [[0, 1, 2], [4, 5]]


def many_users(count: int) -> InteractionData:
    """Users of four random items each, two targets of the test for each."""
    rng = np.random.default_rng(0)
    histories = [rng.permutation(30)[:5].tolist() for _ in range(count)]
    users = np.repeat(np.arange(count), 2)
    test = Targets(users, np.tile([3, 4], count))
    return data_of(histories, [list(range(5))] * count, {"leave_one_out": {"valid": test, "test": test}})


def test_a_sample_of_users_has_all_of_their_targets_and_is_seeded(monkeypatch):
    data = many_users(400)
    everyone = sampled_targets(data, Config(name="x", data=config()))["leave_one_out"]
    assert len(everyone) == 800
    section = {"name": "x", "data": config(), "evaluation": {"users": 100}}
    (first, again, other) = (sampled_targets(data, Config(**section, seed=seed))["leave_one_out"] for seed in (0, 0, 1))
    users, counts = np.unique(first.users, return_counts=True)
    assert len(users) == 100 and (counts == 2).all()
    assert (first.users == again.users).all() and set(first.users) != set(other.users)
    assert (evaluated_users(400, Config(**section))[users]).all()
    monkeypatch.setattr(counts_module, "SCORES", 30 * 60)  # 60 targets of 30 items
    monkeypatch.setattr(counts_module, "FEWEST_TARGETS", 10)
    fewer = sampled_targets(data, Config(**section))
    assert len(fewer["leave_one_out"]) == 60 and set(fewer["leave_one_out"].users) <= set(users)
    assert sizes_of(data, fewer) == {"leave_one_out": {"targets": 60, "users": 30, "of_users": 400}}


def test_only_sampled_targets_are_ranked_in_small_batches(monkeypatch):
    data = many_users(40)
    monkeypatch.setattr(counts_module, "BATCH_SCORES", 30 * 7)
    measured = {"leave_one_out": data.targets["leave_one_out"]["test"].of_users(np.arange(40) < 10)}
    steps: list[int] = []
    found = accuracy_of_counts(data, measured, steps.append)["leave_one_out"]["popularity"]["train"]
    assert max(steps) == 7 and sum(steps) == 20 * fits_of(data)
    full = accuracy_of_counts(data, measured)["leave_one_out"]["popularity"]["train"]
    assert (found.hr, found.ndcg) == (full.hr, full.ndcg) and 0 < found.hr < 1
    assert found.hr != accuracy_of_counts(data)["leave_one_out"]["popularity"]["train"].hr


def test_an_interval_by_hand():
    """Two of three users hit: mean 2/3, standard deviation (1/3)^0.5, standard error 1/3."""
    histories = [[0, 1, 20, 21], [2, 3, 20, 21], [4, 20, 21, 5]]
    targets = {"leave_one_out": {"valid": held_out((0, 2), (1, 2)), "test": held_out((0, 3), (1, 3), (2, 3))}}
    found = accuracy_of_counts(data_of(histories, [list(range(4))] * 3, targets))["leave_one_out"]["first_order"]
    assert found["refitted"].hr_interval == pytest.approx((2 / 3 - 1.96 / 3, 1.0))


def test_transitions_in_parts_are_those_of_the_whole(monkeypatch):
    histories = [np.array(one) for one in ([0, 1, 2, 1], [2], [1, 2, 0], [0, 1])]
    whole = Transitions(distance=3).fit(histories, 4).transitions.toarray()
    monkeypatch.setattr("llmrec.recommenders.transitions.PART", 3)
    assert Transitions(distance=3).fit(histories, 4).transitions.toarray() == pytest.approx(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "train", "refitted"),
    [("beauty", (0.0764, 0.0490), (0.0859, 0.0557)), ("toys", (0.0849, 0.0553), (0.0959, 0.0633))],
)
def test_counts_on_the_logs_of_the_papers(name, train, refitted):
    """Counts of an independent implementation, with another rule of ties."""
    path = DATA / f"amazon-{name}"
    if not path.is_dir():
        pytest.skip(f"{path} is missing: set LLMREC_TEST_DATA to its parent directory")
    section = config(format="sequences", path=str(path), click=["interaction"], purchase=[])
    found = accuracy_of_counts(build_data(read_log(section), section, seed=0))["leave_one_out"]["transitions"]
    assert (found["train"].hr, found["train"].ndcg) == pytest.approx(train, abs=6e-4)
    assert (found["refitted"].hr, found["refitted"].ndcg) == pytest.approx(refitted, abs=6e-4)
