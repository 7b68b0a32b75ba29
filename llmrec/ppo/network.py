"""The network that PPO trains: one backbone, the policy's distribution and the critic's values."""

from dataclasses import dataclass, fields

import torch
from torch import nn

from llmrec.policy.distribution import TokenLogProbs
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import PackedBatch, decision_log_probs


class Critic(nn.Module):
    """A linear value head on the policy's hidden states, which it does not change."""

    base_model_prefix = "backbone"  # TRL's wrapper asks for a backbone; ours is the policy's

    def __init__(self, hidden_size: int):
        super().__init__()
        self.backbone = nn.Identity()
        self.head = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Values [...] of hidden states [..., d]."""
        return self.head(hidden.detach().float())[..., 0]


@dataclass(frozen=True)
class NetworkOutput:
    """What the network makes of a batch with G completions.

    Attributes:
        scores: of the completions' tokens, [G, T].
        values: of the states before them, [G, T].
        items: per window, log-probabilities at its decisions, [J, C]; empty unless asked for.
    """

    scores: TokenLogProbs
    values: torch.Tensor
    items: list[torch.Tensor]

    @classmethod
    def concatenate(cls, parts: "list[NetworkOutput]") -> "NetworkOutput":
        """Batches whose completions are padded alike, as one."""
        scores = TokenLogProbs(*(torch.cat([getattr(p.scores, f.name) for p in parts]) for f in fields(TokenLogProbs)))
        return cls(scores, torch.cat([p.values for p in parts]), [items for p in parts for items in p.items])


class PolicyWithCritic(nn.Module):
    """What `accelerate` wraps: everything that has gradients happens inside its forward pass."""

    def __init__(self, policy: RecPolicy, critic: Critic):
        super().__init__()
        self.policy = policy
        self.critic = critic
        self.config = policy.config

    def forward(self, batch: PackedBatch, temperature: float, decisions: bool) -> NetworkOutput:
        """TokenLogProbs completions, and with `decisions` also the whole catalogue after every shown item."""
        hidden = self.policy(*batch.inputs())
        return NetworkOutput(
            batch.score(self.policy, hidden, temperature),
            self.critic(batch.completion_states(hidden)),
            decision_log_probs(self.policy, batch, hidden, temperature) if decisions else [],
        )
