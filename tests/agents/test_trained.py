"""The trained models of a run as policies of a world."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sb3_contrib", reason="llmrec[simulate] is not installed")

from llmrec.agents.trained import TrainedModels
from llmrec.config import CatalogueConfig, load_config
from llmrec.data.dataset import load_data
from llmrec.data.decision import Decision, Decisions
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import all_item_scores
from llmrec.run import Run, run_all
from llmrec.simulator.people import People
from tests import configs
from tests.agents.test_stage import small_world
from tests.simulator.test_stage import write_log
from tests.simulator.worlds import ITEMS, log


def test_a_model_reads_the_profile_and_the_clicks_of_each_life() -> None:
    data = log()
    data.users["group"] = [f"group {user}" for user in data.users["user_id"]]
    asked: list[Decisions] = []

    def score(decisions: Decisions) -> np.ndarray:
        asked.append(decisions)
        return np.zeros((len(decisions), ITEMS))

    models = TrainedModels({"sft": score}, data, CatalogueConfig(max_history=3, user_attributes=["group"]))
    world = small_world()
    generator = np.random.default_rng(0)
    known = [generator.permutation(ITEMS)[: 3 * user] for user in range(9)]  # a state remembers the newest 8 in order
    population = replace(world.people().population, known=known)
    people = People(population, world.people().behavior)
    state = people.reset(seed=0, n=20)
    models.policies(world)["sft"](people, state)
    shown = np.array([np.setdiff1d(np.arange(ITEMS), known[user])[0] for user in state.user])
    clicked = people.step(state, shown[:, None]).clicked >= 0
    models.policies(world)["sft"](people, state)
    assert clicked.any() and not clicked.all()
    for life, user in enumerate(state.user):
        before, after = (decisions[life] for decisions in asked)
        assert before.profile == f"group u{user}" and before.user == data.user_index[f"u{user}"]
        assert before.history.tolist() == known[user].tolist() and list(before.items) == known[user].tolist()[-3:]
        assert after.history.tolist() == known[user].tolist() + [shown[life]] * int(clicked[life])


def test_the_models_of_the_finished_stages(tmp_path: Path, tiny_base: str) -> None:
    write_log(tmp_path, late_users=60)
    config = configs.write_config(
        tmp_path,
        data={"splits": ["temporal"], "temporal_test": 0.45},
        model={"base": tiny_base, "lora_r": 4},
        catalogue={"max_history": 6},
        sft={"num_train_epochs": 1, "eval_users": 5},
    )
    run = Run.create(load_config(config))
    run_all(run, "data", say=lambda line: None)
    data = load_data(run.path("data"))
    assert TrainedModels.from_run(run, data).policies(small_world()) == {}
    run_all(run, "sft", say=lambda line: None)
    policies = TrainedModels.from_run(run, data).policies(small_world())
    assert list(policies) == ["sft"]
    people = small_world().people()
    state = people.reset(seed=0, n=2)
    found = policies["sft"](people, state)
    known = people.population.known[state.user[1]]
    policy = RecPolicy.from_pretrained(run.path("sft", "adapter"))
    direct = all_item_scores(policy, [Decision("new user", known[:-6], known[-6:], user=int(state.user[1]))])[0].numpy()
    assert np.isneginf(found[1, known]).all() and np.allclose(found[1], direct, atol=1e-4)
