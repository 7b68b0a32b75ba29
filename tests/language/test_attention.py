"""Bases with attention windows shorter than their prompts: each token sees what it would see in a text of its own.

The reference is the model of transformers on one unpadded text at a time, which derives its windows itself.
"""

import logging
import random

import pytest
import torch

from llmrec.data.decision import Decision
from llmrec.language.templates import sample_justification
from llmrec.policy.generate import generate
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack
from llmrec.policy.ranking import item_scores
from llmrec.sft.trainer import sft_losses
from tests.conftest import disturb, make_config, make_data
from tests.families.bases import make_base
from tests.ppo.test_trainer import first_step, make_trainer

WINDOW = 6
BASES = {  # one type of layer, and two
    "mistral": {"sliding_window": WINDOW},
    "gemma3": {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
}
PROMPTS = [Decision("42", [], [0, 1, 2]), Decision("new user", [3, 4], [5, 6, 7, 8]), Decision("20", [], [9])]


@pytest.fixture(scope="module", params=BASES)
def base(request, tmp_path_factory) -> str:
    return make_base(request.param, tmp_path_factory.mktemp("base"), **BASES[request.param])


@pytest.fixture(params=["atomic", "title"])
def policy(request, base) -> RecPolicy:
    logging.disable()  # the tiny vocabularies cannot write every fact
    policy = RecPolicy.create(make_config(base, request.param), make_data())
    logging.disable(logging.NOTSET)
    disturb(policy, 0.1)
    return policy.eval()


def hidden_of_one_text(policy: RecPolicy, tokens: list[int]) -> torch.Tensor:
    """Hidden states [L, d] as transformers computes them from token ids, without cache, padding or branches."""
    output = policy.model(input_ids=torch.tensor([tokens]), output_hidden_states=True, use_cache=False)
    return output.hidden_states[-1][0]


def supervised(policy: RecPolicy, count: int) -> list[list[list[int]]]:
    """Items with true justifications, `count` for each of `PROMPTS`."""
    generator = random.Random(0)
    completions: list[list[list[int]]] = []
    for decision in PROMPTS:
        items = generator.sample(sorted(set(range(10)) - set(decision.prior) - set(decision.items)), count)
        texts = [sample_justification(policy.facts, item, list(decision.items), generator) for item in items]
        written = zip(items, map(policy.prompts.justification, texts), strict=True)
        completions.append([[*policy.vocabulary.sequences[i], *text, policy.prompts.end] for i, text in written])
    return completions


@torch.no_grad()
def test_the_window_is_shorter_than_the_prompts_and_matters(policy):
    tokens = policy.prompts.prompt("42", [0, 1, 2])
    assert len(tokens) > 2 * WINDOW
    inside = hidden_of_one_text(policy, tokens)
    policy.config.sliding_window = 4 * len(tokens)
    assert not torch.allclose(hidden_of_one_text(policy, tokens), inside, atol=1e-2)


@torch.no_grad()
def test_packed_branches_are_texts_of_their_own(policy):
    completions = supervised(policy, 3)
    batch = pack(policy, PROMPTS, completions)
    hidden = batch.completion_states(policy(*batch.inputs()))
    row = 0
    for decision, branches in zip(PROMPTS, completions, strict=True):
        prompt = policy.prompts.prompt(decision.profile, decision.items)
        for completion in branches:
            alone = hidden_of_one_text(policy, prompt + completion)[len(prompt) - 1 : -1]
            assert torch.allclose(hidden[row, : len(completion)], alone, atol=1e-5)
            row += 1


@torch.no_grad()
def test_cached_sampling_and_packed_scoring_are_one_distribution(policy):
    """The cache holds prompts of several lengths, so it holds padding."""
    generations = 2
    uniforms = torch.rand(3 * generations, 30, generator=torch.Generator().manual_seed(3))
    sampled = generate(policy, pack(policy, PROMPTS), 30, uniforms, generations)
    written = sampled.lists()
    by_prompt = [written[b * generations : (b + 1) * generations] for b in range(len(PROMPTS))]
    batch = pack(policy, PROMPTS, by_prompt)
    scores = batch.score(policy, policy(*batch.inputs()))
    assert torch.allclose(scores.log_probs, sampled.log_probs[:, : scores.log_probs.shape[1]], atol=1e-5)


@torch.no_grad()
def test_losses_of_sft_do_not_depend_on_the_batch(policy):
    completions = supervised(policy, 1)
    batch = pack(policy, PROMPTS, completions)
    together = batch.score(policy, policy(*batch.inputs())).log_probs
    for row, (decision, completion) in enumerate(zip(PROMPTS, completions, strict=True)):
        alone = pack(policy, [decision], [completion])
        scores = alone.score(policy, policy(*alone.inputs())).log_probs[0]
        assert torch.allclose(together[row, : len(scores)], scores, atol=1e-5)
    assert all(loss.isfinite() for loss in sft_losses(policy, batch, policy(*batch.inputs())))


@torch.no_grad()
def test_ranking_sums_over_tokens_are_those_of_whole_texts(policy):
    """The beam continues a cache; the score of an item is the probability of its tokens in a text of its own."""
    scores = next(item_scores(policy, PROMPTS[:1]))[0]
    for item in (4, 5, 9):
        batch = pack(policy, PROMPTS[:1], [[policy.vocabulary.sequences[item]]])
        log_probs = batch.score(policy, policy(*batch.inputs())).log_probs[0]
        assert torch.allclose(scores[item], log_probs.sum(), atol=1e-5)


@torch.no_grad()
def test_eager_attention_computes_the_same(policy, base):
    config = make_config(
        base, policy.catalogue.scheme, model={"base": base, "lora_r": 4, "lora_alpha": 8, "attention": "eager"}
    )
    logging.disable()
    eager = RecPolicy.create(config, make_data())
    logging.disable(logging.NOTSET)
    eager.load_state_dict(policy.state_dict())
    batch = pack(policy, PROMPTS, supervised(policy, 2))
    assert eager.config._attn_implementation == "eager" and policy.config._attn_implementation == "sdpa"
    hidden = policy(*batch.inputs())[batch.branch >= 0]
    assert torch.allclose(eager.eval()(*batch.inputs())[batch.branch >= 0], hidden, atol=1e-5)


def test_ppo_starts_at_ratio_one(base, tmp_path):
    logging.disable()
    trainer = make_trainer(base, make_data(), tmp_path, text="on", num_generations=2, response_length=30)
    logging.disable(logging.NOTSET)
    metrics = first_step(trainer)
    assert abs(metrics["objective/kl"]) < 1e-4
    assert metrics["val/ratio"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["policy/approxkl_avg"] < 1e-8
