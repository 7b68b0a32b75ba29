"""What flows through a PPO update."""

from dataclasses import dataclass

import numpy as np
import torch

from llmrec.data.decision import Decision


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
        decisions: the prompts, [B].
        completions: token ids of each prompt's G completions.
        learned: tokens that the sampled objective learns from.
        valued: tokens whose states the critic learns from.
        item: tokens of the item span.
        log_probs, values: of the policy that sampled.
        ref_log_probs: of the reference.
        advantages: of each token.
        returns: what the critic is to predict.
        items: exact item experience of each prompt; empty when items are learned from samples.
    """

    decisions: list[Decision]
    completions: list[list[list[int]]]
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
        decisions = [self.decisions[p] for p in prompts]
        completions = [self.completions[p] for p in prompts]
        group = len(self.learned) // len(self.decisions)
        rows = torch.from_numpy((prompts[:, None] * group + np.arange(group)).reshape(-1)).to(self.learned.device)
        width = max(len(completion) for of_prompt in completions for completion in of_prompt)
        tensors = (
            self.learned, self.valued, self.item, self.log_probs, self.ref_log_probs,
            self.values, self.advantages, self.returns,
        )  # fmt: skip
        items = [self.items[p] for p in prompts] if self.items else []
        return Experience(decisions, completions, *(tensor[rows, :width] for tensor in tensors), items)

    def counts(self) -> torch.Tensor:
        """How much there is to average over: learned, valued and item tokens, decisions, and those taken; [5]."""
        tokens = [self.learned.sum(), self.valued.sum(), self.item.sum()]
        return torch.tensor([*tokens, sum(len(e.log_probs) for e in self.items), sum(e.taken for e in self.items)])

    def lengths(self) -> np.ndarray:
        """Tokens of each prompt, up to the header, with all its completions, [B]."""
        return np.array(
            [len(d.items) + sum(map(len, c)) for d, c in zip(self.decisions, self.completions, strict=True)]
        )
