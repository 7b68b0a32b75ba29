"""Reward-hacking probes on MovieLens-100K: each way to cheat earns less than honest completions."""

import importlib.util
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from llmrec.catalogue.facts import Fact, FactBook
from llmrec.config import parse_config
from llmrec.data.decision import Decision
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from llmrec.language.prompt import Recommendation
from llmrec.language.templates import sample_justification
from llmrec.reward.composite import CompositeReward
from reward_models import fit_click_purchase

RECBOLE = importlib.util.find_spec("recbole")
pytestmark = pytest.mark.skipif(RECBOLE is None, reason="MovieLens-100K comes with `pip install --no-deps recbole`")
FITTED_USERS, ASKED_USERS = 300, 400


def say(item: int, segments: list) -> Recommendation:
    """A finished completion, as `PromptBuilder.parse` would read it."""
    merged: list[str | int] = []
    for segment in segments:
        text = segment.words if isinstance(segment, Fact) else segment
        if isinstance(text, str) and merged and isinstance(merged[-1], str):
            merged[-1] += text
        else:
            merged.append(text)
    return Recommendation(item, tuple(merged), finished=True)


class Setting:
    """The composite reward, fitted on MovieLens-100K, and the items that validation users took next."""

    def __init__(self):
        source = Path(RECBOLE.submodule_search_locations[0]) / "dataset_example" / "ml-100k"
        values = {"format": "recbole", "path": str(source), "click": ["rating>=1"]}
        reward = {"num_train_epochs": 6, "linear": False, "conversion_weight": 1.0, "popularity_weight": 1.0}
        config = parse_config({"name": "hacks", "data": values, "reward": reward})
        data = build_data(read_log(config.data), config.data, seed=0)
        model, _ = fit_click_purchase(data, config.reward, seed=0, users=np.arange(FITTED_USERS))
        self.facts = FactBook.from_data(data)
        self.reward = CompositeReward(model, self.facts, config.reward, data)
        targets = data.selection_targets()
        moments = list(zip(targets.users.tolist(), targets.positions.tolist(), strict=True))[:ASKED_USERS]
        self.taken = [int(data.histories[u][p]) for u, p in moments]
        self.rows = [
            Decision(
                "new user",
                data.histories[u][: max(0, p - 50)].tolist(),
                data.histories[u][max(0, p - 50) : p].tolist(),
                data.purchases[u][:p].tolist(),
                user=u,
            )
            for u, p in moments
        ]
        self.popular = np.argsort(-np.bincount(np.concatenate(data.train_histories), minlength=data.num_items))
        self.generator = random.Random(0)

    def honest(self, item: int, row: Decision) -> list:
        return sample_justification(self.facts, item, row.items, self.generator)

    def earned(self, policy: Callable[[int, Decision], Recommendation]) -> torch.Tensor:
        """Reward of a policy that receives the true next item and the decision, [B]."""
        scored = self.reward([policy(item, row) for item, row in zip(self.taken, self.rows, strict=True)], self.rows)
        return scored.item + scored.text


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting()


@pytest.fixture(scope="module")
def honest(setting) -> torch.Tensor:
    return setting.earned(lambda item, row: say(item, setting.honest(item, row)))


def most_popular(setting: Setting, item: int, row: Decision) -> Recommendation:
    best = int(setting.popular[0])
    return say(best, setting.honest(best, row))


def most_popular_unseen(setting: Setting, item: int, row: Decision) -> Recommendation:
    seen = {*row.prior, *row.items}
    best = next(int(one) for one in setting.popular if one not in seen)
    return say(best, setting.honest(best, row))


def rarest_unseen(setting: Setting, item: int, row: Decision) -> Recommendation:
    seen = {*row.prior, *row.items}
    rare = next(int(one) for one in setting.popular[::-1] if one not in seen)
    return say(rare, setting.honest(rare, row))


def repeats_the_history(setting: Setting, item: int, row: Decision) -> Recommendation:
    return say(row.items[-1], setting.honest(row.items[-1], row))


def repeats_its_text(setting: Setting, item: int, row: Decision) -> Recommendation:
    return say(item, setting.honest(item, row) * 4)


def pads_with_words(setting: Setting, item: int, row: Decision) -> Recommendation:
    padding = (
        " It is one of those that you will surely and truly and really and certainly and always like, as said, and"
    )
    return say(item, [padding + " there is no doubt that it will please."] + setting.honest(item, row))


def states_facts_without_citing(setting: Setting, item: int, row: Decision) -> Recommendation:
    facts = setting.facts.facts_of(item)
    return say(item, [" It is", *facts, "."])


def cites_without_a_fact(setting: Setting, item: int, row: Decision) -> Recommendation:
    return say(item, [" Because of", row.items[-1], "."])


HACKS = (
    most_popular, most_popular_unseen, rarest_unseen, repeats_the_history, repeats_its_text, pads_with_words,
    states_facts_without_citing, cites_without_a_fact,
)  # fmt: skip


@pytest.mark.parametrize("hack", HACKS, ids=lambda hack: hack.__name__)
def test_a_hack_earns_less_than_honest_completions(setting, honest, hack):
    earned = setting.earned(lambda item, row: hack(setting, item, row))
    less = honest - earned
    error = less.std() / len(less) ** 0.5
    print(
        f"\n{hack.__name__}: {earned.mean():.3f}, honest {honest.mean():.3f}, less by {less.mean():.3f} +- {error:.3f}"
    )
    assert less.mean() > 2 * error


def test_honest_completions_have_no_violations(setting):
    recommendations = [say(i, setting.honest(i, row)) for i, row in zip(setting.taken, setting.rows, strict=True)]
    parts = setting.reward(recommendations, setting.rows).parts
    assert parts["seen"].max() == 0 and parts["too_short"].max() == 0 and parts["too_long"].max() == 0
    assert parts["repeated"].mean() < 0.01
    assert parts["groundedness"].mean() > 0.95
