"""Packing: B histories as one token batch, with the decision state of every shown item.

A packed prompt is `header, item, item, ..., item`, followed by any number of completions that branch off at its end.
The hidden state before each item is the policy's decision there, so one forward pass holds many decisions. A token
attends to its prompt and to its own branch. The prompt is encoded once for all G completions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from llmrec.data.decision import Decision
from llmrec.data.seen_mask import seen_since
from llmrec.policy.decoding import DecodingState
from llmrec.policy.distribution import TokenLogProbs
from llmrec.policy.model import RecPolicy
from llmrec.requests.request import Request

Branches = Sequence[Sequence[int]]  # token ids of all completions of one prompt


@dataclass(frozen=True)
class PackedBatch:
    """B prompts as tensors, with G completions in all and R item choices, one for every token of a shown item.

    Attributes:
        tokens: token ids, padded on the right, int64 [B, L].
        branch: 0 for the prompt itself, 1, 2, ... for its completions, -1 at padding, int64 [B, L].
        positions: position of each token in its own branch, int64 [B, L]. Every completion continues the prompt's.
        items: shown items, -1 at padding, int64 [B, J].
        masked_before: items that must not be recommended, apart from the shown ones, bool [B, N].
        repeats: whether the shown items may be recommended, bool [B].
        row: prompt of each choice, int64 [R].
        position: index in `tokens` of the hidden state that decides, int64 [R].
        slot: which shown item is being chosen, int64 [R].
        node: trie node at which the choice is made, int64 [R].
        target: token that the log chose, int64 [R].
        owner: prompt of each completion, int64 [G].
        offset: index in `tokens` of each completion's first token, int64 [G].
        completion: token ids of the completions, padded with the end token, int64 [G, T].
        completion_mask: true at real completion tokens, bool [G, T].
        prompt_length: number of tokens before the completions, int64 [B].
    """

    tokens: torch.Tensor
    branch: torch.Tensor
    positions: torch.Tensor
    items: torch.Tensor
    masked_before: torch.Tensor
    repeats: torch.Tensor
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
        """The same batch on a device."""
        return PackedBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def attention_mask(self) -> torch.Tensor:
        """What each token attends to: int64 [B, L], as `transformers` takes it, or bool [B, 1, L, L] with branches."""
        if int(self.branch.max()) <= 1:
            return (self.branch >= 0).long()
        query, key = self.branch[:, :, None], self.branch[:, None, :]
        causal = torch.ones(query.shape[1], query.shape[1], dtype=torch.bool, device=query.device).tril()
        return (causal & ((key == 0) | (key == query)))[:, None]

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The arguments of `RecPolicy.forward`: tokens, positions and attention mask."""
        return self.tokens, self.positions, self.attention_mask()

    def seen_since(self) -> torch.Tensor:
        """From which slot on each item must not be recommended: 0 from the start, J + 1 never; int64 [B, N]."""
        return seen_since(self.items.masked_fill(self.repeats[:, None], -1), self.masked_before)

    def unseen(self, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """Items that may be recommended at choices, bool [R, N]."""
        return self.seen_since()[self.row[rows]] > self.slot[rows, None]

    def with_choices(self, learned: Sequence[Sequence[bool]]) -> "PackedBatch":
        """The same batch with a part of its item choices.

        Args:
            learned: for each prompt, whether the choice of each shown item is kept.
        """
        pairs = zip(self.row.tolist(), self.slot.tolist(), strict=True)
        kept = torch.tensor([learned[row][slot] for row, slot in pairs], dtype=torch.bool)
        return replace(
            self,
            row=self.row[kept],
            position=self.position[kept],
            slot=self.slot[kept],
            node=self.node[kept],
            target=self.target[kept],
        )

    def start(self, policy: RecPolicy) -> DecodingState:
        """B decoding states at the prompts' ends: unseen items may be recommended, shown items may be cited."""
        return policy.decoder.start(self.seen_since() > self.items.shape[1], self.items)

    def score(self, policy: RecPolicy, hidden: torch.Tensor, temperature: float = 1.0) -> TokenLogProbs:
        """Log-probabilities of the G completions.

        Args:
            policy: the policy that made `hidden`.
            hidden: last hidden states of all tokens, [B, L, d].
            temperature: divides the logits.
        """
        start = self.start(policy).select(self.owner)
        scores = policy.distribution.score(self.completion_states(hidden), self.completion, start, temperature)
        # Truncated completions are padded with end tokens, which the mask may forbid: log-probability 0, not -inf.
        return replace(scores, log_probs=scores.log_probs.masked_fill(~self.completion_mask, 0.0))

    def completion_states(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states [G, T, d] that predict each completion token, from those of all tokens [B, L, d]."""
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
    """Renders B prompts and their completions to one padded batch on the CPU.

    Args:
        policy: its tokenizer, vocabulary and prompt format are used.
        decisions: the prompts, [B].
        completions: per prompt, the completions that branch off at its end. Each holds the token ids of a
            recommendation and its justification, end token included. None: prompts alone.
        completion_width: completions are padded to this width at least.
    """
    branches: Sequence[Branches] = [()] * len(decisions) if completions is None else completions
    headers = [policy.prompts.header(d.profile, d.request.text if d.request else "") for d in decisions]
    prompts = [header + policy.vocabulary.tokens_of(d.items) for header, d in zip(headers, decisions, strict=True)]
    rows = [_branched(prompt, of_prompt) for prompt, of_prompt in zip(prompts, branches, strict=True)]
    flat = [list(completion) for of_prompt in branches for completion in of_prompt]
    lengths = torch.tensor([len(completion) for completion in flat], dtype=torch.int64)
    longest = max([completion_width, *map(len, flat)])
    end = policy.prompts.end
    width = max(len(row.tokens) for row in rows)
    items = np.full((len(decisions), max([1, *(len(d.items) for d in decisions)])), -1)
    masked_before = np.zeros((len(decisions), len(policy.vocabulary.sequences)), dtype=bool)
    choices: list[tuple[int, ...]] = []
    for b, decision in enumerate(decisions):
        items[b, : len(decision.items)] = decision.items
        masked_before[b, decision.masked_before] = True
        choices += _shown_choices(policy, b, decision, len(headers[b]))
    row, position, slot, node, target = torch.tensor(choices, dtype=torch.int64).reshape(-1, 5).T.contiguous()
    return PackedBatch(
        tokens=_padded([row.tokens for row in rows], width, end),
        branch=_padded([row.branch for row in rows], width, -1),
        positions=_padded([row.positions for row in rows], width, 0),
        items=torch.from_numpy(items),
        masked_before=torch.from_numpy(masked_before),
        repeats=torch.tensor([decision.repeats for decision in decisions], dtype=torch.bool),
        row=row,
        position=position,
        slot=slot,
        node=node,
        target=target,
        owner=torch.tensor([b for b, row in enumerate(rows) for _ in row.offsets], dtype=torch.int64),
        offset=torch.tensor([offset for row in rows for offset in row.offsets], dtype=torch.int64),
        completion=_padded(flat, longest, end),
        completion_mask=torch.arange(longest) < lengths[:, None],
        prompt_length=torch.tensor([len(prompt) for prompt in prompts]),
    )


@dataclass(frozen=True)
class _Row:
    """A prompt followed by its completions: the unpadded fields of one row of a `PackedBatch`."""

    tokens: list[int]
    branch: list[int]
    positions: list[int]
    offsets: list[int]


def _branched(prompt: list[int], completions: Branches) -> _Row:
    """Appends completions to a prompt. Each continues the positions of the prompt."""
    row = _Row(tokens=list(prompt), branch=[0] * len(prompt), positions=list(range(len(prompt))), offsets=[])
    for number, completion in enumerate(completions, start=1):
        row.offsets.append(len(row.tokens))
        row.tokens.extend(completion)
        row.branch.extend([number] * len(completion))
        row.positions.extend(range(len(prompt), len(prompt) + len(completion)))
    return row


def _padded(rows: Sequence[Sequence[int]], width: int, value: int) -> torch.Tensor:
    """Rows padded on the right with a value, int64 [rows, width]."""
    padded = np.full((len(rows), width), value, dtype=np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return torch.from_numpy(padded)


def _shown_choices(policy: RecPolicy, row: int, decision: Decision, position: int) -> list[tuple[int, ...]]:
    """(row, position, slot, node, target) of every token of every shown item that the policy could have chosen.

    Two kinds of item are shown without being a choice. The first item of a window that starts amid a history follows
    items that the prompt does not show. A repeated item was seen before, so the mask forbids it, unless seen items may
    be recommended.
    """
    choices: list[tuple[int, ...]] = []
    starts_amid = len(decision.prior) > 0
    masked = set(decision.masked_before.tolist())
    for slot, item in enumerate(map(int, decision.items)):
        sequence = policy.vocabulary.sequences[item]
        if not (slot == 0 and starts_amid) and item not in masked:
            for step, node in enumerate(policy.vocabulary.paths[item]):
                choices.append((row, position - 1 + step, slot, int(node), sequence[step]))
        if not decision.repeats:
            masked.add(item)
        position += len(sequence)
    return choices


def item_log_probs(
    policy: RecPolicy, batch: PackedBatch, hidden: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """The policy's distribution at every item choice of a batch.

    Args:
        policy: the policy that made `hidden`.
        batch: R choices.
        hidden: last hidden states of all tokens, [B, L, d].
        temperature: divides the logits.

    Returns:
        log-probabilities over the trie's columns, float32 [R, C]; -inf where not allowed.
    """
    states = hidden[batch.row, batch.position]
    return policy.distribution.items(states, batch.node, batch.unseen(), temperature)


def target_log_probs(policy: RecPolicy, batch: PackedBatch, hidden: torch.Tensor) -> torch.Tensor:
    """Log-probability of each token that the log chose, [R]; arguments as in `item_log_probs`."""
    columns = policy.vocabulary.trie.columns_of(batch.target)
    return item_log_probs(policy, batch, hidden).gather(1, columns[:, None])[:, 0]


def decision_log_probs(
    policy: RecPolicy, batch: PackedBatch, hidden: torch.Tensor, temperature: float
) -> list[torch.Tensor]:
    """Distributions over the catalogue after every shown item, for catalogues of one token an item.

    Args:
        policy: the policy that made `hidden`.
        batch: B prompts.
        hidden: last hidden states of all tokens, [B, L, d].
        temperature: divides the logits.

    Returns:
        per prompt [J_b, C]: the last row is the decision that a completion answers. A prompt without items has none.
    """
    width = batch.items.shape[1]
    shown = (batch.items >= 0).sum(1)
    slots = torch.arange(1, width + 1, device=hidden.device)
    row, column = (slots <= shown[:, None]).nonzero(as_tuple=True)
    position = batch.prompt_length[row] - shown[row] + column  # the header, then one token an item
    unseen = batch.seen_since()[row] > slots[column][:, None]
    log_probs = policy.distribution.items(hidden[row, position], torch.zeros_like(row), unseen, temperature)
    counts: list[int] = shown.tolist()
    return list(torch.split(log_probs, counts))


def taken_log_probs(
    policy: RecPolicy, log_probs: torch.Tensor, items: torch.Tensor, request: Request | None = None
) -> torch.Tensor:
    """Log-probabilities of the items that the user took at the decisions of one prompt.

    Args:
        policy: whose distributions they are.
        log_probs: distributions after each of J shown items, [J, C]. The prompt does not show what follows the last.
        items: the prompt's items, padded, int64 [width].
        request: the prompt's request. Items that do not satisfy it are left out.

    Returns:
        at most J - 1 numbers; items that had been seen before could not have been chosen and are left out.
    """
    following = items[1 : len(log_probs)]
    column = policy.vocabulary.trie.rank[following]
    taken = log_probs[:-1].gather(1, column[:, None])[:, 0]
    chosen = taken.isfinite()
    if request is not None and policy.attributes is not None:
        satisfied = torch.from_numpy(policy.attributes.satisfied(request.conditions)).to(following.device)
        chosen = chosen & satisfied[following]
    return taken[chosen]
