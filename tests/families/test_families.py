"""Every family of base models: prompts, justifications, one step of SFT, one update of PPO, and recommending."""

import logging
import random

import pytest
import torch

from llmrec.catalogue.facts import Fact
from llmrec.config import SFTConfig
from llmrec.data.decision import Decision
from llmrec.language.groundedness import check
from llmrec.language.templates import sample_justification
from llmrec.policy.generate import generate, parse
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack
from llmrec.policy.ranking import item_scores
from llmrec.recommend import Recommender
from llmrec.sft.check import check_completions
from llmrec.sft.trainer import sft_losses
from llmrec.sft.windows import TrainingWindows
from tests.conftest import disturb, make_config, make_data
from tests.families.bases import FAMILIES, make_base
from tests.ppo.test_trainer import make_trainer

HISTORY = [3, 5, 8]


@pytest.fixture(scope="module", params=FAMILIES)
def base(request, tmp_path_factory) -> str:
    return make_base(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def policy(base) -> RecPolicy:
    logging.disable()  # the tiny vocabularies cannot write every fact
    policy = RecPolicy.create(make_config(base), make_data())
    logging.disable(logging.NOTSET)
    disturb(policy, 0.05)
    return policy.eval()


def test_what_is_written_is_read_back(policy):
    generator = random.Random(0)
    assert len(policy.facts.facts) >= 5
    for item in range(10):
        history = generator.sample([other for other in range(10) if other != item], 4)
        segments = sample_justification(policy.facts, item, history, generator, people=0.5)
        tokens = [*policy.vocabulary.sequences[item], *policy.prompts.justification(segments), policy.prompts.end]
        read = policy.prompts.parse(tokens)
        titles = policy.vocabulary.titles
        parts = [s.words if isinstance(s, Fact) else f' "{titles[s]}"' if isinstance(s, int) else s for s in segments]
        assert read.text(titles) == "".join(parts).strip()
        assert check(policy.facts, read, set(history)).grounded


def test_a_step_of_sft(policy):
    """The mask allows every target, gradients reach the items, and no router of experts is trained."""
    data = make_data()
    rows = TrainingWindows(policy, data, ["age"], SFTConfig(num_train_epochs=2.0, per_device_train_batch_size=4), 0)
    check_completions(policy, rows)
    some = [rows[index] for index in range(4)]
    decisions = [Decision(row["profile"], row["prior"], row["items"]) for row in some]
    batch = pack(policy, decisions, [row["completions"] for row in some])
    losses = sft_losses(policy, batch, policy(*batch.inputs()))
    torch.stack(losses).sum().backward()
    trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    assert all(loss.isfinite() for loss in losses)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.values())
    assert any("trainable_tokens" in name and p.grad.abs().sum() > 0 for name, p in trained.items())
    assert not [name for name in trained if "experts" in name or ".gate." in name]
    policy.zero_grad()


def test_recommending_and_loading(policy, tmp_path):
    assert len(Recommender(policy, 40).recommend(HISTORY, top_k=3)) == 3
    uniforms = torch.rand(8, 40, generator=torch.Generator().manual_seed(0))
    written = generate(policy, pack(policy, [Decision("31", [], HISTORY)]), 40, uniforms, num_generations=8)
    for recommendation in parse(policy, written):
        outcome = check(policy.facts, recommendation, set(HISTORY))
        broken_off = 0 if recommendation.finished else 1  # the last statement of a truncated text
        assert outcome.statements - outcome.true <= broken_off and recommendation.item not in HISTORY
    policy.save_pretrained(tmp_path / "adapter")
    loaded = RecPolicy.from_pretrained(tmp_path / "adapter").eval()
    decisions = [Decision("31", [], HISTORY)]
    assert loaded.prompts.header.frame == policy.prompts.header.frame
    with torch.inference_mode():
        assert torch.allclose(next(item_scores(loaded, decisions)), next(item_scores(policy, decisions)), atol=1e-5)


def test_a_merged_model_computes_the_same(base):
    """The path over embeddings and some tokens agrees with the forward pass of transformers, biases and scales too."""
    logging.disable()
    policy = RecPolicy.create(make_config(base), make_data())
    logging.disable(logging.NOTSET)
    disturb(policy, 0.05)
    policy.eval()
    tokens = torch.tensor([policy.prompts.prompt("31", HISTORY)])
    some = torch.tensor(sorted({*policy.decoder.tokens.tolist(), *policy.vocabulary.new_tokens}))
    with torch.inference_mode():
        ours = policy.logits(policy(tokens, torch.arange(tokens.shape[1])[None], torch.ones_like(tokens))[0], some)
        theirs = policy.model(input_ids=tokens).logits[0][:, some]
        merged = policy.model.merge_and_unload()(input_ids=tokens).logits[0][:, some]
    assert torch.allclose(ours, theirs, atol=1e-3)
    assert torch.allclose(ours, merged, atol=1e-3)


def test_an_update_of_ppo(base, tmp_path):
    logging.disable()
    trainer = make_trainer(base, make_data(), tmp_path, text="on", batch_size=4, response_length=30)
    logging.disable(logging.NOTSET)
    trainer._begin()
    experience, metrics = trainer.collect(1)
    metrics |= trainer.update(experience, 1)
    assert abs(metrics["objective/kl"]) < 1e-3
    assert metrics["val/ratio"] == pytest.approx(1.0, abs=1e-3)
