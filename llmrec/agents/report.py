"""The comparison of agents: a table for each world, what looking ahead is worth, the best agent, and a chart.

The best agent is chosen by a rule that does not see the test: the largest mean over the worlds of its reward on the
lives of training users, relative to that of the searched constant weights.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.agents.registry import contenders, twin
from llmrec.config.agents import AgentsConfig
from llmrec.evaluation.metrics import bootstrap_ci, paired_bootstrap
from llmrec.files import write_with
from llmrec.simulator.policies import BOUND
from llmrec.simulator.world import World

AGENTS_REPORT = "report.json"
CHART_FILE = "rewards.svg"
CONTROL = "blend_search"  # what an agent must surpass to have learned when to do what
COSTS = ("steps", "seconds", "cpu_seconds")
RULE = (
    "largest mean over the worlds of the reward on training users, relative to that of the searched constant weights; "
    "without those, the largest mean reward"
)

Results = Mapping[str, Sequence[dict[str, Any]]]  # name of a policy to its results, one for each training seed


def compare(worlds: Mapping[str, tuple[World, Results]], config: AgentsConfig) -> dict[str, Any]:
    """The report on all agents.

    Args:
        worlds: each world with the results of all policies in it, by name.
        config: number of steps, seeds and gamma.

    Returns:
        `worlds` (a table each), `best` with the rule, and the settings.
    """
    tables = {name: _table(world, results) for name, (world, results) in worlds.items()}
    trained = [one.name for one in contenders(config.names, config.gamma)]
    scores = {name: float(np.mean([_relative(results, name) for _, results in worlds.values()])) for name in trained}
    best = max(scores, key=lambda name: scores[name])
    seeds = {name: _best_seed(results[best]) for name, (_, results) in worlds.items()}
    return {
        "steps": config.steps,
        "seeds": config.seeds,
        "gamma": config.gamma,
        "best": {"name": best, "seed": seeds, "rule": RULE, "scores": scores},
        "worlds": tables,
    }


def _table(world: World, results: Results) -> dict[str, Any]:
    """Means with intervals over lives and training seeds, and differences on the same lives."""
    rows = {name: _row(of_seeds, name, results) for name, of_seeds in results.items()}
    gaps = {name: row["minus_gamma0"] for name, row in rows.items() if "minus_gamma0" in row}
    return {"validated": world.validated, "policies": rows, "horizon_gap": gaps}


def _row(of_seeds: Sequence[dict[str, Any]], name: str, results: Results) -> dict[str, Any]:
    reward = _values(of_seeds, "reward")
    steps, sessions = _values(of_seeds, "steps"), _values(of_seeds, "sessions")
    row: dict[str, Any] = {
        "reward": _estimate(bootstrap_ci(reward)),
        "click_rate": _estimate(bootstrap_ci(_values(of_seeds, "clicks") / steps)),
        "purchases": _estimate(bootstrap_ci(_values(of_seeds, "purchases"))),
        "session_length": _estimate(bootstrap_ci(steps / sessions)),
        "back_after_1_day": _estimate(bootstrap_ci(_values(of_seeds, "back_after_1"))),
        "back_after_7_days": _estimate(bootstrap_ci(_values(of_seeds, "back_after_7"))),
        "items_shown": float(np.mean([one["lives"]["items"] for one in of_seeds])),
        "validation": float(np.mean([one["validation"] for one in of_seeds])),
        "training": {
            key: float(np.mean([one[key] for one in of_seeds])) for key in ("steps", "seconds", "cpu_seconds")
        },
    }
    for other, key in ((CONTROL, "minus_constant"), (twin(name), "minus_gamma0")):
        if other in results and other != name:
            row[key] = _estimate(paired_bootstrap(*_paired(reward, _values(results[other], "reward")))[:3])
    return row


def _values(of_seeds: Sequence[dict[str, Any]], key: str) -> np.ndarray:
    """Values of the lives, float64 [S, lives]."""
    return np.array([one["lives"][key] for one in of_seeds], dtype=np.float64)


def _paired(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays [S, lives] of one shape; a policy without training counts once for each seed of the other."""
    seeds = max(len(first), len(second))
    return tuple(np.repeat(one, seeds // len(one), axis=0) for one in (first, second))  # pyright: ignore[reportReturnType]


def _relative(results: Results, name: str) -> float:
    reward = np.mean([one["validation"] for one in results[name]])
    constant = np.mean([one["validation"] for one in results[CONTROL]]) if CONTROL in results else 1.0
    return float(reward / max(constant, 1e-9))


def _best_seed(of_seeds: Sequence[dict[str, Any]]) -> int:
    return int(np.argmax([one["validation"] for one in of_seeds]))


def _estimate(found: tuple[float, float, float]) -> dict[str, Any]:
    value, low, high = found
    return {"value": value, "ci95": [low, high]}


# --- chart ----------------------------------------------------------------------------------------


def draw(report: dict[str, Any], file: Path) -> None:
    """Draws the reward of each policy with its interval, one panel for each world.

    Args:
        report: what `compare` returned.
        file: the SVG file.
    """
    from matplotlib.figure import Figure

    names = list(next(iter(report["worlds"].values()))["policies"])[::-1]
    figure = Figure(figsize=(4.2 * len(report["worlds"]), 0.28 * len(names) + 1.5), layout="constrained")
    axes = figure.subplots(1, len(report["worlds"]), sharey=True, squeeze=False)[0]
    for axis, (world, table) in zip(axes, report["worlds"].items(), strict=True):
        for place, name in enumerate(names):
            estimate = table["policies"][name]["reward"]
            low, high = estimate["ci95"]
            color = "tab:gray" if name == BOUND or name.endswith(twin("")) else "tab:blue"
            axis.plot([low, high], [place, place], color=color)
            axis.plot(estimate["value"], place, "o", color=color)
        axis.set_title(f"{world}{'' if table['validated'] else ' (NOT VALIDATED)'}", fontsize=9)
        axis.set_xlabel("reward of a life of unseen users, 95 % interval", fontsize=8)
        axis.grid(axis="x", alpha=0.3)
        axis.set_yticks(range(len(names)), names, fontsize=8)
    write_with(file, lambda path: figure.savefig(path, format="svg", metadata={"Date": None}))
