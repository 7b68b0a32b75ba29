"""Policies that can be evaluated: the logging policy of a second log, or a model of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from llmrec.data.dataset import InteractionData, Targets, load_data
from llmrec.data.decision import Decisions
from llmrec.data.seen_mask import seen_mask
from llmrec.distributed import own_device
from llmrec.errors import DataError, ModelError
from llmrec.off_policy.bootstrap import Estimate
from llmrec.off_policy.logs import ExposureLog, Support
from llmrec.run import Run

BATCH_SIZE = 64  # decisions per batch
MODELS = ("ppo", "sft", "reward")


@dataclass(frozen=True)
class TargetPolicy:
    """A policy over the n rounds of a log.

    Attributes:
        name: name for the user.
        description: where its probabilities come from.
        rows: rounds of the log that it may be evaluated on, bool [n].
        probabilities: probabilities of the A items that the log shows, for these m rounds, float [m, A]. Rows may sum
            to less than 1.
        on_policy: its own click rate, if it is known.
    """

    name: str
    description: str
    rows: np.ndarray
    probabilities: np.ndarray
    on_policy: Estimate | None = None


# -- the policy of another log --


def policy_of_log(log: ExposureLog, other: ExposureLog) -> TargetPolicy:
    """The policy that wrote another log, as one distribution over items for each position.

    If the propensity of every item is constant at each position and these sum to 1, they are the policy. Otherwise the
    policy changed during logging or used a context. Then its frequencies are what it did on average. The mean of the
    logged propensities would be wrong, because each propensity occurs as often as its item was shown.

    Args:
        log: the log that the policy is evaluated on.
        other: the log that the policy wrote.

    Raises:
        DataError: the other log has no exposures at a position of this log.
    """
    support = Support.from_log(log)
    item_ids = other.data.items["item_id"].to_numpy()[other.frame["item"]]
    groups = other.frame.assign(item_id=item_ids).groupby(["position", "item_id"])["propensity"]
    table = groups.first().unstack(fill_value=0)
    is_constant = (groups.max() - groups.min()).max() < 1e-9 and np.allclose(table.sum(axis=1), 1.0, atol=0.01)
    if not is_constant:
        table = groups.size().unstack(fill_value=0)
    missing = sorted(set(support.positions.tolist()) - set(table.index.tolist()))
    if missing:
        raise DataError(
            f"{log.name} shows items at position {missing[0]}, but {other.name} only at "
            f"{', '.join(map(str, table.index))}. A policy can be evaluated only at positions where its log shows it."
        )
    table = table.div(table.sum(axis=1), axis=0)
    columns = log.data.items["item_id"].to_numpy()[support.items]
    by_position = table.reindex(index=support.positions, columns=columns, fill_value=0.0)
    position = np.searchsorted(support.positions, log.frame["position"])
    return TargetPolicy(
        name=other.name,
        description="its logged propensities" if is_constant else "its item frequencies at each position",
        rows=np.ones(len(log.frame), dtype=bool),
        probabilities=by_position.to_numpy()[position],
        on_policy=other.click_rate(),
    )


# -- a model of a run --


def policy_of_run(log: ExposureLog, run: Run, model: str | None) -> TargetPolicy:
    """A model of a run as a policy that draws an item by its probability, given the user's earlier clicks.

    On the log that the run was trained on, only the test window of the temporal split is used.

    Args:
        log: the log that the policy is evaluated on.
        run: the run.
        model: one of `MODELS`; None takes the first that has finished. `reward` draws from the softmax of the rewards.

    Raises:
        DataError: the catalogues differ, or the run was trained on the whole log.
        ModelError: the policy gives no exact item probabilities.
        RunError: the stage has not finished.
    """
    model = model or next((name for name in MODELS if run.finished(name)), MODELS[0])
    run.require("data", model)
    trained_on = load_data(run.path("data"))
    if trained_on.items["item_id"].tolist() != log.data.items["item_id"].tolist():
        raise DataError(
            f"{run.directory} was trained on a catalogue of {trained_on.num_items} items, but {log.name} has another "
            f"one of {log.data.num_items} items. Give a log of the same items."
        )
    rows = np.ones(len(log.frame), dtype=bool)
    description = "drawn by its probabilities given the earlier clicks"
    if str(Path(run.config.data.path).expanduser().resolve()) == log.source:
        rows = log.frame["timestamp"].to_numpy() >= trained_on.temporal_cuts()[1]
        description += "; test window only"
        if not rows.any():
            raise DataError(
                f"The training of {run.directory} leaves no held-out window of {log.name}. Hold out a test window with "
                "`data.splits: [temporal]`, or give another log of the same items."
            )
    clicks_before = _clicks_before(log)
    is_possible = (clicks_before < log.data.num_items) | log.data.repeats  # without repeats it holds an item once
    if not is_possible.all():
        description += f"; without {int((~is_possible).sum())} rounds of users who had clicked every item"
    rows = rows & is_possible
    # Rounds of the same user with the same earlier clicks have the same probabilities.
    states = np.stack([log.frame["user"].to_numpy(), clicks_before], 1)[rows]
    distinct, state = np.unique(states, axis=0, return_inverse=True)
    targets = Targets(users=distinct[:, 0].astype(np.int64), positions=distinct[:, 1].astype(np.int64))
    of_model = _reward_probabilities if model == "reward" else _policy_probabilities
    probabilities = of_model(run, model, log.data, targets)[state]
    return TargetPolicy(
        name=f"{model} of {run.directory}",
        description=description,
        rows=rows,
        probabilities=without_items_above(probabilities, log.frame[rows])[:, Support.from_log(log).items],
    )


def without_items_above(probabilities: np.ndarray, rounds: pd.DataFrame) -> np.ndarray:
    """Probabilities given the items that the log shows above in the same list: those are not shown again.

    Args:
        probabilities: probabilities of the N items, float [m, N]. Rows sum to 1.
        rounds: the m rounds, with `item`, `position` and `ranking`; rounds without a list (-1) stay as they are.

    Returns:
        float64 [m, N]. Rows sum to 1, or to 0 if the policy shows only items that are above.
    """
    left = np.array(probabilities, dtype=np.float64)
    items = rounds["item"].to_numpy()
    positions = rounds["position"].to_numpy()
    lists = rounds.assign(row=np.arange(len(rounds)))
    for _, rows in lists[lists["ranking"] >= 0].groupby("ranking")["row"]:
        members = rows.to_numpy()
        above = positions[members][None, :] < positions[members][:, None]  # [round, item of the list]
        at, item = np.nonzero(above)
        left[members[at], items[members[item]]] = 0.0
    total = left.sum(1, keepdims=True)
    return np.divide(left, total, out=np.zeros_like(left), where=total > 0)


def _clicks_before(log: ExposureLog) -> np.ndarray:
    """How many items the user had clicked before each round, int [n]."""
    times = log.data.timestamps
    users: Sequence[int] = log.frame["user"].tolist()
    moments: Sequence[int] = log.frame["timestamp"].tolist()
    return np.array([np.searchsorted(times[user], time, "left") for user, time in zip(users, moments, strict=True)])


def _policy_probabilities(run: Run, model: str, data: InteractionData, targets: Targets) -> np.ndarray:
    """Item probabilities of the adapter `model` at S targets, float64 [S, N]."""
    from llmrec.policy.model import RecPolicy
    from llmrec.policy.ranking import item_scores

    policy = RecPolicy.from_pretrained(run.path(model, "adapter")).to(own_device())
    if not policy.vocabulary.trie.flat:
        raise ModelError(
            f"The policy of {run.directory} spells items by several tokens, so it gives no exact probability of each. "
            "Train a policy with `catalogue.scheme: atomic`."
        )
    decisions = Decisions.from_targets(data, targets, run.config.catalogue)
    batches = item_scores(policy, decisions, BATCH_SIZE)
    return np.concatenate([scores.double().exp().cpu().numpy() for scores in batches])


def _reward_probabilities(run: Run, model: str, data: InteractionData, targets: Targets) -> np.ndarray:
    """Softmax of the rewards of possible items at S targets, float64 [S, N]."""
    from reward_models import load_reward_model
    from reward_models.features import profile_words

    reward_model = load_reward_model(run.path(model), data.items["item_id"])
    words = profile_words(data.users)
    weight = run.config.reward.conversion_weight
    parts: list[np.ndarray] = []
    for part in Decisions.from_targets(data, targets).batches(BATCH_SIZE):
        rewards = reward_model.log_rewards(part.histories, part.purchased, words[part.users], weight).double().cpu()
        masked = torch.from_numpy(seen_mask(part.masked, data.num_items))
        parts.append(torch.where(masked, -torch.inf, rewards).softmax(-1).numpy())
    return np.concatenate(parts)
