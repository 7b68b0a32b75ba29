"""Rounds of `llmrec learn` on a tiny policy: training, a kill amid it, registration, the canary and its end."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

pytest.importorskip("sqlalchemy")

from llmrec.config import DataConfig, LearnConfig
from llmrec.data.dataset import save_data
from llmrec.errors import DataError, RunError
from llmrec.learning import loop, round
from llmrec.learning.assessment import Assessment
from llmrec.learning.canary import Verdict
from llmrec.learning.loop import Outcome, learn, steps
from llmrec.learning.round import Plan, new_events, newest_and_replay
from llmrec.policy.model import RecPolicy
from llmrec.run import Run
from llmrec.serving import tables
from llmrec.serving.store import Feedback, Impression, Store, StoreError
from llmrec.versions.registry import Registry
from tests.conftest import disturb, make_config, make_data

START = 1_700_000_000.0
SMALL = {
    "reward": {"num_train_epochs": 1, "hidden_size": 8, "num_layers": 1, "ensemble": 1, "judge_users": 0.3},
    "ppo": {"total_episodes": 16, "batch_size": 8, "eval_users": 200, "response_length": 12, "text": "off"},
    "learn": {"min_events": 300, "held_out": 0.5},
    "report_to": [],
}


@pytest.fixture(scope="module")
def made(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with data and an SFT adapter, and a store with 600 clicks of 120 people in `feedback.db`."""
    folder = tmp_path_factory.mktemp("learning")
    model = {"base": tiny_base, "lora_r": 4, "lora_alpha": 8}
    run = Run.create(make_config(tiny_base, output_dir=str(folder), model=model, **SMALL))
    policy = RecPolicy.create(run.config, make_data())
    disturb(policy)
    run.begin("data")
    save_data(make_data(), run.path("data"))
    run.finish("data", {})
    run.begin("sft")
    policy.save_pretrained(run.path("sft", "adapter"))
    run.finish("sft", {})
    fill(str(run.directory / "feedback.db"))
    return run.directory


def fill(place: str) -> None:
    """People are shown lists of two random items in turn, and click on the second one."""
    store = Store(place)
    random = np.random.default_rng(0)
    orders = [random.permutation(10) for _ in range(120)]
    shown: list[Impression] = []
    clicks: list[Feedback] = []
    for turn in range(5):
        for person, order in enumerate(orders):
            at = START + 1000 * turn + person
            request = f"{turn}-{person}"
            for position, item in enumerate(order[2 * turn : 2 * turn + 2], start=1):
                propensity = 1 / (11 - position)
                shown.append(Impression(request, position, f"p{person}", f"i{item}", propensity, 0.1, "x", True, at))
            clicks.append(Feedback(f"c{request}", f"p{person}", f"i{item}", "click", None, request, at + 1, at + 1))
    store.add_impressions(shown).result()
    store.add_feedback(clicks).result()
    store.close()


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Run:
    shutil.copytree(made, tmp_path / "run")
    return Run.open(tmp_path / "run")


@pytest.fixture
def store(run: Run):
    store = Store(str(run.directory / "feedback.db"))
    yield store
    store.close()


def test_a_killed_round_continues_and_its_version_goes_to_a_canary(
    run: Run, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(run)
    assess = round.assess
    found: list[Assessment] = []

    def killed(inner: Run) -> Assessment:
        raise KeyboardInterrupt

    def accepting(inner: Run) -> Assessment:
        found.append(assess(inner))
        return replace(found[0], accepted=True, why="for the test")

    monkeypatch.setattr(round, "assess", killed)
    with pytest.raises(KeyboardInterrupt):
        learn(run, store, lambda line: None)
    assert [version.state for version in registry.versions()] == ["current"]
    inner = Run.open(run.directory / "learn" / "0001" / "run")
    data = inner.config.data
    # 600 clicks, of which the oldest 6 may have a wrong time, and all 31 of the run's log, as 594 would be allowed.
    # Half of the 594 new ones are held out, and two thirds of these decide.
    assert data.temporal_valid == pytest.approx(0.5 * 594 / 631 / 3)
    assert data.temporal_test == pytest.approx(2 * data.temporal_valid)
    assert inner.config.reward.next_click_weight == 0.1

    lines: list[str] = []
    monkeypatch.setattr(round, "assess", accepting)
    outcome = learn(run, store, lines.append)
    assert "round 1: continued" in lines and any("reward: finished before" in line for line in lines)
    assert "ppo: running" not in lines
    assert (outcome.action, outcome.version) == ("started a canary", 1)
    assert outcome.metrics["click_rate"] == pytest.approx(0.5)  # one of two shown items
    version = registry.find(1)
    assert version.state == "canary" and registry.traffic().share == 0.1
    assert RecPolicy.from_pretrained(version.adapter).vocabulary.item_ids[0] == "i0"
    assert not (run.directory / "learn" / "0001").exists()
    assert version.metrics["round"] == {
        **{"number": 1, "parent": 0, "events": 600, "received": START + 4120, "since": START + 7},
        "trained_until": pytest.approx(START + 2060, abs=600),
    }
    held_out = found[0].held_out
    assert held_out.users > 30 and held_out.gain.mean == pytest.approx(held_out.new - held_out.present)
    assert held_out.gain.mean != 0  # PPO has no guard here that would have kept the present adapter
    off_policy = found[0].off_policy
    assert off_policy.refusal is None and off_policy.effective_sample_size["present"] > 30
    assert version.metrics["drift"]["categories"]["value"] > 0
    json.dumps(version.as_json(), allow_nan=False)

    monkeypatch.setattr(loop, "judge", lambda *_: Verdict("promote", "it is better", {"n": 1}))
    assert learn(run, store, lines.append) == Outcome("promoted", "it is better", 1, {"n": 1})
    assert registry.current().number == 1
    again = learn(run, store, lines.append)
    assert again.action == "waited" and "0 new events; a round needs 300" in again.why


def test_a_round_learns_from_people_with_new_clicks_and_a_replay_of_others() -> None:
    rows = [("new", "a", 1.0), ("new", "b", 20.0), ("new", "b", 21.0)]  # 2 first clicks
    rows += [(f"old-{number}", item, 2.0) for number in range(9) for item in "abc"]
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).assign(event_type="click")
    data = DataConfig(format="table", path="clicks.csv", click=["click"])
    chosen = newest_and_replay(events, data, since=10, replay=3.5, seed=0)
    counts = chosen["user_id"].value_counts()
    assert counts["new"] == 3 and len(counts) == 3 and (counts.drop("new") == 3).all()  # 6 of at most 7 clicks
    other = newest_and_replay(events, data, since=10, replay=3.5, seed=1)
    assert set(other["user_id"]) != set(chosen["user_id"])
    assert set(newest_and_replay(events, data, 10, 0, 0)["user_id"]) == {"new"}
    keep = data.model_copy(update={"repeats": "keep"})  # 3 clicks, so there is room for three others
    assert newest_and_replay(events, keep, 10, 3.5, 0)["user_id"].nunique() == 4


def learned(registry: Registry, folder: Path, until: float, rejected: bool) -> None:
    """Registers version 1, whose round has received all events of `fill`."""
    (folder / "result").mkdir()
    if not rejected:
        shutil.copytree(registry.run.path("sft", "adapter"), folder / "result" / "adapter")
    metrics = {"round": {"received": START + 4120, "trained_until": until}}
    registry.register(1, 0, folder / "result", "for the test", metrics, rejected)
    if not rejected:
        registry.promote(1, "better")


def test_one_event_from_1970_does_not_make_the_whole_log_new(run: Run, store: Store) -> None:
    assert new_events(Registry(run), store) == Plan(1, 0, 600, START + 4120, START + 7)
    store.add_feedback([Feedback("odd", "p1", "i1", "rating", 5.0, None, 0.0, START + 4121)]).result()
    assert new_events(Registry(run), store) == Plan(1, 0, 601, START + 4121, START + 6)


def test_what_a_rejected_version_learned_from_is_new_to_the_next_round(run: Run, store: Store, tmp_path: Path) -> None:
    learned(Registry(run), tmp_path, START + 2000, rejected=True)
    store.add_feedback([Feedback("late", "p1", "i9", "click", None, None, START + 5000, START + 5000)]).result()
    assert new_events(Registry(run), store) == Plan(2, 0, 1, START + 5000, START + 7)


def test_a_promoted_version_has_learned_until_its_held_out_events(run: Run, store: Store, tmp_path: Path) -> None:
    learned(Registry(run), tmp_path, START + 2000, rejected=False)
    store.add_feedback([Feedback("late", "p1", "i9", "click", None, None, START + 5000, START + 5000)]).result()
    assert new_events(Registry(run), store) == Plan(2, 1, 1, START + 5000, START + 2000)


def test_a_round_without_a_first_click_waits_for_more_events(run: Run, store: Store, tmp_path: Path) -> None:
    learned(Registry(run), tmp_path, START + 9000, rejected=False)
    again = [
        Feedback(f"again-{number}", row["user_id"], row["item_id"], "purchase", None, None, START + 9000, START + 9000)
        for number, row in enumerate(store.rows(tables.feedback, ["at"]))
    ]
    store.add_feedback(again).result()
    with pytest.raises(DataError, match="No new event counts as a click"):
        learn(run, store, lambda line: None)
    assert not (run.directory / "learn" / "0002").exists()


def test_a_round_whose_events_suffice_for_no_reward_model_is_not_continued(
    run: Run, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stages(inner: Run, *names: str, say: object) -> None:
        if "reward" in names:
            raise DataError("too few purchases")

    monkeypatch.setattr(round, "run_all", stages)
    monkeypatch.setattr(round, "_start_from", lambda *_: None)
    with pytest.raises(DataError, match="too few purchases"):
        learn(run, store, lambda line: None)
    assert not (run.directory / "learn" / "0001").exists()


def test_a_candidate_that_was_left_alone_gets_its_canary(
    run: Run, store: Store, tmp_path: Path, llmrec, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run.path("sft", "adapter"), tmp_path / "result" / "adapter")
    Registry(run).register(1, 0, tmp_path / "result", "better", {})
    (run.directory / "learn" / "0001" / "log").mkdir(parents=True)  # a kill before the folder was removed
    (run.directory / "learn" / "0001.mine").mkdir()  # a folder of somebody else
    assert learn(run, store, lambda line: None).action == "started a canary"
    assert not (run.directory / "learn" / "0001").exists()
    assert llmrec("learn", str(run.directory), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"action": "waited", "why": "nobody was served yet", "version": 1, "metrics": {}}
    assert llmrec("learn", str(run.directory)) == 0
    assert capsys.readouterr().out == "waited version 1: nobody was served yet\n"


def test_a_person_who_ends_a_canary_while_it_is_judged_is_not_overruled(
    run: Run, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run.path("sft", "adapter"), tmp_path / "result" / "adapter")
    registry = Registry(run)
    registry.register(1, 0, tmp_path / "result", "better", {})
    registry.start_canary(1, 0.1, "it passed", {})

    def judged(*_: object) -> Verdict:
        registry.promote(1, "by hand")
        return Verdict("roll back", "it is worse", {})

    monkeypatch.setattr(loop, "judge", judged)
    outcome = learn(run, store, lambda line: None)
    assert outcome.action == "waited" and "somebody has ended the canary meanwhile" in outcome.why
    assert registry.current().number == 1


def test_watching_tells_what_changes_and_survives_too_few_people(
    run: Run, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = DataError("too few people")
    down = StoreError("OperationalError: no connection")
    wait = Outcome("waited", "0 new events", None, {})
    trained = Outcome("trained", "version 1 was rejected", 1, {})
    found = iter([few, down, wait, wait, trained, wait])
    pauses: list[float] = []

    def take(*_: object) -> Outcome:
        one = next(found)
        if isinstance(one, Exception):
            raise one
        return one

    monkeypatch.setattr(loop, "learn", take)
    monkeypatch.setattr("time.sleep", pauses.append)
    watched = steps(run, store, lambda line: None, 60)
    assert next(watched) == Outcome("waited", "too few people", None, {})
    assert next(watched).why == "the feedback store fails (OperationalError: no connection)"
    assert [next(watched) for _ in range(3)] == [wait, trained, wait]
    assert pauses == [60, 60, 60, 60]
    watched.close()
    found = iter([few])
    with pytest.raises(DataError, match="too few people"):
        next(steps(run, store, lambda line: None, None))


def test_two_learners_are_one_too_many(run: Run, store: Store) -> None:
    with FileLock(run.directory / ".lock"), pytest.raises(RunError, match="is in use by"):
        next(steps(run, store, lambda line: None, None))


def test_too_few_events_wait(run: Run, store: Store, llmrec, capsys: pytest.CaptureFixture[str]) -> None:
    config = run.config.model_copy(update={"learn": LearnConfig(min_events=601)})
    waiting = Run(config, run.directory)
    assert learn(waiting, store, lambda line: None).why == "600 new events; a round needs 601 (learn.min_events)"
    (run.directory / "feedback.db").rename(run.directory / "elsewhere.db")
    assert llmrec("learn", str(run.directory)) == 2
    assert "there is no feedback store" in capsys.readouterr().err
