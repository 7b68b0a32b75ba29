"""The arms of `benchmarks/controls.py`: ways to spend the same CPU time after SFT, or the total time from the start.

An arm is a function of a start and a budget that returns a trained arm. Most start from the SFT adapter. They learn
from the training windows of PPO in batches of 8, with AdamW and a weight average. The docstring of an arm says where it
departs from that. Justifications are trained only by `sft_continued` and `sft_ema`.
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from benchmarks.budget import WARMUP, Budget, Trained, fit, gradient_step
from benchmarks.research.sdpo import sdpo_loss
from llmrec.data.dataset import InteractionData, Targets, load_data
from llmrec.data.decision import Decision, Decisions
from llmrec.data.seen_mask import seen_mask
from llmrec.evaluation.optimum import item_rewards, optimum_log_probs
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import PackedBatch, decision_log_probs, pack, taken_log_probs, target_log_probs
from llmrec.ppo.advantages import exact_item_advantages
from llmrec.ppo.kl import categorical_kl
from llmrec.ppo.losses import distillation_loss, exact_item_loss
from llmrec.ppo.stage import training_arguments, training_decisions
from llmrec.ppo.trainer import RecPPOTrainer
from llmrec.recommenders.sasrec import Encoder
from llmrec.reward.composite import CompositeReward
from llmrec.run import Run
from llmrec.selection.validation import all_item_scores
from llmrec.sft.trainer import sft_losses
from llmrec.sft.windows import training_windows

BATCH_SIZE = 8  # windows of an optimizer step, as in the mini-batches of PPO
DECAY = 0.9934  # of the weight average: 0.9 for the 16 steps of an update of PPO
GENERATIONS = 16  # rollouts of a prompt in GRPO
GRPO_KL = 1e-3  # KL coefficient of MiniOneRec (arXiv:2510.24431)
NEGATIVES = 15  # of a decision in S-DPO
LAMBDA = 1.0  # weight of the soft labels
STUDENT_WIDTH = 64  # of the SASRec that the pool is distilled into
STUDENT_BATCH = 32  # windows
MEASURED_STEPS = 4  # SFT steps whose CPU time is measured

Loss = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Start:
    """What all arms of a seed start from.

    Attributes:
        run: a run in which `sft` and `reward` have finished.
        data: its log.
    """

    run: Run
    data: InteractionData

    @classmethod
    def of(cls, run: Run) -> "Start":
        """The start of a run."""
        return cls(run, load_data(run.path("data")))

    def policy(self) -> RecPolicy:
        """The SFT policy with an RL adapter to train, without dropout."""
        policy = RecPolicy.from_pretrained(self.run.path("sft", "adapter"))
        policy.add_rl_adapter()
        return policy.eval()

    def reward(self, conversion_weight: float | None = None) -> CompositeReward:
        """The reward that PPO maximizes, or the same with another weight of purchases."""
        config = self.run.config.reward
        if conversion_weight is not None:
            config = config.model_copy(update={"conversion_weight": conversion_weight})
        policy = RecPolicy.from_pretrained(self.run.path("sft", "adapter"))
        return CompositeReward.from_pretrained(self.run.path("reward"), self.data, policy.facts, config)

    def batches(self) -> Iterator[Decisions]:
        """Endless batches of PPO's training windows in random order."""
        windows = training_decisions(self.data, self.run.config)
        rng = np.random.default_rng((self.run.config.seed, 21))
        while True:
            for chosen in np.array_split(rng.permutation(len(windows)), max(1, len(windows) // BATCH_SIZE)):
                yield windows.select(chosen)

    def cut_batches(self) -> Iterator[Decisions]:
        """Endless batches of windows whose cuts are random and whose targets are training items."""
        config = self.run.config
        width = config.catalogue.max_history
        rng = np.random.default_rng((config.seed, 22))
        lengths = self.data.train_lengths.tolist()
        while True:
            shifts = rng.integers(1, width + 1, len(lengths)).tolist()
            stops = [
                (user, stop)
                for user, (length, shift) in enumerate(zip(lengths, shifts, strict=True))
                for stop in range(length - min(shift, max(1, length - 1)), 0, -width)
            ]
            users, positions = np.array(stops, dtype=np.int64).T
            windows = Decisions.from_targets(self.data, Targets(users, positions), config.catalogue)
            for chosen in np.array_split(rng.permutation(len(windows)), max(1, len(windows) // BATCH_SIZE)):
                yield windows.select(chosen)


@dataclass(frozen=True)
class Scored:
    """All item decisions of a batch of windows, over the trie's columns.

    Attributes:
        policy: log-probabilities under the policy that learns, [R, C].
        reference: log-probabilities under the SFT policy, [R, C].
        rewards: rewards of the items, [R, C].
        last: the row of each window's last decision, int64 [B].
    """

    policy: torch.Tensor
    reference: torch.Tensor
    rewards: torch.Tensor
    last: torch.Tensor


def scored(start: Start, policy: RecPolicy, reward: CompositeReward, decisions: Decisions) -> Scored:
    """Scores all item decisions of a batch."""
    temperature = start.run.config.ppo.temperature
    batch = pack(policy, decisions)
    new = decision_log_probs(policy, batch, policy(*batch.inputs()), temperature)
    with torch.no_grad(), policy.reference():
        reference = decision_log_probs(policy, batch, policy(*batch.inputs()), temperature)
    with torch.no_grad():
        rewards = torch.cat(reward.item_rewards_per_prefix(decisions))[:, policy.vocabulary.trie.order]
    last = torch.tensor([len(rows) for rows in new]).cumsum(0) - 1
    return Scored(policy=torch.cat(new), reference=torch.cat(reference), rewards=rewards, last=last)


def advantages(start: Start, at: Scored) -> torch.Tensor:
    """Exact advantages under the policy that learns, without gradient, [R, C]."""
    section = start.run.config.ppo
    return exact_item_advantages(
        at.rewards, at.policy.detach(), at.reference, section.item_kl_coef, section.item_entropy_coef
    )


def fit_policy(policy: RecPolicy, loss: Loss, budget: Budget, decay: float = DECAY) -> Trained:
    """Trains a policy on the losses of batches."""
    return fit(policy, partial(all_item_scores, policy), gradient_step(policy, loss, budget), budget, decay)


# -- without training --


def sft(start: Start, budget: Budget) -> Trained:
    """The SFT policy."""
    scores = partial(all_item_scores, start.policy())
    return Trained(scores, [budget.validate(scores)])


def pool(start: Start, budget: Budget) -> Trained:
    """SFT and reward pooled at inference: the optimum of PPO's item objective."""
    policy = start.policy()
    reward = start.reward()
    section = start.run.config.ppo

    def scores(decisions: Decisions) -> torch.Tensor:
        log_probs = (all_item_scores(policy, decisions) / section.temperature).log_softmax(-1)
        rewards = item_rewards(reward, decisions)
        return optimum_log_probs(log_probs, rewards, section.item_kl_coef, section.item_entropy_coef)

    return Trained(scores, [budget.validate(scores)])


# -- supervision --


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
            rows = training_windows(policy, start.data, config.catalogue.user_attributes, section, seed)
            yield from rows.iter(section.per_device_train_batch_size)

    queue = windows()

    def loss() -> torch.Tensor:
        rows = next(queue)
        decisions = [Decision(*row) for row in zip(rows["profile"], rows["prior"], rows["items"], strict=True)]
        batch = pack(policy, decisions, rows["completions"])
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


# -- the reward of PPO --


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

    The teacher scores every training window once. Its time counts; what is left trains the student, forward KL.
    """
    began = time.process_time()
    windows, labels = pool_labels(start)
    spent = time.process_time() - began
    policy = start.policy()
    order = policy.vocabulary.trie.order
    width = start.run.config.catalogue.max_history
    torch.manual_seed(start.run.config.seed)
    student = Encoder(start.data.num_items, STUDENT_WIDTH, num_layers=2, dropout=0.2, window=width)
    rng = np.random.default_rng(start.run.config.seed)

    def loss() -> torch.Tensor:
        chosen = rng.permutation(len(windows))[:STUDENT_BATCH].tolist()
        shown = [torch.as_tensor(np.asarray(windows[row].items)) for row in chosen]
        items = pad_sequence(shown, batch_first=True)
        real = torch.arange(items.shape[1]) < torch.tensor([len(of_one) for of_one in shown])[:, None]
        student.train()
        logits = student.logits(student(items)[real])[:, order]
        teacher = torch.cat([labels[row] for row in chosen]).float()
        log_probs = logits.masked_fill(teacher.isneginf(), -torch.inf).log_softmax(1)
        return categorical_kl(teacher, log_probs).mean()

    def scores(decisions: Decisions) -> torch.Tensor:
        student.eval()
        with torch.no_grad():
            parts = [student_logits(student, part) for part in decisions.batches(32)]
        seen = torch.from_numpy(seen_mask(decisions.histories, start.data.num_items))
        return torch.cat(parts).masked_fill(seen, -torch.inf)

    left = budget.longer(sft_seconds(start) - spent)
    trained = fit(student, scores, gradient_step(student, loss, left, WARMUP), left, DECAY)
    return Trained(trained.scores, trained.validation, trained.steps, {"teacher_seconds": spent})


@torch.no_grad()
def pool_labels(start: Start) -> tuple[Decisions, list[torch.Tensor]]:
    """PPO's training windows, and the pool's log-probabilities at their decisions, float16 [J, C] each."""
    policy = start.policy()
    reward = start.reward()
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


# -- the reward of MiniOneRec --


def grpo(start: Start, budget: Budget, beam: bool) -> Trained:
    """GRPO with 16 rollouts of the next item at the last prefix, standardized within the group; exact KL of 0.001.

    An item is one token, so 16 rollouts cost no more than one. Rollouts have no text, which favors this arm.

    Args:
        start: the start.
        budget: the budget.
        beam: False: sampled items, reward 1 for the taken item, else 0. True: the 16 most probable items (a beam
            search over single tokens), with the rank penalty of ReRe (arXiv:2510.12211) on top: in a group with the
            taken item, each other item loses a share of 1 that falls with its rank by 1 / log2(rank + 1).
    """
    policy = start.policy()
    queue = start.cut_batches()
    generator = torch.Generator().manual_seed(start.run.config.seed)
    equal_groups: list[float] = []

    def loss() -> torch.Tensor:
        decisions = next(queue)
        batch = pack(policy, decisions)
        log_probs = last_log_probs(policy, batch)
        with torch.no_grad(), policy.reference():
            reference = last_log_probs(policy, batch)
        items = drawn(log_probs.detach(), generator, beam)
        target = policy.vocabulary.trie.rank[torch.from_numpy(decisions.targets)]
        rewards = group_rewards(items == target[:, None], beam)
        gains = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
        equal_groups.append(float((rewards.amax(1) == rewards.amin(1)).float().mean()))
        divergence = categorical_kl(log_probs, reference).mean()
        return -(gains * log_probs.gather(1, items)).mean() + GRPO_KL * divergence

    trained = fit_policy(policy, loss, budget)
    notes = {"groups_without_advantage": float(np.mean(equal_groups))}
    return Trained(trained.scores, trained.validation, trained.steps, notes)


def drawn(log_probs: torch.Tensor, generator: torch.Generator, beam: bool) -> torch.Tensor:
    """The 16 columns of each group: sampled, or the most probable ones in order; int64 [B, 16]."""
    if beam:
        return log_probs.topk(min(GENERATIONS, log_probs.shape[1])).indices
    return torch.multinomial(log_probs.exp(), GENERATIONS, replacement=True, generator=generator)


def group_rewards(hits: torch.Tensor, ranked: bool) -> torch.Tensor:
    """Rewards of groups of items.

    Args:
        hits: whether each item is the taken one, bool [B, G].
        ranked: whether groups with a hit get ReRe's rank penalty; the items are then in the order of their rank.

    Returns:
        float [B, G].
    """
    rewards = hits.float()
    if not ranked:
        return rewards
    penalty = 1 / torch.log2(torch.arange(hits.shape[1]) + 2.0)
    penalty = (penalty / penalty.sum()).expand_as(rewards)
    return rewards - penalty * (~hits & hits.any(1, keepdim=True))


def last_log_probs(policy: RecPolicy, batch: PackedBatch) -> torch.Tensor:
    """Log-probabilities of all columns at the prompts' ends, [B, C]."""
    rows = decision_log_probs(policy, batch, policy(*batch.inputs()), 1.0)
    return torch.stack([of_prompt[-1] for of_prompt in rows])


@dataclass(frozen=True)
class Arm:
    """An entry of the table.

    Attributes:
        train: the function.
        rates: learning rates to choose from on validation.
        purchases: whether validation counts purchased targets alone.
        total_time: whether the arm also gets the time of SFT, which it does not start from.
    """

    train: Callable[[Start, Budget], Trained]
    rates: tuple[float, ...] = (1e-3, 3e-4)
    purchases: bool = False
    total_time: bool = False


NO_RATE = (0.0,)
ARMS = {
    "sft": Arm(sft, NO_RATE),
    "pool": Arm(pool, NO_RATE),
    "exact_ppo": Arm(exact_ppo),
    "distill_reverse": Arm(partial(distill, forward=False)),
    "distill_forward": Arm(partial(distill, forward=True)),
    "sft_continued": Arm(sft_continued),
    "sft_ema": Arm(partial(sft_continued, decay=DECAY)),
    "sdpo": Arm(sdpo, (1e-3, 3e-4, 1e-4)),
    "grpo16": Arm(partial(grpo, beam=False), (1e-3, 3e-4, 1e-4, 1e-5)),
    "grpo16_rank": Arm(partial(grpo, beam=True), (1e-3, 3e-4, 1e-4, 1e-5)),
    "every_prefix_one_action": Arm(partial(policy_gradient, every_prefix=True, every_action=False)),
    "last_prefix_every_action": Arm(partial(policy_gradient, every_prefix=False, every_action=True)),
    "last_prefix_one_action": Arm(partial(policy_gradient, every_prefix=False, every_action=False)),
    "sft_purchases": Arm(sft_purchases, purchases=True),
    "conversion_0": Arm(partial(distill, forward=False, conversion_weight=0.0), purchases=True),
    "conversion_0.5": Arm(partial(distill, forward=False, conversion_weight=0.5), purchases=True),
    "conversion_1": Arm(partial(distill, forward=False, conversion_weight=1.0), purchases=True),
    "pool_to_sasrec": Arm(pool_to_sasrec, total_time=True),
    "soft_label_sft": Arm(soft_label_sft, total_time=True),
}
