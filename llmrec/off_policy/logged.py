"""Off-policy evaluation of what llmrec knows: a log with propensities, and a policy that did not write it.

Every exposure is one round, its position part of the context: what was shown above or below it is taken to have no
influence on its click. The policy's probabilities are restricted to the items that the log shows at that position, and
renormalised; how much they lose by it is reported.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from llmrec.config import DataConfig, load_config
from llmrec.data.dataset import InteractionData, Targets, load_data
from llmrec.data.decision import Decisions
from llmrec.errors import DataError, ModelError
from llmrec.off_policy import estimators as off_policy
from llmrec.off_policy.estimators import Estimate, bootstrap, diagnose, importance_weights
from llmrec.off_policy.propensities import cross_fitted_rates
from llmrec.run import Run

FOLDS = 5
SAMPLES = 1000  # of the bootstrap
BATCH = 64
MAX_OUTSIDE = 0.01  # of the policy's probability, on what the log never shows, before people are warned
MODELS = ("ppo", "sft", "reward")


@dataclass(frozen=True)
class ExposureLog:
    """What a policy showed.

    Attributes:
        name: the path that the user gave.
        source: `data.path` of its config.
        data: histories, items and users of the log.
        frame: rows of `user, item, timestamp, click, position, propensity`; a position that is not known is 0.
    """

    name: str
    source: str
    data: InteractionData
    frame: pd.DataFrame


@dataclass(frozen=True)
class Target:
    """A policy over the rounds of a log.

    Attributes:
        name: what people call it.
        how: where its probabilities come from.
        rows: rounds of the log that it may be evaluated on, bool [n].
        probabilities: of the A items that the log shows, for those rounds, float [m, A]; they may sum to less than 1.
        on_policy: its own rate of clicks, where it is known.
    """

    name: str
    how: str
    rows: np.ndarray
    probabilities: np.ndarray
    on_policy: Estimate | None = None


@dataclass(frozen=True)
class Rounds:
    """m rounds of a log and a policy over the A items that the log shows.

    Attributes:
        clicks: 0 or 1, float [m].
        actions: what was shown, index 0..A-1, int [m].
        positions: where, index 0..K-1, int [m].
        users: to whom, int [m].
        logging: the log's probability of what was shown, float [m].
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
        return importance_weights(self.policy[np.arange(len(self.actions)), self.actions], self.logging)


# --- logs -----------------------------------------------------------------------------------------


def read_exposure_log(path: Path) -> ExposureLog:
    """Reads the log of a run whose `prepare` stage has finished, or a directory of the Open Bandit data set.

    Args:
        path: a run directory, its YAML config, or a directory that holds `item_context.csv`.

    Raises:
        DataError: the log has no exposures, or some have no propensity.
        RunError: the run's `prepare` stage has not finished.
    """
    if (path / "item_context.csv").is_file():
        from llmrec.data.prepare import build_data
        from llmrec.data.readers import read_log

        # A prepared log must have a split. This one is not used; clicks are so few that narrow windows have none.
        split = {"splits": ["temporal"], "temporal_valid": 0.2, "temporal_test": 0.2}
        rules = {"click": ["click>=1"], "purchase": [], "min_user_events": 0}
        config = DataConfig(format="open_bandit", path=str(path), **rules, **split)
        data = build_data(read_log(config), config, seed=0)
    else:
        run = Run.open(path) if path.is_dir() else Run.create(load_config(path))
        run.require("data")
        config, data = run.config.data, load_data(run.path("data"))
        if config.min_user_events != 0:
            raise DataError(
                f"{path} holds the exposures of those users alone who clicked often enough "
                f"(data.min_user_events: {config.min_user_events}), whose click rate is not the log's: prepare it with "
                "`data.min_user_events: 0` and `data.splits: [temporal]`."
            )
    if data.exposures.empty or data.exposures["propensity"].isna().any():
        known = 0 if data.exposures.empty else int(data.exposures["propensity"].notna().sum())
        raise DataError(
            f"{path}: {known} of {len(data.exposures)} exposures have a propensity; off-policy evaluation needs the "
            "probability with which each was shown. Name its column in `data.columns.propensity`."
        )
    frame = data.exposures.assign(position=data.exposures["position"].fillna(0).astype("int64"))
    return ExposureLog(str(path), str(Path(config.path).expanduser().resolve()), data, frame)


def click_rate(log: ExposureLog) -> Estimate:
    """Clicks an exposure, with its interval over users: what the policy that wrote the log earned."""
    clicks = log.frame["click"].to_numpy(dtype=np.float64)
    return bootstrap(lambda rows: {"rate": float(clicks[rows].mean())}, log.frame["user"].to_numpy(), SAMPLES)["rate"]


def support(log: ExposureLog) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Items that the log shows [A] and positions [K], both ascending, and what it shows where, bool [K, A]."""
    items, item = np.unique(log.frame["item"], return_inverse=True)
    places, place = np.unique(log.frame["position"], return_inverse=True)
    shown = np.zeros((len(places), len(items)), dtype=bool)
    shown[place, item] = True
    return items, places, shown


# --- policies -------------------------------------------------------------------------------------


def target_of_log(log: ExposureLog, other: ExposureLog) -> Target:
    """The policy that wrote another log, as one distribution over items for each position.

    If every item has one and the same propensity throughout at a position, and they sum to 1, that is the policy. Else
    the policy changed while it logged, or knew a context, and its frequencies are what it did on average: the mean of
    logged propensities is none, as each counts as often as its item was shown.

    Raises:
        DataError: the other log has no exposures at a position of this log.
    """
    items, places, _ = support(log)
    groups = other.frame.assign(item_id=other.data.items["item_id"].to_numpy()[other.frame["item"]]).groupby(
        ["position", "item_id"]
    )["propensity"]
    table = groups.first().unstack(fill_value=0.0)
    fixed = (groups.max() - groups.min()).max() < 1e-9 and np.allclose(table.sum(axis=1), 1.0, atol=0.01)
    if not fixed:
        table = groups.size().unstack(fill_value=0.0)
    missing = sorted(set(places.tolist()) - set(table.index.tolist()))
    if missing:
        raise DataError(
            f"{log.name} shows items at position {missing[0]}, {other.name} only at "
            f"{', '.join(map(str, table.index))}: a policy can be evaluated only where it was seen."
        )
    table = table.div(table.sum(axis=1), axis=0)
    by_place = table.reindex(index=places, columns=log.data.items["item_id"].to_numpy()[items], fill_value=0.0)
    place = np.searchsorted(places, log.frame["position"])
    return Target(
        name=other.name,
        how="its logged propensities" if fixed else "its frequencies of items, a position",
        rows=np.ones(len(log.frame), dtype=bool),
        probabilities=by_place.to_numpy()[place],
        on_policy=click_rate(other),
    )


def target_of_run(log: ExposureLog, run: Run, model: str | None) -> Target:
    """A model of a run as a policy that draws an item by its probability, given what the user clicked before.

    On the log that it was trained on it is evaluated only in the temporal split's test window.

    Args:
        log: the log.
        run: the run.
        model: one of `MODELS`; None: the first that has finished. `reward` draws by the reward model's probabilities.

    Raises:
        DataError: the catalogues differ, or nothing of the log is left that the model has not seen.
        ModelError: the policy gives no exact probabilities.
        RunError: the stage has not finished.
    """
    model = model or next((name for name in MODELS if run.finished(name)), MODELS[0])
    run.require("data", model)
    trained_on = load_data(run.path("data"))
    if trained_on.items["item_id"].tolist() != log.data.items["item_id"].tolist():
        raise DataError(
            f"{run.directory} was trained on a catalogue of {trained_on.num_items} items, {log.name} has "
            f"{log.data.num_items}, and they are not the same: give a log of the same items."
        )
    rows, how = np.ones(len(log.frame), dtype=bool), "drawn by its probabilities given the clicks before"
    if str(Path(run.config.data.path).expanduser().resolve()) == log.source:
        rows = log.frame["timestamp"].to_numpy() >= trained_on.temporal_cuts()[1]
        how += "; in the test window alone"
        if not rows.any():
            raise DataError(
                f"{run.directory} was trained on all of {log.name}. Hold out a time with `data.splits: [temporal]`, or "
                "give another log of the same items."
            )
    user, times = log.frame["user"].to_numpy(), log.data.timestamps
    before = [np.searchsorted(times[u], t, "left") for u, t in zip(user, log.frame["timestamp"], strict=True)]
    able = np.array(before) < log.data.num_items  # a history holds an item once
    if not able.all():
        how += f"; without the {int((~able).sum())} rounds of users who had clicked everything"
    rows &= able
    states, state = np.unique(np.stack([user, before], 1)[rows], axis=0, return_inverse=True)
    score = _reward_probabilities if model == "reward" else _policy_probabilities
    items = support(log)[0]
    return Target(
        name=f"{model} of {run.directory}",
        how=how,
        rows=rows,
        probabilities=score(run, model, log.data, states.tolist())[:, items][state],
    )


def _policy_probabilities(run: Run, model: str, data: InteractionData, states: Sequence[Sequence[int]]) -> np.ndarray:
    """Probabilities [S, N] of the adapter `model` in states (user, clicks before)."""
    from llmrec.policy.model import RecPolicy
    from llmrec.policy.ranking import item_scores

    policy = RecPolicy.from_pretrained(run.path(model, "adapter"))
    if not policy.vocabulary.trie.flat:
        raise ModelError(
            f"The policy of {run.directory} spells items by several tokens, so that it gives no exact probability of "
            "each. Train one with `catalogue.scheme: atomic`."
        )
    decisions = Decisions.from_targets(data, _targets(states), run.config.catalogue)
    return np.concatenate([scores.double().exp().cpu().numpy() for scores in item_scores(policy, decisions, BATCH)])


def _reward_probabilities(run: Run, model: str, data: InteractionData, states: Sequence[Sequence[int]]) -> np.ndarray:
    """exp(reward) [S, N] of items not had, normalised, in states (user, clicks before)."""
    from reward_models import load_reward_model
    from reward_models.features import profile_words

    rewarder, words = load_reward_model(run.path(model), data.items["item_id"]), profile_words(data.users)
    parts = []
    weight = run.config.reward.conversion_weight
    for part in Decisions.from_targets(data, _targets(states)).batches(BATCH):
        rewards = rewarder.log_rewards(part.histories, part.purchased, words[part.users], weight).double().cpu()
        for row, history in zip(rewards, part.histories, strict=True):
            row[history] = -np.inf
        parts.append(rewards.softmax(-1).numpy())
    return np.concatenate(parts)


def _targets(states: Sequence[Sequence[int]]) -> Targets:
    """States (user, clicks before) as prediction targets, [S]."""
    users, positions = np.array(states, dtype=np.int64).reshape(-1, 2).T
    return Targets(users, positions)


# --- evaluation -----------------------------------------------------------------------------------


def make_rounds(log: ExposureLog, target: Target) -> tuple[Rounds, float]:
    """The rounds of a log under a policy, and how much of the policy's probability lies on what the log never shows.

    Rounds in which all of it lies there are left out.

    Raises:
        DataError: none is left.
    """
    items, places, shown = support(log)
    frame = log.frame[target.rows]
    place = np.searchsorted(places, frame["position"])
    allowed = np.where(shown[place], target.probabilities, 0.0)
    total = allowed.sum(1)
    inside = total > 0
    if not inside.any():
        raise DataError(
            f"In all {len(total)} rounds {target.name} gives no probability to any item that {log.name} shows there: "
            "the log says nothing of it. Do both speak of the same items?"
        )
    frame = frame[inside]
    rounds = Rounds(
        clicks=frame["click"].to_numpy(dtype=np.float64),
        actions=np.searchsorted(items, frame["item"]),
        positions=place[inside],
        users=frame["user"].to_numpy(),
        logging=frame["propensity"].to_numpy(dtype=np.float64),
        policy=(allowed / np.where(inside, total, 1)[:, None])[inside],
    )
    return rounds, float(1 - total.mean())


def estimate_all(rounds: Rounds) -> dict[str, Estimate]:
    """All estimators with bootstrap intervals over users; the reward model is fitted anew on every resample.

    Raises:
        DataError: fewer than five users, so that the reward model cannot be cross-fitted.
    """
    users, user = np.unique(rounds.users, return_inverse=True)
    if len(users) < FOLDS:
        raise DataError(f"The rounds are those of {len(users)} users; expected at least {FOLDS}.")
    folds = np.random.default_rng(0).permutation(np.arange(len(users)) % FOLDS)[user]
    shape = (FOLDS, rounds.policy.shape[1], int(rounds.positions.max()) + 1)
    weights = rounds.weights
    cells = [(f, k) for f in range(FOLDS) for k in range(shape[2])]
    alike = {(f, k): np.flatnonzero((folds == f) & (rounds.positions == k)) for f, k in cells}

    def statistics(rows: np.ndarray) -> dict[str, float]:
        action, place, fold = rounds.actions[rows], rounds.positions[rows], folds[rows]
        r, w = rounds.clicks[rows], weights[rows]
        rates = cross_fitted_rates(r, action, place, fold, shape)
        expected = np.empty(len(weights))
        for (f, k), same in alike.items():
            expected[same] = rounds.policy[same] @ rates[f, :, k]
        q_logged, q_policy = rates[fold, action, place], expected[rows]
        threshold = off_policy.switch_threshold(r, w, q_logged, q_policy, rates.max())
        return {
            "ips": off_policy.ips(r, w),
            "clipped_ips": off_policy.clipped_ips(r, w),
            "snips": off_policy.snips(r, w),
            "dm": off_policy.direct_method(q_policy),
            "dr": off_policy.doubly_robust(r, w, q_logged, q_policy),
            "switch_dr": off_policy.switch_dr(r, w, q_logged, q_policy, threshold),
        }

    return bootstrap(statistics, user, SAMPLES)


def off_policy_report(log: ExposureLog, target: Target, force: bool = False) -> dict:
    """JSON values: what `llmrec off-policy` prints.

    Estimates are left out where `diagnostics.refusal` says why, unless forced.
    """
    rounds, outside = make_rounds(log, target)
    weights = rounds.weights
    if not weights.any():
        raise DataError(
            f"{target.name} gives no probability to anything that {log.name} shows in {len(weights)} rounds: the log "
            "says nothing of it."
        )
    diagnostics = diagnose(rounds.clicks, weights)
    warnings = diagnostics.warnings
    if outside > MAX_OUTSIDE:
        warnings.append(
            f"{outside:.1%} of the policy's probability lies on items that the log never shows at that position. What "
            "is estimated is the policy without them: check that both speak of the same items."
        )
    estimates = {} if diagnostics.refusal and not force else estimate_all(rounds)
    own = click_rate(replace(log, frame=log.frame[target.rows]))
    return {
        "log": {"name": log.name, "users": int(len(np.unique(rounds.users))), "click_rate": asdict(own)},
        "policy": {"name": target.name, "probabilities": target.how, "outside_support": outside},
        "diagnostics": {
            **asdict(diagnostics),
            "refusal": diagnostics.refusal,
            "warnings": warnings,
        },
        "estimates": {name: asdict(estimate) for name, estimate in estimates.items()},
        "on_policy": asdict(target.on_policy) if target.on_policy else None,
    }
