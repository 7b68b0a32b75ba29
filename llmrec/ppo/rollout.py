"""Rollouts: which prompts an update learns from, and the sampling of completions."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from trl.experimental.ppo import PPOConfig as TRLPPOConfig

from llmrec.data.decision import Decision, Decisions
from llmrec.policy.generate import Completions, generate
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import PackedBatch, pack
from llmrec.timing import timed


@dataclass(frozen=True)
class Rollout:
    """G sampled completions for each of B prompts; the episodes of a prompt are consecutive.

    Attributes:
        decisions: the prompts, [B].
        episodes: the prompt of each episode, [B*G].
        prompts: the prompts as tokens.
        sampled: the completions with their log-probabilities and hidden states.
        completions: token ids of each prompt's G completions.
    """

    decisions: list[Decision]
    episodes: list[Decision]
    prompts: PackedBatch
    sampled: Completions
    completions: list[list[list[int]]]


class RolloutSampler:
    """Samples this process's share of the episodes of an update.

    Prompts and random numbers are functions of the seed and the number of the update only. A resumed run therefore
    sees what an uninterrupted run would have seen, and results do not depend on the number of processes.

    Args:
        policy: the policy that samples.
        dataset: the prompts to learn from.
        args: seed, batch size, response length and temperature.
        num_generations: completions of each prompt, G.
        accelerator: this process's index and device.
    """

    def __init__(
        self,
        policy: RecPolicy,
        dataset: Decisions,
        args: TRLPPOConfig,
        num_generations: int,
        accelerator: Accelerator,
    ):
        self.policy = policy
        self.dataset = dataset
        self.args = args
        self.num_generations = num_generations
        self.accelerator = accelerator
        self.episodes = cast(int, args.batch_size)  # of all processes; TRL's constructor computes both numbers
        self.local_episodes = cast(int, args.local_batch_size)

    @timed("rollouts")
    def sample(self, update: int) -> Rollout:
        """Samples G completions of each prompt of an update."""
        decisions = self.decisions_of(update)
        prompts = pack(self.policy, decisions).to(self.accelerator.device)
        sampled = self.generate(prompts, update)
        flat = sampled.lists()
        group = self.num_generations
        return Rollout(
            decisions=decisions,
            episodes=[decision for decision in decisions for _ in range(group)],
            prompts=prompts,
            sampled=sampled,
            completions=[flat[start : start + group] for start in range(0, len(flat), group)],
        )

    def generate(self, prompts: PackedBatch, update: int) -> Completions:
        """Samples G completions of each packed prompt."""
        return generate(
            self.policy,
            prompts,
            max_new_tokens=self.args.response_length,
            uniforms=self.uniforms(update),
            num_generations=self.num_generations,
            temperature=self.args.temperature,
        )

    def positions(self, update: int) -> range:
        """Numbers of this process's prompts of an update, among the prompts of all updates and processes."""
        total = self.episodes // self.num_generations
        local = total // self.accelerator.num_processes
        first = (update - 1) * total + self.accelerator.process_index * local
        return range(first, first + local)

    def mini_batches(self, update: int) -> Iterator[np.ndarray]:
        """This process's prompts of every mini-batch of an update, as indices into `decisions_of`, epoch by epoch.

        Consecutive prompts go to different mini-batches, in random order. So each process has an equal part of every
        mini-batch, and a mini-batch has the same prompts for any number of processes.
        """
        parts = self.args.num_mini_batches
        blocks = self.episodes // self.num_generations // parts
        local = blocks // self.accelerator.num_processes
        first = self.accelerator.process_index * local
        order = np.random.default_rng((self.args.seed, update))
        for _ in range(self.args.num_ppo_epochs):
            drawn = order.random((blocks, parts)).argsort(1)[first : first + local]
            yield from (np.arange(local)[:, None] * parts + drawn).T

    def decisions_of(self, update: int) -> list[Decision]:
        """This process's prompts of an update, from seeded permutations of the dataset that follow each other."""
        rows = shuffled(self.positions(update), len(self.dataset), self.args.seed)
        return [self.dataset[row] for row in rows]

    def uniforms(self, update: int) -> torch.Tensor:
        """Random numbers in [0, 1) that choose this process's tokens, float64 [B*G, T].

        They are a slice of the numbers of all processes.
        """
        shape = (self.episodes, self.args.response_length)
        numbers = np.random.default_rng((self.args.seed, update, 7)).random(shape)
        start = self.accelerator.process_index * self.local_episodes
        return torch.from_numpy(numbers[start : start + self.local_episodes]).to(self.accelerator.device)


def shuffled(positions: Iterable[int], size: int, seed: int) -> list[int]:
    """Rows of a dataset at positions of seeded permutations that follow each other.

    Args:
        positions: positions from 0; each block of `size` positions holds every row once.
        size: number of rows.
        seed: seed of the permutations.
    """
    positions = list(positions)
    orders = {
        epoch: np.random.default_rng((seed, epoch)).permutation(size)
        for epoch in {position // size for position in positions}
    }
    return [int(orders[position // size][position % size]) for position in positions]
