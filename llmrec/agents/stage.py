"""`llmrec agents`: trains learners in the worlds of a run, and lets all of them live the same lives of unseen users.

Two thirds of the users of a world train agents and choose the best; the last third tests them.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.agents.kit import Kit
from llmrec.agents.learners import Advance
from llmrec.agents.registry import Contender, contenders
from llmrec.agents.report import AGENTS_REPORT, CHART_FILE, compare, draw
from llmrec.agents.trained import TrainedModels
from llmrec.config import LANGUAGE_MODEL
from llmrec.data.dataset import InteractionData, load_data
from llmrec.errors import RunError
from llmrec.files import plain, read_json, write_json
from llmrec.progress import bar
from llmrec.run import Run, refuse_unprotected
from llmrec.run.fingerprint import differences, flatten
from llmrec.run.lock import locked
from llmrec.run.records import result_mark
from llmrec.simulator.people import People
from llmrec.simulator.policies import BOUND, Lives, Scores, live, log_policies, true_tastes
from llmrec.simulator.stage import FOLDER as WORLDS
from llmrec.simulator.stage import PLANS, simulate
from llmrec.simulator.world import World, items_hash, load_world
from llmrec.timing import OTHER, Clock

FOLDER = "agents"
RESULT_FILE = "result.json"
VALIDATION_SEED = 1_000_001  # seeds of lives; those of training are small
TEST_SEED = 2_000_001
UNTRAINED = "language_model_untrained"  # where its training in a world starts


def train_agents(run: Run, say: Callable[[str], Any]) -> dict[str, Any]:
    """Trains the missing agents of a run, measures everything on unseen users, and writes table and chart.

    Args:
        run: a run whose `prepare` stage has finished.
        say: takes a line for people.

    Returns:
        the content of `agents/report.json`.

    Raises:
        RunError: the folder holds agents of another config.
        DataError: see `simulate`.
        ConfigError: the config has the section `privacy`.
    """
    refuse_unprotected(run.config, "agents")
    simulate(run, say)
    with locked(run.directory):
        data = load_data(run.path("data"))
        kit = Kit.of(run, data)
        models = TrainedModels.from_run(run, data)
        every = contenders(run.config.agents.names, run.config.agents.gamma)
        check_folder(run)
        worlds = {}
        for plan in PLANS:
            world = load_world(run.directory / WORLDS / plan.name)
            check_catalogue(world, data)
            trained = _train_all(run, world, every, kit, say)
            policies = {**log_policies(data), **models.policies(world), BOUND: true_tastes}
            if kit.language is not None:
                policies[UNTRAINED] = kit.language.before_training(world)
            worlds[plan.name] = (world, trained | _fixed(run, world, policies))
        report = compare(worlds, run.config.agents)
        write_json(run.directory / FOLDER / AGENTS_REPORT, plain(report))
        draw(report, run.directory / FOLDER / CHART_FILE)
    return report


def _train_all(
    run: Run, world: World, every: list[Contender], kit: Kit, say: Callable[[str], Any]
) -> dict[str, list[dict[str, Any]]]:
    """Results of each contender, one for each seed. Finished agents are not trained again."""
    config = run.config.agents
    folders = {
        (one, seed): agent_folder(run, world.name, one.name, seed) for one in every for seed in range(config.seeds)
    }
    missing = [key for key, folder in folders.items() if not (folder / RESULT_FILE).is_file()]
    if missing:
        total = len(missing) * config.steps
        say(f"agents: training {len(missing)} agents in {world.name}, {config.steps:,} steps each")
        with bar("agents") as shown:
            shown.start("", total)
            for number, (one, seed) in enumerate(missing):
                shown.update(number * config.steps, total, f"{world.name}: {one.name}, seed {seed}")
                _train(run, world, one, seed, kit, shown.advance)
    return {one.name: [read_json(folders[one, seed] / RESULT_FILE) for seed in range(config.seeds)] for one in every}


def _train(run: Run, world: World, one: Contender, seed: int, kit: Kit, advance: Advance) -> None:
    """Trains, saves and measures one agent. Its result is written last."""
    config = run.config.agents
    training, testing = people_of(world, run.config.seed)
    folder = agent_folder(run, world.name, one.name, seed)
    if one.learner != LANGUAGE_MODEL:  # which goes on from its newest checkpoint
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    steps = _Counter(advance)
    clock = Clock()
    policy = kit.train(one, world, training, config, seed, folder, steps)
    spent = clock.spent()[OTHER]
    found = _measure(training, testing, policy, run, world.slate)
    result = {"steps": steps.count, **spent, **found}
    write_json(folder / RESULT_FILE, plain(result))


def _fixed(run: Run, world: World, policies: dict[str, Scores]) -> dict[str, list[dict[str, Any]]]:
    """Results of policies that learn nothing from the world."""
    training, testing = people_of(world, run.config.seed)
    nothing = {"steps": 0, "seconds": 0.0, "cpu_seconds": 0.0}
    return {
        name: [{**nothing, **_measure(training, testing, policy, run, world.slate)}]
        for name, policy in policies.items()
    }


def _measure(training: People, testing: People, policy: Scores, run: Run, slate: int) -> dict[str, Any]:
    """The mean reward of lives of training users, and all about the lives of unseen users."""
    lives = run.config.simulator.lives
    validation = live(training, policy, lives // 2, VALIDATION_SEED, slate)
    test: Lives = live(testing, policy, lives, TEST_SEED, slate)
    return {"validation": float(validation.reward.mean()), "lives": vars(test)}


def people_of(world: World, seed: int) -> tuple[People, People]:
    """People of a world for training and choice, and others for the test.

    Args:
        world: the world.
        seed: seed of the run, which draws who belongs to which.
    """
    order = np.random.default_rng([seed, 4]).permutation(len(world.users))
    cut = max(1, 2 * len(order) // 3)
    return world.people(np.sort(order[:cut])), world.people(np.sort(order[cut:]))


def agent_folder(run: Run, world: str, name: str, seed: int) -> Path:
    """Folder of one agent."""
    return run.directory / FOLDER / world / f"{name}-seed{seed}"


def check_catalogue(world: World, data: InteractionData) -> None:
    """Checks that a world offers the items of the log.

    Raises:
        RunError: it has another catalogue.
    """
    if world.items_sha256 != items_hash(data.items["item_id"]):
        raise RunError(
            f"The world {world.name} offers other items than the {len(data.items)} of the prepared log; expected the "
            "same catalogue. Delete the folder `simulator` of the run, and run `llmrec simulate` again."
        )


def check_folder(run: Run) -> None:
    """Notes the config of the agents; refuses a folder that holds agents of another one.

    Raises:
        RunError: the worlds, or how agents are trained, have changed since.
    """
    values = run.config.model_dump(mode="json")
    agents = dict(values["agents"])
    language = agents.pop(LANGUAGE_MODEL)
    settings = {key: value for key, value in agents.items() if key not in ("names", "seeds")}
    world = {"simulator": values["simulator"], "seed": values["seed"]}
    marks = {"data": result_mark(run.path("data"))}
    _check_note(run, "config.json", flatten({"agents": settings, **world}) | marks)
    if LANGUAGE_MODEL in run.config.agents.names:
        marks = {"sft": result_mark(run.path("sft"))}
        _check_note(run, f"{LANGUAGE_MODEL}.json", flatten({"agents": {LANGUAGE_MODEL: language}}) | marks)


def _check_note(run: Run, name: str, present: dict[str, Any]) -> None:
    """Writes what agents depend on into the folder of agents, or compares it with what was written before."""
    file = run.directory / FOLDER / name
    if not file.is_file():
        write_json(file, present)
        return
    if changed := differences(read_json(file), present):
        lines = "\n".join(f"  {key}: {change}" for key, change in changed.items())
        raise RunError(
            f"{file.parent} holds agents of another config or other data. Changed (old -> new):\n{lines}\n"
            f"Delete {file.parent} to train them again, or give this config another `name`."
        )


@dataclass
class _Counter:
    """Counts the steps of people and passes them on.

    Attributes:
        advance: takes the steps.
        count: their number so far.
    """

    advance: Advance
    count: int = 0

    def __call__(self, steps: int) -> None:
        self.count += steps
        self.advance(steps)
