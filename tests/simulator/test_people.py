"""The core: probabilities against hand-worked numbers, common random numbers, resumption, and refusals."""

import dataclasses

import numpy as np
import pytest

from llmrec.errors import CatalogueError, DataError, RewardError
from llmrec.simulator.behavior import satisfaction
from llmrec.simulator.people import People
from llmrec.simulator.state import State
from tests.simulator.worlds import people

MANY = 40_000


def near(share: float, expected: float) -> bool:
    """Within 4.5 standard errors of a share of `MANY` draws."""
    return abs(share - expected) < 4.5 * np.sqrt(max(expected * (1 - expected), 1e-4) / MANY)


def test_a_click_is_a_multinomial_logit_with_position_bias() -> None:
    world = people(no_click=np.log(2.0), position=0.5)
    state = world.reset(0, MANY)
    outcome = world.step(state, np.tile([4, 1], (MANY, 1)))
    # Weights: nothing 2, first place 1, second place 1/2; together 3.5.
    assert near((outcome.clicked == -1).mean(), 2 / 3.5)
    assert near((outcome.clicked == 4).mean(), 1 / 3.5)
    assert near((outcome.clicked == 1).mean(), 0.5 / 3.5)


def test_noise_flattens_a_choice() -> None:
    world = people(no_click=3.0, noise=3.0)
    outcome = world.step(world.reset(0, MANY), np.zeros(MANY, np.int64))
    assert near((outcome.clicked == 0).mean(), 1 / (1 + np.e))


def test_the_reward_has_declared_parts() -> None:
    world = people(no_click=-60.0, end_intercept=60.0, return_intercept=60.0, gap_quantiles=[1.0, 1.0])
    world.weights = np.array([1.0, 0.5, 10.0])
    outcome = world.step(world.reset(0, MANY), np.full(MANY, 3))
    # The logits of a purchase are 1 * 0 + ... = 0, so half of the clicks are purchases of value 4.
    assert near(outcome.purchased.mean(), 0.5)
    assert (outcome.parts[:, 0] == 1).all()
    assert (outcome.parts[:, 1] == 4.0 * outcome.purchased).all()
    assert (outcome.parts[:, 2] == 1).all()
    assert np.allclose(outcome.reward, 1.0 + 2.0 * outcome.purchased + 10.0)


def test_a_category_satiates_and_recovers() -> None:
    """Fatigue is 0.1 after one step, costs 2 x 0.1 nats, and falls by 1/e in the two days of recovery."""
    world = people(category_satiation=2.0, category_recovery=2.0, end_intercept=-60.0)
    state = world.reset(0, 1)
    world.step(state, np.array([2]))
    shown = world.utilities(state, np.array([[2, 3]]))
    assert np.allclose(shown, [[-0.2, 0.0]], atol=1e-6)
    ending = people(
        category_satiation=2.0,
        category_recovery=2.0,
        end_intercept=60.0,
        return_intercept=60.0,
        gap_quantiles=[2.0, 2.0],
    )
    state = ending.reset(0, 1)
    ending.step(state, np.array([2]))
    assert np.allclose(ending.utilities(state, np.array([[2, 3]])), [[-0.2 / np.e, 0.0]], atol=1e-6)


def test_an_item_satiates_and_recovers() -> None:
    world = people(item_satiation=3.0, item_recovery=5.0, no_click=-60.0, end_intercept=-60.0)
    state = world.reset(0, 1)
    world.step(state, np.array([2]))
    assert np.allclose(world.utilities(state, np.array([[2, 3]])), [[-3.0, 0.0]])
    state.day[:] = 5.0
    assert np.allclose(world.utilities(state, np.array([[2, 3]])), [[-3.0 / np.e, 0.0]])


def test_missed_clicks_end_sessions() -> None:
    """After one miss the click rate is 0.9 x 0.1, a tenth below what is expected, so patience 10 adds one nat."""
    world = people(no_click=60.0, patience=10.0, end_intercept=-1.0, click_rate=0.1)
    outcome = world.step(world.reset(0, MANY), np.zeros(MANY, np.int64))
    assert near(outcome.ended.mean(), 0.5)


def test_the_hazard_depends_on_the_step() -> None:
    world = people(end_intercept=0.0, end_log_step=1.0, return_intercept=60.0)
    state = world.reset(0, MANY)
    first = world.step(state, np.zeros(MANY, np.int64))
    second = world.step(state, np.zeros(MANY, np.int64))
    assert near(first.ended.mean(), 0.5)
    assert abs(second.ended[~first.ended].mean() - 2 / 3) < 0.02  # the odds are exp(log 2) = 2


def test_returns_depend_on_satisfaction() -> None:
    """A purchase in a session of one step, where 0.1 x 0.5 are expected: log((1 + 0.005) / 0.055) = 2.905."""
    assert satisfaction(np.array([1]), np.array([1]), 0.05) == pytest.approx(2.9054, abs=1e-4)
    assert satisfaction(np.array([1]), np.array([20]), 0.05) == pytest.approx(0.0)
    world = people(no_click=-60.0, end_intercept=60.0, return_satisfaction=1.0, return_intercept=-2.9054)
    outcome = world.step(world.reset(0, MANY), np.zeros(MANY, np.int64))
    assert outcome.returned[outcome.purchased].mean() == pytest.approx(0.5, abs=0.02)
    assert outcome.returned[~outcome.purchased].mean() < 0.01  # log(1 / 11) - 2.9 = -5.3


def test_gaps_follow_their_quantiles_and_the_horizon() -> None:
    world = people(end_intercept=60.0, return_intercept=60.0, gap_quantiles=[0.0, 10.0, 40.0], horizon=30.0)
    outcome = world.step(world.reset(0, MANY), np.zeros(MANY, np.int64))
    # Half of the gaps are uniform on [0, 10], half on [10, 40], of which two thirds are below 30 days.
    assert near(outcome.returned.mean(), 0.5 + 0.5 * 2 / 3)
    assert near((outcome.gap[outcome.returned] < 10).mean() * outcome.returned.mean(), 0.5)
    assert (outcome.over == ~outcome.returned).all() and not outcome.truncated.any()


def test_a_life_is_cut_off_by_the_number_of_steps() -> None:
    world = people(end_intercept=-60.0, max_steps=3)
    state = world.reset(0, 2)
    cut = [world.step(state, np.zeros(2, np.int64)).truncated.all() for _ in range(3)]
    assert cut == [False, False, True]
    after = world.step(state, np.zeros(2, np.int64))
    assert after.reward.sum() == 0 and (after.clicked == -1).all() and (state.steps == 3).all()


def trace(world: People, state: State, steps: int) -> list[np.ndarray]:
    slates = np.tile(np.arange(3), (len(state.life), 1))
    return [world.step(state, slates).clicked for _ in range(steps)]


def test_lives_do_not_depend_on_each_other_or_on_when_they_are_played() -> None:
    world = people(end_intercept=-1.0, return_intercept=1.0, category_satiation=1.0)
    together = np.array(trace(world, world.reset(5, 40), 12))
    alone = np.array([np.concatenate(trace(world, world.reset(5, 1, first=life), 12)) for life in range(40)])
    assert (alone == together.T).all()


def test_a_saved_state_continues_exactly() -> None:
    world = people(end_intercept=-1.0, return_intercept=1.0, category_satiation=1.0)
    whole = trace(world, world.reset(5, 40), 12)
    state = world.reset(5, 40)
    trace(world, state, 6)
    kept = state.copy()
    trace(world, state, 3)
    assert all((a == b).all() for a, b in zip(trace(world, kept, 6), whole[6:], strict=True))


def test_a_better_slate_never_turns_a_click_into_a_miss() -> None:
    """Common random numbers: whoever clicks in a slate of one also clicks if something is added."""
    world = people(no_click=1.0)
    one = world.step(world.reset(2, MANY), np.zeros((MANY, 1), np.int64)).clicked >= 0
    two = world.step(world.reset(2, MANY), np.tile([0, 1], (MANY, 1))).clicked >= 0
    assert (two >= one).all() and two.sum() > one.sum()


def test_browsing_takes_unseen_items_alone() -> None:
    world = people(item_satiation=20.0, item_recovery=1e6, end_intercept=-60.0)
    state = world.reset(0, 500)
    taken = np.array([world.browse(state).clicked for _ in range(6)])
    assert (np.sort(taken, axis=0) == np.arange(6)[:, None]).all()


@pytest.mark.parametrize(
    ("slate", "message"),
    [
        ([7], "the item 7; expected 0 to 5"),
        ([1, 1], "item 1 twice"),
        (list(range(7)), "7 items, but the catalogue has 6"),
    ],
)
def test_impossible_slates_are_refused(slate: list[int], message: str) -> None:
    world = people()
    with pytest.raises(CatalogueError, match=message):
        world.step(world.reset(0, 2), np.tile(slate, (2, 1)))


def test_a_slate_for_each_life_is_needed() -> None:
    world = people()
    with pytest.raises(CatalogueError, match="1 slates for 2 lives"):
        world.step(world.reset(0, 2), np.zeros((1, 1), np.int64))


def test_a_value_that_is_not_finite_is_refused() -> None:
    population = people().population
    values = population.values.copy()
    values[4] = np.inf
    with pytest.raises(RewardError, match="value of item 4 is inf"):
        People(dataclasses.replace(population, values=values), people().behavior)
    with pytest.raises(RewardError, match="weights"):
        People(population, people().behavior, weights=(1.0, float("nan"), 0.0))


def test_a_world_in_which_everybody_churns_is_refused() -> None:
    with pytest.raises(DataError, match="Everybody leaves for good"):
        people(return_intercept=-9.0)
