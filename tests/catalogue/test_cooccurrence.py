"""Co-occurrence counts and the vectors made from them, against numbers worked by hand."""

import math

import numpy as np
import pytest
import torch

from llmrec.catalogue.cooccurrence import cooccurrence, cooccurrence_vectors, positive_information
from llmrec.policy.model import RecPolicy
from tests.conftest import make_config, make_data


def histories(*lists):
    return [np.array(items, dtype=np.int64) for items in lists]


def test_users_who_have_both_items_are_counted_once():
    counts = cooccurrence(histories([0, 1, 0], [1, 2], []), 4, "users")
    # User 0 has items 0 and 1, user 1 has items 1 and 2. The diagonal counts the users of one item.
    assert counts.tolist() == [[1, 1, 0, 0], [1, 2, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


def test_neighbors_count_by_distance():
    counts = cooccurrence(histories([0, 1, 2], [1, 0]), 4, "distance", window=2).to_dense()
    # 0 and 1 are neighbors twice, 1 and 2 once. 0 and 2 are two positions apart.
    expected = torch.tensor([[0, 2, 0.5, 0], [2, 0, 1, 0], [0.5, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.float64)
    assert torch.equal(counts, expected)


def test_information_is_positive_and_relative_to_chance():
    counts = cooccurrence(histories([0, 1], [0, 1], [0, 1], [2, 3], [0, 2]), 4, "distance", window=1)
    information = positive_information(counts).to_dense()
    # The counts sum to ten: three each for (0, 1) and (1, 0), one each for (2, 3), (3, 2), (0, 2) and (2, 0).
    assert information[0, 1].item() == pytest.approx(math.log(3 * 10 / (4 * 3)))
    assert information[2, 3].item() == pytest.approx(math.log(1 * 10 / (2 * 1)))
    assert information[0, 2].item() == pytest.approx(math.log(1 * 10 / (4 * 2)))
    assert torch.equal(information, information.T)
    repeated = cooccurrence(histories([0, 1, 0, 1, 0, 2, 0]), 3, "distance", window=2)
    information = positive_information(repeated).to_dense()
    assert (information >= 0).all() and information[0, 0] == 0  # 0 follows itself less often than by chance


def test_items_of_one_group_have_similar_vectors():
    generator = np.random.default_rng(0)
    groups = [np.arange(0, 10), np.arange(10, 20)]
    logs = [generator.permutation(groups[n % 2])[:6] for n in range(200)]
    vectors = cooccurrence_vectors(logs, 21, 32)
    assert vectors[:20].norm(dim=1).numpy() == pytest.approx(1, abs=1e-5)
    assert (vectors[20] == 0).all()  # item 20 is in no history
    similarity = vectors @ vectors.T
    within = torch.stack([similarity[:10, :10].mean(), similarity[10:20, 10:20].mean()])
    assert (within > similarity[:10, 10:20].mean() + 0.2).all()
    assert torch.equal(vectors, cooccurrence_vectors(logs, 21, 32))
    assert not torch.equal(vectors, cooccurrence_vectors(logs, 21, 32, seed=1))


def test_item_embeddings_start_from_words_and_cooccurrence(tiny_base):
    data = make_data()
    config = make_config(tiny_base)

    def item_rows(weight):
        catalogue = config.catalogue.model_copy(update={"cooccurrence_weight": weight})
        policy = RecPolicy.create(config.model_copy(update={"catalogue": catalogue}), data)
        return policy.embed(torch.tensor(policy.vocabulary.new_tokens)).detach()

    words = item_rows(0.0)
    both = item_rows(2.0)
    vectors = cooccurrence_vectors(data.train_histories, data.num_items, words.shape[1], config.seed)
    assert vectors.norm() > 0
    assert torch.allclose(both - words, 2 * vectors * words.norm(dim=1).mean(), atol=1e-6)
