"""The SFT losses follow the policy's mask and count every shown item."""

import pytest
import torch

from llmrec.config import SFTConfig
from llmrec.data.decision import Decision
from llmrec.language.grammar import ITEM
from llmrec.policy.packing import pack
from llmrec.sft.trainer import sft_losses
from llmrec.sft.windows import TrainingWindows


def test_every_target_token_is_allowed_by_the_mask(policy, data):
    rows = list(TrainingWindows(policy, data, ["age"], SFTConfig(num_train_epochs=4.0), seed=1))
    decisions = [Decision(row["profile"], row["prior"], row["items"]) for row in rows]
    batch = pack(policy, decisions, [row["completions"] for row in rows])
    with torch.no_grad():
        hidden = policy(*batch.inputs())
        item_loss, text_loss = sft_losses(policy, batch, hidden)
    assert item_loss.isfinite() and text_loss.isfinite()


def test_the_item_loss_is_the_mean_over_separate_prompts(policy):
    """Two shown items and one target are three decisions. Each is also scored in a prompt of its own."""
    history, end = [3, 5, 8], policy.prompts.end
    batch = pack(policy, [Decision("42", [], history[:2])], [[[*policy.vocabulary.sequences[8], end]]])
    with torch.no_grad():
        item_loss, text_loss = sft_losses(policy, batch, policy(*batch.inputs()))
        values = []
        for stop in range(3):
            completion = [*policy.vocabulary.sequences[history[stop]], end]
            alone = pack(policy, [Decision("42", [], history[:stop])], [[completion]])
            scores = alone.score(policy, policy(*alone.inputs()))
            values += scores.log_probs[scores.region == ITEM].tolist()
    assert item_loss.item() == pytest.approx(-sum(values) / len(values), abs=1e-4)
