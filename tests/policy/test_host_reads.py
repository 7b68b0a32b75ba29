"""Decoding never waits for an accelerator: counted on the CPU, and refused by tensors without values."""

import numpy as np
import pytest
import torch

from llmrec.data.decision import Decision
from llmrec.policy.generate import CHECK_EVERY, generate
from llmrec.policy.packing import pack
from tests.fakes.devices import FAKE_GPU, HostReads, fake_gpu, on_gpu

PADDED = [Decision("42", [], [0, 1, 2]), Decision("new user", [3, 4], [5, 6, 7, 8]), Decision("20", [], [9])]
OF_ONE_LENGTH = [Decision("42", [], [0]), Decision("20", [], [9])]


def without_end(policy) -> None:
    """Forbids the end token, so that every completion has the full length."""
    classes = policy.decoder._class_columns
    classes[:, policy.decoder.tokens == policy.prompts.end] = 0.0


@pytest.mark.parametrize("windows", [PADDED, OF_ONE_LENGTH], ids=["padded", "of one length"])
def test_sampling_reads_once_in_a_few_tokens(policy, windows):
    without_end(policy)
    reads = []
    for looks in (3, 8):
        length = looks * CHECK_EVERY + 1
        uniforms = torch.from_numpy(np.random.default_rng(0).random((2 * len(windows), length)))
        with HostReads() as counted:
            completions = generate(policy, pack(policy, windows), length, uniforms, num_generations=2)
        assert completions.mask.all()
        reads.append(counted.counts)
    few, many = reads
    assert many - few == {"nonzero": 5}
    assert few["nonzero"] == 3 and few.total() < 10


def test_scoring_reads_nothing_for_a_token(policy):
    windows = PADDED[:2]
    sentence = policy.prompts.words(" Drama")
    reads = []
    for repeats in (1, 6):
        completion = [*policy.vocabulary.sequences[9], *repeats * sentence]
        batch = pack(policy, windows, [[completion], [completion]])
        hidden = torch.zeros(*batch.tokens.shape, policy.hidden_size)
        with HostReads() as counted:
            batch.score(policy, hidden)
        reads.append(counted.counts)
    assert reads[0] == reads[1] and reads[0].total() < 5


def test_decoding_and_scoring_stay_on_the_gpu(policy):
    completions = [[[*policy.vocabulary.sequences[5], policy.prompts.stop, policy.prompts.end]], [], []]
    batch = pack(policy, PADDED, completions)
    start = batch.start(policy)  # reads once, to find users who have seen everything
    with fake_gpu():
        on_gpu(policy)
        state, batch = on_gpu(start), on_gpu(batch)
        uniforms = torch.empty(len(PADDED), dtype=torch.float64, device=FAKE_GPU)
        for _ in range(policy.vocabulary.longest + 3):
            hidden = torch.empty(len(PADDED), policy.hidden_size, device=FAKE_GPU)
            following = policy.distribution.next_token(hidden, state)
            token = following.pick(uniforms)
            state = policy.decoder.advance(state, token)
            for value in (following.pick(None), following.gather(token), following.entropy(), state.region):
                assert value.device.type == FAKE_GPU
        mask = torch.empty(batch.tokens.shape, dtype=torch.int64, device=FAKE_GPU)
        hidden = policy(batch.tokens, batch.positions, mask)
        states = batch.completion_states(hidden)
        scores = policy.distribution.score(states, batch.completion, on_gpu(start).select(batch.owner))
        assert {value.device.type for value in vars(scores).values()} == {FAKE_GPU}


def test_the_stand_ins_notice_what_they_are_for():
    real = torch.arange(3)
    with HostReads() as counted:
        real[real > 1], real.nonzero(), int(real.sum()), torch.repeat_interleave(real, real), real[real]
    assert counted.counts == {"index": 1, "nonzero": 1, "_local_scalar_dense": 1, "repeat_interleave": 1}
    with fake_gpu():
        there, here = torch.ones(3, device=FAKE_GPU), torch.ones(3)
        with pytest.raises(Exception, match="device"):
            there + here
        with pytest.raises(Exception, match="_local_scalar_dense"):
            there.sum().item()
        with pytest.raises(Exception, match="device"):
            there + real
