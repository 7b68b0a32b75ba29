"""The one masked distribution: which tokens a completion may continue with.

A completion is `item span -> justification -> end`. Inside the item span only the trie's continuations are allowed,
minus items the user has had; inside a citation only items of the user's history; elsewhere only text tokens, the
citation opener and the end. Sampling, old, new and reference log-probabilities, entropy, the SFT loss and ranking
all come through `MaskedDistribution`: there is no other place where logits become probabilities.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from llmrec.catalogue.trie import ItemTrie
from llmrec.errors import CatalogueError

ITEM, TEXT, CITE, DONE = range(4)


@dataclass
class DecodingState:
    """Where each of B completions stands.

    Attributes:
        region: ITEM, TEXT, CITE or DONE, int64 [B].
        node: trie node inside an item span or a citation, int64 [B].
        available: items that may be recommended, bool [B, N].
        citable: items that may be cited, bool [B, N].
    """

    region: torch.Tensor
    node: torch.Tensor
    available: torch.Tensor
    citable: torch.Tensor

    def select(self, rows: torch.Tensor) -> "DecodingState":
        """The states of some rows (or, with repeated rows, copies of them)."""
        return DecodingState(self.region[rows], self.node[rows], self.available[rows], self.citable[rows])


@dataclass(frozen=True)
class Group:
    """Rows of one kind with their distribution over the tokens that this kind can have at all.

    Attributes:
        rows: row numbers, int64 [r].
        tokens: token id of each column, int64 [K].
        log_probs: normalised over the allowed columns, -inf elsewhere, float32 [r, K].
    """

    rows: torch.Tensor
    tokens: torch.Tensor
    log_probs: torch.Tensor

    def entropy(self) -> torch.Tensor:
        """Entropy in nats, [r]."""
        finite = self.log_probs.masked_fill(self.log_probs.isneginf(), 0)
        return -(self.log_probs.exp() * finite).sum(-1)

    def gather(self, tokens: torch.Tensor) -> torch.Tensor:
        """Log-probability of one token id a row, [r]; -inf for a token that these columns do not have."""
        columns = torch.searchsorted(self.tokens, tokens).clamp(max=len(self.tokens) - 1)
        picked = self.log_probs.gather(1, columns[:, None])[:, 0]
        return torch.where(self.tokens[columns] == tokens, picked, -torch.inf)


class MaskedDistribution:
    """The policy's distribution over completions, from the hidden states of any backbone.

    Args:
        trie: the catalogue.
        text_tokens: token ids that free text may use; the opener and the end belong to them.
        opener: token id that opens a citation.
        end: token id that ends a completion.
        logits: maps hidden states [r, d] and token ids [K] to logits [r, K].
    """

    def __init__(
        self,
        trie: ItemTrie,
        text_tokens: list[int],
        opener: int,
        end: int,
        logits: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ):
        self.trie = trie
        self.text_tokens = torch.tensor(sorted({*text_tokens, opener, end}), device=trie.tokens.device)
        self.opener = opener
        self.end = end
        self._logits = logits

    def start(self, available: torch.Tensor, citable: torch.Tensor) -> DecodingState:
        """States before the first token.

        Args:
            available: items that may be recommended, bool [B, N].
            citable: items that may be cited, bool [B, N].

        Raises:
            CatalogueError: a row has nothing left to recommend.
        """
        empty = ~available.any(1)
        if empty.any():
            raise CatalogueError(
                f"Nothing is left to recommend in row {int(empty.nonzero()[0])}: the user has had, or the request "
                "excludes, every item of the catalogue."
            )
        zeros = torch.zeros(len(available), dtype=torch.int64, device=available.device)
        return DecodingState(zeros.clone(), zeros, available, citable)

    def advance(self, state: DecodingState, tokens: torch.Tensor) -> DecodingState:
        """States after one more token a row, int64 [B]; rows that are DONE stay so."""
        in_trie = (state.region == ITEM) | (state.region == CITE)
        columns = self.trie.columns_of(tokens)
        node = torch.where(in_trie, self.trie.step(state.node, columns).clamp(min=0), 0)
        complete = in_trie & (self.trie.node_item[node] >= 0)
        in_text = state.region == TEXT
        region = state.region.clone()
        region[complete] = TEXT
        region[in_text & (tokens == self.opener)] = CITE
        region[in_text & (tokens == self.end)] = DONE
        return DecodingState(region, torch.where(complete, 0, node), state.available, state.citable)

    def groups(self, hidden: torch.Tensor, state: DecodingState, temperature: float = 1.0) -> Iterator[Group]:
        """Distributions of all rows that are not DONE, by kind: item spans, citations, text.

        Args:
            hidden: last hidden state of each row, [R, d].
            state: R states.
            temperature: divides the logits.
        """
        for region, items in ((ITEM, state.available), (CITE, state.citable)):
            rows = (state.region == region).nonzero()[:, 0]
            if len(rows):
                yield Group(rows, self.trie.tokens, self.items(hidden[rows], state.node[rows], items[rows], temperature))
        rows = (state.region == TEXT).nonzero()[:, 0]
        if len(rows):
            logits = self._logits(hidden[rows], self.text_tokens).float() / temperature
            nothing_to_cite = ~state.citable[rows].any(1)
            blocked = nothing_to_cite[:, None] & (self.text_tokens == self.opener)
            yield Group(rows, self.text_tokens, logits.masked_fill(blocked, -torch.inf).log_softmax(-1))

    def items(
        self, hidden: torch.Tensor, node: torch.Tensor, items: torch.Tensor, temperature: float = 1.0
    ) -> torch.Tensor:
        """Log-probabilities over the trie's columns inside an item span.

        Args:
            hidden: [R, d].
            node: trie node of each row, int64 [R].
            items: items that may be chosen, bool [R, N].

        Returns:
            float32 [R, C], -inf where not allowed.
        """
        logits = self._logits(hidden, self.trie.tokens).float() / temperature
        return logits.masked_fill(~self.trie.allowed(node, items), -torch.inf).log_softmax(-1)

    def replay(self, tokens: torch.Tensor, start: DecodingState) -> DecodingState:
        """The states in which each token of given completions was chosen.

        Args:
            tokens: completions, int64 [B, T]; whatever follows the end is ignored.
            start: B states before the first token.

        Returns:
            B*T states, row-major. `available` and `citable` are repeated views of the rows' own.
        """
        regions, nodes, state = [], [], start
        for step in range(tokens.shape[1]):
            regions.append(state.region)
            nodes.append(state.node)
            state = self.advance(state, tokens[:, step])
        rows = torch.arange(len(tokens), device=tokens.device).repeat_interleave(tokens.shape[1])
        return DecodingState(
            torch.stack(regions, 1).flatten(), torch.stack(nodes, 1).flatten(), *_lazy(start, rows)
        )

    def score(
        self, hidden: torch.Tensor, tokens: torch.Tensor, start: DecodingState, temperature: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probability and entropy of every token of given completions.

        Args:
            hidden: state that predicts each token, [B, T, d].
            tokens: int64 [B, T].
            start: B states before the first token.

        Returns:
            log-probabilities [B, T], entropies [B, T], both 0 after the end; and the region of each token [B, T].
        """
        shape = tokens.shape
        states = self.replay(tokens, start)
        flat = tokens.flatten()
        log_probs = hidden.new_zeros(flat.shape, dtype=torch.float32)
        entropies = torch.zeros_like(log_probs)
        for group in self.groups(hidden.flatten(0, 1), states, temperature):
            log_probs = log_probs.index_copy(0, group.rows, group.gather(flat[group.rows]))
            entropies = entropies.index_copy(0, group.rows, group.entropy())
        return log_probs.view(shape), entropies.view(shape), states.region.view(shape)


class _Rows:
    """Rows of a matrix, repeated without a copy until some of them are asked for."""

    def __init__(self, matrix: torch.Tensor, rows: torch.Tensor):
        self.matrix, self.rows = matrix, rows

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        return self.matrix[self.rows[index]]


def _lazy(start: DecodingState, rows: torch.Tensor) -> tuple[_Rows, _Rows]:
    return _Rows(start.available, rows), _Rows(start.citable, rows)
