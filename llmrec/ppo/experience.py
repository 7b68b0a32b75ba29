"""What flows through a PPO update."""

from dataclasses import dataclass

import numpy as np
import torch

from llmrec.policy.packing import Window


@dataclass(frozen=True)
class ItemExperience:
    """Exact experience of one prompt: J decisions over the trie's C columns.

    Attributes:
        log_probs: of the policy that sampled, [J, C].
        advantages: [J, C].
        taken: decisions whose outcome the prompt shows.
    """

    log_probs: torch.Tensor
    advantages: torch.Tensor
    taken: int


@dataclass(frozen=True)
class Experience:
    """B prompts with G scored episodes each, ready to learn from; tensors are [B*G, T], prompt-major.

    Attributes:
        windows: prompts with their completions.
        learned: tokens that the sampled objective learns from.
        valued: tokens whose states the critic learns from.
        item: tokens of the item span.
        log_probs, values: of the policy that sampled.
        ref_log_probs: of the reference.
        advantages: of each token.
        returns: what the critic is to predict.
        items: exact item experience of each prompt; empty when items are learned from samples.
    """

    windows: list[Window]
    learned: torch.Tensor
    valued: torch.Tensor
    item: torch.Tensor
    log_probs: torch.Tensor
    ref_log_probs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    items: list[ItemExperience]

    def select(self, prompts: np.ndarray) -> "Experience":
        """Some prompts with all their episodes, cut to the longest completion among them."""
        windows = [self.windows[p] for p in prompts]
        group = len(self.learned) // len(self.windows)
        rows = torch.from_numpy((prompts[:, None] * group + np.arange(group)).reshape(-1)).to(self.learned.device)
        width = max(len(completion) for window in windows for completion in window.completions)
        tensors = (
            self.learned, self.valued, self.item, self.log_probs, self.ref_log_probs,
            self.values, self.advantages, self.returns,
        )  # fmt: skip
        items = [self.items[p] for p in prompts] if self.items else []
        return Experience(windows, *(tensor[rows, :width] for tensor in tensors), items)

    def counts(self) -> torch.Tensor:
        """How much there is to average over: learned, valued and item tokens, decisions, and those taken; [5]."""
        tokens = [self.learned.sum(), self.valued.sum(), self.item.sum()]
        return torch.tensor([*tokens, sum(len(e.log_probs) for e in self.items), sum(e.taken for e in self.items)])

    def lengths(self) -> np.ndarray:
        """Tokens of each prompt, up to the header, with all its completions, [B]."""
        return np.array([len(w.items) + sum(map(len, w.completions)) for w in self.windows])
