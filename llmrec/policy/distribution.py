"""The one masked distribution over completions: the only place where logits become probabilities.

The mask itself is in `policy.decoding`. Which items a user has seen is computed in `data.seen_mask`.

Sampling, old, new and reference log-probabilities, entropy, the SFT loss and ranking all use it. So PPO's first step
starts at ratio 1 and KL 0, and a policy never gives probability to what its decoder forbids.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from llmrec.language.grammar import Region
from llmrec.policy.decoding import Choice, Decoder, DecodingState


@dataclass(frozen=True)
class Group:
    """Rows of one kind with their distribution over the tokens that this kind can have at all.

    Attributes:
        rows: row numbers, int64 [r].
        tokens: token id of each column, ascending, int64 [K].
        log_probs: normalized over the allowed columns, -inf elsewhere, float32 [r, K].
    """

    rows: torch.Tensor
    tokens: torch.Tensor
    log_probs: torch.Tensor

    def entropy(self) -> torch.Tensor:
        """Entropy in nats, [r]."""
        finite = self.log_probs.masked_fill(self.log_probs.isneginf(), 0)
        return -(self.log_probs.exp() * finite).sum(-1)

    def gather(self, tokens: torch.Tensor) -> torch.Tensor:
        """Log-probability of one token id a row, [r]; -inf for a token without a column."""
        columns = torch.searchsorted(self.tokens, tokens).clamp(max=len(self.tokens) - 1)
        picked = self.log_probs.gather(1, columns[:, None])[:, 0]
        return torch.where(self.tokens[columns] == tokens, picked, -torch.inf)


@dataclass(frozen=True)
class TokenLogProbs:
    """Log-probabilities of given completions, each [B, T]; 0 (or false) after the end.

    Attributes:
        log_probs: log-probability of each token.
        entropy: entropy of the distribution that each token was drawn from, nats; carries no gradient.
        region: `grammar.Region` of each token, int64.
        is_choice: more than one token was allowed. A forced token has probability 1 and carries no gradient.
    """

    log_probs: torch.Tensor
    entropy: torch.Tensor
    region: torch.Tensor
    is_choice: torch.Tensor


class MaskedDistribution(nn.Module):
    """A policy's distribution over completions, from the hidden states of any backbone.

    Args:
        decoder: the mask.
        logits: maps hidden states [r, d] and token ids [K] to logits [r, K].
    """

    def __init__(self, decoder: Decoder, logits: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]):
        super().__init__()
        self.decoder = decoder
        self._logits = logits

    def groups(self, hidden: torch.Tensor, state: DecodingState, temperature: float = 1.0) -> Iterator[Group]:
        """Distributions of all rows that are not DONE, by kind.

        Args:
            hidden: last hidden state of each row, [R, d].
            state: R states.
            temperature: divides the logits.
        """
        for choice in self.decoder.choices(state):
            yield self._distribution(hidden[choice.rows], choice, temperature)

    def _distribution(self, hidden: torch.Tensor, choice: Choice, temperature: float) -> Group:
        logits = self._logits(hidden, choice.tokens).float() / temperature
        log_probs = logits.masked_fill(~choice.allowed, -torch.inf).log_softmax(-1)
        return Group(rows=choice.rows, tokens=choice.tokens, log_probs=log_probs)

    def items(
        self, hidden: torch.Tensor, node: torch.Tensor, items: torch.Tensor, temperature: float = 1.0
    ) -> torch.Tensor:
        """Log-probabilities over the trie's columns inside an item span.

        Args:
            hidden: hidden states, [R, d].
            node: trie node of each row, int64 [R].
            items: items that may be recommended, bool [R, N].
            temperature: divides the logits.

        Returns:
            float32 [R, C], -inf where not allowed.
        """
        trie = self.decoder.trie
        logits = self._logits(hidden, trie.tokens).float() / temperature
        return logits.masked_fill(~trie.allowed(node, items), -torch.inf).log_softmax(-1)

    def score(
        self, hidden: torch.Tensor, tokens: torch.Tensor, start: DecodingState, temperature: float = 1.0
    ) -> TokenLogProbs:
        """Log-probabilities of given completions: first what each token could have been, then one softmax a kind.

        Args:
            hidden: state that predicts each token, [B, T, d].
            tokens: int64 [B, T]; whatever follows the end is ignored.
            start: B states before the first token.
            temperature: divides the logits.
        """
        state, regions = start, []
        parts: dict[Region, list[tuple[int, Choice]]] = defaultdict(list)
        for step in range(tokens.shape[1]):
            for choice in self.decoder.choices(state):
                parts[choice.kind].append((step, choice))
            regions.append(state.region)
            state = self.decoder.advance(state, tokens[:, step])
        log_probs = hidden.new_zeros(tokens.shape, dtype=torch.float32)
        entropy = torch.zeros_like(log_probs)
        is_choice = torch.zeros_like(tokens, dtype=torch.bool)
        for kind, steps in parts.items():
            row = torch.cat([choice.rows for _, choice in steps])
            column = torch.cat([torch.full_like(choice.rows, step) for step, choice in steps])
            allowed = torch.cat([choice.allowed for _, choice in steps])
            choice = Choice(kind=kind, rows=row, tokens=steps[0][1].tokens, allowed=allowed)
            group = self._distribution(hidden[row, column], choice, temperature)
            log_probs = log_probs.index_put((row, column), group.gather(tokens[row, column]))
            with torch.no_grad():
                entropy[row, column] = group.entropy()
                is_choice[row, column] = allowed.sum(1) > 1
        return TokenLogProbs(log_probs=log_probs, entropy=entropy, region=torch.stack(regions, 1), is_choice=is_choice)
