"""Diagnostics of importance weights: whether a log holds enough data about a policy to estimate its click rate."""

from dataclasses import dataclass

import numpy as np

# See `effective_sample_size_floor`.
MIN_EFFECTIVE_ROUNDS = 30
MIN_EFFECTIVE_SHARE = 0.01
# With fewer effective clicks a percentile interval of a rare event is too narrow.
MIN_EFFECTIVE_CLICKS = 10


@dataclass(frozen=True)
class Diagnostics:
    """Diagnostics of the importance weights of a log.

    Attributes:
        rounds: number n of rounds.
        clicks: number of rounds with a reward.
        effective_sample_size: effective sample size of the weights.
        floor: smallest accepted `effective_sample_size`.
        effective_clicks: effective sample size of weight times reward.
        mean_weight: mean weight. Its expectation is 1 if the propensities are right and the log can show every item
            that the policy shows.
        mean_weight_error: standard error of `mean_weight`.
        max_weight: largest weight.
        max_share: largest weight as a share of the sum of weights.
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
        """Why this log must not be used for this policy; None if it can be used."""
        if self.effective_sample_size >= self.floor:
            return None
        return (
            f"This log holds too little data about this policy: its {self.rounds} rounds have an effective sample size "
            f"of {self.effective_sample_size:.1f} (expected at least {self.floor:.0f}). One round holds "
            f"{self.max_share:.0%} of all weight (largest weight {self.max_weight:.0f}, mean {self.mean_weight:.2f}). "
            "Use the log of a policy that shows every item often enough, or evaluate a policy closer to the one that "
            "wrote the log. `--force` shows the estimates anyway."
        )

    @property
    def warnings(self) -> list[str]:
        """What a reader of the estimates must know."""
        found: list[str] = []
        if abs(self.mean_weight - 1) > 3 * self.mean_weight_error + 1e-9:
            found.append(
                f"The mean weight is {self.mean_weight:.3f}, expected 1 (standard error {self.mean_weight_error:.3f}). "
                "Either the propensities are wrong, or the log cannot show every item that the policy shows."
            )
        if self.effective_clicks < MIN_EFFECTIVE_CLICKS:
            found.append(
                f"The estimates rest on {self.effective_clicks:.1f} effective clicks. With so few, bootstrap intervals "
                "are too narrow."
            )
        return found


def diagnose(rewards: np.ndarray, weights: np.ndarray) -> Diagnostics:
    """Computes the diagnostics of n rounds.

    Args:
        rewards: reward of each round, float [n].
        weights: importance weight of each round, float [n].
    """
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


def effective_sample_size(values: np.ndarray) -> float:
    """Kish's effective sample size, (sum of v)^2 / sum of v^2 (Kish, Survey Sampling, 1965).

    Args:
        values: float [n].

    Returns:
        a number between 1 and n; 0 if all values are 0.
    """
    squares = np.sum(np.square(values))
    return float(np.sum(values) ** 2 / squares) if squares > 0 else 0.0


def effective_sample_size_floor(rounds: int) -> float:
    """The smallest effective sample size for which estimates are made: max(30, 1 % of the rounds).

    The mean weight has the true value 1 and a relative standard error of about 1 / sqrt(effective sample size). That is
    18 % at 30, and one round can hold as large a share of all weight.

    The effective sample size of a sample is too large if the heaviest weights happen not to have been drawn. At 1 % of
    the rounds the mean square of the weights is 100 times that of the log's own policy. With tails that long, a larger
    log helps little (Chatterjee & Diaconis, Ann. Appl. Probab. 2018).
    """
    return max(MIN_EFFECTIVE_ROUNDS, MIN_EFFECTIVE_SHARE * rounds)
