"""The rule of the canary: promoted, rolled back or undecided, on feedback whose click rates are known."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

pytest.importorskip("sqlalchemy")

from llmrec.ab_test.results import ABTestReport
from llmrec.ab_test.sample_ratio import check_sample_ratio
from llmrec.config import LearnConfig
from llmrec.learning.canary import Verdict, _verdict, judge, tolerated_loss
from llmrec.serving.store import Feedback, Impression, Store
from llmrec.versions.registry import Registry
from tests.conftest import make_data
from tests.export.runs import finished_run
from tests.versions.test_registry import result

DAY = 86_400
CONFIG = LearnConfig(canary_users=400, canary_days=5, margin=0.1)
Serve = Callable[..., float]


@pytest.fixture(scope="module")
def registry(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A run whose version 1 is a canary for half of the users."""
    folder = tmp_path_factory.mktemp("canary")
    registry = Registry(finished_run(tiny_base, make_data(), folder / "runs"))
    registry.register(1, 0, result(registry.run, folder / "one"), "better", {})
    registry.start_canary(1, 0.5, "it passed", {"margin": 0.02, "click_rate": 0.2})
    return registry


@pytest.fixture
def store(tmp_path: Path):
    store = Store(str(tmp_path / "feedback.db"))
    yield store
    store.close()


def serve(
    registry: Registry, store: Store, users: int, rates: dict[int, float], lists: int = 6, start: float = 1
) -> float:
    """Shows lists of one item to people from the start of the canary on; returns a time when all users count.

    Args:
        registry: who is served which version.
        store: takes the lists and clicks.
        users: number of people.
        rates: clicks per shown item by version.
        lists: lists of each person.
        start: seconds from the start of the canary to the first list.
    """
    random = np.random.default_rng(0)
    begun = datetime.fromisoformat(registry.history()[-1].at).timestamp()
    traffic = registry.traffic()
    labels = {version.number: version.label for version in registry.versions()}
    shown: list[Impression] = []
    clicks: list[Feedback] = []
    for number in range(users):
        user = f"person-{number}"
        version = traffic.version_of(user)
        for one in range(lists):
            at = begun + start + number + 60 * one
            request = f"{number}-{one}"
            shown.append(Impression(request, 1, user, f"i{one}", 1.0, 0.5, labels[version], False, at))
            if random.random() < rates[version]:
                clicks.append(Feedback(f"e{request}", user, f"i{one}", "click", None, None, at + 5, at + 5))
    for at in range(0, len(shown), 5000):
        store.add_impressions(shown[at : at + 5000]).result()
    store.add_feedback(clicks).result()
    return begun + 2 * DAY


def decision(registry: Registry, store: Store, now: float) -> Verdict:
    canary = registry.canary()
    assert canary is not None
    return judge(registry, canary, store, CONFIG, now)


def test_a_better_canary_is_promoted(registry: Registry, store: Store) -> None:
    now = serve(registry, store, 600, {0: 0.2, 1: 0.35})
    verdict = decision(registry, store, now)
    assert verdict.action == "promote" and verdict.why.startswith("it is better")
    assert verdict.metrics["treatment"] - verdict.metrics["control"] == pytest.approx(0.15, abs=0.04)
    assert sum(verdict.metrics["users"].values()) == 600


def test_a_worse_canary_is_rolled_back(registry: Registry, store: Store) -> None:
    verdict = decision(registry, store, serve(registry, store, 600, {0: 0.35, 1: 0.2}))
    assert verdict.action == "roll back" and verdict.why.startswith("it is worse")


def test_an_equal_canary_waits_and_is_rolled_back_in_the_end(registry: Registry, store: Store) -> None:
    now = serve(registry, store, 300, {0: 0.3, 1: 0.3}, lists=2)
    verdict = decision(registry, store, now)
    assert verdict.action == "wait" and "undecided after 300 users" in verdict.why
    assert decision(registry, store, now + 4 * DAY).action == "roll back"


def test_nobody_served_is_no_verdict_until_the_days_are_over(registry: Registry, store: Store) -> None:
    begun = datetime.fromisoformat(registry.history()[-1].at).timestamp()
    assert decision(registry, store, begun + DAY).action == "wait"
    assert decision(registry, store, begun + 6 * DAY).action == "roll back"


def test_lists_of_another_version_do_not_count(registry: Registry, store: Store) -> None:
    """Before a server has taken the canary over, everybody gets the former version: the canary has nobody."""
    begun = datetime.fromisoformat(registry.history()[-1].at).timestamp()
    label = registry.current().label
    rows = [Impression(f"r{n}", 1, f"person-{n}", "i1", 1.0, 0.5, label, False, begun + n) for n in range(40)]
    store.add_impressions(rows).result()
    verdict = decision(registry, store, begun + DAY)
    assert (verdict.action, verdict.why) == ("wait", "nobody was served yet")


def test_the_seconds_before_a_server_takes_the_canary_over_do_not_skew_the_shares(
    registry: Registry, store: Store
) -> None:
    """In the first minute 300 people come, and only those of the current version would count."""
    begun = datetime.fromisoformat(registry.history()[-1].at).timestamp()
    label = registry.current().label
    rows = [Impression(f"r{n}", 1, f"early-{n}", "i1", 1.0, 0.5, label, False, begun + n / 5) for n in range(300)]
    store.add_impressions(rows).result()
    serve(registry, store, 40, {0: 0.2, 1: 0.2}, start=61)
    verdict = decision(registry, store, begun + 600)
    assert (verdict.action, verdict.why) == ("wait", "it is undecided after 0 users")


def test_lists_of_the_present_second_count_in_the_next_one(registry: Registry, store: Store) -> None:
    begun = datetime.fromisoformat(registry.history()[-1].at).timestamp()
    serve(registry, store, 40, {0: 0.2, 1: 0.2})
    assert decision(registry, store, begun).why == "nobody was served yet"


def test_a_click_counts_for_the_list_before_it_even_if_the_item_was_clicked_earlier(
    registry: Registry, store: Store
) -> None:
    """With `data.repeats: keep`, an item may be shown after it was clicked elsewhere."""
    begun = datetime.fromisoformat(registry.history()[-1].at).timestamp()
    label = registry.current().label
    store.add_impressions([Impression("r1", 1, "a", "i1", 1.0, 0.5, label, False, begun + 10)]).result()
    clicks = [Feedback(f"e{n}", "a", "i1", "click", None, None, at, at) for n, at in enumerate((begun, begun + 20))]
    store.add_feedback(clicks).result()
    assert tolerated_loss(store, CONFIG)["click_rate"] == 1.0


def test_only_shares_that_are_wrong_at_every_look_roll_back() -> None:
    """A chi-square test that is repeated finds 2 to 3 of 100 sound canaries wrong at 0.001."""

    def verdict(canary: int, over: bool) -> Verdict:
        shares = {"current": 0.9, "canary": 0.1}
        ratio = check_sample_ratio(np.repeat([0, 1], [1000 - canary, canary]), np.zeros(1000, np.int64), shares)
        return _verdict(cast(ABTestReport, SimpleNamespace(sample_ratio=ratio)), over, CONFIG)

    assert verdict(67, over=False).action == "wait"  # 3.5 standard errors of 9.5 users
    assert verdict(67, over=True).action == "roll back"
    assert verdict(50, over=False).action == "roll back"  # 5.3


def test_the_tolerated_loss_is_a_share_of_the_click_rate(registry: Registry, store: Store) -> None:
    serve(registry, store, 50, {0: 1.0, 1: 1.0})
    assert tolerated_loss(store, CONFIG) == {"click_rate": 1.0, "margin": 0.1}


def test_no_feedback_has_no_margin(store: Store) -> None:
    assert tolerated_loss(store, CONFIG) == {"click_rate": 0.0, "margin": 0.0}
