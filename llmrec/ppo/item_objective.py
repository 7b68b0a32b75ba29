"""Interface of the two item objectives, exact and sampled, and the function that selects one.

Under `ppo.advantage: exact`, items are learned from the probabilities and rewards of the whole catalogue
(`items_exact`). Under the other estimators, items are learned from sampled tokens, as text is (`items_sampled`).
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from trl.experimental.ppo import PPOConfig as TRLPPOConfig

from llmrec.config import PPOConfig
from llmrec.data.decision import Decision
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import PackedBatch
from llmrec.ppo.advantages import Estimate, Sum, Trajectories, sampled_estimator
from llmrec.ppo.experience import Counts, EpisodeRewards, Experience, ItemExperience
from llmrec.ppo.items_exact import ExactItems
from llmrec.ppo.items_sampled import SampledItems
from llmrec.ppo.network import NetworkOutput
from llmrec.reward.protocol import RewardFunction


class ItemObjective(Protocol):
    """What item decisions contribute to token rewards, experience, loss and metrics."""

    @property
    def needs_item_distributions(self) -> bool:
        """Whether the network must return log-probabilities of the whole catalogue after each shown item."""
        ...

    @property
    def kl_metric(self) -> str:
        """The metric that the adaptive KL coefficient follows."""
        ...

    def value_mask(self, mask: torch.Tensor, item_mask: torch.Tensor) -> torch.Tensor:
        """Tokens that are learned from samples; the critic learns their values. All are bool [B*G, T].

        Args:
            mask: real tokens.
            item_mask: tokens of the recommended item.
        """
        ...

    def token_rewards(
        self, rewards: EpisodeRewards, kl_penalty: torch.Tensor, mask: torch.Tensor, item_mask: torch.Tensor
    ) -> torch.Tensor:
        """The reward that follows each sampled token, [B*G, T].

        Args:
            rewards: rewards of the episodes.
            kl_penalty: KL penalty of each token, [B*G, T].
            mask: real tokens, bool [B*G, T].
            item_mask: tokens of the recommended item, bool [B*G, T].
        """
        ...

    def token_advantages(self, trajectories: Trajectories) -> Estimate:
        """Advantages of sampled tokens, and returns for the critic if there is one; each [B*G, T]."""
        ...

    def experience(
        self,
        decisions: Sequence[Decision],
        prompts: PackedBatch,
        hidden: torch.Tensor,
        reference: NetworkOutput,
        reward: RewardFunction,
        kl_scale: float,
    ) -> tuple[list[ItemExperience], dict[str, torch.Tensor]]:
        """Exact item experience of each prompt, and metrics of it; both empty if items are learned from samples.

        Args:
            decisions: the prompts, [B].
            prompts: the prompts as tokens.
            hidden: last hidden states of the prompts under the policy that sampled, [B, L, d].
            reference: output of the reference policy.
            reward: gives the rewards of all items.
            kl_scale: factor of the item KL coefficient.
        """
        ...

    def loss(
        self, batch: PackedBatch, new: NetworkOutput, part: Experience, counts: Counts, kl_scale: float
    ) -> tuple[torch.Tensor | float, dict[str, torch.Tensor]]:
        """The loss that this objective adds to those of sampled tokens, and its metrics.

        Args:
            batch: the micro-batch as tokens.
            new: output of the policy that learns.
            part: experience of the micro-batch.
            counts: counts of the whole mini-batch; all results are divided by them.
            kl_scale: factor of the KL coefficients.
        """
        ...


def item_objective(section: PPOConfig, args: TRLPPOConfig, policy: RecPolicy, total: Sum) -> ItemObjective:
    """The item objective that `ppo.advantage` selects.

    Args:
        section: the config section `ppo`.
        args: TRL's arguments.
        policy: the policy that learns.
        total: sums a tensor over all processes.
    """
    if section.advantage == "exact":
        return ExactItems(section, args, policy, total)
    estimator = sampled_estimator(section.advantage, args.gamma, args.lam, section.num_generations, total)
    return SampledItems(estimator)
