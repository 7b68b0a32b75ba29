"""The one masked distribution over completions: the only place where logits become probabilities.

The mask itself is in `policy.decoding`. Which items a user has seen is computed in `data.seen_mask`.

Sampling, old, new and reference log-probabilities, entropy, the SFT loss and ranking all use it. So PPO's first step
starts at ratio 1 and KL 0, and a policy never gives probability to what its decoder forbids.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import nn

from llmrec.language.grammar import DONE
from llmrec.policy.decoding import Choice, Decoder, DecodingState


@dataclass(frozen=True)
class NextToken:
    """The distribution of the next token of R completions, or of each of their T tokens.

    Attributes:
        choice: what was allowed.
        log_probs: normalized over the allowed columns of the choice, -inf elsewhere, float32 [R, K + H] or
            [R, T, K + H].
    """

    choice: Choice
    log_probs: torch.Tensor

    def entropy(self) -> torch.Tensor:
        """Entropy in nats, [R] or [R, T]."""
        finite = torch.where(self.choice.allowed, self.log_probs, 0)
        return -(self.log_probs.exp() * finite).sum(-1)

    def gather(self, tokens: torch.Tensor) -> torch.Tensor:
        """Log-probability of token ids [R] or [R, T]; -inf for a token without a column."""
        shared = self.choice.tokens
        column = torch.searchsorted(shared, tokens.contiguous()).clamp(max=len(shared) - 1)
        has_column = shared[column] == tokens
        if self.choice.shown.shape[1]:
            of_prompt = self.choice.shown[self.choice.prompt]  # [R, H]
            is_shown = tokens[..., None] == (of_prompt if tokens.ndim == 1 else of_prompt[:, None])
            column = torch.where(has_column, column, len(shared) + is_shown.long().argmax(-1))
            has_column |= is_shown.any(-1)
        picked = self.log_probs.gather(-1, column[..., None])[..., 0]
        return torch.where(has_column, picked, -torch.inf)

    def pick(self, uniforms: torch.Tensor | None) -> torch.Tensor:
        """A token a row, int64 [R].

        Args:
            uniforms: random numbers in [0, 1), [R], at which the inverse of the cumulative distribution is taken. None
                takes the most probable token.
        """
        return self._tokens(self.log_probs.argmax(1) if uniforms is None else sampled(self.log_probs, uniforms))

    def _tokens(self, columns: torch.Tensor) -> torch.Tensor:
        """Token ids of columns, int64 [R]."""
        shared, shown = self.choice.tokens, self.choice.shown
        tokens = shared[columns.clamp(max=len(shared) - 1)]
        if not shown.shape[1]:
            return tokens
        of_prompt = shown[self.choice.prompt, (columns - len(shared)).clamp(min=0)]
        return torch.where(columns < len(shared), tokens, of_prompt)


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
        logits: maps hidden states [..., d] and token ids [K] to logits [..., K], and hidden states [R, T, d] and token
            ids of each row [R, H] to logits [R, T, H].
    """

    def __init__(self, decoder: Decoder, logits: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]):
        super().__init__()
        self.decoder = decoder
        self._logits = logits

    def next_token(self, hidden: torch.Tensor, state: DecodingState, temperature: float = 1.0) -> NextToken:
        """The distribution of the next token; the end token has probability 1 in rows that are DONE.

        Args:
            hidden: last hidden state of each row, [R, d].
            state: R states.
            temperature: divides the logits.
        """
        choice = self.decoder.choice(state)
        return _masked(choice, self._choice_logits(hidden, choice), temperature)

    def _choice_logits(self, hidden: torch.Tensor, choice: Choice) -> torch.Tensor:
        """Logits of the columns of a choice, for hidden states [R, d] or [R, T, d]."""
        shared = self._logits(hidden, choice.tokens)
        prompts, width = choice.shown.shape
        if not width:
            return shared
        if hidden.ndim == 3:
            of_prompt = self._logits(hidden, choice.shown[choice.prompt])
        else:  # one product for the items of all prompts reads fewer rows than one product for each completion
            of_all = self._logits(hidden, choice.shown.flatten()).view(-1, prompts, width)
            of_prompt = of_all[torch.arange(len(of_all), device=hidden.device), choice.prompt]
        return torch.cat([shared, of_prompt], -1)

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
        """Log-probabilities of given completions: first what each token could have been, then one softmax of them all.

        Args:
            hidden: state that predicts each token, [B, T, d].
            tokens: int64 [B, T]; whatever follows the end is ignored.
            start: B states before the first token.
            temperature: divides the logits.
        """
        state, regions = start, []
        choices: list[Choice] = []
        for token in tokens.unbind(1):
            choices.append(self.decoder.choice(state))
            regions.append(state.region)
            state = self.decoder.advance(state, token)
        region = torch.stack(regions, 1)
        log_probs, entropy, is_choice = [], [], []
        for steps, choice in _joined(choices):
            next_tokens = _masked(choice, self._choice_logits(hidden[:, steps], choice), temperature)
            log_probs.append(next_tokens.gather(tokens[:, steps]))
            with torch.no_grad():
                entropy.append(next_tokens.entropy())
                is_choice.append(choice.allowed.sum(-1) > 1)
        return TokenLogProbs(
            log_probs=torch.cat(log_probs, 1).masked_fill(region == DONE, 0.0),
            entropy=torch.cat(entropy, 1),
            region=region,
            is_choice=torch.cat(is_choice, 1),
        )


def sampled(log_probs: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """A column of each row, int64 [R]: the inverse of the cumulative distribution.

    Args:
        log_probs: log-probabilities, [R, C].
        uniforms: random numbers in [0, 1), [R].
    """
    cumulative = log_probs.double().exp().cumsum(1)
    # Scaled by the total, so that rounding never selects a column beyond the last allowed one.
    column = torch.searchsorted(cumulative, uniforms.double()[:, None] * cumulative[:, -1:], right=True)
    return column.clamp(max=log_probs.shape[1] - 1)[:, 0]


def _masked(choice: Choice, logits: torch.Tensor, temperature: float) -> NextToken:
    """The softmax over the allowed columns of a choice."""
    scaled = logits.float() / temperature
    return NextToken(choice, torch.where(choice.allowed, scaled, -torch.inf).log_softmax(-1))


def _joined(choices: Sequence[Choice]) -> Iterator[tuple[slice, Choice]]:
    """Joins the choices of consecutive steps that have the same columns; `allowed` becomes [B, T, K + H]."""
    start = 0
    for _, group in groupby(choices, key=lambda choice: (id(choice.tokens), choice.shown.shape)):
        part = list(group)
        steps = slice(start, start + len(part))
        yield steps, replace(part[0], allowed=torch.stack([choice.allowed for choice in part], 1))
        start = steps.stop
