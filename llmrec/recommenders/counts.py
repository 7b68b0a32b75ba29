"""What plain counts reach on a prepared log: the numbers that any learned recommender must beat."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmrec.config import Config
from llmrec.data.dataset import InteractionData, Targets
from llmrec.data.decision import Decisions
from llmrec.data.ragged import Ragged
from llmrec.evaluation.metrics import hit_rate, ndcg, per_user, ranks
from llmrec.recommenders.personal_popularity import PersonalPopularity
from llmrec.recommenders.popularity import Popularity
from llmrec.recommenders.protocol import Baseline
from llmrec.recommenders.transitions import Transitions
from llmrec.recommenders.tuning import evaluated_users

BATCH_SIZE = 256  # histories scored at a time, at most
BATCH_SCORES = 2**25  # scores that a batch may have
# Scores that each fit computes in a split, at most: about a minute of CPU time for all fits. More targets are sampled.
SCORES = 2_000_000_000
FEWEST_TARGETS = 1_000  # measured in any case


@dataclass(frozen=True)
class Accuracy:
    """Mean over users of the accuracy on their targets, with 95 % intervals over users by the normal approximation.

    Attributes:
        hr: HR@10.
        ndcg: NDCG@10.
        hr_interval: lower and upper bound of HR@10; None for a single user.
        ndcg_interval: lower and upper bound of NDCG@10; None for a single user.
    """

    hr: float
    ndcg: float
    hr_interval: tuple[float, float] | None = None
    ndcg_interval: tuple[float, float] | None = None


def sampled_targets(data: InteractionData, config: Config) -> dict[str, Targets]:
    """The test targets that are measured, by split: those of a seeded sample of users.

    These are all targets of the users that `evaluate` measures, if the scores of all items at them are at most
    `SCORES`. Otherwise users are left out by lot.
    """
    most = max(FEWEST_TARGETS, SCORES // data.num_items)
    chosen = evaluated_users(data.num_users, config)
    found = {}
    for split, parts in data.targets.items():
        targets = parts["test"].of_users(chosen)
        users = np.unique(targets.users)
        fitting = max(1, len(users) * most // max(1, len(targets)))
        kept = np.zeros(data.num_users, dtype=bool)
        kept[np.random.default_rng((config.seed, 31)).permutation(users)[:fitting]] = True
        found[split] = targets.of_users(kept)
    return found


def sizes_of(data: InteractionData, measured: dict[str, Targets]) -> dict[str, dict[str, int]]:
    """How many `targets` of how many `users` are measured, and `of_users` with a test target, by split."""
    return {
        split: {
            "targets": len(targets),
            "users": len(np.unique(targets.users)),
            "of_users": len(np.unique(data.targets[split]["test"].users)),
        }
        for split, targets in measured.items()
    }


def accuracy_of_counts(
    data: InteractionData,
    measured: dict[str, Targets] | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, dict[str, dict[str, Accuracy]]]:
    """HR@10 and NDCG@10 of popularity and transition counts on test targets, over all items that may follow.

    The settings are fixed, so nothing is tuned on the data. `popularity` counts items, `first_order` counts what
    follows the last item, and `transitions` counts what follows each of the last five. If repeats are kept,
    `personal_popularity` counts the items of the user.

    Args:
        data: the prepared log. Counts are fitted on all of its users.
        measured: test targets by split; None measures all of them.
        advance: is told how many targets have been ranked. All are ranked `fits_of` times.

    Returns:
        accuracy by split, counts and training data: `train` is the training data of all models, and `refitted` adds
        the events between it and the test targets, such as the validation item. A split without a measured target is
        left out.
    """
    size = max(1, min(BATCH_SIZE, BATCH_SCORES // data.num_items))
    found: dict[str, dict[str, dict[str, Accuracy]]] = {}
    for split, targets in (measured or {name: parts["test"] for name, parts in data.targets.items()}).items():
        if not len(targets):
            continue
        decisions = Decisions.from_targets(data, targets)
        training = {"train": data.train_histories, "refitted": histories_before_test(data, split)}
        found[split] = {
            name: {
                key: _accuracy(make().fit(histories, data.num_items), decisions, size, advance)
                for key, histories in training.items()
            }
            for name, make in _makers(data).items()
        }
    return found


def fits_of(data: InteractionData) -> int:
    """How often `accuracy_of_counts` ranks each target: once for each of its counts and training data."""
    return 2 * len(_makers(data))


def _makers(data: InteractionData) -> dict[str, Callable[[], Baseline]]:
    return {
        "popularity": Popularity,
        **({"personal_popularity": PersonalPopularity} if data.repeats else {}),
        "first_order": lambda: Transitions(last=1),
        "transitions": Transitions,
    }


def histories_before_test(data: InteractionData, split: str) -> Ragged:
    """The part of every history before the test part of a split: all that could be known at test time."""
    test = data.targets[split]["test"]
    histories = Ragged.of(data.histories)
    ends = histories.lengths
    if split == "temporal":
        _, start = data.temporal_cuts()
        parts = Ragged.of(data.timestamps).parts()
        ends = np.concatenate([_sums((part.flat() < start).astype(np.int64), part.lengths) for part in parts])
    else:
        np.minimum.at(ends, test.users, test.positions)
    return histories.first(ends)


def _sums(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sums of consecutive values, as many as `lengths` says, int64 [U]."""
    before = np.append(0, np.cumsum(values))
    ends = np.cumsum(lengths)
    return before[ends] - before[ends - lengths]


def _accuracy(baseline: Baseline, decisions: Decisions, size: int, advance: Callable[[int], None]) -> Accuracy:
    found = np.empty(len(decisions))
    start = 0
    for batch in decisions.batches(size):
        found[start : start + len(batch)] = ranks(baseline.scores(batch.histories), batch.targets, batch.masked)
        start += len(batch)
        advance(len(batch))
    hr = per_user(hit_rate(found, 10), decisions.users)[1]
    gain = per_user(ndcg(found, 10), decisions.users)[1]
    return Accuracy(
        hr=float(hr.mean()), ndcg=float(gain.mean()), hr_interval=_interval(hr), ndcg_interval=_interval(gain)
    )


def _interval(values: np.ndarray) -> tuple[float, float] | None:
    """Mean plus and minus 1.96 standard errors, inside 0 to 1; `values` is float [U]."""
    if len(values) < 2:
        return None
    mean = float(values.mean())
    margin = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5
    return max(0.0, mean - margin), min(1.0, mean + margin)
