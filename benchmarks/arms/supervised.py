"""Arms that learn from logged items: more SFT, soft labels, purchases and S-DPO."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from benchmarks.arms.start import DECAY, Start, fit_policy
from benchmarks.budget import WARMUP, Budget, Trained, fit, gradient_step
from benchmarks.research.sdpo import sdpo_loss
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import decision_log_probs, pack, taken_log_probs, target_log_probs
from llmrec.policy.ranking import all_item_scores
from llmrec.ppo.kl import categorical_kl
from llmrec.sft.trainer import sft_losses
from llmrec.sft.windows import TrainingWindows, decision_of

NEGATIVES = 15  # of a decision in S-DPO
LAMBDA = 1.0  # weight of the soft labels
MEASURED_STEPS = 4  # SFT steps whose CPU time is measured

Loss = Callable[[], torch.Tensor]


def sft(start: Start, budget: Budget) -> Trained:
    """The SFT policy."""
    scores = partial(all_item_scores, start.policy())
    return Trained(scores, [budget.validate(scores)])


def sft_continued(start: Start, budget: Budget, decay: float = 0.0) -> Trained:
    """More SFT, with the same dropout, on new windows and justifications."""
    policy = start.policy()
    loss = sft_loss(start, policy)
    return fit_policy(policy, loss, budget, decay)


def sft_loss(start: Start, policy: RecPolicy) -> Loss:
    """The loss of SFT on endless new windows."""
    config = start.run.config
    section = config.sft.model_copy(update={"num_train_epochs": 1.0})

    def windows() -> Iterator[Any]:
        for epoch in count(1):
            seed = config.seed + 1000 * epoch  # SFT itself has drawn the windows of `seed`
            rows = TrainingWindows(policy, start.data, config.catalogue.user_attributes, section, seed)
            for first in range(0, len(rows), section.batch_size):
                yield [rows[number] for number in range(first, first + section.batch_size)]

    queue = windows()

    def loss() -> torch.Tensor:
        rows = next(queue)
        batch = pack(policy, [decision_of(row) for row in rows], [row["completions"] for row in rows])
        policy.train()
        items, text = sft_losses(policy, batch, policy(*batch.inputs(), section.dropout))
        return items + section.text_weight * text

    return loss


def sft_seconds(start: Start) -> float:
    """CPU seconds of the SFT stage, from the time of some of its steps."""
    policy = start.policy()
    loss = sft_loss(start, policy)
    loss().backward()  # the first step also draws the windows
    began = time.process_time()
    for _ in range(MEASURED_STEPS):
        loss().backward()
    return (time.process_time() - began) / MEASURED_STEPS * start.run.metrics("sft")["steps"]


def soft_label_sft(start: Start, budget: Budget) -> Trained:
    """From the base: cross-entropy of the taken items plus KL(reward's distribution || policy), in SFT's and this time.

    It trains items alone, on windows with random cuts, and its learning rate rises over the first 5 % of the time.
    """
    torch.manual_seed(start.run.config.seed)
    policy = RecPolicy.create(start.run.config, start.data)
    reward = start.reward()
    queue = start.cut_batches()
    dropout = start.run.config.sft.dropout

    def loss() -> torch.Tensor:
        decisions = next(queue)
        batch = pack(policy, decisions)
        policy.train()
        per_prompt = decision_log_probs(policy, batch, policy(*batch.inputs(), dropout), 1.0)
        log_probs = torch.cat(per_prompt)
        taken = [taken_log_probs(policy, *pair) for pair in zip(per_prompt, batch.items, strict=True)]
        with torch.no_grad():
            rewards = torch.cat(reward.item_rewards_per_prefix(decisions))[:, policy.vocabulary.trie.order]
        labels = rewards.masked_fill(log_probs.isneginf(), -torch.inf).log_softmax(1)
        return -torch.cat(taken).mean() + LAMBDA * categorical_kl(labels, log_probs).mean()

    total = budget.longer(sft_seconds(start))
    step = gradient_step(policy, loss, total, WARMUP)
    return fit(policy, partial(all_item_scores, policy), step, total, DECAY)


def sft_purchases(start: Start, budget: Budget) -> Trained:
    """Supervision by purchases: the cross-entropy of shown items that the user purchased; the others are context."""
    policy = start.policy()
    queue = start.batches()

    def loss() -> torch.Tensor:
        decisions = next(queue)
        batch = pack(policy, decisions)
        bought = [torch.tensor(row.known_purchases[len(row.prior) :]) for row in decisions]
        weights = pad_sequence(bought, batch_first=True)[batch.row, batch.slot].float()
        likelihood = target_log_probs(policy, batch, policy(*batch.inputs()))
        return -(weights * likelihood).sum() / weights.sum().clamp(min=1)

    return fit_policy(policy, loss, budget)


def sdpo(start: Start, budget: Budget) -> Trained:
    """S-DPO with beta 1 and 15 negatives, which are drawn in proportion to their training clicks."""
    policy = start.policy()
    queue = start.batches()
    clicks = np.bincount(np.concatenate(start.data.train_histories), minlength=start.data.num_items)
    popularity = torch.from_numpy(clicks + 1.0).float()[policy.vocabulary.trie.order]
    generator = torch.Generator().manual_seed(start.run.config.seed)
    return fit_policy(
        policy,
        lambda: sdpo_loss(policy, pack(policy, next(queue)), 1.0, NEGATIVES, generator, popularity),
        budget,
    )
