"""The network that PPO trains: the policy and a critic on one backbone."""

from dataclasses import dataclass, fields

import torch
from torch import nn
from transformers import PretrainedConfig

from llmrec.policy.distribution import TokenLogProbs
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import PackedBatch, decision_log_probs


class Critic(nn.Module):
    """A linear value head on the policy's hidden states. Its gradient does not reach the policy.

    Args:
        hidden_size: width of the hidden states, d.
    """

    base_model_prefix = "backbone"  # TRL's wrapper reads this attribute; the real backbone is the policy's

    def __init__(self, hidden_size: int):
        super().__init__()
        self.backbone = nn.Identity()
        self.head = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Values [...] of hidden states [..., d]."""
        return self.head(hidden.detach().to(self.head.weight.dtype))[..., 0].float()


@dataclass(frozen=True)
class NetworkOutput:
    """Output of the network for B windows with G completions in all.

    Attributes:
        scores: log-probabilities of the completions' tokens, [G, T].
        values: critic's values of the states before them, [G, T].
        items: per window, log-probabilities of all items at its decisions, [J, C]; empty unless requested.
    """

    scores: TokenLogProbs
    values: torch.Tensor
    items: list[torch.Tensor]

    @classmethod
    def concatenate(cls, parts: "list[NetworkOutput]") -> "NetworkOutput":
        """Joins outputs of batches whose completions are padded to one width."""
        scores = {
            field.name: torch.cat([getattr(part.scores, field.name) for part in parts])
            for field in fields(TokenLogProbs)
        }
        return cls(
            scores=TokenLogProbs(**scores),
            values=torch.cat([part.values for part in parts]),
            items=[items for part in parts for items in part.items],
        )


class NoRewardNetwork(nn.Module):
    """The network that TRL's constructor requires as the reward, and prepares for DeepSpeed. Nothing calls it."""

    def __init__(self, config: PretrainedConfig):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.zeros(1))


class PolicyWithCritic(nn.Module):
    """The module that `accelerate` wraps. Everything that needs gradients happens inside its forward pass.

    Args:
        policy: the policy.
        critic: the value head.
    """

    def __init__(self, policy: RecPolicy, critic: Critic):
        super().__init__()
        self.policy = policy
        self.critic = critic
        self.config = policy.config
        self._no_split_modules = getattr(policy, "_no_split_modules", None)  # units of FSDP2

    def forward(self, batch: PackedBatch, temperature: float, item_distributions: bool) -> NetworkOutput:
        """Scores completions.

        Args:
            batch: windows with completions.
            temperature: temperature of the distributions.
            item_distributions: whether to also score the whole catalogue after every shown item.
        """
        hidden = self.policy(*batch.inputs())
        return NetworkOutput(
            scores=batch.score(self.policy, hidden, temperature),
            values=self.critic(batch.completion_states(hidden)),
            items=decision_log_probs(self.policy, batch, hidden, temperature) if item_distributions else [],
        )
