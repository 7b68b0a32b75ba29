"""What plain counts reach on a prepared log: the numbers that any learned recommender must beat."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmrec.data.dataset import InteractionData
from llmrec.data.decision import Decisions
from llmrec.evaluation.metrics import hit_rate, ndcg, per_user, ranks
from llmrec.recommenders.personal_popularity import PersonalPopularity
from llmrec.recommenders.popularity import Popularity
from llmrec.recommenders.protocol import Baseline, Histories
from llmrec.recommenders.transitions import Transitions

BATCH_SIZE = 256  # histories scored at a time


@dataclass(frozen=True)
class Accuracy:
    """Mean over users of the accuracy on their targets.

    Attributes:
        hr: HR@10.
        ndcg: NDCG@10.
    """

    hr: float
    ndcg: float


def accuracy_of_counts(data: InteractionData) -> dict[str, dict[str, dict[str, Accuracy]]]:
    """HR@10 and NDCG@10 of popularity and transition counts on the test targets, over all items that may follow.

    The settings are fixed, so nothing is tuned on the data. `popularity` counts items, `first_order` counts what
    follows the last item, and `transitions` counts what follows each of the last five. If repeats are kept,
    `personal_popularity` counts the items of the user.

    Returns:
        accuracy by split, counts and training data: `train` is the training data of all models, and `refitted` adds
        the events between it and the test targets, such as the validation item.
    """
    makers: dict[str, Callable[[], Baseline]] = {
        "popularity": Popularity,
        **({"personal_popularity": PersonalPopularity} if data.repeats else {}),
        "first_order": lambda: Transitions(last=1),
        "transitions": Transitions,
    }
    found: dict[str, dict[str, dict[str, Accuracy]]] = {}
    for split, parts in data.targets.items():
        decisions = Decisions.from_targets(data, parts["test"])
        training = {"train": data.train_histories, "refitted": histories_before_test(data, split)}
        found[split] = {
            name: {
                key: _accuracy(make().fit(histories, data.num_items), decisions) for key, histories in training.items()
            }
            for name, make in makers.items()
        }
    return found


def histories_before_test(data: InteractionData, split: str) -> Histories:
    """The part of every history before the test part of a split: all that could be known at test time."""
    test = data.targets[split]["test"]
    if split == "temporal":
        _, start = data.temporal_cuts()
        return [history[times < start] for history, times in zip(data.histories, data.timestamps, strict=True)]
    ends = np.array([len(history) for history in data.histories])
    np.minimum.at(ends, test.users, test.positions)
    return [history[:end] for history, end in zip(data.histories, ends, strict=True)]


def _accuracy(baseline: Baseline, decisions: Decisions) -> Accuracy:
    found = np.concatenate(
        [
            ranks(baseline.scores(batch.histories), batch.targets, batch.masked)
            for batch in decisions.batches(BATCH_SIZE)
        ]
    )
    users = decisions.users
    return Accuracy(
        hr=float(per_user(hit_rate(found, 10), users)[1].mean()),
        ndcg=float(per_user(ndcg(found, 10), users)[1].mean()),
    )
