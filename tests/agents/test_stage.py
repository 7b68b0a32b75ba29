"""`llmrec agents` on a small log: what is trained, measured, kept and served."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("sb3_contrib", reason="llmrec[simulate] is not installed")

from llmrec.agents import stage
from llmrec.agents.actions import Weights
from llmrec.agents.agent import ConstantAgent, policy_of
from llmrec.agents.kit import Kit
from llmrec.agents.rankers import RANKERS, Rankers
from llmrec.agents.recommend import AgentRecommender
from llmrec.agents.registry import LEARNERS, Contender, Learner
from llmrec.agents.report import compare
from llmrec.config import AgentsConfig, load_config
from llmrec.errors import CatalogueError, RunError, UserError
from llmrec.run import Run, run_all
from llmrec.simulator.people import People
from llmrec.simulator.world import World
from tests.simulator.test_stage import write_config, write_log
from tests.simulator.worlds import ITEMS, log, people


def small_world(users: int = 9) -> World:
    """A world that is a stand-in for a fitted one; nobody in it has parameters of a log."""
    everybody = people(users=users, items=ITEMS)
    world = World("base", 0, everybody.population, {}, (1.0, 1.0, 0.0), 1, [f"u{n}" for n in range(users)], "", False)
    object.__setattr__(
        world, "people", lambda users=None, /: People(everybody.population, everybody.behavior, users=users)
    )
    return world


def lives(reward: list[float], items: int = 3) -> dict:
    ones = [1] * len(reward)
    return {"reward": reward, "clicks": ones, "purchases": ones, "steps": [2] * len(reward), "sessions": ones,
            "back_after_1": ones, "back_after_7": ones, "items": items}  # fmt: skip


def result(reward: list[float], validation: float) -> dict:
    return {"steps": 5, "seconds": 1.0, "cpu_seconds": 1.0, "validation": validation, "lives": lives(reward)}


def test_differences_are_paired_and_the_choice_does_not_see_the_test() -> None:
    results = {
        "blend_search": [result([1.0, 3.0, 5.0], 10.0)],
        "dqn": [result([2.0, 4.0, 6.0], 9.0), result([2.0, 4.0, 6.0], 8.0)],
        "dqn_gamma0": [result([0.0, 2.0, 4.0], 12.0), result([0.0, 2.0, 4.0], 11.0)],
        "random": [result([0.0, 0.0, 0.0], 0.5)],
    }
    config = AgentsConfig(names=["blend_search", "dqn"], seeds=2)
    report = compare({"base": (small_world(), results)}, config)
    rows = report["worlds"]["base"]["policies"]
    assert rows["dqn"]["reward"]["value"] == 4.0
    assert rows["dqn"]["minus_constant"] == {"value": 1.0, "ci95": [1.0, 1.0]}
    assert rows["dqn"]["minus_gamma0"] == {"value": 2.0, "ci95": [2.0, 2.0]}
    assert "minus_gamma0" not in rows["blend_search"] and rows["random"]["minus_constant"]["value"] == -3.0
    assert report["worlds"]["base"]["horizon_gap"] == {"dqn": rows["dqn"]["minus_gamma0"]}
    assert report["best"]["name"] == "dqn_gamma0" and report["best"]["seed"] == {"base": 0}
    assert report["best"]["scores"] == pytest.approx({"blend_search": 1.0, "dqn": 0.85, "dqn_gamma0": 1.15})


def test_training_and_test_users_are_disjoint() -> None:
    training, testing = stage.people_of(small_world(9), seed=0)
    assert len(training.users) == 6 and len(testing.users) == 3
    assert not set(training.users) & set(testing.users)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    write_log(tmp_path, late_users=60)
    run = Run.create(load_config(write_config(tmp_path)))
    run_all(run, "data", say=lambda line: None)
    return run


def test_finished_agents_are_not_trained_again(run: Run, monkeypatch) -> None:
    trained: list[tuple[int, float]] = []

    def train(env, steps, gamma, seed, advance):
        trained.append((seed, gamma))
        advance(steps)
        return ConstantAgent(np.zeros(len(RANKERS), np.float32))

    monkeypatch.setitem(LEARNERS, "ppo", Learner("weights", train, ConstantAgent.load))
    every = [Contender("ppo", 0.95, "ppo"), Contender("ppo", 0.0, "ppo_gamma0")]
    kit = Kit({"weights": Weights(Rankers(log()))}, None)
    arguments = (run, small_world(), every, kit, lambda line: None)
    first = stage._train_all(*arguments)
    assert trained == [(0, 0.95), (1, 0.95), (2, 0.95), (0, 0.0), (1, 0.0), (2, 0.0)]
    assert first["ppo"][0]["steps"] == run.config.agents.steps and len(first["ppo"][0]["lives"]["reward"]) == 20
    (stage.agent_folder(run, "base", "ppo", 1) / "result.json").unlink()  # as if it had been killed there
    assert stage._train_all(*arguments)["ppo"][0] == first["ppo"][0]
    assert trained[6:] == [(1, 0.95)]


def test_agents_of_another_config_are_refused(run: Run) -> None:
    stage.check_folder(run)
    stage.check_folder(run)
    stage.check_folder(with_agents(run, names=["ppo"]))  # more or fewer learners change nothing about the others
    with pytest.raises(RunError, match=r"agents.steps: 20000 -> 5000[\s\S]*Delete"):
        stage.check_folder(with_agents(run, steps=5_000))


def with_agents(run: Run, **changes: object) -> Run:
    """The run under other settings of agents."""
    agents = run.config.agents.model_copy(update=changes)
    return Run(run.config.model_copy(update={"agents": agents}), run.directory)


def test_an_agent_recommends_to_users_of_the_log_and_to_others() -> None:
    data = log()
    action = np.full(len(RANKERS), -1.0, np.float32)
    action[RANKERS.index("popularity")] = 1.0
    recommender = AgentRecommender(policy_of(ConstantAgent(action), Weights(Rankers(data))), small_world(), data)
    counts = np.bincount(np.concatenate(data.train_histories), minlength=ITEMS)
    found = recommender.recommend(user="u3", top_k=4)
    seen = data.histories[3].tolist()
    best = [item for item in np.argsort(-counts, kind="stable").tolist() if item not in seen][:4]
    assert [one.item_id for one in found] == [str(item) for item in best]
    assert found[0].score is None and found[0].title == f"Film {best[0]}"
    history = recommender.resolve_titles(["Film 3"])
    again = recommender.recommend(history=history, top_k=ITEMS, exclude=[4])
    assert len(again) == ITEMS - 2 and not {"3", "4"} & {one.item_id for one in again}
    with pytest.raises(CatalogueError, match="no user u999"):
        recommender.recommend(user="u999")
    with pytest.raises(CatalogueError, match="none is left"):
        recommender.recommend(history=list(range(ITEMS)))


def test_an_agent_counts_items_that_look_alike_as_one() -> None:
    """Items 3 and 9 have the same title, year and categories; item 4 differs from them in its categories."""
    data = log()
    titles = [f"Film {3 if item in (4, 9) else item}" for item in range(ITEMS)]
    data = replace(data, items=data.items.assign(title=titles, year=1999))
    agent = policy_of(ConstantAgent(np.zeros(len(RANKERS), np.float32)), Weights(Rankers(data)))
    recommender = AgentRecommender(agent, small_world(), data)
    with pytest.raises(CatalogueError, match="may mean"):
        recommender.resolve_titles(["Film 3"])
    (found,) = recommender.resolve_titles(["Film 3 [even]"])
    assert found == 4
    again = recommender.recommend(history=[9], top_k=ITEMS)
    assert len(again) == ITEMS - 2 and not {"3", "9"} & {one.item_id for one in again}
    everything = recommender.recommend(history=[0], top_k=ITEMS)
    assert len(everything) == ITEMS - 2 and len({one.title for one in everything}) == ITEMS - 2


def test_a_run_without_agents_says_what_to_do(run: Run) -> None:
    with pytest.raises(RunError, match="llmrec agents"):
        AgentRecommender.from_run(run, "best")


def test_a_missing_extra_is_named(monkeypatch) -> None:
    from llmrec import agents

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'llmrec\[simulate\]'"):
        importlib.reload(agents)


def llmrec(*arguments: str) -> SimpleNamespace:
    done = subprocess.run([sys.executable, "-m", "llmrec", *arguments], capture_output=True, text=True, check=False)
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


@pytest.mark.slow
def test_agents_are_trained_compared_and_served(tmp_path: Path) -> None:
    write_log(tmp_path, late_users=120)
    names = ["blend_search", "linucb", "q_learning", "ppo", "td3_item"]
    config = write_config(tmp_path)
    values = json.loads(config.read_text()) | {"agents": {"names": names, "steps": 1000, "seeds": 1}}
    config.write_text(json.dumps(values))
    done = llmrec("agents", str(config), "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    twins = {"q_learning_gamma0", "ppo_gamma0", "td3_item_gamma0"}
    for table in report["worlds"].values():
        assert set(table["policies"]) == {*names, *twins, "random", "popularity", "ease", "markov", "true tastes"}
        assert table["policies"]["ppo"]["training"]["steps"] >= 1000
    run = tmp_path / "runs" / "small"
    assert "<svg" in (run / "agents" / "rewards.svg").read_text()
    served = llmrec("recommend", "--run", str(run), "--agent", "best", "--user", "u3", "--json")
    assert served.code == 0, served.err
    assert len(json.loads(served.out)["recommendations"]) == 5
    wrong = llmrec("recommend", "--run", str(run), "--agent", "pppo", "--user", "u3")
    assert wrong.code == 2 and "did you mean ppo?" in wrong.err
