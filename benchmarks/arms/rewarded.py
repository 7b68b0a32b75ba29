"""Arms that learn from the reward of PPO, and the pool of reward and SFT itself."""

import math
import tempfile
from functools import cache, partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from benchmarks.arms.start import BATCH_SIZE, DECAY, Start, advantages, fit_policy, scored
from benchmarks.arms.supervised import sft_seconds
from benchmarks.budget import WARMUP, Budget, Trained, fit, gradient_step
from llmrec.data.decision import Decisions
from llmrec.data.seen_mask import seen_mask
from llmrec.evaluation.optimum import optimum_log_probs
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import decision_log_probs, pack
from llmrec.policy.ranking import all_item_scores
from llmrec.ppo.kl import categorical_kl
from llmrec.ppo.losses import distillation_loss, exact_item_loss
from llmrec.ppo.stage import training_arguments, training_decisions
from llmrec.ppo.trainer import RecPPOTrainer
from llmrec.recommenders.sasrec import Encoder
from llmrec.reward.protocol import RewardFunction
from llmrec.run import Run

STUDENT_WIDTH = 64  # of the SASRec that the pool is distilled into
STUDENT_BATCH = 32  # windows


def pool(start: Start, budget: Budget) -> Trained:
    """SFT and reward pooled at inference: the optimum of PPO's item objective."""
    policy = start.policy()
    reward = start.reward()
    section = start.run.config.ppo

    def scores(decisions: Decisions) -> torch.Tensor:
        log_probs = (all_item_scores(policy, decisions) / section.temperature).log_softmax(-1)
        rewards = reward.newest_item_rewards(decisions)
        return optimum_log_probs(log_probs, rewards, section.item_kl_coef, section.item_entropy_coef)

    return Trained(scores, [budget.validate(scores)])


def exact_ppo(start: Start, budget: Budget) -> Trained:
    """`RecPPOTrainer` with exact item decisions, `text: off` and the config's other values. A step is an update."""
    config = start.run.config
    changes = {"text": "off", "item_loss": "clipped", "learning_rate": budget.learning_rate}
    section = config.ppo.model_copy(update=changes)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(config.model_copy(update={"ppo": section}), Path(folder))
        policy = start.policy()
        windows = training_decisions(start.data, config)
        trainer = RecPPOTrainer(training_arguments(run), section, policy, start.reward(), windows)
        updates = count(1)

        def step(share: float) -> None:
            for group in trainer.optimizer.param_groups:
                group["lr"] = budget.learning_rate * max(0.0, 1 - share)
            update = next(updates)
            experience, _ = trainer.collect(update)
            trainer.update(experience, update)

        return fit(policy, partial(all_item_scores, policy), step, budget, section.ema_decay)


def distill(start: Start, budget: Budget, forward: bool, conversion_weight: float | None = None) -> Trained:
    """Distillation of the pool at every decision: no rollout, ratio or clip, and every batch is used once."""
    policy = start.policy()
    reward = start.reward(conversion_weight)
    queue = start.batches()
    section = start.run.config.ppo
    weight = section.item_kl_coef + section.item_entropy_coef

    def loss() -> torch.Tensor:
        at = scored(start, policy, reward, next(queue))
        total, _ = distillation_loss(at.policy, at.policy.detach(), advantages(start, at), weight, forward)
        return total / len(at.policy)

    return fit_policy(policy, loss, budget)


def policy_gradient(start: Start, budget: Budget, every_prefix: bool, every_action: bool) -> Trained:
    """The on-policy gradient with exact advantages, at every or the last decision, over every or one sampled item.

    With both it is `distill_reverse`: the gradients are equal.
    """
    policy = start.policy()
    reward = start.reward()
    queue = start.batches()
    generator = torch.Generator().manual_seed(start.run.config.seed)

    def loss() -> torch.Tensor:
        at = scored(start, policy, reward, next(queue))
        rows = slice(None) if every_prefix else at.last
        log_probs = at.policy[rows]
        gains = advantages(start, at)[rows]
        if every_action:
            return exact_item_loss(log_probs, log_probs.detach(), gains, math.inf)[0] / len(log_probs)
        action = torch.multinomial(log_probs.detach().exp(), 1, generator=generator)
        return -(gains.gather(1, action) * log_probs.gather(1, action)).mean()

    return fit_policy(policy, loss, budget)


def pool_to_sasrec(start: Start, budget: Budget) -> Trained:
    """The pool distilled into a new SASRec of width 64, in SFT's and this time.

    The teacher scores every training window once, in the first step. Its time counts. The loss is the forward KL.
    """
    policy = start.policy()
    teacher = cache(partial(pool_labels, start, policy, start.reward()))
    order = policy.vocabulary.trie.order
    width = start.run.config.catalogue.max_history
    torch.manual_seed(start.run.config.seed)
    student = Encoder(start.data.num_items, STUDENT_WIDTH, num_layers=2, dropout=0.2, window=width)
    rng = np.random.default_rng(start.run.config.seed)

    def loss() -> torch.Tensor:
        windows, labels = teacher()
        chosen = rng.permutation(len(windows))[:STUDENT_BATCH].tolist()
        shown = [torch.as_tensor(np.asarray(windows[row].items)) for row in chosen]
        items = pad_sequence(shown, batch_first=True)
        real = torch.arange(items.shape[1]) < torch.tensor([len(of_one) for of_one in shown])[:, None]
        student.train()
        logits = student.logits(student(items)[real])[:, order]
        pooled = torch.cat([labels[row] for row in chosen]).float()
        log_probs = logits.masked_fill(pooled.isneginf(), -torch.inf).log_softmax(1)
        return categorical_kl(pooled, log_probs).mean()

    def scores(decisions: Decisions) -> torch.Tensor:
        student.eval()
        with torch.no_grad():
            parts = [student_logits(student, part) for part in decisions.batches(32)]
        seen = torch.from_numpy(seen_mask(decisions.histories, start.data.num_items))
        return torch.cat(parts).masked_fill(seen, -torch.inf)

    total = budget.longer(sft_seconds(start))
    return fit(student, scores, gradient_step(student, loss, total, WARMUP), total, DECAY)


@torch.no_grad()
def pool_labels(start: Start, policy: RecPolicy, reward: RewardFunction) -> tuple[Decisions, list[torch.Tensor]]:
    """PPO's training windows, and the pool's log-probabilities at their decisions, float16 [J, C] each."""
    section = start.run.config.ppo
    windows = training_decisions(start.data, start.run.config)
    labels: list[torch.Tensor] = []
    for part in windows.batches(BATCH_SIZE):
        batch = pack(policy, part)
        sft_rows = decision_log_probs(policy, batch, policy(*batch.inputs()), section.temperature)
        for log_probs, rewards in zip(sft_rows, reward.item_rewards_per_prefix(part), strict=True):
            of_columns = rewards[:, policy.vocabulary.trie.order]
            pooled = optimum_log_probs(log_probs, of_columns, section.item_kl_coef, section.item_entropy_coef)
            labels.append(pooled.half())
    return windows, labels


def student_logits(student: Encoder, decisions: Decisions) -> torch.Tensor:
    """Logits of all items after each shown history, [B, N]."""
    shown = [torch.as_tensor(np.asarray(decision.items)) for decision in decisions]
    states = student(pad_sequence(shown, batch_first=True))
    last = torch.tensor([len(items) for items in shown]) - 1
    return student.logits(states[torch.arange(len(shown)), last])
