"""Vectors from what is had together, against numbers worked by hand."""

import math

import numpy as np
import pytest
import torch

from llmrec.catalogue.cooccurrence import cooccurrence, item_vectors, positive_information
from llmrec.policy.model import RecPolicy
from tests.conftest import make_config, make_data


def histories(*lists):
    return [np.array(items) for items in lists]


def test_neighbours_count_by_distance():
    counts = cooccurrence(histories([0, 1, 2], [1, 0]), 4, window=2).to_dense()
    # 0 and 1 are neighbours twice; 1 and 2 once; 0 and 2 stand two places apart.
    expected = torch.tensor([[0, 2, 0.5, 0], [2, 0, 1, 0], [0.5, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.float64)
    assert torch.equal(counts, expected)


def test_information_is_positive_and_against_chance():
    counts = cooccurrence(histories([0, 1], [0, 1], [0, 1], [2, 3], [0, 2]), 4, window=1)
    information = positive_information(counts).to_dense()
    # Ten counts in all: three of (0, 1) and of (1, 0), one of (2, 3), (3, 2), (0, 2), (2, 0).
    assert information[0, 1].item() == pytest.approx(math.log(3 * 10 / (4 * 3)))
    assert information[2, 3].item() == pytest.approx(math.log(1 * 10 / (2 * 1)))
    assert information[0, 2].item() == pytest.approx(math.log(1 * 10 / (4 * 2)))
    assert torch.equal(information, information.T)
    rare = positive_information(cooccurrence(histories([0, 1, 0, 1, 0, 2, 0]), 3, window=2)).to_dense()
    assert (rare >= 0).all() and rare[0, 0] == 0  # 0 stands by itself less often than chance would have it


def test_items_of_one_company_are_close():
    generator = np.random.default_rng(0)
    groups = [np.arange(0, 10), np.arange(10, 20)]
    logs = [generator.permutation(groups[n % 2])[:6] for n in range(200)]
    vectors = item_vectors(logs, 21, 32)
    assert vectors[:20].norm(dim=1).numpy() == pytest.approx(1, abs=1e-5)
    assert (vectors[20] == 0).all()  # in no history
    likeness = vectors @ vectors.T
    within = torch.stack([likeness[:10, :10].mean(), likeness[10:20, 10:20].mean()])
    assert (within > likeness[:10, 10:20].mean() + 0.2).all()
    assert torch.equal(vectors, item_vectors(logs, 21, 32))
    assert not torch.equal(vectors, item_vectors(logs, 21, 32, seed=1))


def test_item_rows_start_from_words_and_company(tiny_base):
    data = make_data()
    config = make_config(tiny_base)

    def rows(weight):
        catalogue = config.catalogue.model_copy(update={"cooccurrence_weight": weight})
        policy = RecPolicy.create(config.model_copy(update={"catalogue": catalogue}), data)
        return policy.embed(torch.tensor(policy.vocabulary.new_tokens)).detach()

    words, both = rows(0.0), rows(2.0)
    company = item_vectors(data.train_histories, data.num_items, words.shape[1], config.seed)
    assert company.norm() > 0
    assert torch.allclose(both - words, 2 * company * words.norm(dim=1).mean(), atol=1e-6)
