"""Personal popularity, and ranking with kept repeats, by hand."""

import numpy as np
import pytest
import torch

from llmrec.data.dataset import Targets
from llmrec.recommenders.counts import accuracy_of_counts
from llmrec.recommenders.personal_popularity import PersonalPopularity
from llmrec.recommenders.sequence import Batch
from tests.recommenders.test_counts import data_of


def test_clicks_of_the_user_come_first_and_popularity_orders_the_rest():
    model = PersonalPopularity(decay=0.5).fit([np.array([3, 3, 2]), np.array([3])], num_items=4)
    scores = model.scores([np.array([1, 0, 1]), np.array([], dtype=np.int64)])
    # Ages 2, 1 and 0. The shares of training clicks are 0, 0, 1/4 and 3/4.
    assert scores[0] == pytest.approx([0.5, 0.25 + 1, 0.25e-3, 0.75e-3])
    assert scores[1] == pytest.approx([0, 0, 0.25e-3, 0.75e-3])


def test_a_target_that_was_seen_is_ranked_among_all_items():
    everyone = np.arange(2)
    targets = {"leave_one_out": {"valid": Targets(everyone, everyone + 2), "test": Targets(everyone, everyone + 3)}}
    data = data_of([[1, 1, 0, 1], [2, 0, 2, 1, 2]], [[0, 1, 2, 3], [0, 1, 2, 3, 4]], targets)
    kept = type(data)(**{**vars(data), "repeats": True})
    found = accuracy_of_counts(kept)["leave_one_out"]
    # Each target is the item that its user has clicked most.
    assert found["personal_popularity"]["train"].ndcg == 1
    assert found["popularity"]["train"].ndcg < 1
    with pytest.raises(ValueError, match="among its excluded items"):
        accuracy_of_counts(data)


def test_a_sequence_model_excludes_nothing_with_repeats():
    histories, windows = [np.array([1, 0, 1, 2])], np.array([(0, 0, 4)])

    def open_items(repeats: bool) -> list[list[float]]:
        batch = Batch.of(histories, windows, torch.device("cpu"), repeats)
        assert batch.targets.tolist() == [0, 1, 2]
        values = torch.ones(3, 3)
        batch.exclude_seen(values, 0.0)
        return values.tolist()

    assert open_items(repeats=False) == [[1, 0, 1], [0, 1, 1], [0, 0, 1]]  # targets are not excluded
    assert open_items(repeats=True) == [[1, 1, 1]] * 3
