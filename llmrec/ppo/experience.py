"""Records that flow through a PPO update: rewards of episodes, experience of tokens and of items, and token counts."""

from dataclasses import dataclass, fields

import numpy as np
import torch

from llmrec.data.decision import Decision
from llmrec.language.grammar import ITEM
from llmrec.language.prompt import Recommendation
from llmrec.policy.distribution import TokenLogProbs


@dataclass(frozen=True)
class EpisodeRewards:
    """The reward of B*G sampled recommendations.

    Attributes:
        recommendations: the parsed completions.
        finished: whether each completion ended with the end token, bool [B*G].
        item: reward of the recommended item, float32 [B*G].
        text: reward of the justification, minus the penalty of a missing end token, float32 [B*G].
        parts: every part of the reward before weighting, by name, each [B*G].
    """

    recommendations: list[Recommendation]
    finished: torch.Tensor
    item: torch.Tensor
    text: torch.Tensor
    parts: dict[str, torch.Tensor]


@dataclass(frozen=True)
class ItemExperience:
    """Exact experience of one prompt: J decisions over the trie's C columns.

    Attributes:
        log_probs: log-probabilities under the policy that sampled, [J, C].
        advantages: advantage of every item, [J, C].
        observed: number of decisions whose next item the prompt shows.
    """

    log_probs: torch.Tensor
    advantages: torch.Tensor
    observed: int


@dataclass(frozen=True)
class Counts:
    """How many tokens and decisions a mini-batch averages over; each a scalar.

    Attributes:
        policy_tokens: tokens of the policy loss.
        value_tokens: tokens of the value loss.
        item_tokens: tokens of recommended items.
        decisions: exact item decisions.
        observed: exact item decisions whose next item the prompt shows.
        anchor_tokens: text tokens that are kept near the reference policy.
    """

    policy_tokens: torch.Tensor
    value_tokens: torch.Tensor
    item_tokens: torch.Tensor
    decisions: torch.Tensor
    observed: torch.Tensor
    anchor_tokens: torch.Tensor

    @classmethod
    def from_tensor(cls, counts: torch.Tensor) -> "Counts":
        """Counts from a tensor [6] in the order of the attributes."""
        return cls(**{field.name: count for field, count in zip(fields(cls), counts, strict=True)})


@dataclass(frozen=True)
class Experience:
    """B prompts with G scored episodes each. Tensors are [B*G, T]; the episodes of a prompt are consecutive.

    If the text is not trained, there are no episodes. Some prompts then have a supervised completion instead, whose
    tokens are the rows of the tensors.

    Attributes:
        decisions: the prompts, [B].
        completions: token ids of each prompt's G completions.
        policy_mask: tokens of the policy loss, bool.
        value_mask: tokens of the value loss, bool.
        item_mask: tokens of the recommended item, bool.
        anchor_mask: text tokens of supervised completions, which are kept near the reference policy, bool.
        log_probs: log-probabilities under the policy that sampled.
        ref_log_probs: log-probabilities under the reference policy.
        values: values of the critic at sampling time.
        advantages: advantage of each token.
        returns: targets of the critic.
        items: exact item experience of each prompt; empty if items are learned from samples.
    """

    decisions: list[Decision]
    completions: list[list[list[int]]]
    policy_mask: torch.Tensor
    value_mask: torch.Tensor
    item_mask: torch.Tensor
    anchor_mask: torch.Tensor
    log_probs: torch.Tensor
    ref_log_probs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    items: list[ItemExperience]

    @classmethod
    def of_items(
        cls,
        decisions: list[Decision],
        completions: list[list[list[int]]],
        reference: TokenLogProbs,
        items: list[ItemExperience],
    ) -> "Experience":
        """Experience of item decisions alone.

        Args:
            decisions: the prompts, [B].
            completions: at most one supervised completion of each prompt.
            reference: scores of the completions under the reference policy.
            items: exact item experience of each prompt.
        """
        zeros = torch.zeros_like(reference.log_probs)
        nowhere = torch.zeros_like(reference.is_choice)
        return cls(
            decisions=decisions,
            completions=completions,
            policy_mask=nowhere,
            value_mask=nowhere,
            item_mask=nowhere,
            anchor_mask=reference.is_choice & (reference.region != ITEM),
            log_probs=zeros,
            ref_log_probs=reference.log_probs,
            values=zeros,
            advantages=zeros,
            returns=zeros,
            items=items,
        )

    def select(self, prompts: np.ndarray) -> "Experience":
        """Some prompts with all their episodes, cut to the longest completion among them.

        Args:
            prompts: indices into `decisions`, int [b].
        """
        completions = [self.completions[p] for p in prompts]
        width = max((len(completion) for of_prompt in completions for completion in of_prompt), default=0)
        counts = np.array([len(of_prompt) for of_prompt in self.completions])
        owner = np.repeat(np.arange(len(counts)), counts)
        episodes = np.concatenate([np.flatnonzero(owner == p) for p in prompts])
        rows = torch.from_numpy(episodes).to(self.policy_mask.device)
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: c[rows, :width] for name, c in columns.items() if isinstance(c, torch.Tensor)}
        return Experience(
            decisions=[self.decisions[p] for p in prompts],
            completions=completions,
            items=[self.items[p] for p in prompts] if self.items else [],
            **tensors,
        )

    def counts(self) -> torch.Tensor:
        """The values of `Counts`, int64 [6]."""
        counts = [
            int(self.policy_mask.sum()),
            int(self.value_mask.sum()),
            int(self.item_mask.sum()),
            sum(len(item.log_probs) for item in self.items),
            sum(item.observed for item in self.items),
            int(self.anchor_mask.sum()),
        ]
        return torch.tensor(counts)

    def lengths(self) -> np.ndarray:
        """Number of shown items plus tokens of all completions of each prompt, [B]; close to its cost."""
        return np.array(
            [
                len(decision.items) + sum(len(completion) for completion in completions)
                for decision, completions in zip(self.decisions, self.completions, strict=True)
            ]
        )
