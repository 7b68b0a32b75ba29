"""Decisions over several turns: a prompt to which each turn appends what it showed and what came of it.

`TurnReader` reads the prompts of many lives once and keeps their key-value cache, so a turn costs its own tokens alone.
`pack_lives` renders whole lives, of which one forward pass scores every turn. Both need one token an item.

    header, item, item, ..., item | outcome | outcome | ...
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import cast

import numpy as np
import torch
from transformers import Cache

from llmrec.data.decision import Decision
from llmrec.data.seen_mask import seen_since
from llmrec.errors import ModelError
from llmrec.language.attention import layer_masks
from llmrec.language.grammar import ITEM
from llmrec.policy.distribution import TokenLogProbs
from llmrec.policy.generate import read_prompts
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import PackedBatch, pack


@dataclass(frozen=True)
class Life:
    """One user over T turns.

    Attributes:
        decision: what is known before the first turn.
        shown: item that each turn showed, [T].
        clicked: whether it was clicked, so that later turns cannot show it, [T].
        outcomes: token ids that each turn appended to the prompt, [T], or without those of the last turn.
    """

    decision: Decision
    shown: list[int]
    clicked: list[bool]
    outcomes: list[list[int]]


@dataclass(frozen=True)
class LifeBatch:
    """B lives of at most T turns as tensors; the interface is that of `packing.PackedBatch` with completions.

    Attributes:
        tokens: token ids, padded on the right, int64 [B, L].
        token_mask: 1 at real tokens, int64 [B, L].
        position: index in `tokens` of the hidden state that decides each turn, int64 [B, T].
        column: trie column of the item that each turn showed, int64 [B, T].
        available: items that each turn could show, bool [B, T, N].
        turn_mask: true at real turns, bool [B, T].
    """

    tokens: torch.Tensor
    token_mask: torch.Tensor
    position: torch.Tensor
    column: torch.Tensor
    available: torch.Tensor
    turn_mask: torch.Tensor

    def to(self, device: torch.device) -> "LifeBatch":
        """The same batch on a device."""
        return LifeBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The arguments of `RecPolicy.forward`: tokens, positions and attention mask."""
        positions = torch.arange(self.tokens.shape[1], device=self.tokens.device).expand_as(self.tokens)
        return self.tokens, positions, self.token_mask

    def completion_states(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states [B, T, d] that decide each turn, from those of all tokens [B, L, d]."""
        rows = torch.arange(len(hidden), device=hidden.device)
        return hidden[rows[:, None], self.position]

    def score(self, policy: RecPolicy, hidden: torch.Tensor, temperature: float = 1.0) -> TokenLogProbs:
        """Log-probabilities of the shown items, [B, T]; arguments as in `PackedBatch.score`."""
        states = self.completion_states(hidden).flatten(0, 1)
        log_probs = item_distribution(policy, states, self.available.flatten(0, 1), temperature)
        shape = self.column.shape
        picked = log_probs.gather(1, self.column.flatten()[:, None])[:, 0].view(shape)
        return TokenLogProbs(
            log_probs=picked.masked_fill(~self.turn_mask, 0.0),
            entropy=_entropy(log_probs.detach()).view(shape),
            region=torch.full_like(self.column, ITEM),
            is_choice=log_probs.isfinite().sum(1).view(shape) > 1,
        )


def item_distribution(
    policy: RecPolicy, hidden: torch.Tensor, available: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Log-probabilities over the trie's columns. If nothing is available, everything is.

    Args:
        policy: the policy that made `hidden`.
        hidden: hidden states, [R, d].
        available: items that may be shown, bool [R, N].
        temperature: divides the logits.

    Returns:
        float32 [R, C], -inf where not allowed.
    """
    allowed = available | ~available.any(1, keepdim=True)
    root = torch.zeros(len(hidden), dtype=torch.int64, device=hidden.device)
    return policy.distribution.items(hidden, root, allowed, temperature)


def _unseen(prompts: PackedBatch) -> torch.Tensor:
    """Items that may be recommended at the end of each prompt, bool [B, N]."""
    return prompts.seen_since() > prompts.items.shape[1]


def _entropy(log_probs: torch.Tensor) -> torch.Tensor:
    """Entropy in nats of each row, [R]."""
    return -(log_probs.exp() * log_probs.masked_fill(log_probs.isneginf(), 0.0)).sum(1)


def pack_lives(policy: RecPolicy, lives: Sequence[Life], turns: int = 1) -> LifeBatch:
    """Renders B lives to one padded batch on the CPU.

    Args:
        policy: its tokenizer, vocabulary and prompt format are used.
        lives: the lives, of at least one turn each.
        turns: lives are padded to this number of turns at least.
    """
    prompts = pack(policy, [life.decision for life in lives])
    lengths: list[int] = prompts.prompt_length.tolist()
    starts: list[list[int]] = [row[:length] for row, length in zip(prompts.tokens.tolist(), lengths, strict=True)]
    rows = [start + [token for turn in life.outcomes[: len(life.shown) - 1] for token in turn]
            for start, life in zip(starts, lives, strict=True)]  # fmt: skip
    turns = max([turns, *(len(life.shown) for life in lives)])
    tokens = np.full((len(lives), max(map(len, rows))), policy.prompts.end)
    token_mask = np.zeros(tokens.shape, np.int64)
    position = np.zeros((len(lives), turns), np.int64)
    shown = np.full((len(lives), turns), -1)
    clicked = np.full((len(lives), turns), -1)
    for b, (row, life) in enumerate(zip(rows, lives, strict=True)):
        tokens[b, : len(row)] = row
        token_mask[b, : len(row)] = 1
        appended = np.cumsum([0, *(len(turn) for turn in life.outcomes[: len(life.shown) - 1])])
        position[b, : len(life.shown)] = len(starts[b]) - 1 + appended
        shown[b, : len(life.shown)] = life.shown
        clicked[b, : len(life.shown)] = np.where(life.clicked, life.shown, -1)
    items = torch.from_numpy(shown)
    since = seen_since(torch.from_numpy(clicked), ~_unseen(prompts))
    return LifeBatch(
        tokens=torch.from_numpy(tokens),
        token_mask=torch.from_numpy(token_mask),
        position=torch.from_numpy(position),
        column=policy.vocabulary.trie.rank.cpu()[items.clamp(min=0)],
        available=since[:, None] > torch.arange(turns)[:, None],
        turn_mask=items >= 0,
    )


class TurnReader:
    """Reads the prompts of B lives, and then what each turn appends. What was read before stays in the cache.

    Args:
        policy: the policy.
        decisions: what is known of each life, [B].

    Attributes:
        hidden: hidden state that decides the next turn of each life, [B, d].
        available: items that may be shown next, bool [B, N].
    """

    def __init__(self, policy: RecPolicy, decisions: Sequence[Decision]):
        self.policy = policy
        prompts = pack(policy, decisions).to(policy.device)
        hidden, self._cache, _ = read_prompts(policy, prompts, 0)
        self._mask = prompts.attention_mask()
        self._length = prompts.prompt_length
        self.hidden = hidden[torch.arange(len(hidden), device=hidden.device), self._length - 1]
        self.available = _unseen(prompts)

    def log_probs(self, temperature: float = 1.0) -> torch.Tensor:
        """The policy's distribution of each life's next item over the trie's columns, float32 [B, C]."""
        return item_distribution(self.policy, self.hidden, self.available, temperature)

    def append(self, shown: torch.Tensor, clicked: np.ndarray, outcomes: Sequence[Sequence[int]]) -> None:
        """Ends a turn: what was clicked is not shown again, and the outcome is read.

        Args:
            shown: item of each life, int64 [B].
            clicked: whether it was clicked, bool [B].
            outcomes: token ids to append to each life, [B]. A life without any is decided again as before.
        """
        device = self.hidden.device
        rows = torch.arange(len(shown), device=device)
        taken = torch.from_numpy(clicked).to(device)
        self.available[rows[taken], shown[taken]] = False
        counts = torch.tensor([len(tokens) for tokens in outcomes], device=device)
        steps = torch.arange(int(counts.max()), device=device)
        if not len(steps):
            return
        tokens = torch.full((len(outcomes), len(steps)), self.policy.prompts.end)
        for row, appended in enumerate(outcomes):
            tokens[row, : len(appended)] = torch.tensor(appended)
        positions = self._length[:, None] + steps
        self._mask = torch.cat([self._mask, (steps < counts[:, None]).long()], 1)
        output = self.policy.backbone(
            self.policy.embed(tokens.to(device)),
            attention_mask=layer_masks(self.policy.config, self._mask, positions),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache = cast(Cache, output.past_key_values)
        read = cast(torch.Tensor, output.last_hidden_state)[rows, (counts - 1).clamp(min=0)]
        self.hidden = torch.where(counts[:, None] > 0, read, self.hidden)
        self._length = self._length + counts

    def select(self, rows: torch.Tensor) -> None:
        """Keeps some of the lives, int64 [b]."""
        self._cache.batch_select_indices(rows)
        self._mask = self._mask[rows]
        self._length = self._length[rows]
        self.hidden = self.hidden[rows]
        self.available = self.available[rows]


@dataclass(frozen=True)
class Outcomes:
    """How the outcome of a turn stands in the prompt.

    A clicked item stands there as in any history. The rest is told in words of the base's own vocabulary, or left out.

    Attributes:
        policy: its tokenizer and vocabulary are used.
        refused: token ids that follow a shown item without a click; None leaves such items out.
        later: token ids that begin another session.
    """

    policy: RecPolicy
    refused: list[int] | None
    later: list[int]

    @classmethod
    def of(cls, policy: RecPolicy, told: bool) -> "Outcomes":
        """The outcomes in the tokens of a policy.

        Args:
            policy: the policy.
            told: whether refused items and new sessions stand in the prompt.

        Raises:
            ModelError: the catalogue has items of several tokens.
        """
        if not policy.vocabulary.trie.flat:
            raise ModelError(
                "Several turns need one token an item, but the adapter was trained with `catalogue.scheme: title`; "
                "expected `atomic`. Train an adapter with `catalogue.scheme: atomic`."
            )
        encode = policy.prompts.text.encode
        return cls(policy, encode(" no"), encode(" later")) if told else cls(policy, None, [])

    def tokens(self, item: int, clicked: bool, gap: float) -> list[int]:
        """What a turn appends to the prompt.

        Args:
            item: the shown item.
            clicked: whether it was clicked.
            gap: days until the next session, 0 if the session goes on.
        """
        later = self.later if gap > 0 else []
        if not clicked and self.refused is None:
            return later
        return [*self.policy.vocabulary.sequences[item], *([] if clicked else self.refused or []), *later]
