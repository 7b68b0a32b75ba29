"""Estimators of the reward of a policy from the log of another policy: pure functions of arrays.

A round shows one action: a context x, an action a that the logging policy took with probability p(a | x), and a reward
r. The policy to evaluate takes the action with probability pi(a | x), and w = pi / p is its importance weight. A reward
model q(x, a), fitted on other rounds, enters as `q_logged` = q(x, a) and `q_policy` = sum over b of pi(b | x) q(x, b).

In all functions n is the number of rounds and every array is float [n].
"""

import numpy as np

from llmrec.errors import DataError


def importance_weights(evaluation: np.ndarray, logging: np.ndarray) -> np.ndarray:
    """Importance weights pi(a | x) / p(a | x) of the logged actions.

    Args:
        evaluation: pi(a | x), in [0, 1].
        logging: p(a | x), in (0, 1].

    Raises:
        DataError: the arrays have different shapes or are empty, or a value is outside its range.
    """
    evaluation = np.asarray(evaluation, dtype=np.float64)
    logging = np.asarray(logging, dtype=np.float64)
    if evaluation.shape != logging.shape or not evaluation.size:
        raise DataError(
            f"Found {evaluation.shape} probabilities of the policy and {logging.shape} of the log. Expected one of "
            "each for every round, and at least one round."
        )
    _check_probabilities("logging probability (propensity)", logging, logging > 0, "above")
    _check_probabilities("probability of the policy", evaluation, evaluation >= 0, "at least")
    return evaluation / logging


def _check_probabilities(name: str, values: np.ndarray, large_enough: np.ndarray, bound: str) -> None:
    wrong = ~(large_enough & (values <= 1 + 1e-9))
    if wrong.any():
        raise DataError(
            f"A {name} is {values[wrong][0]:g} ({wrong.sum()} of {len(values)} rounds). Expected a number up to 1 and "
            f"{bound} 0. Remove these rounds from the log, or correct them."
        )


def ips(rewards: np.ndarray, weights: np.ndarray) -> float:
    """Inverse propensity score: the mean of w r (Horvitz & Thompson, JASA 1952).

    It is unbiased. Its variance grows with w^2.
    """
    return float(np.mean(weights * rewards))


def clipped_weights(weights: np.ndarray, clip: float | None = None) -> np.ndarray:
    """Importance weights of at most `clip` (Ionides, J. Comput. Graph. Stat. 2008).

    Args:
        weights: importance weights.
        clip: largest weight; by default Ionides' sqrt(n), for which bias and variance vanish as n grows.
    """
    return np.minimum(weights, float(np.sqrt(len(weights))) if clip is None else clip)


def clipped_ips(rewards: np.ndarray, weights: np.ndarray, clip: float | None = None) -> float:
    """Clipped IPS: the mean of min(w, clip) r, see `clipped_weights`. It is never above `ips` if rewards are >= 0."""
    return ips(rewards, clipped_weights(weights, clip))


def snips(rewards: np.ndarray, weights: np.ndarray) -> float:
    """Self-normalized IPS: sum of w r / sum of w (Swaminathan & Joachims, NeurIPS 2015).

    It lies between the smallest and the largest reward. It is NaN if all weights are 0.
    """
    total = np.sum(weights)
    return float(np.sum(weights * rewards) / total) if total > 0 else float("nan")


def direct_method(q_policy: np.ndarray) -> float:
    """Direct method: the mean of `q_policy`. It is as biased as the reward model."""
    return float(np.mean(q_policy))


def doubly_robust(rewards: np.ndarray, weights: np.ndarray, q_logged: np.ndarray, q_policy: np.ndarray) -> float:
    """Doubly robust estimator: the mean of q_policy + w (r - q_logged) (Dudik, Langford & Li, ICML 2011).

    It is unbiased if either the reward model or the propensities are right.
    """
    return float(np.mean(q_policy + weights * (rewards - q_logged)))


def switch_dr(
    rewards: np.ndarray, weights: np.ndarray, q_logged: np.ndarray, q_policy: np.ndarray, threshold: float
) -> float:
    """SWITCH-DR: `doubly_robust` where w <= threshold and `direct_method` elsewhere.

    It is the mean of q_policy + w (r - q_logged) [w <= threshold] (Wang, Agarwal & Dudik, ICML 2017).
    """
    return doubly_robust(rewards, np.where(weights <= threshold, weights, 0.0), q_logged, q_policy)


def switch_threshold(
    rewards: np.ndarray, weights: np.ndarray, q_logged: np.ndarray, q_policy: np.ndarray, reward_bound: float
) -> float:
    """The threshold of `switch_dr` with the smallest estimated error, variance + (bound of the bias)^2.

    The bias is at most `reward_bound` times the policy's probability of actions above the threshold, which the mean of
    w [w > threshold] estimates (Wang, Agarwal & Dudik, 2017, sec. 4). The candidates leave the 0, 1, 2, 4, 8, ...
    rounds with the largest weights to the reward model.

    Args:
        rewards: rewards.
        weights: importance weights.
        q_logged: predicted rewards of the logged actions.
        q_policy: predicted rewards of the policy.
        reward_bound: largest expected reward of any action in any context.
    """

    def error(threshold: float) -> float:
        kept = np.where(weights <= threshold, weights, 0.0)
        bias = reward_bound * np.mean(weights - kept)
        return float(np.var(q_policy + kept * (rewards - q_logged)) / len(weights) + bias**2)

    left_out = np.array([0, *2 ** np.arange(np.log2(len(weights)))], dtype=np.int64)
    return float(min(np.sort(weights)[::-1][left_out], key=error))
