"""Windows of histories as token batches, with the decision state of every item: one forward pass, many decisions.

A window is `header, item, item, ..., item, completion`. The hidden state before each item is the policy's decision
there; a prompt is a window whose completion is still empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from llmrec.policy.constraint import DecodingState
from llmrec.policy.model import RecPolicy


@dataclass(frozen=True)
class Window:
    """One stretch of one user's history, and what is said at its end.

    Attributes:
        profile: of the user, for the prompt's header.
        prior: items that the user had before the window; never recommended, not shown.
        items: items that the window shows.
        completion: token ids of a recommendation and its justification, end token included; may be empty.
    """

    profile: str
    prior: Sequence[int]
    items: Sequence[int]
    completion: Sequence[int] = ()


@dataclass(frozen=True)
class PackedBatch:
    """B windows as tensors; R decisions in all, one for every token of a shown item.

    Attributes:
        tokens: padded on the right, int64 [B, L].
        mask: 1 where a token is real, int64 [B, L].
        items: the windows' items, -1 beyond them, int64 [B, J].
        had: items that the user had before the window, bool [B, N].
        row: window of each decision, int64 [R].
        position: place in `tokens` of the state that decides, int64 [R].
        slot: which item of the window is being decided, int64 [R].
        node: trie node at which the decision stands, int64 [R].
        target: the token that was chosen in the log, int64 [R].
        completion: token ids, padded with the end token, int64 [B, T].
        completion_mask: true where a completion token is real, bool [B, T].
        prompt_length: tokens before the completion, int64 [B].
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    items: torch.Tensor
    had: torch.Tensor
    row: torch.Tensor
    position: torch.Tensor
    slot: torch.Tensor
    node: torch.Tensor
    target: torch.Tensor
    completion: torch.Tensor
    completion_mask: torch.Tensor
    prompt_length: torch.Tensor

    def to(self, device: torch.device) -> "PackedBatch":
        return PackedBatch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def had_by(self) -> torch.Tensor:
        """From which slot on each item counts as had: 0 from the start, J+1 never; int64 [B, N]."""
        width = self.items.shape[1]
        first = torch.full(self.had.shape, width + 1, device=self.had.device)
        first.masked_fill_(self.had, 0)
        slots = torch.arange(1, width + 1, device=self.had.device).expand_as(self.items)
        # An item that stands in the window is had from the slot after it; padding writes into a spare column.
        spare = torch.cat([first, first.new_zeros(len(first), 1)], 1)
        index = torch.where(self.items >= 0, self.items, self.had.shape[1])
        return spare.scatter_reduce(1, index, slots, "amin")[:, :-1]

    def available(self, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """Items that may be chosen at decisions, bool [R, N]."""
        return self.had_by()[self.row[rows]] > self.slot[rows, None]

    def start(self, policy: RecPolicy) -> DecodingState:
        """States before the completions: what was had is not recommended again, what is shown can be cited."""
        return policy.distribution.start(self.had_by() > self.items.shape[1], self.items)

    def completion_states(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states that decide each completion token, [B, T, d], from those of all tokens [B, L, d]."""
        steps = torch.arange(self.completion.shape[1], device=hidden.device)
        index = (self.prompt_length[:, None] - 1 + steps).clamp(max=hidden.shape[1] - 1)
        return hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1]))


def pack(policy: RecPolicy, windows: Sequence[Window], completion_width: int = 0) -> PackedBatch:
    """Renders windows to one padded batch, on the CPU; completions are padded to `completion_width` at least."""
    sequences = policy.vocabulary.sequences
    prompts = [policy.prompts.header(w.profile) + policy.vocabulary.tokens_of(w.items) for w in windows]
    length = max(len(prompt) + len(w.completion) for prompt, w in zip(prompts, windows, strict=True))
    width = max([1, *(len(w.items) for w in windows)])
    end = policy.prompts.end
    tokens = np.full((len(windows), length), end)
    mask = np.zeros_like(tokens)
    items = np.full((len(windows), width), -1)
    had = np.zeros((len(windows), len(sequences)), dtype=bool)
    completion = np.full((len(windows), max(completion_width, *(len(w.completion) for w in windows))), end)
    decisions = []
    for b, (window, prompt) in enumerate(zip(windows, prompts, strict=True)):
        whole = prompt + list(window.completion)
        tokens[b, : len(whole)], mask[b, : len(whole)] = whole, 1
        items[b, : len(window.items)] = window.items
        had[b, list(window.prior)] = True
        completion[b, : len(window.completion)] = window.completion
        decisions += _decisions(policy, b, window, len(policy.prompts.header(window.profile)))
    row, position, slot, node, target = torch.tensor(decisions, dtype=torch.int64).reshape(-1, 5).T.contiguous()
    lengths = torch.tensor([len(w.completion) for w in windows])
    return PackedBatch(
        torch.from_numpy(tokens), torch.from_numpy(mask), torch.from_numpy(items), torch.from_numpy(had),
        row, position, slot, node, target,
        torch.from_numpy(completion), torch.arange(completion.shape[1]) < lengths[:, None],
        torch.tensor([len(prompt) for prompt in prompts]),
    )  # fmt: skip


def _decisions(policy: RecPolicy, row: int, window: Window, position: int) -> list[tuple[int, ...]]:
    """(row, position, slot, node, target) of every token of every shown item.

    A window that starts amid a history shows none of what came before: nothing can be learned from its first item.
    A repeated item could not have been chosen; it is shown, but is no decision.
    """
    decisions = []
    seen = set(map(int, window.prior))
    for slot, item in enumerate(window.items):
        sequence = policy.vocabulary.sequences[item]
        if not (slot == 0 and seen) and item not in seen:
            for step, node in enumerate(policy.vocabulary.paths[item]):
                decisions.append((row, position - 1 + step, slot, node, sequence[step]))
        seen.add(int(item))
        position += len(sequence)
    return decisions


def item_log_probs(
    policy: RecPolicy, batch: PackedBatch, hidden: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """The policy's distribution at every decision of the windows.

    Args:
        hidden: of all tokens, [B, L, d].

    Returns:
        log-probabilities over the trie's columns, float32 [R, C]; -inf where not allowed.
    """
    states = hidden[batch.row, batch.position]
    return policy.distribution.items(states, batch.node, batch.available(), temperature)


def target_log_probs(policy: RecPolicy, batch: PackedBatch, hidden: torch.Tensor) -> torch.Tensor:
    """Log-probability of each token that the log chose, [R]."""
    columns = policy.vocabulary.trie.columns_of(batch.target)
    return item_log_probs(policy, batch, hidden).gather(1, columns[:, None])[:, 0]


def decision_log_probs(
    policy: RecPolicy, batch: PackedBatch, hidden: torch.Tensor, temperature: float
) -> list[torch.Tensor]:
    """Distributions over the catalogue after every shown item: per window [J_b, C], the last being the decision that
    the completion answers.

    Only for one token an item; a window without items has none.
    """
    width = batch.items.shape[1]
    shown = (batch.items >= 0).sum(1)
    slots = torch.arange(1, width + 1, device=hidden.device)
    row, column = (slots <= shown[:, None]).nonzero(as_tuple=True)
    position = batch.prompt_length[row] - shown[row] + column  # header, then one token an item
    available = batch.had_by()[row] > slots[column][:, None]
    nodes = torch.zeros_like(row)
    log_probs = policy.distribution.items(hidden[row, position], nodes, available, temperature)
    return list(log_probs.split(shown.tolist()))


def taken_log_probs(policy: RecPolicy, decisions: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of what the user took at the decisions of one window.

    Args:
        decisions: after each of J shown items, [J, C]; what follows the last is not shown.
        items: the window's items, padded, [width].

    Returns:
        at most J-1 numbers: an item that was had before could not have been chosen and is left out.
    """
    following = items[1 : len(decisions)]
    column = torch.argsort(policy.vocabulary.trie.order)[following]
    taken = decisions[:-1].gather(1, column[:, None])[:, 0]
    return taken[taken.isfinite()]
