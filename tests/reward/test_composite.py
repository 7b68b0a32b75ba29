"""The composite reward: its parts, the item rewards for exact PPO, and errors of parts that fail."""

import importlib
import math
import sys
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from llmrec.catalogue.facts import FactBook
from llmrec.config import PenaltyConfig, RewardConfig
from llmrec.data.decision import Decision
from llmrec.errors import ConfigError, DataError, RewardError
from llmrec.language.prompt import Recommendation
from llmrec.recommenders.linear import LinearFit
from llmrec.reward.composite import CompositeReward
from llmrec.reward.functions import call, load_callable, standardized
from llmrec.reward.item_rewards import clipped_lift, item_log_odds, log_odds, sampled_prefixes
from llmrec.reward.penalties import violations
from reward_models.click_purchase import ClickPurchaseConfig, ClickPurchaseModel
from reward_models.ensemble import RewardEnsemble
from reward_models.judge import fit_judge
from reward_models.linear import LinearNextItem
from tests.conftest import make_data

ROW = Decision("new user", [9], [0, 2], [True, False, True])
GOOD = Recommendation(5, (" Like", 0, ", it is Drama."), True)


@pytest.fixture(scope="module")
def catalogue():
    data = make_data()
    return replace(data, items=data.items.assign(price=[1.0, None, 3.0, 5.0, 1.0, 3.0, 5.0, 1.0, 1.0, 1000.0]))


@pytest.fixture(scope="module")
def model(catalogue) -> ClickPurchaseModel:
    torch.manual_seed(0)
    return ClickPurchaseModel(ClickPurchaseConfig(catalogue.num_items, hidden_size=8, dropout=0.0)).eval()


def composite(model, data, **section) -> CompositeReward:
    """A reward of click and purchase minus popularity, with the settings of `section`."""
    weights = {"conversion_weight": 1.0, "popularity_weight": 1.0} | section
    return CompositeReward(model, FactBook.from_data(data), RewardConfig.model_validate(weights), data)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes `my_rewards.py` into the current directory, which is not on `sys.path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])

    def write(text: str) -> None:
        (tmp_path / "my_rewards.py").write_text(text)
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, "my_rewards", raising=False)

    yield write
    sys.modules.pop("my_rewards", None)


def test_the_reward_is_the_weighted_sum_of_its_parts(model, catalogue):
    reward = composite(
        model,
        catalogue,
        item_weight=2.0,
        popularity_weight=0.5,
        groundedness_weight=3.0,
        terms=[{"column": "price", "weight": 0.1}],
        penalties={"too_short": 4.0, "seen": 7.0},
    )
    given = [GOOD, Recommendation(0, (" Because of", 2, "."), True), Recommendation(3, (" It",), True)]
    batch = reward(given, [ROW] * 3)
    p = batch.parts
    expected = 2 * (p["log_odds"] - 0.5 * p["popularity"]) + 0.1 * p["item_price"] - 7 * p["seen"]
    torch.testing.assert_close(batch.item, expected)
    penalties = 4 * p["too_short"] + p["too_long"] + p["repeated"]
    torch.testing.assert_close(batch.text, 3 * p["groundedness"] - penalties)
    assert p["seen"].tolist() == [0, 1, 0]
    assert p["groundedness"][0] == 1.0
    assert set(p) == {
        "log_odds", "popularity", "item_price", "groundedness", "seen", "too_short", "too_long", "repeated"
    }  # fmt: skip


def average_log_odds(model, catalogue, weight: float) -> torch.Tensor:
    prefixes = sampled_prefixes(catalogue)
    scores = model.log_rewards(prefixes.histories, prefixes.purchases, prefixes.profiles, weight)
    return item_log_odds(lambda rows: scores[rows], prefixes.histories, catalogue.num_items)


def test_item_rewards_per_prefix_equal_those_of_recommendations(model, catalogue):
    reward = composite(model, catalogue, terms=[{"column": "price", "weight": 0.1}, {"column": "year", "weight": -2.0}])
    row = replace(ROW, prior=[], purchased=[False, True])
    (decisions,) = reward.item_rewards_per_prefix([row])
    assert decisions.shape == (2, catalogue.num_items)
    unseen = [item for item in range(10) if item not in (0, 2)]
    batch = reward([replace(GOOD, item=item) for item in unseen], [row] * len(unseen))
    torch.testing.assert_close(decisions[-1][unseen], batch.item)
    plain = composite(model, catalogue)
    difference = decisions[-1] - plain.item_rewards_per_prefix([row])[0][-1]
    terms = 0.1 * standardized(catalogue.items, "price") - 2.0 * standardized(catalogue.items, "year")
    torch.testing.assert_close(difference, terms, atol=1e-5, rtol=1e-5)


def random_model(data, seed: int, window: int) -> ClickPurchaseModel:
    """A model with large weights, so that every input has an effect."""
    torch.manual_seed(seed)
    model = ClickPurchaseModel(ClickPurchaseConfig(data.num_items, hidden_size=8, dropout=0.0, window=window))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


@pytest.mark.parametrize(("window", "pooled"), [(2, False), (50, False), (50, True)])
def test_the_newest_item_rewards_are_the_last_rows_of_all_prefixes(catalogue, pooled, window):
    model = random_model(catalogue, 1, window)
    if pooled:
        linear = LinearNextItem.from_weights(LinearFit(catalogue.train_histories, catalogue.num_items).solve(5.0))
        linear.pool_weights.copy_(torch.tensor([0.8, 0.6, -0.1]))
        model = RewardEnsemble([model, random_model(catalogue, 2, window)], 0.5, linear).eval()
    reward = composite(model, catalogue, terms=[{"column": "price", "weight": 0.1}])
    decisions = [
        replace(ROW, user=3),
        Decision("new user", [], [4, 1, 7], None),
        Decision("new user", [5], [8], [True, True], 2),
    ] * 30  # more than a batch
    expected = torch.stack([rewards[-1] for rewards in reward.item_rewards_per_prefix(decisions)])
    torch.testing.assert_close(reward.newest_item_rewards(decisions), expected, atol=1e-6, rtol=1e-6)


def test_the_popularity_of_several_weights_is_that_of_each(model, catalogue):
    found = composite(model, catalogue).popularity_at([0.0, 0.5])
    expected = [composite(model, catalogue, conversion_weight=weight).popularity for weight in (0.0, 0.5)]
    torch.testing.assert_close(found, torch.stack(expected))
    torch.testing.assert_close(found[1], average_log_odds(model, catalogue, 0.5))


@pytest.mark.parametrize("ensemble", [False, True])
def test_the_conversion_weight_runs_from_clicks_to_the_joint_probability(catalogue, ensemble):
    torch.manual_seed(2)
    members = [ClickPurchaseModel(ClickPurchaseConfig(catalogue.num_items, hidden_size=8)).eval() for _ in range(2)]
    with torch.no_grad():
        for member in members:
            member.items.weight.mul_(20)
            member.purchase_items.weight.mul_(20)
    model = RewardEnsemble(members, penalty=1.0) if ensemble else members[0]
    history, purchased = [np.array([9, 0, 2])], [ROW.known_purchases]
    predicted = model.predict(history, purchased)
    row = replace(ROW, prior=[], items=[9, 0, 2])
    for weight in (0.0, 0.5, 1.0):
        joint = predicted.log_click + weight * predicted.purchase.sigmoid().log()
        if ensemble:
            own = [m.predict(history, purchased) for m in members]
            joint = joint - torch.stack([o.log_click + weight * o.purchase.sigmoid().log() for o in own]).std(0, False)
        reward = composite(model, catalogue, conversion_weight=weight)
        batch = reward([GOOD], [row])
        torch.testing.assert_close(batch.parts["log_odds"][0], log_odds(joint[0, GOOD.item]))
        torch.testing.assert_close(reward.item_rewards_per_prefix([row])[0][-1][GOOD.item], batch.item[0])
        counted = average_log_odds(model, catalogue, weight)
        torch.testing.assert_close(batch.parts["popularity"][0], counted[GOOD.item])
    assert batch.parts["log_odds"][0] == log_odds(model.log_rewards(history, purchased)[0, GOOD.item])
    clicks, joint = (composite(model, catalogue, conversion_weight=weight) for weight in (0.0, 1.0))
    assert (clicks.popularity - joint.popularity).abs().min() > 0.1


def test_a_completion_without_an_item_gets_the_lowest_item_reward(model, catalogue):
    nothing = [Recommendation(-1, (), False)]
    assert composite(model, catalogue)(nothing, [ROW]).item.item() == -12
    of_clicks = composite(model, catalogue, popularity_weight=0.0, item_weight=2.0)(nothing, [ROW])
    assert of_clicks.item.item() == pytest.approx(2 * (-12 - math.log(10)))


@pytest.mark.parametrize("num_items", [1_682, 1_000_000])
def test_the_clip_leaves_the_optimum_of_large_catalogues_as_it_is(num_items):
    """Zipf popularity with 2 nats of personal noise, alpha 1, beta 0.3: under 1 % of the optimum's mass moves."""
    noise = torch.randn(4, num_items, generator=torch.Generator().manual_seed(0))
    moved = []
    for user in noise:
        log_click = (2 * user - torch.arange(1.0, num_items + 1).log()).log_softmax(0)
        clipped = clipped_lift(log_click, torch.zeros(num_items), 0.0)
        best, best_clipped = ((reward / 1.3).softmax(0) for reward in (log_odds(log_click), clipped))
        moved.append((best - best_clipped).abs().sum() / 2)
    assert max(moved) < 0.01


def test_the_clip_is_relative_to_a_uniform_choice():
    log_click = torch.tensor([0.0, -12.0, -14.0, -30.0])
    found = clipped_lift(log_click, torch.full((4,), -20.0), 0.0)
    assert found.tolist() == pytest.approx([12, -12, -12 - math.log(4), -12 - math.log(4)], abs=1e-4)
    assert clipped_lift(log_click, torch.full((4,), -20.0), 1.0).tolist() == pytest.approx([12, 8, 6, -10], abs=1e-4)


def test_no_fixed_item_has_a_positive_mean_reward(catalogue):
    """By Jensen's inequality, the mean lift of an item over the users who have not seen it is at most 0."""
    torch.manual_seed(1)
    model = ClickPurchaseModel(ClickPurchaseConfig(catalogue.num_items, hidden_size=8, dropout=0.0)).eval()
    with torch.no_grad():
        for table in (model.items, model.profile):
            table.weight.mul_(50)  # large differences between users
    users = np.arange(6).repeat(40)
    histories, purchases = [catalogue.histories[u][:3] for u in users], [catalogue.purchases[u][:3] for u in users]
    profiles = 1 + users[:, None]
    log_probabilities = model.log_rewards(histories, purchases, profiles)
    popularity = item_log_odds(lambda rows: log_probabilities[rows], histories, catalogue.num_items)
    assert log_probabilities.std(0).min() > 0.1
    for item in range(catalogue.num_items):
        unseen = torch.tensor([item not in history for history in histories])
        assert (log_probabilities[unseen, item] - popularity[item]).mean() < 0


def test_log_odds_by_hand():
    found = log_odds(torch.tensor([0.5, 0.25, 1.0, 1e-6]).log())
    expected = [0.0, -math.log(3), 13.8, -13.8155]
    torch.testing.assert_close(found, torch.tensor(expected), atol=0.05, rtol=0)


def test_columns_are_standardized_and_empty_cells_count_0(catalogue):
    items = pd.DataFrame({"margin": [1.0, 3.0, None, np.inf], "text": ["1", "3", "", None]})
    assert standardized(items, "margin").tolist() == [-1, 1, 0, 0]
    assert standardized(items, "text").tolist() == [-1, 1, 0, 0]
    assert standardized(catalogue.items, "price").max() < 3.0 + 1e-6


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ("pric", "no column `pric`; did you mean `price`?"),
        ("zzz", "no column `zzz`; the table has item_id, title"),
        ("title", "`title` of the item table is not numeric: it holds 'Red Sky'"),
        ("constant", "`constant` is 2 for every item that has it"),
        ("nothing", "`nothing` is empty"),
    ],
)
def test_columns_that_cannot_be_used_are_refused(catalogue, column, says):
    with pytest.raises(ConfigError) as caught:
        standardized(catalogue.items.assign(constant=2, nothing=None), column)
    assert says in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("segments", "violation", "value"),
    [
        ((" Like", 0, ", it is Drama."), None, 0.0),
        ((" Drama.",), "too_short", 2 / 3),
        (tuple([" Like", 0, ", it is Drama."] * 2), "repeated", 4 / 9),
        ((" a" * 30,), "too_long", 0.25),
    ],
)
def test_violations(segments, violation, value):
    found = violations(Recommendation(5, segments, True), {0}, PenaltyConfig())
    if violation is None:
        assert not any(found.values())
    else:
        assert found[violation] == pytest.approx(value)


def test_a_function_can_be_a_part(model, catalogue, module):
    module(
        "def brevity(recommendations, rows):\n"
        "    return [-len(r.segments) - row['items'][0] for r, row in zip(recommendations, rows)]\n"
    )
    reward = composite(model, catalogue, parts=[{"callable": "my_rewards:brevity", "weight": 0.5}])
    batch, plain = reward([GOOD], [ROW]), composite(model, catalogue)([GOOD], [ROW])
    assert batch.parts["my_rewards:brevity"].tolist() == [-3.0]
    torch.testing.assert_close(batch.text, plain.text - 1.5)
    torch.testing.assert_close(batch.item, plain.item)


@pytest.mark.parametrize(
    "returned", [[1, 2.5], (1, 2.5), np.array([1.0, 2.5]), torch.tensor([1.0, 2.5], requires_grad=True)]
)
def test_a_function_may_return_any_sequence_of_numbers(returned):
    assert call("part", lambda recommendations, rows: returned, [GOOD] * 2, [ROW] * 2).tolist() == [1.0, 2.5]


def test_a_function_never_sees_the_target() -> None:
    targets = []

    def part(recommendations, rows):
        targets.extend(row.target for row in rows)
        return [0.0] * len(rows)

    call("part", part, [GOOD], [replace(ROW, target=3)])
    assert targets == [None]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda r, rows: 1 / 0, "failed: ZeroDivisionError: division by zero (test_composite.py, line"),
        (lambda r: [1.0], "failed: TypeError"),
        (lambda r, rows: [1.0], "returned values of shape [1]; expected 2 numbers"),
        (lambda r, rows: [[1.0], [2.0]], "returned values of shape [2, 1]; expected 2 numbers"),
        (lambda r, rows: 1.0, "returned values of shape []"),
        (lambda r, rows: None, "returned NoneType None"),
        (lambda r, rows: ["a", "b"], "returned list ['a', 'b']"),
        (lambda r, rows: [1.0, float("nan")], "gave nan; expected a finite number"),
        (lambda r, rows: [1.0, float("inf")], "gave inf"),
    ],
)
def test_errors_name_the_function_that_fails(function, says):
    with pytest.raises(RewardError) as caught:
        call("my_rewards:brevity", function, [GOOD] * 2, [ROW] * 2)
    assert says in str(caught.value) and "`my_rewards:brevity`" in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("no_such_module:f", "there is no module `no_such_module`. Expected a module that is installed"),
        ("my_rewards:brevty", "has no function `brevty`; did you mean `my_rewards:brevity`?"),
        ("my_rewards:zzz", "has no function `zzz`; it has brevity."),
        ("my_rewards:LIMIT", "has no function `LIMIT`"),
    ],
)
def test_functions_that_do_not_exist_are_refused(module, path, says):
    module("LIMIT = 3\ndef brevity(recommendations, rows): ...\n")
    with pytest.raises(ConfigError) as caught:
        load_callable(path)
    assert says in str(caught.value) and caught.value.exit_code == 2


def test_a_module_that_cannot_be_imported_is_refused(module):
    module("import no_such_library\n")
    with pytest.raises(
        ConfigError, match="importing it failed: ModuleNotFoundError: No module named 'no_such_library'"
    ):
        load_callable("my_rewards:f")


@pytest.mark.parametrize(
    "recommendation", [replace(GOOD, item=10), replace(GOOD, item=-2), replace(GOOD, segments=(99,))]
)
def test_items_outside_the_catalogue_are_refused(model, catalogue, recommendation):
    with pytest.raises(DataError, match="Recommendation 1 names item index (10|-2|99), which is not in the catalogue"):
        composite(model, catalogue)([GOOD, recommendation], [ROW] * 2)


def test_a_model_that_gives_nan_is_named(catalogue):
    broken = ClickPurchaseModel(ClickPurchaseConfig(catalogue.num_items, hidden_size=8, dropout=0.0)).eval()
    reward = composite(broken, catalogue)
    broken.purchase_offset.fill_(float("nan"))
    for ask in (lambda: reward([GOOD], [ROW]), lambda: reward.item_rewards_per_prefix([ROW])):
        with pytest.raises(RewardError, match="`log_odds` gave nan"):
            ask()


def test_the_judge_subtracts_its_own_popularity(model, catalogue):
    """An error of the model about an item, the same for all users, does not change the judge's rewards."""
    judge = fit_judge(catalogue.train_histories, catalogue.purchases, catalogue.num_items, "sha")
    histories = [catalogue.histories[1][:3]]
    before = composite(model, catalogue).judged(judge)(histories)
    biased = deepcopy(model)
    with torch.no_grad():
        biased.click_bias[5] -= 6
    reward = composite(biased, catalogue)
    assert (reward.popularity - composite(model, catalogue).popularity)[5] < -1
    torch.testing.assert_close(reward.judged(judge)(histories), before)
