"""What a policy would have earned, from the log of another: estimators, intervals, and when the log says too little.

A round is one thing shown: a context x, an action a that the logging policy took with probability p(a | x), and a
reward r. The policy to evaluate would have taken it with probability pi(a | x); w = pi / p is its importance weight. A
reward model q(x, a), fitted on other rounds, enters as `q_logged` = q(x, a) and `q_policy` = sum over b of
pi(b | x) q(x, b). In all functions n is the number of rounds and every array is float [n].
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmrec.errors import DataError

MIN_ROUNDS = 30  # see `effective_sample_size_floor`
MIN_SHARE = 0.01
MIN_CLICKS = 10  # below this a percentile interval of a rare event is too narrow


def importance_weights(evaluation: np.ndarray, logging: np.ndarray) -> np.ndarray:
    """pi(a | x) / p(a | x) of what was logged.

    Args:
        evaluation: pi(a | x), in [0, 1].
        logging: p(a | x), in (0, 1].

    Raises:
        DataError: the arrays do not fit each other, or a number is no such probability.
    """
    evaluation, logging = np.asarray(evaluation, dtype=np.float64), np.asarray(logging, dtype=np.float64)
    if evaluation.shape != logging.shape or not evaluation.size:
        raise DataError(
            f"Found {evaluation.shape} probabilities of the policy and {logging.shape} of the log; expected one of "
            "each for every round, and at least one round."
        )
    for name, values, low in (
        ("logging probability (propensity)", logging, logging > 0),
        ("probability of the policy", evaluation, evaluation >= 0),
    ):
        bad = ~(low & (values <= 1 + 1e-9))
        if bad.any():
            raise DataError(
                f"A {name} is {values[bad][0]:g} ({bad.sum()} of {len(values)} rounds); expected a number up to 1 and "
                f"{'above' if values is logging else 'at least'} 0. Leave such rounds out of the log, or correct them."
            )
    return evaluation / logging


# --- estimators -----------------------------------------------------------------------------------


def ips(rewards: np.ndarray, weights: np.ndarray) -> float:
    """Inverse propensity score: mean of w r (Horvitz & Thompson, JASA 1952). Unbiased; its variance grows with w^2."""
    return float(np.mean(weights * rewards))


def clipped_ips(rewards: np.ndarray, weights: np.ndarray, clip: float | None = None) -> float:
    """Mean of min(w, clip) r: never above `ips` for rewards >= 0 (Ionides, J. Comput. Graph. Stat. 2008).

    `clip` is by default Ionides' sqrt(n), at which bias and variance both vanish as n grows.
    """
    clip = np.sqrt(len(weights)) if clip is None else clip
    return float(np.mean(np.minimum(weights, clip) * rewards))


def snips(rewards: np.ndarray, weights: np.ndarray) -> float:
    """Self-normalised IPS: sum of w r / sum of w (Swaminathan & Joachims, NeurIPS 2015).

    It lies between the smallest and the largest reward. With no weight anywhere it is NaN.
    """
    total = np.sum(weights)
    return float(np.sum(weights * rewards) / total) if total > 0 else float("nan")


def direct_method(q_policy: np.ndarray) -> float:
    """Mean of `q_policy`: the reward model believed."""
    return float(np.mean(q_policy))


def doubly_robust(rewards: np.ndarray, weights: np.ndarray, q_logged: np.ndarray, q_policy: np.ndarray) -> float:
    """Mean of q_policy + w (r - q_logged): unbiased if either q or the propensities are right (Dudik, Langford & Li,
    ICML 2011).
    """
    return float(np.mean(q_policy + weights * (rewards - q_logged)))


def switch_dr(
    rewards: np.ndarray, weights: np.ndarray, q_logged: np.ndarray, q_policy: np.ndarray, threshold: float
) -> float:
    """`doubly_robust` where w <= threshold, `direct_method` elsewhere: the mean of
    q_policy + w (r - q_logged) [w <= threshold] (Wang, Agarwal & Dudik, ICML 2017).
    """
    return doubly_robust(rewards, np.where(weights <= threshold, weights, 0.0), q_logged, q_policy)


def switch_threshold(
    rewards: np.ndarray, weights: np.ndarray, q_logged: np.ndarray, q_policy: np.ndarray, reward_bound: float
) -> float:
    """The threshold of `switch_dr` with the least estimated error: variance + (bound of the bias)^2.

    The bias is at most `reward_bound` times the probability that the policy gives to actions above the threshold,
    estimated by the mean of w [w > threshold] (Wang, Agarwal & Dudik, 2017, sec. 4). Tried are thresholds that leave
    the heaviest 0, 1, 2, 4, 8, ... rounds to the reward model.

    Args:
        reward_bound: largest expected reward of any action in any context.
    """

    def error(threshold: float) -> float:
        kept = np.where(weights <= threshold, weights, 0.0)
        bias = reward_bound * np.mean(weights - kept)
        return np.var(q_policy + kept * (rewards - q_logged)) / len(weights) + bias**2

    left_out = np.array([0, *2 ** np.arange(np.log2(len(weights)))], dtype=np.int64)
    return float(min(np.sort(weights)[::-1][left_out], key=error))


# --- how much the log says -----------------------------------------------------------------------


def effective_sample_size(values: np.ndarray) -> float:
    """Kish's (sum of v)^2 / sum of v^2, between 1 and n; 0 if all are 0 (Kish, Survey Sampling, 1965)."""
    squares = np.sum(np.square(values))
    return float(np.sum(values) ** 2 / squares) if squares > 0 else 0.0


def effective_sample_size_floor(rounds: int) -> float:
    """Below this many effective rounds no estimate is given: the larger of 30 and 1 % of the rounds.

    The mean weight, whose true value is 1, has a relative standard error of about 1 / sqrt(effective sample size), and
    one round can hold at most that share of all weight: 18 % at 30. Intervals over so few rounds say nothing. But the
    effective sample size of a sample is itself too large when the heaviest weights happen not to have been drawn; 1 %
    of the rounds means weights whose mean square is 100 times that of the log's own policy, and with tails that long
    a larger log does not help soon (Chatterjee & Diaconis, Ann. Appl. Probab. 2018).
    """
    return max(MIN_ROUNDS, MIN_SHARE * rounds)


@dataclass(frozen=True)
class Diagnostics:
    """How far the weights of a log carry.

    Attributes:
        rounds: n.
        clicks: rounds with a reward.
        effective_sample_size: of the weights.
        floor: what `effective_sample_size` must reach.
        effective_clicks: effective sample size of w r.
        mean_weight: 1 but for chance, if the propensities are right and the log could show all that the policy shows.
        mean_weight_error: its standard error.
        max_weight: the largest.
        max_share: of all weight, what the heaviest round holds.
    """

    rounds: int
    clicks: int
    effective_sample_size: float
    floor: float
    effective_clicks: float
    mean_weight: float
    mean_weight_error: float
    max_weight: float
    max_share: float

    @property
    def refusal(self) -> str | None:
        """Why no estimate should be made of this, or None."""
        if self.effective_sample_size >= self.floor:
            return None
        return (
            f"This log says too little of this policy: {self.rounds} rounds, of which an effective sample size of "
            f"{self.effective_sample_size:.1f} is left (expected at least {self.floor:.0f}); one round holds "
            f"{self.max_share:.0%} of all weight (largest weight {self.max_weight:.0f}, mean {self.mean_weight:.2f}). "
            "Log with a policy that gives everything a fair chance, or evaluate one that is nearer to the log's. "
            "`--force` shows the numbers all the same."
        )

    @property
    def warnings(self) -> list[str]:
        """What a reader of the estimates must know."""
        found = []
        if abs(self.mean_weight - 1) > 3 * self.mean_weight_error + 1e-9:
            found.append(
                f"The mean weight is {self.mean_weight:.3f} and should be 1 (standard error "
                f"{self.mean_weight_error:.3f}): propensities are wrong, or the log cannot show what the policy shows."
            )
        if self.effective_clicks < MIN_CLICKS:
            found.append(
                f"The estimates rest on an effective {self.effective_clicks:.1f} clicks, so few that a bootstrap gives "
                "intervals that are too narrow."
            )
        return found


def diagnose(rewards: np.ndarray, weights: np.ndarray) -> Diagnostics:
    """Diagnostics of weights [n] and the rewards [n] that they weigh."""
    total = float(np.sum(weights))
    return Diagnostics(
        rounds=len(weights),
        clicks=int(np.count_nonzero(rewards)),
        effective_sample_size=effective_sample_size(weights),
        floor=effective_sample_size_floor(len(weights)),
        effective_clicks=effective_sample_size(weights * rewards),
        mean_weight=float(np.mean(weights)),
        mean_weight_error=float(np.std(weights) / np.sqrt(len(weights))),
        max_weight=float(np.max(weights)),
        max_share=float(np.max(weights)) / total if total > 0 else 0.0,
    )


# --- intervals ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval."""

    value: float
    ci95: tuple[float, float]


def bootstrap(
    statistics: Callable[[np.ndarray], dict[str, float]], users: np.ndarray, samples: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Percentile bootstrap over users of several statistics of the same rounds (Efron & Tibshirani, 1993, ch. 13).

    Args:
        statistics: from the indices of the rounds of a sample (int, any length, repeated where a user is) to named
            values. What it fits, it fits anew on each sample.
        users: whose round each is, [n]; all rounds of a user are drawn together. `np.arange(n)`: rounds are drawn.
        samples: how many resamples.
        seed: of the resampling.
    """
    order = np.argsort(users, kind="stable")
    rounds_of = np.split(order, np.flatnonzero(np.diff(np.asarray(users)[order])) + 1)
    rng = np.random.default_rng(seed)
    values = statistics(np.arange(len(users)))
    drawn = [
        statistics(np.concatenate([rounds_of[u] for u in rng.integers(0, len(rounds_of), len(rounds_of))]))
        for _ in range(samples)
    ]
    return {
        name: Estimate(value, tuple(np.nanquantile([d[name] for d in drawn], [0.025, 0.975]).tolist()))
        for name, value in values.items()
    }
