"""`llmrec simulate`: fits three worlds on held-out users, checks each against the log, and plays policies in them.

The worlds differ in users, in the family of tastes and in the seed. A conclusion counts if it holds in all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmrec.data.dataset import InteractionData, load_data
from llmrec.errors import DataError, RunError
from llmrec.files import plain, read_json, write_json
from llmrec.run import Run, refuse_unprotected
from llmrec.run.fingerprint import differences, flatten
from llmrec.run.lock import locked
from llmrec.run.records import result_mark
from llmrec.simulator.events import UserEvents, held_out_events
from llmrec.simulator.policies import log_policies
from llmrec.simulator.sensitivity import kendall_tau, offline_ndcg, policy_table, sweep
from llmrec.simulator.validation import validate
from llmrec.simulator.world import fit_world, save_world

FOLDER = "simulator"
VALIDATION_FILE = "validation.json"
RECORD_FILE = "finished.json"


@dataclass(frozen=True)
class Plan:
    """A world that is fitted.

    Attributes:
        name: name of the world and of its folder.
        family: family of the tastes.
        half: which half of the held-out users live in it, 0 or 1.
        seed: distance of its seed from that of the config.
    """

    name: str
    family: str
    half: int
    seed: int


PLANS = (
    Plan("base", "chain", half=0, seed=0),
    Plan("other_users", "chain", half=1, seed=1),
    Plan("other_family", "mixture", half=0, seed=2),
)


def simulate(run: Run, say: Callable[[str], Any]) -> dict[str, dict[str, Any]]:
    """Fits, checks and saves the worlds of a run that are missing.

    Args:
        run: a run whose `prepare` stage has finished.
        say: takes a line for people.

    Returns:
        the content of `validation.json` of each world, by name.

    Raises:
        DataError: the log has no times, too few held-out users, or kept repeats.
        RunError: the folder holds worlds of another config.
        ConfigError: the config has the section `privacy`.
    """
    refuse_unprotected(run.config, "simulate")
    run.require("data")
    with locked(run.directory):
        data = load_data(run.path("data"))
        refuse_repeats(data)
        config = run.config.simulator
        events = held_out_events(data, config.session_gap, config.min_users)
        missing = [plan for plan in PLANS if not is_finished(run, plan.name)]
        for plan in missing:
            say(f"simulate: fitting {plan.name} ({plan.family}, {len(half_of(events, plan.half, run))} users)")
            _make(run, plan, data, events)
            say(f"simulate: {plan.name} is {verdict(read_validation(run, plan.name))}")
    return {plan.name: read_validation(run, plan.name) for plan in PLANS}


def refuse_repeats(data: InteractionData) -> None:
    """Checks that the lives of a world resemble the log: they choose each item once.

    Raises:
        DataError: the log's repeats were kept.
    """
    if data.repeats:
        raise DataError(
            "`data.repeats` is `keep`, but people in a simulated world choose each item once; expected a log of first "
            "clicks. Prepare a run with `data.repeats: first` for `simulate` and `agents`."
        )


def _make(run: Run, plan: Plan, data: InteractionData, events: UserEvents) -> None:
    """Fits one world, checks it and plays policies in it. The record that it is finished is written last."""
    config = run.config.simulator
    folder = run.directory / FOLDER / plan.name
    own = half_of(events, plan.half, run)
    world = fit_world(plan.name, plan.family, run.config.seed + plan.seed, own, data, config)
    found = validate(world, own, data, config)
    policies = log_policies(data)
    found["policies"] = policy_table(world, policies, config)
    found["offline_ndcg@10"] = offline_ndcg(world, own, policies, world.seed)
    rewards = {name: found["policies"][name]["reward"]["value"] for name in policies}
    found["order_agreement"] = kendall_tau(rewards, found["offline_ndcg@10"])
    found["sensitivity"] = sweep(world, policies, config)
    save_world(world.checked(found["validated"]), folder)
    write_json(folder / VALIDATION_FILE, plain(found))
    write_json(folder / RECORD_FILE, {"fingerprint": fingerprint(run), "data": result_mark(run.path("data"))})


def half_of(events: UserEvents, half: int, run: Run) -> UserEvents:
    """One of two random halves of the held-out users."""
    order = np.random.default_rng([run.config.seed, 3]).permutation(len(events))
    cut = len(events) // 2
    return events.subset(np.sort(order[:cut] if half == 0 else order[cut:]))


def fingerprint(run: Run) -> dict[str, Any]:
    """The config values that a world depends on, by dotted key."""
    values = run.config.model_dump(mode="json")
    return flatten({key: values[key] for key in ("data", "simulator", "seed")})


def is_finished(run: Run, name: str) -> bool:
    """Whether a world is there, fitted on the present data under the present config.

    Raises:
        RunError: it was made under another config or from other data.
    """
    folder = run.directory / FOLDER / name
    if not (folder / RECORD_FILE).is_file():
        return False
    record = read_json(folder / RECORD_FILE)
    changed = differences(record["fingerprint"], fingerprint(run))
    if record["data"] != result_mark(run.path("data")):
        changed["data"] = "prepared again"
    if changed:
        lines = "\n".join(f"  {key}: {change}" for key, change in changed.items())
        raise RunError(
            f"{folder} holds a world of another config or other data. Changed (old -> new):\n{lines}\n"
            f"Delete {folder.parent} to fit the worlds again, or give this config another `name`."
        )
    return True


def read_validation(run: Run, name: str) -> dict[str, Any]:
    """The content of `validation.json` of a world."""
    return read_json(run.directory / FOLDER / name / VALIDATION_FILE)


def verdict(found: dict[str, Any]) -> str:
    """Whether a world passed its gate, in words."""
    return "validated" if found["validated"] else "NOT VALIDATED: " + "; ".join(found["failed"])
