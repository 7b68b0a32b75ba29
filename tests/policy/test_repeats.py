"""The mask of a policy that may recommend seen items."""

from dataclasses import replace

import torch

from llmrec.data.decision import Decision
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import decision_log_probs, pack
from llmrec.policy.ranking import item_scores
from llmrec.recommend import Recommender
from tests.conftest import disturb, make_config

HISTORY = [0, 1, 0, 2]


def test_seen_items_have_probability_and_repeats_are_choices(policy):
    decision = Decision("20", [4], HISTORY)
    kept = replace(decision, repeats=True, excluded=[5])
    batch = pack(policy, [decision, kept])
    width = [len(policy.vocabulary.sequences[item]) for item in HISTORY]
    of_kept = batch.row == 1
    # The first item of a window amid a history is no choice. The third repeats the first.
    assert set(batch.slot[~of_kept].tolist()) == {1, 3} and set(batch.slot[of_kept].tolist()) == {1, 2, 3}
    assert int(of_kept.sum()) == sum(width[1:])
    masked, all_items = (next(item_scores(policy, [one]))[0] for one in (decision, kept))
    assert not masked[[4, *HISTORY]].isfinite().any()
    assert not all_items[5].isfinite()
    if policy.vocabulary.trie.flat:
        others = [n for n in range(10) if n != 5]
        assert all_items[others].isfinite().all()
        torch.testing.assert_close(all_items[others].exp().sum(), torch.tensor(1.0))


def test_every_shown_position_masks_like_the_end(policy):
    """The distribution inside a packed history is that of the shorter prompt, which `exact` PPO relies on."""
    if not policy.vocabulary.trie.flat:
        return
    batch = pack(policy, [Decision("20", [], HISTORY, repeats=True)])
    with torch.no_grad():
        inside = decision_log_probs(policy, batch, policy(*batch.inputs()), 1.0)[0]
    for length in (1, 3):
        scores = next(item_scores(policy, [Decision("20", [], HISTORY[:length], repeats=True)]))[0]
        torch.testing.assert_close(inside[length - 1], scores[policy.vocabulary.trie.order], atol=1e-4, rtol=1e-4)


def test_a_saved_policy_knows_that_it_may_repeat(tiny_base, data, tmp_path):
    policy = RecPolicy.create(make_config(tiny_base), replace(data, repeats=True))
    disturb(policy)
    policy.save_pretrained(tmp_path / "adapter")
    recommender = Recommender.from_pretrained(tmp_path / "adapter")
    assert recommender.policy.repeats
    everything = list(range(10))
    found = recommender.recommend(history=everything, top_k=3, exclude=[0])
    assert len(found) == 3 and all(one.item_id != "i0" for one in found)
    assert not RecPolicy.create(make_config(tiny_base), data).repeats
