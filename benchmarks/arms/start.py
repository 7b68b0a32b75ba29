"""What all arms of a seed start from, and the scores of item decisions that they learn from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from benchmarks.budget import Budget, Trained, fit, gradient_step
from llmrec.data.dataset import InteractionData, Targets, load_data
from llmrec.data.decision import Decisions
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import decision_log_probs, pack
from llmrec.policy.ranking import all_item_scores
from llmrec.ppo.advantages import exact_item_advantages
from llmrec.ppo.stage import training_decisions
from llmrec.reward.composite import CompositeReward
from llmrec.reward.protocol import RewardFunction
from llmrec.run import Run

BATCH_SIZE = 8  # windows of an optimizer step, as in the mini-batches of PPO
DECAY = 0.9934  # of the weight average: 0.9 for the 16 steps of an update of PPO

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


def scored(start: Start, policy: RecPolicy, reward: RewardFunction, decisions: Decisions) -> Scored:
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
