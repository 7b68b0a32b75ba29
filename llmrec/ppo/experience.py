"""What flows through a PPO update."""

from dataclasses import dataclass

import numpy as np
import torch

from llmrec.policy.packed import Window


@dataclass(frozen=True)
class ItemExperience:
    """Exact experience of one episode's prompt: J decisions over the trie's C columns.

    Attributes:
        log_probs: of the policy that sampled, [J, C].
        ref_log_probs: of the reference, [J, C].
        advantages: [J, C].
        expected_reward: of the policy at each decision, [J].
    """

    log_probs: torch.Tensor
    ref_log_probs: torch.Tensor
    advantages: torch.Tensor
    expected_reward: torch.Tensor


@dataclass(frozen=True)
class ReferenceScores:
    """What the reference makes of B completions.

    Attributes:
        log_probs: of each token, [B, T].
        region: ITEM, TEXT, CITE or DONE of each token, [B, T].
        items: per prompt, log-probabilities at its decisions, [J, C].
    """

    log_probs: torch.Tensor
    region: torch.Tensor
    items: list[torch.Tensor]


@dataclass(frozen=True)
class Experience:
    """A batch of B scored episodes, ready to learn from; tensors are [B, T].

    Attributes:
        windows: prompts with their completions.
        learned: tokens that the sampled objective learns from.
        log_probs, values: of the policy that sampled.
        advantages, returns: of each token.
        items: exact item experience of each episode; empty when items are learned from samples.
    """

    windows: list[Window]
    learned: torch.Tensor
    log_probs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    items: list[ItemExperience]

    def select(self, episodes: np.ndarray, width: int) -> "Experience":
        """Some episodes, cut to the longest of their completions."""
        tensors = (self.learned, self.log_probs, self.values, self.advantages, self.returns)
        return Experience(
            [self.windows[e] for e in episodes],
            *(tensor[torch.from_numpy(episodes), :width] for tensor in tensors),
            [self.items[e] for e in episodes] if self.items else [],
        )
