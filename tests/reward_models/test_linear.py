"""The linear next-item model: its scores by hand, its solution, and its weight in the pool."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llmrec.recommenders.linear import LinearFit
from llmrec.recommenders.pool import fit_pool_weights
from reward_models import ClickPurchaseConfig, ClickPurchaseModel, RewardEnsemble, catalogue_hash, load_reward_model
from reward_models.linear import DECAY, FORMER_NAMES, LinearNextItem

ITEMS = 12
IDS = [f"i{n}" for n in range(ITEMS)]


def histories(count: int = 60, seed: int = 0) -> list[np.ndarray]:
    """Histories in which item i is mostly followed by item i + 1."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, ITEMS, count)
    return [(start + np.arange(rng.integers(2, 9)) + (rng.random() < 0.1)) % ITEMS for start in starts]


def bags(history: np.ndarray) -> np.ndarray:
    """Both bags after a history from their definition, [2N]."""
    recent = np.zeros(ITEMS)
    whole = np.zeros(ITEMS)
    for lag, item in enumerate(history[::-1]):
        recent[item] += DECAY**lag
        whole[item] += 1 / np.sqrt(len(history))
    return np.concatenate([recent, whole])


def bags_of(log: np.ndarray) -> list[np.ndarray]:
    return [bags(log[:length]) for length in range(1, len(log))]


def scores_after(model: LinearNextItem, history: np.ndarray, prior: list[int] | None = None) -> np.ndarray:
    packed = torch.from_numpy(history)[None]
    before = torch.from_numpy(np.bincount(prior or [], minlength=ITEMS))[None]
    return model.log_scores(packed, torch.ones_like(packed, dtype=torch.bool), before)[0].numpy()


def test_it_is_the_ridge_regression_of_the_next_item_on_both_bags():
    logs, l2 = histories(), 5.0
    model = LinearNextItem.from_weights(LinearFit(logs, ITEMS).solve(l2))
    before = np.array([row for history in logs for row in bags_of(history)])
    after = np.eye(ITEMS)[np.concatenate([history[1:] for history in logs])]
    weights = np.linalg.solve(before.T @ before + l2 * np.eye(2 * ITEMS), before.T @ after)
    clicks = np.bincount(np.concatenate(logs), minlength=ITEMS) + 0.5
    history = np.array([3, 4, 5, 9])
    found = scores_after(model, history)
    for length in range(len(history) + 1):
        scores = bags(history[:length]) @ weights if length else np.zeros(ITEMS)
        assert np.allclose(np.exp(found[length]), np.maximum(scores, 0) + clicks / clicks.sum(), atol=1e-5)
    assert found[3].argmax() == 6


def test_items_before_the_window_count_in_the_bag_of_the_whole_history_only():
    model = LinearNextItem.from_weights(LinearFit(histories(), ITEMS).solve(5.0))
    whole = torch.zeros_like(model.recent_weights)
    alone = LinearNextItem.from_weights(LinearFit(histories(), ITEMS).solve(5.0))
    alone.recent_weights.copy_(whole)
    history = np.array([1, 7, 1, 2, 8])  # an item that was taken twice counts twice
    prior = history[:3].tolist()
    assert np.allclose(scores_after(alone, history[3:], prior)[2], scores_after(alone, history)[5], atol=1e-6)
    assert not np.allclose(scores_after(alone, history[3:], [1, 7])[2], scores_after(alone, history)[5], atol=1e-3)
    assert not np.allclose(scores_after(model, history[3:], prior)[2], scores_after(model, history)[5], atol=1e-3)


def test_rare_items_contribute_nothing_and_do_not_advance_the_decay(monkeypatch):
    logs = [np.array([0, 1, 2, 5])] * 3 + [np.array([0, 1, 2])] * 9
    whole = LinearNextItem.from_weights(LinearFit([history[:3] for history in logs], ITEMS).solve(1.0))
    monkeypatch.setattr("llmrec.recommenders.linear.MAX_ITEMS", 3)
    model = LinearNextItem.from_weights(LinearFit(logs, ITEMS).solve(1.0))
    assert model.covered.tolist() == [0, 1, 2]
    found = np.exp(scores_after(model, np.array([0, 5, 1]), [9]))[3] - model.share.numpy()
    without = np.exp(scores_after(whole, np.array([0, 1])))[2] - whole.share.numpy()
    assert np.allclose(found[:3], without[:3], atol=1e-5) and found[2] > 0.5
    assert np.allclose(found[3:], 0)


def test_scores_at_the_end_equal_those_of_the_last_prefix():
    model = LinearNextItem.from_weights(LinearFit(histories(), ITEMS).solve(5.0))
    packed = torch.tensor([[3, 4, 9], [8, 0, 0], [1, 7, 0]])
    lengths = torch.tensor([3, 0, 2])
    mask = torch.arange(3) < lengths[:, None]
    prior = torch.zeros(3, ITEMS, dtype=torch.bool)
    prior[2, [5, 6]] = True
    every = model.log_scores(packed, mask, prior)
    assert torch.allclose(model.log_scores_at_end(packed, mask, prior), every[torch.arange(3), lengths], atol=1e-5)


def test_pool_weights_find_the_correct_model():
    rng = torch.Generator().manual_seed(0)
    truth, noise = torch.randn(2, 4000, 8, generator=rng)
    targets = torch.distributions.Categorical(logits=0.7 * truth).sample()
    scores, impossible = torch.stack([noise, truth, torch.zeros_like(noise)]), torch.zeros(4000, 8, dtype=torch.bool)
    weights, entropy = fit_pool_weights(scores, impossible, targets)
    assert weights.tolist() == pytest.approx([0.0, 0.7, 0.0], abs=0.08)
    assert fit_pool_weights(torch.stack([-truth, truth, noise]), impossible, targets)[0][0] >= 0
    assert entropy < torch.nn.functional.cross_entropy(truth, targets)


@pytest.fixture
def pool() -> RewardEnsemble:
    members = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = ClickPurchaseModel(ClickPurchaseConfig(ITEMS, catalogue_hash(IDS), hidden_size=8, window=4))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.5)
        members.append(model.eval())
    linear = LinearNextItem.from_weights(LinearFit(histories(), ITEMS).solve(5.0))
    linear.pool_weights.copy_(torch.tensor([0.8, 0.6, -0.1]))
    return RewardEnsemble(members, 1.0, linear).eval()


def test_the_pool_is_a_product_of_powers(pool):
    history = np.array([2, 3, 4])
    members = torch.stack([member.predict([history]).log_click[0] for member in pool.members]).mean(0)
    linear = torch.from_numpy(scores_after(pool.linear, history)[3])
    product = 0.8 * members + 0.6 * linear - 0.1 * pool.linear.share.log()
    product[[2, 3, 4]] = -torch.inf
    assert torch.allclose(pool.predict([history]).log_click[0], product.log_softmax(0), atol=1e-5)


def test_the_lower_bound_uses_the_members_at_their_power(pool):
    history = [np.array([2, 3, 4])]
    pooled = pool.predict(history)
    rewards = [0.8 * m.predict(history).log_click + m.predict(history).purchase.sigmoid().log() for m in pool.members]
    plain = pooled.log_click + pooled.purchase.sigmoid().log()
    expected = plain - torch.stack(rewards).std(0, correction=0)
    unseen = ~pooled.seen
    assert torch.allclose(pool.log_rewards(history)[unseen], expected[unseen], atol=1e-5)


@pytest.mark.parametrize("long", [[0, 9, 5, 1, 7, 2, 8], [9, 1, 9, 1, 7, 2, 1]])  # three before the window of four
def test_packed_and_single_agree(pool, long):
    long = np.array(long)
    before = torch.from_numpy(np.bincount(long[:3], minlength=ITEMS))[None]
    packed = pool.log_rewards_packed(torch.from_numpy(long[None, 3:]), clicks_before=before)
    assert torch.allclose(packed[0, -1], pool.log_rewards([long])[0], atol=1e-5)
    both = pool.log_rewards([long, np.array([4])])  # padding changes nothing
    assert torch.allclose(both[1], pool.log_rewards([np.array([4])])[0], atol=1e-5)
    assert pool.log_rewards([np.array([], dtype=np.int64)]).isfinite().all()


def test_save_and_load(pool, tmp_path):
    pool.save_pretrained(tmp_path)
    again = load_reward_model(tmp_path, IDS)
    assert torch.equal(again.linear.pool_weights, pool.linear.pool_weights)
    assert torch.equal(again.log_rewards([np.array([1, 5])]), pool.log_rewards([np.array([1, 5])]))


def test_files_of_earlier_versions_load(pool, tmp_path):
    pool.save_pretrained(tmp_path)
    path = tmp_path / "linear.safetensors"
    former = {today: name for name, today in FORMER_NAMES.items()}
    save_file({former.get(name, name): tensor for name, tensor in load_file(path).items()}, path)
    again = load_reward_model(tmp_path, IDS)
    assert torch.equal(again.log_rewards([np.array([1, 5])]), pool.log_rewards([np.array([1, 5])]))
