"""How often rules of the guard accept an adapter without a gain, and how often they find a gain. A simulation.

    python benchmarks/guard.py [--json]

A run has U validation users and several evaluations. The rank of each user's target is log-normal, as on
MovieLens-100K: a quarter of the targets are in the first ten, and most users have NDCG@10 0. SFT start and evaluations
have the same distribution of ranks if there is no gain. A gain moves the ranks of all evaluations. An evaluation
changes the NDCG@10 of a quarter of the users. The correlation is that of the changes of one user at two evaluations.
The judge of the former rule is neutral: its score changes by noise alone, with the same correlation.

| rule | accepts if |
|---|---|
| test | at any evaluation, the gain is significantly positive: one-sided 2.5 %, all users |
| former | at any evaluation, the gain is positive, and it is significant or the judge's score is not lower |
| guard | the rule of `llmrec.selection.guard`: a third of the users choose, the others decide once |
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from statistics import NormalDist

import numpy as np

from llmrec.selection.guard import accepted

RUNS = 1000  # simulated runs of each setting
USERS = (45, 100, 300, 943, 2000)
EVALUATIONS = (6, 12)
CORRELATIONS = (0.3, 0.6, 0.9)
GAINS = (0.005, 0.01, 0.02)
RULES: tuple[str, ...] = ("test", "former", "guard")
# Log-rank of a target: mean and standard deviation. They give HR@10 .25 and NDCG@10 .13.
MEAN_LOG_RANK = 3.7
SPREAD = 2.0
AGREEMENT = 0.93  # correlation of a user's log-ranks under SFT start and evaluation
BLOCK = 4_000_000  # simulated ranks that are held in memory at once

NORMAL = NormalDist()
NDCG_OF_RANK = np.append(1 / np.log2(np.arange(2, 12)), 0.0).astype(np.float32)  # ranks 1 to 10, and later ones
LIMITS = (np.log(np.arange(1, 11) + 0.5) - MEAN_LOG_RANK) / SPREAD  # standardized log-ranks where the rank changes


@dataclass(frozen=True)
class Setting:
    """One setting of the simulation and the share of its runs that each rule accepts.

    Attributes:
        users: number U of validation users.
        evaluations: number of evaluations after the SFT start.
        correlation: correlation of a user's changes at two evaluations.
        gain: true gain in NDCG@10 of every evaluation.
        rates: share of accepted runs by rule.
    """

    users: int
    evaluations: int
    correlation: float
    gain: float
    rates: dict[str, float] = field(default_factory=dict)


def mean_ndcg(shift: float) -> float:
    """Expected NDCG@10 if all standardized log-ranks fall by `shift`."""
    below = [0.0, *(NORMAL.cdf(limit + shift) for limit in LIMITS)]
    return float(np.diff(below) @ NDCG_OF_RANK[:-1])


def shift_of_gain(gain: float) -> float:
    """The shift of log-ranks that raises the expected NDCG@10 by `gain`, by bisection."""
    low = 0.0
    high = 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if mean_ndcg(middle) - mean_ndcg(0.0) < gain:
            low = middle
        else:
            high = middle
    return low


def correlated(rng: np.random.Generator, shape: tuple[int, ...], covariance: np.ndarray) -> np.ndarray:
    """Standard normal vectors with a covariance [k, k], float32 [*shape, k]."""
    root = np.linalg.cholesky(covariance).astype(np.float32)
    return rng.standard_normal((*shape, len(covariance)), dtype=np.float32) @ root.T


def constant_correlation(size: int, correlation: float) -> np.ndarray:
    """Covariance [size, size] with 1 on the diagonal and one correlation elsewhere."""
    return correlation + (1 - correlation) * np.eye(size)


def changes(rng: np.random.Generator, setting: Setting, runs: int) -> np.ndarray:
    """Change of each user's NDCG@10 from the SFT start to each evaluation, float32 [runs, U, evaluations]."""
    # Two changes share the start: corr(z_a - z_0, z_b - z_0) = (c - 2 AGREEMENT + 1) / (2 - 2 AGREEMENT), solved for c.
    between = 2 * AGREEMENT - 1 + setting.correlation * (2 - 2 * AGREEMENT)
    covariance = constant_correlation(setting.evaluations + 1, between)
    covariance[0, 1:] = AGREEMENT
    covariance[1:, 0] = AGREEMENT
    log_ranks = correlated(rng, (runs, setting.users), covariance)
    log_ranks[..., 1:] -= shift_of_gain(setting.gain)
    ndcg = NDCG_OF_RANK[np.searchsorted(LIMITS.astype(np.float32), log_ranks)]
    return ndcg[..., 1:] - ndcg[..., :1]


def decisions(rng: np.random.Generator, setting: Setting, runs: int) -> dict[str, np.ndarray]:
    """Whether each rule accepts an adapter in each of some simulated runs, bool [runs] by rule."""
    change = changes(rng, setting, runs)
    mean = change.mean(1)
    significant = mean - 1.96 * change.std(1, ddof=1) / np.sqrt(setting.users) > 0
    judge = correlated(rng, (runs,), constant_correlation(setting.evaluations, setting.correlation))  # scaled means
    choosing = -(-setting.users // 3)
    chosen_by = change[:, :choosing].mean(1)
    chosen = chosen_by.argmax(1)
    gain = np.take_along_axis(change[:, choosing:], chosen[:, None, None], 2)[..., 0]
    return {
        "test": significant.any(1),
        "former": ((mean > 0) & (significant | (judge >= 0))).any(1),
        "guard": (chosen_by.max(1) > 0) & accepted(gain),
    }


def simulate(setting: Setting, runs: int) -> Setting:
    """The setting with the rates of all rules, with a fixed seed."""
    rng = np.random.default_rng((setting.users, setting.evaluations, int(10 * setting.correlation)))
    size = max(1, BLOCK // (setting.users * (setting.evaluations + 1)))
    counts = dict.fromkeys(RULES, 0)
    for start in range(0, runs, size):
        for rule, found in decisions(rng, setting, min(size, runs - start)).items():
            counts[rule] += int(found.sum())
    return Setting(**{**asdict(setting), "rates": {rule: count / runs for rule, count in counts.items()}})


def settings() -> Iterator[Setting]:
    """Settings without a gain under all correlations, then settings with gains under the middle one."""
    for gain in (0.0, *GAINS):
        for users in USERS:
            for evaluations in EVALUATIONS:
                for correlation in CORRELATIONS if gain == 0 else (0.6,):
                    yield Setting(users=users, evaluations=evaluations, correlation=correlation, gain=gain)


def interval(rate: float, runs: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a rate."""
    z = NORMAL.inv_cdf(0.975)
    center = (rate + z * z / (2 * runs)) / (1 + z * z / runs)
    margin = z / (1 + z * z / runs) * np.sqrt(rate * (1 - rate) / runs + z * z / (4 * runs * runs))
    return center - margin, center + margin


def percent(rate: float, runs: int) -> str:
    """A rate and its interval in percent."""
    low, high = interval(rate, runs)
    return f"{100 * rate:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def main() -> None:
    """Simulates all settings and prints a table in Markdown, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="Print JSON on stdout.")
    parser.add_argument("--runs", type=int, default=RUNS, help="Simulated runs of each setting.")
    options = parser.parse_args()
    found = [simulate(setting, options.runs) for setting in settings()]
    false = [one for one in found if one.gain == 0]
    pooled = {rule: float(np.mean([one.rates[rule] for one in false])) for rule in RULES}
    if options.json:
        print(
            json.dumps({"runs": options.runs, "settings": [asdict(one) for one in found], "pooled": pooled}, indent=2)
        )
        return
    print("Accepted runs in % [95 % interval]. Without a gain these are false accepts.\n")
    print("| gain | users | evaluations | correlation | " + " | ".join(RULES) + " |")
    print("|---" * (4 + len(RULES)) + "|")
    for one in found:
        rates = " | ".join(percent(one.rates[rule], options.runs) for rule in RULES)
        print(f"| {one.gain:g} | {one.users} | {one.evaluations} | {one.correlation} | {rates} |")
    count = options.runs * len(false)
    print(f"\nFalse accepts of all {count:,} runs: " + ", ".join(f"{r} {percent(pooled[r], count)}" for r in RULES))


if __name__ == "__main__":
    main()
