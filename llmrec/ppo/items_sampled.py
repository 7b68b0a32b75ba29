"""Items learned from samples: an item token is a token like those of the text."""

from collections.abc import Sequence

import torch

from llmrec.data.decision import Decision
from llmrec.policy.packing import PackedBatch
from llmrec.ppo.advantages import Estimate, Estimator, Trajectories, add_span_rewards
from llmrec.ppo.experience import Counts, EpisodeRewards, Experience, ItemExperience
from llmrec.ppo.network import NetworkOutput
from llmrec.reward.protocol import RewardFunction


class SampledItems:
    """The item objective of `gae`, `rloo` and `group`; see `ItemObjective`.

    The KL penalty is part of the token rewards. The critic, if there is one, learns values of all tokens.

    Args:
        estimator: advantages of tokens from their rewards.
    """

    needs_item_distributions = False
    kl_metric = "objective/kl"

    def __init__(self, estimator: Estimator):
        self.estimator = estimator

    def value_mask(self, mask: torch.Tensor, item_mask: torch.Tensor) -> torch.Tensor:
        """All real tokens."""
        return mask

    def token_rewards(
        self, rewards: EpisodeRewards, kl_penalty: torch.Tensor, mask: torch.Tensor, item_mask: torch.Tensor
    ) -> torch.Tensor:
        """The KL penalty of each token, plus the item reward and the text reward at the ends of their spans."""
        return add_span_rewards(kl_penalty, item_mask, mask, rewards.item, rewards.text)

    def token_advantages(self, trajectories: Trajectories) -> Estimate:
        """The advantages of the configured estimator."""
        return self.estimator(trajectories)

    def experience(
        self,
        decisions: Sequence[Decision],
        prompts: PackedBatch,
        hidden: torch.Tensor,
        reference: NetworkOutput,
        reward: RewardFunction,
        kl_scale: float,
    ) -> tuple[list[ItemExperience], dict[str, torch.Tensor]]:
        """Nothing: the sampled tokens are all the experience."""
        return [], {}

    def loss(
        self, batch: PackedBatch, new: NetworkOutput, part: Experience, counts: Counts, kl_scale: float
    ) -> tuple[torch.Tensor | float, dict[str, torch.Tensor]]:
        """Nothing: the policy loss covers item tokens."""
        return 0.0, {}
