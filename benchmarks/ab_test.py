"""Proofs of `llmrec ab-test`: false positives of A/A tests, and planted effects, on generated users.

    python benchmarks/ab_test.py                    # the tables of docs/research/ab_test.md, about three minutes
    python benchmarks/ab_test.py --example          # runs/ab_test_example.parquet, for configs/ab_test_example.yaml

Every test draws new users and assigns them by the hash of its own name. Each user counts once, and 20 looks divide the
users after the first 300.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from scipy import stats

from benchmarks.ab_test_users import DAYS, DAYS_BEFORE, Effects, GeneratedUsers, Tastes, draw_values, effects_of
from llmrec.ab_test import sequential
from llmrec.ab_test.analyze import compare_all, look_times
from llmrec.ab_test.assignment import Assigner
from llmrec.ab_test.enrollment import enroll
from llmrec.ab_test.estimates import difference
from llmrec.ab_test.log import typed_events
from llmrec.ab_test.outcomes import Outcomes, measure
from llmrec.ab_test.plan import plan_metric, price_of_looking
from llmrec.ab_test.population import run_on
from llmrec.ab_test.sample_ratio import check_sample_ratio
from llmrec.config import ABTestConfig, load_section, parse_section
from llmrec.data.readers.raw import Source, Table
from llmrec.files import write_with

ROOT = Path(__file__).resolve().parent.parent
LOOKS = 20
FIRST_LOOK = 300
ALPHA = 0.05
POWER = 0.8
METHODS = (
    "t-test, one look",
    "t-test with CUPED, one look",
    "t-test, 20 looks",
    "confidence sequence, 20 looks",
    "confidence sequence with CUPED, 20 looks",
)
SEQUENTIAL = METHODS[-1]
Outcome = dict[str, Outcomes]


def config_of(name: str, users: int, covariate_days: int | None = DAYS_BEFORE) -> ABTestConfig:
    """A test of two arms with the five metrics."""
    metrics = [
        {"name": "click_rate", "kind": "rate", "event": "click>=1", "role": "primary"},
        {"name": "conversion", "kind": "conversion", "event": "purchase>=1"},
        {"name": "satisfaction", "kind": "mean", "column": "rating"},
        {"name": "retention", "kind": "retention"},
        {"name": "session_length", "kind": "session_length"},
    ]
    values = {
        "name": name,
        "salt": "benchmark",
        "arms": {"live": 0.5, "new": 0.5},
        "start": "2026-03-01",
        "end": "2026-03-28",
        "planned_users": users,
        "alpha": ALPHA,
        "power": POWER,
        "covariate_days": covariate_days,
        "data": {"path": "none"},
        "metrics": metrics,
    }
    return parse_section(values, ABTestConfig)


@dataclass
class Tally:
    """What many tests of one metric found.

    Attributes:
        found: for each method, whether each test found a difference.
        users: for each method, the users at the first look that found one, or at the end.
        reductions: share of the variance that CUPED removed in each test.
    """

    found: dict[str, list[bool]] = field(default_factory=lambda: {method: [] for method in METHODS})
    users: dict[str, list[float]] = field(default_factory=lambda: {method: [] for method in METHODS})
    reductions: list[float] = field(default_factory=list)

    def add(self, p_values: dict[str, np.ndarray], looks: np.ndarray) -> None:
        """Adds one test by the p-values of its looks."""
        for method, p in p_values.items():
            below = np.flatnonzero(p < ALPHA)
            self.found[method].append(bool(len(below)))
            self.users[method].append(float(looks[-len(p) :][below[0] if len(below) else -1]))

    def share(self, method: str) -> float:
        """Share of tests that found a difference."""
        return float(np.mean(self.found[method]))


def simulate(name: str, users: int, effects: Effects) -> tuple[Outcome, np.ndarray]:
    """Outcomes and arms of one test; its name seeds the users."""
    arm = Assigner(config_of(name, users)).indices([f"u{number}" for number in range(users)])
    rng = np.random.default_rng([*name.encode()])
    by_user = effects_of(np.array(["live", "new"])[arm].tolist(), {"new": effects})
    values = draw_values(rng, Tastes.draw(rng, users), by_user)
    return {metric: Outcomes(one, np.arange(users)) for metric, one in values.items()}, arm


def p_values(outcomes: Outcomes, arm: np.ndarray, looks: np.ndarray, users: int) -> tuple[dict[str, np.ndarray], float]:
    """p-values of each method at its looks, and the share of the variance that CUPED removes."""
    control, treatment = (outcomes.moments(arm == one, looks) for one in (0, 1))
    cuped = difference(control, treatment, cuped=True)
    plain = difference(control, treatment, cuped=False)
    scale = sequential.mixture_scale(users, ALPHA)
    found = (
        plain.fixed_p_value()[-1:],
        cuped.fixed_p_value()[-1:],
        plain.fixed_p_value(),
        sequential.p_values(plain.value, plain.variance, plain.users, scale),
        sequential.p_values(cuped.value, cuped.variance, cuped.users, scale),
    )
    return dict(zip(METHODS, found, strict=True)), float(1 - cuped.variance[-1] / plain.variance[-1])


def run_null_tests(tests: int, users: int) -> tuple[dict[str, Tally], list[bool]]:
    """Runs A/A tests, each with new users.

    Returns:
        a tally for each metric, and for each test whether Holm's method found a secondary metric.
    """
    looks = looks_of(users)
    tallies: dict[str, Tally] = {}
    families: list[bool] = []
    for number in range(tests):
        outcomes, arm = simulate(f"aa-{number}", users, Effects())
        for metric, one in outcomes.items():
            found, reduction = p_values(one, arm, looks - 1, users)
            tally = tallies.setdefault(metric, Tally())
            tally.add(found, looks)
            tally.reductions.append(reduction)
        comparisons = compare_all(outcomes, arm, looks - 1, 0, config_of("any", users))
        families.append(any(one.role == "secondary" and one.verdict in ("better", "worse") for one in comparisons))
    return tallies, families


def run_null_tests_on_a_log(tests: int, users: int) -> dict[str, Tally]:
    """Runs A/A tests by assigning the users of one log again and again; looks are the ends of its days.

    Users enter as they visit, so frequent visitors come first and the mix of users changes from look to look.
    """
    config = config_of("log", users)
    log = run_on(GeneratedUsers(users, joining_days=20), config, days=LOOKS + DAYS, days_before=DAYS_BEFORE)
    events = typed_events(Table(log, Source()), config)
    enrollment = enroll(events, config)
    ids = events.ids[enrollment.user]
    outcomes = {metric.name: measure(events, enrollment, metric, DAYS_BEFORE) for metric in config.metrics}
    looks = look_times(enrollment)[DAYS:]  # the outcomes of the first day are known then
    tallies = {metric: Tally() for metric in outcomes}
    for number in range(tests):
        arm = Assigner(config_of(f"log-{number}", users)).indices(ids)
        for metric, one in outcomes.items():
            tallies[metric].add(p_values(one, arm, looks, users)[0], np.arange(len(looks)))
    return tallies


def run_planted_tests(tests: int, users: int, factor: float) -> Tally:
    """Runs tests in which one arm raises the click rate by a factor; the tally is that of the click rate."""
    looks = looks_of(users)
    tally = Tally()
    for number in range(tests):
        outcomes, arm = simulate(f"ab-{factor:.4f}-{number}", users, Effects(clicks=factor))
        tally.add(p_values(outcomes["click_rate"], arm, looks - 1, users)[0], looks)
    return tally


def looks_of(users: int) -> np.ndarray:
    """Users at each look, int64 [20]."""
    return np.linspace(FIRST_LOOK, users, LOOKS).astype(int)


def smallest_effect(users: int, seed: int = 0) -> float:
    """The relative change of the click rate that one look with CUPED should find with a probability of 0.8."""
    rng = np.random.default_rng(seed)
    tastes = Tastes.draw(rng, 200_000)
    values = draw_values(rng, tastes, effects_of(["live"] * 200_000, {}))["click_rate"]
    config = config_of("plan", users)
    needed = plan_metric(values, config.metrics[0], config).users_one_look
    return config.minimum_effect * (needed / users) ** 0.5


def mismatched(tests: int, users: int, lost: float) -> float:
    """Share of tests that the sample-ratio check stops if one arm loses a share of its users."""
    stopped = []
    for number in range(tests):
        arm = Assigner(config_of(f"ratio-{number}", users)).indices([f"u{one}" for one in range(users)])
        kept = (arm == 0) | (np.random.default_rng(number).random(users) >= lost)
        day = np.arange(users) * LOOKS // users
        stopped.append(check_sample_ratio(arm[kept], day[kept], {"live": 0.5, "new": 0.5}).is_wrong)
    return float(np.mean(stopped))


def tables(tests: int, users: int) -> Iterator[str]:
    """The tables as Markdown lines."""
    low, high = stats.binom.interval(0.95, tests, ALPHA)
    yield f"False positives in {tests:,} A/A tests of {users:,} users."
    yield f"With a true rate of 0.05, 95 % of such shares lie in [{low / tests:.3f}, {high / tests:.3f}]."
    yield ""
    yield f"| metric | {' | '.join(METHODS)} | variance that CUPED removes |"
    yield f"|---|{'---|' * (len(METHODS) + 1)}"
    tallies, families = run_null_tests(tests, users)
    for metric, tally in tallies.items():
        shares = " | ".join(f"{tally.share(method):.3f}" for method in METHODS)
        yield f"| {metric} | {shares} | {np.mean(tally.reductions):.0%} |"
    yield ""
    yield f"The same, but {tests:,} assignments of the users of one log with {LOOKS} daily looks."
    yield ""
    yield f"| metric | {' | '.join(METHODS)} |"
    yield f"|---|{'---|' * len(METHODS)}"
    for metric, tally in run_null_tests_on_a_log(tests, users).items():
        yield f"| {metric} | {' | '.join(f'{tally.share(method):.3f}' for method in METHODS)} |"
    yield ""
    yield f"Any of the four secondary metrics after Holm's correction, 20 looks: {np.mean(families):.3f}."
    yield f"Sample-ratio check at 0.001: {mismatched(tests, users, 0.0):.3f} of these tests are stopped."
    yield f"If an arm loses 5 % of 20,000 users: {mismatched(tests // 10, 20_000, 0.05):.2f}."
    effect = smallest_effect(users)
    most = int(users * price_of_looking(ALPHA, POWER))
    for count, factor in ((users, 1 + effect), (most, 1 + effect), (users, 1 + 2 * effect)):
        tally = run_planted_tests(tests, count, factor)
        yield ""
        yield f"Click rate raised by {factor - 1:.1%} in {tests:,} tests of {count:,} users."
        yield ""
        yield "| method | found | mean users until found, or at the end |"
        yield "|---|---|---|"
        for method in METHODS:
            yield f"| {method} | {tally.share(method):.3f} | {np.mean(tally.users[method]):,.0f} |"


def write_example(path: Path) -> None:
    """Writes the log of the example test, in which the new policy raises clicks by 8 %."""
    config = load_section(ROOT / "configs" / "ab_test_example.yaml", ABTestConfig)
    users = GeneratedUsers(6000, {"ppo": Effects(clicks=1.08)}, joining_days=21)
    log = run_on(users, config, days=35, days_before=2 * DAYS_BEFORE)
    write_with(path, lambda file: log.to_parquet(file, index=False))
    print(f"wrote {path}: {len(log):,} rows")


def main(
    tests: Annotated[int, typer.Option(min=10, help="Number of tests.")] = 1000,
    users: Annotated[int, typer.Option(min=600, help="Users of each test.")] = 2000,
    example: Annotated[bool, typer.Option("--example", help="Write the example log and run no test.")] = False,
) -> None:
    """Print the proofs, or write the example log."""
    if example:
        write_example(Path("runs") / "ab_test_example.parquet")
        return
    for line in tables(tests, users):
        print(line, flush=True)


if __name__ == "__main__":
    typer.run(main)
