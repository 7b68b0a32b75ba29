"""Sequential baselines train and score on one device."""

import numpy as np
import pytest
import torch

from llmrec.recommenders.gru4rec import GRU4Rec
from llmrec.recommenders.gsasrec import GSASRec
from llmrec.recommenders.sasrec import SASRec
from llmrec.recommenders.sequence import Batch
from tests.fakes.devices import FAKE_GPU, fake_gpu, on_gpu, tensors_of

KINDS = [SASRec, GRU4Rec, GSASRec]


@pytest.mark.parametrize("kind", KINDS)
def test_no_tensor_of_an_encoder_stays_behind(kind):
    found = tensors_of(kind(lambda scores: 0.0, hidden_size=8).make_encoder(10).to("meta"))
    assert len(found) > 4
    assert {path: value.device.type for path, value in found.items() if not value.is_meta} == {}


@pytest.mark.parametrize("kind", KINDS)
def test_states_logits_and_loss_are_on_the_device_of_the_encoder(kind):
    model = kind(lambda scores: 0.0, hidden_size=8)
    batch = Batch.of([np.arange(6), np.arange(4)], np.array([(0, 0, 6), (1, 1, 4)]), torch.device("cpu"))
    decisions = int(batch.is_decision.sum())
    with fake_gpu():
        encoder, there = on_gpu(model.make_encoder(10)), on_gpu(batch)
        states = encoder(there.inputs).flatten(0, 1)[:decisions]
        loss = model.loss(encoder, states, there)
        logits = encoder.logits(states)
    assert (loss.device.type, logits.device.type, logits.shape) == (FAKE_GPU, FAKE_GPU, (decisions, 10))
