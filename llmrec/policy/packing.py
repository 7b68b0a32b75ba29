"""Windows of histories as token batches, with the decision state of every item: one forward pass, many decisions.

A window is `header, item, item, ..., item`, and then any number of completions that branch off there. The hidden state
before each item is the policy's decision there. A token attends to its window and to its own branch, so G completions
of one prompt cost one prompt; a prompt is a window without completions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from llmrec.data.decision import Decision
from llmrec.policy.decoding import DecodingState
from llmrec.policy.distribution import TokenLogProbs
from llmrec.policy.model import RecPolicy

Branches = Sequence[Sequence[int]]  # token ids of all completions of one prompt


@dataclass(frozen=True)
class PackedBatch:
    """B windows as tensors, with G completions in all and R decisions, one for every token of a shown item.

    Attributes:
        tokens: padded on the right, int64 [B, L].
        branch: 0 for the window itself, 1, 2, ... for its completions, -1 for padding, int64 [B, L].
        positions: of each token in its own branch: every completion goes on where the window ends, int64 [B, L].
        items: the windows' items, -1 beyond them, int64 [B, J].
        had: items that the user had before the window, bool [B, N].
        row: window of each decision, int64 [R].
        position: place in `tokens` of the state that decides, int64 [R].
        slot: which item of the window is being decided, int64 [R].
        node: trie node at which the decision stands, int64 [R].
        target: the token that was chosen in the log, int64 [R].
        owner: window of each completion, int64 [G].
        offset: place in `tokens` of each completion's first token, int64 [G].
        completion: token ids, padded with the end token, int64 [G, T].
        completion_mask: true where a completion token is real, bool [G, T].
        prompt_length: tokens before the completions, int64 [B].
    """

    tokens: torch.Tensor
    branch: torch.Tensor
    positions: torch.Tensor
    items: torch.Tensor
    had: torch.Tensor
    row: torch.Tensor
    position: torch.Tensor
    slot: torch.Tensor
    node: torch.Tensor
    target: torch.Tensor
    owner: torch.Tensor
    offset: torch.Tensor
    completion: torch.Tensor
    completion_mask: torch.Tensor
    prompt_length: torch.Tensor

    def to(self, device: torch.device) -> "PackedBatch":
        return PackedBatch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def attention_mask(self) -> torch.Tensor:
        """What each token attends to: as `transformers` takes it, [B, L], or bool [B, 1, L, L] if windows branch."""
        if int(self.branch.max()) <= 1:
            return (self.branch >= 0).long()
        one, other = self.branch[:, :, None], self.branch[:, None, :]
        causal = torch.ones(one.shape[1], one.shape[1], dtype=torch.bool, device=one.device).tril()
        return (causal & ((other == 0) | (other == one)))[:, None]

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What `RecPolicy.forward` takes."""
        return self.tokens, self.positions, self.attention_mask()

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
        """B states at the windows' ends: what was had is not recommended again, what is shown can be cited."""
        return policy.decoder.start(self.had_by() > self.items.shape[1], self.items)

    def score(self, policy: RecPolicy, hidden: torch.Tensor, temperature: float = 1.0) -> TokenLogProbs:
        """Scores of the G completions from the hidden states of all tokens [B, L, d]."""
        start = self.start(policy).select(self.owner)
        scores = policy.distribution.score(self.completion_states(hidden), self.completion, start, temperature)
        # Behind a completion that was broken off stand end tokens that the mask may forbid.
        return replace(scores, log_probs=scores.log_probs.masked_fill(~self.completion_mask, 0.0))

    def completion_states(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states that decide each completion token, [G, T, d], from those of all tokens [B, L, d]."""
        steps = torch.arange(self.completion.shape[1], device=hidden.device)
        index = (self.offset[:, None] - 1 + steps).clamp(max=hidden.shape[1] - 1)
        index[:, 0] = self.prompt_length[self.owner] - 1
        return hidden[self.owner[:, None], index]


def pack(
    policy: RecPolicy,
    decisions: Sequence[Decision],
    completions: Sequence[Branches] | None = None,
    completion_width: int = 1,
) -> PackedBatch:
    """Renders B prompts and their completions to one padded batch, on the CPU.

    Args:
        decisions: the prompts, [B].
        completions: per prompt, the completions that branch off at its end: each the token ids of a recommendation and
            its justification, end token included. None: prompts alone.
        completion_width: completions are padded to this width at least.
    """
    branches = [()] * len(decisions) if completions is None else completions
    prompts = [policy.prompts.header(d.profile) + policy.vocabulary.tokens_of(d.items) for d in decisions]
    flat = [completion for of_prompt in branches for completion in of_prompt]
    lengths = torch.tensor([len(completion) for completion in flat], dtype=torch.int64)
    end = policy.prompts.end
    width = max([1, *(len(d.items) for d in decisions)])
    whole = [len(prompt) + sum(map(len, of_prompt)) for prompt, of_prompt in zip(prompts, branches, strict=True)]
    tokens = np.full((len(decisions), max(whole)), end)
    branch, positions = np.full_like(tokens, -1), np.zeros_like(tokens)
    items = np.full((len(decisions), width), -1)
    had = np.zeros((len(decisions), len(policy.vocabulary.sequences)), dtype=bool)
    completion = np.full((len(flat), max([completion_width, *lengths.tolist()])), end)
    chosen, owner, offset = [], [], []
    for b, (decision, prompt, of_prompt) in enumerate(zip(decisions, prompts, branches, strict=True)):
        place = len(prompt)
        tokens[b, :place], branch[b, :place], positions[b, :place] = prompt, 0, np.arange(place)
        for number, written in enumerate(of_prompt, start=1):
            completion[len(owner), : len(written)] = written
            span = slice(place, place + len(written))
            tokens[b, span], branch[b, span] = written, number
            positions[b, span] = len(prompt) + np.arange(len(written))
            owner.append(b)
            offset.append(place)
            place += len(written)
        items[b, : len(decision.items)] = decision.items
        had[b, list(decision.prior)] = True
        chosen += _shown_choices(policy, b, decision, len(policy.prompts.header(decision.profile)))
    row, position, slot, node, target = torch.tensor(chosen, dtype=torch.int64).reshape(-1, 5).T.contiguous()
    return PackedBatch(
        tokens=torch.from_numpy(tokens),
        branch=torch.from_numpy(branch),
        positions=torch.from_numpy(positions),
        items=torch.from_numpy(items),
        had=torch.from_numpy(had),
        row=row,
        position=position,
        slot=slot,
        node=node,
        target=target,
        owner=torch.tensor(owner, dtype=torch.int64),
        offset=torch.tensor(offset, dtype=torch.int64),
        completion=torch.from_numpy(completion),
        completion_mask=torch.arange(completion.shape[1]) < lengths[:, None],
        prompt_length=torch.tensor([len(prompt) for prompt in prompts]),
    )


def _shown_choices(policy: RecPolicy, row: int, decision: Decision, position: int) -> list[tuple[int, ...]]:
    """(row, position, slot, node, target) of every token of every shown item.

    A window that starts amid a history shows none of what came before: nothing can be learned from its first item.
    A repeated item could not have been chosen; it is shown, but is no decision.
    """
    choices = []
    seen = set(map(int, decision.prior))
    for slot, item in enumerate(decision.items):
        sequence = policy.vocabulary.sequences[item]
        if not (slot == 0 and seen) and item not in seen:
            for step, node in enumerate(policy.vocabulary.paths[item]):
                choices.append((row, position - 1 + step, slot, node, sequence[step]))
        seen.add(int(item))
        position += len(sequence)
    return choices


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
    column = policy.vocabulary.trie.rank[following]
    taken = decisions[:-1].gather(1, column[:, None])[:, 0]
    return taken[taken.isfinite()]
