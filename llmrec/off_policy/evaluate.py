"""Estimates the click rate of a policy from the log of another policy, with intervals and diagnostics.

The policy is restricted to the items that the log shows at each position, and renormalized. The report says how much
probability is lost.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from llmrec.errors import DataError
from llmrec.off_policy import estimators
from llmrec.off_policy.bootstrap import Estimate, bootstrap
from llmrec.off_policy.click_rates import cross_fitted_rates
from llmrec.off_policy.diagnostics import Diagnostics, diagnose
from llmrec.off_policy.logs import BOOTSTRAP_SAMPLES, ExposureLog, Support
from llmrec.off_policy.policies import TargetPolicy

CROSS_FITTING_FOLDS = 5
MAX_OUTSIDE_SUPPORT = 0.01  # of the policy's probability on items that the log never shows; above it a warning is given


@dataclass(frozen=True)
class Rounds:
    """m rounds of a log, and a policy over the A items that the log shows at K positions.

    Attributes:
        clicks: 0 or 1, float [m].
        actions: index of the shown item, 0..A-1, int [m].
        positions: index of its position, 0..K-1, int [m].
        users: user of each round, int [m].
        logging: the logged probability of the shown item, float [m].
        policy: the policy's probability of each item, float [m, A]; rows sum to 1.
    """

    clicks: np.ndarray
    actions: np.ndarray
    positions: np.ndarray
    users: np.ndarray
    logging: np.ndarray
    policy: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """Importance weights, float [m]."""
        return estimators.importance_weights(self.policy[np.arange(len(self.actions)), self.actions], self.logging)


@dataclass(frozen=True)
class LogSummary:
    """The log of an off-policy evaluation.

    Attributes:
        name: the path that the user gave.
        users: number of users in the rounds that count.
        click_rate: clicks per exposure of the policy that wrote the log.
    """

    name: str
    users: int
    click_rate: Estimate


@dataclass(frozen=True)
class PolicySummary:
    """The policy of an off-policy evaluation.

    Attributes:
        name: name for the user.
        probabilities: where its probabilities come from.
        outside_support: share of its probability on items that the log never shows at that position.
    """

    name: str
    probabilities: str
    outside_support: float


@dataclass(frozen=True)
class OffPolicyReport:
    """The result of an off-policy evaluation.

    Attributes:
        log: the log.
        policy: the policy.
        diagnostics: diagnostics of the importance weights.
        warnings: what a reader of the estimates must know.
        estimates: clicks per exposure by estimator; empty if the evaluation is refused.
        on_policy: the policy's own click rate, if it is known.
    """

    log: LogSummary
    policy: PolicySummary
    diagnostics: Diagnostics
    warnings: list[str]
    estimates: dict[str, Estimate]
    on_policy: Estimate | None

    @property
    def refusal(self) -> str | None:
        """Why the estimates must not be trusted, or None."""
        return self.diagnostics.refusal

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        values = asdict(self)
        warnings = values.pop("warnings")
        values["diagnostics"] |= {"refusal": self.refusal, "warnings": warnings}
        return values


def make_rounds(log: ExposureLog, target: TargetPolicy) -> tuple[Rounds, float]:
    """Restricts a policy to the support of a log.

    Rounds in which the log shows no item of the policy are left out.

    Returns:
        The rounds, and the share of the policy's probability on items that the log never shows at that position.

    Raises:
        DataError: no round is left.
    """
    support = Support.from_log(log)
    frame = log.frame[target.rows]
    position = np.searchsorted(support.positions, frame["position"])
    allowed = np.where(support.shown[position], target.probabilities, 0.0)
    total = allowed.sum(1)
    inside = total > 0
    if not inside.any():
        raise DataError(
            f"In all {len(total)} rounds {target.name} gives no probability to any item that {log.name} shows there, "
            "so the log holds no data about it. Check that both use the same items."
        )
    frame = frame[inside]
    rounds = Rounds(
        clicks=frame["click"].to_numpy(dtype=np.float64),
        actions=np.searchsorted(support.items, frame["item"]),
        positions=position[inside],
        users=frame["user"].to_numpy(),
        logging=frame["propensity"].to_numpy(dtype=np.float64),
        policy=(allowed / np.where(inside, total, 1)[:, None])[inside],
    )
    return rounds, float(1 - total.mean())


def estimate_all(rounds: Rounds) -> dict[str, Estimate]:
    """All estimators with bootstrap intervals over users. The reward model is fitted again on every resample.

    Raises:
        DataError: there are too few users to cross-fit the reward model.
    """
    users, user = np.unique(rounds.users, return_inverse=True)
    if len(users) < CROSS_FITTING_FOLDS:
        raise DataError(
            f"The rounds belong to {len(users)} users, expected at least {CROSS_FITTING_FOLDS}. Use a log with more "
            "users."
        )
    fold_of_user = np.random.default_rng(0).permutation(np.arange(len(users)) % CROSS_FITTING_FOLDS)
    folds = fold_of_user[user]
    shape = (CROSS_FITTING_FOLDS, rounds.policy.shape[1], int(rounds.positions.max()) + 1)
    weights = rounds.weights
    # Rounds of one fold and position share their predicted click rates.
    cells = [(fold, position) for fold in range(CROSS_FITTING_FOLDS) for position in range(shape[2])]
    rounds_of = {cell: np.flatnonzero((folds == cell[0]) & (rounds.positions == cell[1])) for cell in cells}

    def statistics(rows: np.ndarray) -> dict[str, float]:
        actions = rounds.actions[rows]
        positions = rounds.positions[rows]
        fold = folds[rows]
        r = rounds.clicks[rows]
        w = weights[rows]
        rates = cross_fitted_rates(r, actions, positions, fold, shape)
        expected = np.empty(len(weights))
        for (f, k), members in rounds_of.items():
            expected[members] = rounds.policy[members] @ rates[f, :, k]
        q_logged = rates[fold, actions, positions]
        q_policy = expected[rows]
        threshold = estimators.switch_threshold(r, w, q_logged, q_policy, float(rates.max()))
        return {
            "ips": estimators.ips(r, w),
            "clipped_ips": estimators.clipped_ips(r, w),
            "snips": estimators.snips(r, w),
            "dm": estimators.direct_method(q_policy),
            "dr": estimators.doubly_robust(r, w, q_logged, q_policy),
            "switch_dr": estimators.switch_dr(r, w, q_logged, q_policy, threshold),
        }

    return bootstrap(statistics, user, BOOTSTRAP_SAMPLES)


def off_policy_report(log: ExposureLog, target: TargetPolicy, force: bool = False) -> OffPolicyReport:
    """Evaluates a policy on a log.

    Args:
        log: the log of another policy.
        target: the policy to evaluate.
        force: estimate even if `OffPolicyReport.refusal` advises against it.

    Raises:
        DataError: the log holds no data about the policy.
    """
    rounds, outside = make_rounds(log, target)
    weights = rounds.weights
    if not weights.any():
        raise DataError(
            f"{target.name} gives no probability to any item that {log.name} shows in {len(weights)} rounds, so the "
            "log holds no data about it. Check that both use the same items."
        )
    diagnostics = diagnose(rounds.clicks, weights)
    warnings = diagnostics.warnings
    if outside > MAX_OUTSIDE_SUPPORT:
        warnings.append(
            f"{outside:.1%} of the policy's probability lies on items that the log never shows at that position. The "
            "estimates are for the policy without these items. Check that both use the same items."
        )
    evaluated = replace(log, frame=log.frame[target.rows])
    return OffPolicyReport(
        log=LogSummary(name=log.name, users=int(len(np.unique(rounds.users))), click_rate=evaluated.click_rate()),
        policy=PolicySummary(name=target.name, probabilities=target.description, outside_support=outside),
        diagnostics=diagnostics,
        warnings=warnings,
        estimates={} if diagnostics.refusal and not force else estimate_all(rounds),
        on_policy=target.on_policy,
    )
