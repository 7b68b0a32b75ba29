"""Compares RL with ways to spend the same time: one command, one table, one plot.

    python benchmarks/controls.py configs/quickstart.yaml --seeds 3 [--minutes 3] [--only sft,exact_ppo] [--json FILE]

For each training seed, the command runs the stages data, sft and reward that have not finished. Then it trains each arm
of `benchmarks/arms/` at each of its learning rates for the same CPU time on one thread. Every arm keeps the weights
that are best on the same validation users, and is tested once. Rows are written to FILE as they come. A row whose
fingerprint (config, arm, learning rate, minutes) is there already is not computed again, on any machine.

The learning rate of an arm is the one with the best mean validation metric. Intervals are bootstraps over users and,
with several seeds, over seeds.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script has only its own folder on the path

from benchmarks.arms import ARMS, Arm
from benchmarks.arms.start import Start
from benchmarks.budget import Budget, Scores
from llmrec.config import Config, load_config
from llmrec.data.dataset import InteractionData, Targets
from llmrec.data.decision import Decisions
from llmrec.errors import ConfigError, nearest
from llmrec.evaluation.metrics import ndcg, per_user, rank_of_target
from llmrec.evaluation.seeds import seeded
from llmrec.files import write_text
from llmrec.run import Run, run_all
from llmrec.run.fingerprint import config_fingerprint
from llmrec.selection.validation import validation_sample

matplotlib.use("Agg")  # no display is needed

VERSION = 1  # changes when the result of an arm changes under the same config
SAMPLES = 2000  # resamples of an interval
ALL, PURCHASES = "ndcg@10", "purchase_ndcg@10"
BASELINES = {"sft": ALL, "exact_ppo": ALL, "conversion_0": PURCHASES}  # what the table compares with, on which metric
Row = dict[str, Any]


def main(
    config: Annotated[Path, typer.Argument(help="YAML config of the run.")],
    seeds: Annotated[int, typer.Option(min=1, help="Number of training seeds.")] = 1,
    minutes: Annotated[float, typer.Option(min=0.001, help="CPU minutes of training of each arm.")] = 3.0,
    only: Annotated[str, typer.Option(help="Names of arms, separated by commas. Default: all.")] = "",
    file: Annotated[Path, typer.Option("--json", help="File of the rows.")] = Path("controls.json"),
) -> None:
    """Compare RL with other ways to spend the same time."""
    torch.set_num_threads(1)  # CPU time of several threads adds up
    names = chosen_arms(only)
    rows = read_rows(file)
    for seed_config in seeded(load_config(config), seeds):
        add_rows(seed_config, names, minutes, rows, file)
    results = [row for row in rows if row["arm"] in names and row["minutes"] in (0, minutes)]
    Console(width=180).print(table(results))
    plot(results, file.with_suffix(".svg"))


def chosen_arms(only: str) -> list[str]:
    """The arms that `--only` names, all if it is empty.

    Raises:
        ConfigError: there is no such arm.
    """
    names = [name.strip() for name in only.split(",") if name.strip()] or list(ARMS)
    for name in names:
        if name not in ARMS:
            raise ConfigError(
                f"--only: there is no arm `{name}`. Did you mean `{nearest(name, list(ARMS))}`? Arms: {', '.join(ARMS)}"
            )
    return names


# -- rows --


def read_rows(file: Path) -> list[Row]:
    """The rows of earlier calls."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []


def add_rows(config: Config, names: Sequence[str], minutes: float, rows: list[Row], file: Path) -> None:
    """Trains the arms of one seed that have no row yet, and writes each row at once."""
    known = {row["fingerprint"] for row in rows}
    wanted = [(name, rate) for name in names for rate in ARMS[name].rates]
    missing = [key for key in wanted if fingerprint(config, *key, minutes) not in known]
    if not missing:
        return
    say = Console(stderr=True).print
    run = Run.create(config)
    run_all(run, "data", "sft", "reward", say=say)
    start = Start.of(run)
    for name, rate in missing:
        row = measure(start, name, ARMS[name], rate, minutes)
        rows.append({"fingerprint": fingerprint(config, name, rate, minutes)} | row)
        write_text(file, "[\n" + ",\n".join(json.dumps(one) for one in rows) + "\n]\n")
        say(f"seed {row['seed']}: {name} at {rate:g}: validation {max(row['validation']):.4f}, {row['steps']} steps")


def fingerprint(config: Config, name: str, rate: float, minutes: float) -> str:
    """Hash of all that the result of an arm depends on, 16 hexadecimal digits."""
    spent = minutes if rate else 0
    values = [VERSION, name, rate, spent, config_fingerprint(config, "ppo")]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def measure(start: Start, name: str, arm: Arm, rate: float, minutes: float) -> Row:
    """Trains an arm and tests it once on `test_targets`."""
    config, data = start.run.config, start.data
    valid = validation_sample(data, config.ppo.eval_users, config.seed)
    if arm.purchases:
        valid = purchased(data, valid)
    test = test_targets(data)
    decisions = Decisions.from_targets(data, valid, config.catalogue)
    budget = Budget(60 * minutes, rate, lambda scores: float(user_ndcg(scores, decisions).mean()))
    trained = arm.train(start, budget)
    return {
        "arm": name,
        "seed": config.seed,
        "learning_rate": rate,
        "minutes": minutes if rate else 0,
        "steps": trained.steps,
        "validation": [round(value, 5) for value in trained.validation],
        ALL: rounded(user_ndcg(trained.scores, Decisions.from_targets(data, test, config.catalogue))),
        PURCHASES: rounded(
            user_ndcg(trained.scores, Decisions.from_targets(data, purchased(data, test), config.catalogue))
        ),
        "notes": trained.notes,
    }


def test_targets(data: InteractionData) -> Targets:
    """The test targets of the split with the most test users."""
    return max((parts["test"] for parts in data.targets.values()), key=lambda targets: len(np.unique(targets.users)))


def purchased(data: InteractionData, targets: Targets) -> Targets:
    """The targets that their users purchased."""
    pairs = zip(targets.users, targets.positions, strict=True)
    chosen = np.array([bool(data.purchases[user][position]) for user, position in pairs], dtype=bool)
    return Targets(targets.users[chosen], targets.positions[chosen])


def user_ndcg(scores: Scores, decisions: Decisions) -> np.ndarray:
    """NDCG@10 of each user, float [U]."""
    rank = rank_of_target(scores(decisions).numpy(), decisions.targets)
    return per_user(ndcg(rank, 10), decisions.users)[1]


def rounded(values: np.ndarray) -> list[float]:
    """Numbers of four decimals, whole ones as integers."""
    return [int(value) if value == int(value) else round(float(value), 4) for value in values]


# -- results --


def best_rates(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each arm at its learning rate with the best mean validation metric, by arm, in order of seeds."""
    result: dict[str, list[Row]] = {}
    for name in ARMS:
        of_arm = [row for row in rows if row["arm"] == name]
        by_rate = {rate: [row for row in of_arm if row["learning_rate"] == rate] for rate in ARMS[name].rates}
        tried = [of_rate for of_rate in by_rate.values() if of_rate]
        if tried:
            best = max(tried, key=lambda of_rate: (len(of_rate), np.mean([max(row["validation"]) for row in of_rate])))
            result[name] = sorted(best, key=lambda row: row["seed"])
    return result


def difference(rows: Sequence[Row], others: Sequence[Row], metric: str) -> tuple[float, float, float] | None:
    """Difference of two arms on their common seeds, with its 95 % interval; None without a common seed."""
    pairs = [(row, other) for row in rows for other in others if row["seed"] == other["seed"]]
    if not pairs:
        return None
    return seeds_and_users(np.array([np.subtract(row[metric], other[metric]) for row, other in pairs]))


def seeds_and_users(values: np.ndarray, samples: int = SAMPLES) -> tuple[float, float, float]:
    """Mean and 95 % interval of values of every pair of a seed and a user.

    Seeds and users are resampled independently (Owen, Annals of Applied Statistics 2007). A single seed stays.

    Args:
        values: [S, U].
        samples: number of resamples.
    """
    seeds, users = values.shape
    rng = np.random.default_rng(0)
    seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), samples) / seeds
    user_weights = rng.multinomial(users, np.full(users, 1 / users), samples) / users
    low, high = np.quantile(((seed_weights @ values) * user_weights).sum(1), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def table(rows: Sequence[Row]) -> Table:
    """Every arm against `sft` and `exact_ppo`, and purchases against `conversion_0`."""
    arms = best_rates(rows)
    minutes = {row["minutes"] for row in rows if row["minutes"]}
    title = f"Test NDCG@10 after {', '.join(f'{one:g}' for one in sorted(minutes))} CPU minutes on one thread"
    result = Table(title=title)
    for heading in ("arm", "learning rate", "seeds", "steps", "validation", "NDCG@10", "of purchases"):
        result.add_column(heading, justify="left" if heading == "arm" else "right")
    for name, metric in BASELINES.items():
        result.add_column(f"- {name}" + (" (purchases)" if metric == PURCHASES else ""), justify="right")
    result.add_column("notes")
    for name, of_arm in arms.items():
        result.add_row(
            name + (" *" if ARMS[name].purchases else "") + (" +" if ARMS[name].total_time else ""),
            f"{of_arm[0]['learning_rate']:g}",
            str(len(of_arm)),
            f"{np.mean([row['steps'] for row in of_arm]):.0f}",
            f"{np.mean([max(row['validation']) for row in of_arm]):.4f}",
            f"{np.mean([row[ALL] for row in of_arm]):.4f}",
            f"{np.mean([row[PURCHASES] for row in of_arm]):.4f}",
            *(cell(name, other, arms, metric) for other, metric in BASELINES.items()),
            ", ".join(f"{key} {np.mean([row['notes'][key] for row in of_arm]):.3g}" for key in of_arm[0]["notes"]),
        )
    result.caption = "* selected on purchases; + not from SFT, so it also has the time of SFT"
    return result


def cell(name: str, other: str, arms: dict[str, list[Row]], metric: str) -> str:
    """A difference with its interval, blank for the arm itself and for missing arms."""
    found = difference(arms[name], arms[other], metric) if name != other and other in arms else None
    return "" if found is None else "{:+.4f} [{:+.4f}, {:+.4f}]".format(*found)


def plot(rows: Sequence[Row], file: Path) -> None:
    """Draws the gain of every arm over SFT with its interval; nothing without the rows of SFT."""
    import matplotlib.pyplot as plt

    arms = best_rates(rows)
    if "sft" not in arms:
        return
    gains = {name: difference(of_arm, arms["sft"], ALL) for name, of_arm in arms.items() if name != "sft"}
    drawn = sorted(((gain, name) for name, gain in gains.items() if gain is not None), reverse=True)
    figure, axes = plt.subplots(figsize=(7, 1 + 0.3 * len(drawn)), layout="constrained")
    for height, ((mean, low, high), _) in enumerate(reversed(drawn)):
        axes.plot([low, high], [height, height], color="0.5")
        axes.plot(mean, height, "o", color="black")
    axes.set_yticks(range(len(drawn)), [name for _, name in reversed(drawn)])
    axes.axvline(0, color="0.8", zorder=0)
    axes.set_xlabel("test NDCG@10 minus that of SFT, 95 % interval")
    figure.savefig(file)
    plt.close(figure)


if __name__ == "__main__":
    typer.run(main)
