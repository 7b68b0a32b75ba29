"""The language model as an agent: the bait world, reading on instead of anew, training in a run, and bad input."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("sb3_contrib", reason="llmrec[simulate] is not installed")

from llmrec.agents import stage
from llmrec.agents.kit import Kit
from llmrec.agents.language import LanguageModels, LanguagePolicy, training_section
from llmrec.agents.people_world import PeopleWorld, Prompts
from llmrec.agents.recommend import AgentRecommender
from llmrec.agents.registry import contenders
from llmrec.agents.stage import check_catalogue
from llmrec.config import AgentsConfig, load_config
from llmrec.data.dataset import InteractionData, Targets
from llmrec.data.decision import Decision
from llmrec.errors import ConfigError, ModelError, RunError
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import all_item_scores
from llmrec.policy.turns import Life, Outcomes, TurnReader, pack_lives
from llmrec.ppo.stage import trl_arguments
from llmrec.ppo.turns import TurnPPOTrainer
from llmrec.run import Run, run_all
from llmrec.simulator.people import People
from llmrec.simulator.policies import Scores, live, top_slates
from llmrec.simulator.proof import bait_people, bait_values
from tests import configs
from tests.agents.test_stage import small_world
from tests.conftest import disturb, make_base, make_config
from tests.simulator.test_stage import write_log
from tests.simulator.worlds import log

GAMMA = 0.95
ITEMS = 40


# --- the bait world -------------------------------------------------------------------------------


def bait_data() -> InteractionData:
    """A catalogue in which good items are dramas and bait is about war."""
    kinds = ["Drama" if item % 2 == 0 else "War" for item in range(ITEMS)]
    first = np.array([0])
    return InteractionData(
        items=pd.DataFrame(
            {
                "item_id": [f"i{item}" for item in range(ITEMS)],
                "title": [f"{kind} {item}" for item, kind in enumerate(kinds)],
                "categories": [[kind] for kind in kinds],
                "year": pd.array([None] * ITEMS, dtype="Int64"),
            }
        ),
        users=pd.DataFrame({"user_id": ["u0"]}),
        facts=pd.DataFrame({"item": [], "relation": [], "tail": [], "named": []}),
        histories=[np.arange(6)],
        purchases=[np.zeros(6, bool)],
        timestamps=[np.arange(6)],
        train_lengths=np.array([6]),
        targets={"leave_one_out": {"valid": Targets(first, first + 5), "test": Targets(first, first + 5)}},
    )


def new_policy(base: str, seed: int = 0) -> RecPolicy:
    torch.manual_seed(seed)
    return RecPolicy.create(make_config(base, model={"base": base, "lora_r": 4}), bait_data())


def prompts() -> Prompts:
    return Prompts(["somebody"], np.array([-1]), 4)


def trained(base: str, folder, gamma: float, seed: int) -> Scores:
    """The greedy policy after sequential PPO of a tiny model in the bait world."""
    policy = new_policy(base, seed)
    policy.add_rl_adapter()
    config = AgentsConfig.model_validate(
        {"steps": 20_480, "language_model": {"lives": 64, "turns": 16, "learning_rate": 3e-3, "kl_coef": 0.02}}
    )
    section = training_section(config, gamma)
    world = PeopleWorld(bait_people(ITEMS, max_steps=60), prompts(), seed)
    outcomes = Outcomes.of(policy, told=True)
    TurnPPOTrainer(trl_arguments(section, folder, seed), section, policy, world, outcomes).train()
    return LanguagePolicy(policy, prompts(), 16, told=True)


def discounted(people: People, scores: Scores, lives: int = 1000) -> float:
    """Mean discounted reward of new lives; the same lives for every policy."""
    state = people.reset(1000, lives)
    total = 0.0
    for step in range(60):
        alive = np.flatnonzero(~state.over)
        if not len(alive):
            break
        part = state.rows(alive)
        items = np.zeros(lives, np.int64)
        items[alive] = top_slates(scores(people, part), part.seen, 1)[:, 0]
        total += GAMMA**step * people.step(state, items).reward.sum()
    return total / lives


def kind(number: int) -> Scores:
    return lambda people, state: np.tile(np.arange(ITEMS) % 2 == number, (len(state.life), 1)).astype(float)


def prove(base: str, folder, seed: int) -> None:
    """Sequential PPO ends within 5 % of the optimum, and its twin with gamma 0 on the bait."""
    people = bait_people(ITEMS, max_steps=60)
    good, bait = (discounted(people, kind(number)) for number in (0, 1))
    assert (good, bait) == pytest.approx(bait_values(GAMMA), rel=0.06)  # these lives against the closed form
    ahead, myopic = (discounted(people, trained(base, folder / f"{gamma}", gamma, seed)) for gamma in (GAMMA, 0.0))
    print(f"seed {seed}: gamma .95 {ahead:.3f}, gamma 0 {myopic:.3f}, optimum {good:.3f}, bait {bait:.3f}")
    assert ahead >= 0.95 * good, seed
    assert myopic <= 1.05 * bait, seed


def test_sequential_ppo_leaves_the_bait_and_its_twin_takes_it(tmp_path):
    prove(make_base(tmp_path / "base", hidden_size=16, layers=1), tmp_path, seed=0)


@pytest.mark.slow
def test_sequential_ppo_leaves_the_bait_with_five_seeds(tmp_path):
    base = make_base(tmp_path / "base", hidden_size=16, layers=1)
    for seed in range(5):
        prove(base, tmp_path / str(seed), seed)


# --- reading on -----------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [True, False])
def test_reading_on_is_the_same_as_reading_whole_lives(tiny_base, told):
    """The scores after each step, with the cache, are those of the whole prompt with all outcomes, read at once."""
    policy = new_policy(tiny_base).eval()
    disturb(policy)
    scores, words = LanguagePolicy(policy, prompts(), turns=6, told=told), Outcomes.of(policy, told)
    people = bait_people(ITEMS)
    people = People(people.population, replace(people.behavior, gap_quantiles=[1.0, 2.0], horizon=30.0))
    state = people.reset(3, 50)
    lives = {life: Life(decision, [], [], []) for life, decision in enumerate(prompts().decisions(people, state))}
    for _ in range(6):
        alive = np.flatnonzero(~state.over)
        part = state.rows(alive)
        found = scores(people, part)
        shown = top_slates(found, part.seen, 1)[:, 0]
        for row, life in enumerate(alive.tolist()):
            lives[life].shown.append(int(shown[row]))
            lives[life].clicked.append(False)
        batch = pack_lives(policy, [lives[life] for life in alive.tolist()])
        with torch.no_grad():
            expected = batch.score(policy, policy(*batch.inputs())).log_probs[:, -1]
        assert found[np.arange(len(alive)), shown] == pytest.approx(expected.numpy(), abs=1e-4)
        items = np.zeros(50, np.int64)
        items[alive] = shown
        outcome = people.step(state, items)
        for life in alive.tolist():
            clicked = bool(outcome.clicked[life] >= 0)
            lives[life].clicked[-1] = clicked
            lives[life].outcomes.append(words.tokens(lives[life].shown[-1], clicked, float(outcome.gap[life])))
    assert state.over.any() and not state.over.all()


def test_prompts_are_read_anew_for_other_lives_and_after_the_last_turn(tiny_base, monkeypatch):
    policy = new_policy(tiny_base).eval()
    scores = LanguagePolicy(policy, prompts(), turns=3, told=False)
    read: list[int] = []
    monkeypatch.setattr(
        "llmrec.agents.language.TurnReader",
        lambda policy, decisions: read.append(len(decisions)) or TurnReader(policy, decisions),
    )
    people = bait_people(ITEMS, max_steps=7)
    people.behavior = replace(people.behavior, end_intercept=-60.0)  # sessions never end
    live(people, scores, lives=5, seed=0)
    assert read == [5, 5, 5]  # 7 steps
    scores(people, people.reset(0, 2))
    assert read[3:] == [2]


# --- in a run -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tiny_base, tmp_path_factory) -> Run:
    """A run with an SFT adapter, whose agents have 7 updates."""
    folder = tmp_path_factory.mktemp("run")
    write_log(folder, late_users=60)
    config = configs.write_config(
        folder,
        data={"splits": ["temporal"], "temporal_test": 0.45},
        model={"base": tiny_base, "lora_r": 4},
        catalogue={"max_history": 6},
        sft={"num_train_epochs": 1, "eval_users": 5},
        simulator={"min_users": 20, "lives": 20, "max_steps": 20},
        agents={"names": ["language_model"], "steps": 1000, "seeds": 1, "language_model": {"lives": 16, "turns": 8}},
    )
    run = Run.create(load_config(config))
    run_all(run, "data", "sft", say=lambda line: None)
    return run


def test_an_interrupted_training_goes_on_and_ends_with_the_same_weights(run, tmp_path):
    world, used = small_world(), []
    models = LanguageModels(run)
    models.train(world, world.people(), tmp_path / "whole", GAMMA, 0, used.append)
    log = json.loads((tmp_path / "whole" / "log.json").read_text())
    updates = [entry for entry in log if "rollout/steps" in entry]
    assert len(updates) == 7 and sum(used) == sum(entry["rollout/steps"] for entry in updates) <= 1000
    assert {"objective/kl", "objective/scores", "val/ratio", "reward/click"} <= set(updates[0])

    def stop(steps: int) -> None:
        again.append(steps)
        if len(again) == 6:
            raise KeyboardInterrupt

    again: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        models.train(world, world.people(), tmp_path / "cut", GAMMA, 0, stop)
    assert not (tmp_path / "cut" / "adapter").exists()
    resumed: list[int] = []
    scores = models.train(world, world.people(), tmp_path / "cut", GAMMA, 0, resumed.append)
    assert len(resumed) == 3 and sum(resumed) == sum(used)  # updates 5 to 7, the first with the steps before it
    files = [load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("whole", "cut")]
    assert all(torch.equal(value, files[1][name]) for name, value in files[0].items())
    start = load_file(run.path("sft", "adapter") / "adapter_model.safetensors")
    assert any(not torch.equal(value, start[name]) for name, value in files[0].items())
    assert not (tmp_path / "cut" / "checkpoints").exists()
    state = world.people().reset(0, 3)
    assert np.array_equal(scores(world.people(), state), models.load(tmp_path / "cut", world)(world.people(), state))


def test_the_kit_trains_and_loads_a_language_model(run, monkeypatch, tmp_path):
    """The stage measures it beside its twin, and a second call trains nothing again."""
    kit = Kit.of(run, log())
    every = contenders(run.config.agents.names, GAMMA)
    assert [one.name for one in every] == ["language_model", "language_model_gamma0"]
    results = stage._train_all(run, small_world(), every, kit, lambda line: None)
    assert (
        results["language_model"][0]["steps"] > 0 and len(results["language_model_gamma0"][0]["lives"]["reward"]) == 20
    )
    monkeypatch.setattr(LanguageModels, "train", None)
    assert stage._train_all(run, small_world(), every, kit, lambda line: None) == results
    folder = stage.agent_folder(run, "base", "language_model", 0)
    policy = kit.load(every[0], small_world(), folder)
    texts = [f"user {n}" for n in range(80)]
    recommender = AgentRecommender(policy, small_world(), log(), texts)
    found = recommender.recommend(user="u3", top_k=4)
    direct = all_item_scores(policy.policy, [Decision(texts[3], log().histories[3][:-6], log().histories[3][-6:])])[0]
    assert [one.item_id for one in found] == [str(item) for item in direct.argsort(descending=True)[:4].tolist()]
    assert len(recommender.recommend(history=[1, 2], top_k=3)) == 3


def with_config(run: Run, **sections) -> Run:
    return Run(run.config.model_copy(update=sections), run.directory)


def test_slates_are_refused_before_training(run):
    simulator = run.config.simulator.model_copy(update={"slate": 3})
    with pytest.raises(ConfigError, match=r"`simulator.slate` is 3, but `language_model`.*Set `simulator.slate` to 1"):
        LanguageModels(with_config(run, simulator=simulator))


def test_a_budget_below_one_update_is_refused():
    config = AgentsConfig.model_validate({"steps": 1000, "language_model": {"lives": 64, "turns": 16}})
    with pytest.raises(ConfigError, match=r"`agents.steps` is 1000.*\(64\) times `turns` \(16\)"):
        training_section(config, GAMMA)


def test_another_catalogue_is_refused_before_training(run):
    with pytest.raises(RunError, match="offers other items than the 60"):
        check_catalogue(small_world(), log())
    models = LanguageModels(run)
    models.data = replace(log(), items=log().items[::-1].reset_index(drop=True))
    with pytest.raises(ModelError, match="expected the same catalogue"):
        models.before_training(small_world())


def test_agents_of_another_language_model_are_refused(run):
    stage.check_folder(run)
    agents = run.config.agents
    changed = agents.model_copy(update={"language_model": agents.language_model.model_copy(update={"kl_coef": 1.0})})
    with pytest.raises(RunError, match="agents.language_model.kl_coef: 0.2 -> 1"):
        stage.check_folder(with_config(run, agents=changed))
    stage.check_folder(with_config(run, agents=changed.model_copy(update={"names": ["ppo"]})))  # which it does not read
