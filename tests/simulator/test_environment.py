"""The environments pass the checks of gymnasium and Stable-Baselines3, and say what they were told."""

import warnings

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="llmrec[simulate] is not installed")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from llmrec.errors import CatalogueError  # noqa: E402
from llmrec.simulator.environment import (  # noqa: E402
    RecommendEnv,
    RecommendVectorEnv,
    TabularEnv,
    without_repeats,
)
from llmrec.simulator.tabular import Bait, policy_values  # noqa: E402
from tests.simulator.worlds import people  # noqa: E402

LIVELY = {"no_click": 0.0, "end_intercept": -1.0, "return_intercept": 1.0, "category_satiation": 1.0}


@pytest.mark.parametrize("slate", [1, 3])
def test_gymnasium_accepts_it(slate: int) -> None:
    env = gymnasium.make("llmrec/Recommend-v0", simulator=people(**LIVELY), slate=slate)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_render_check=True)


def test_stable_baselines_accepts_it() -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checker.check_env(RecommendEnv(people(**LIVELY)))
        checker.check_env(TabularEnv(Bait().world()))


def test_the_vector_environment_plays_the_lives_of_the_single_one() -> None:
    world = people(users=5, **LIVELY)
    single = RecommendEnv(world)
    batch = gymnasium.make_vec(
        "llmrec/Recommend-v0", num_envs=6, vectorization_mode="vector_entry_point", simulator=world
    )
    assert isinstance(batch.unwrapped, RecommendVectorEnv)
    seen, _ = batch.reset(seed=9)
    alone = [single.reset(seed=9)[0], *(single.reset()[0] for _ in range(5))]
    assert (seen == np.array(alone)).all()
    over = np.zeros(6, bool)
    rewards = np.zeros(6)
    while not over.all():
        _, reward, ended, cut, info = batch.step(np.full(6, 2))
        rewards += np.where(over, 0.0, reward)
        assert (info["final_obs"].shape == seen.shape) if (ended | cut).any() else ("final_obs" not in info)
        over |= ended | cut
    expected = []
    single.reset(seed=9)
    for _ in range(6):
        total, done = 0.0, False
        while not done:
            _, reward, ended, cut, info = single.step(2)
            assert sum(info["parts"].values()) - info["parts"]["return"] == pytest.approx(reward)
            total += reward
            done = ended or cut
        expected.append(total)
        single.reset()
    assert np.allclose(rewards, expected)


def test_repeated_items_are_replaced() -> None:
    assert without_repeats(np.array([[2, 2, 3], [0, 1, 2], [5, 5, 5]]), 6).tolist() == [[2, 3, 4], [0, 1, 2], [5, 0, 1]]


def test_a_slate_larger_than_the_catalogue_is_refused() -> None:
    with pytest.raises(CatalogueError, match="7 items, but the catalogue has 6"):
        RecommendEnv(people(), slate=7)


def test_the_tabular_environment_has_the_value_of_the_table() -> None:
    """Undiscounted episodes of the bait policy: the Bellman equation says what they earn on average."""
    bait = Bait()
    env = TabularEnv(bait.world())
    totals = []
    env.reset(seed=0)
    for _ in range(2000):
        total, done = 0.0, False
        env.reset()
        while not done:
            _, reward, ended, cut, _ = env.step(1)
            total += reward
            done = ended or cut
        totals.append(total)
    expected = policy_values(bait.world(), np.ones(6, np.int64), 1.0)[0]
    assert abs(np.mean(totals) - expected) < 4.5 * np.std(totals) / np.sqrt(len(totals))
