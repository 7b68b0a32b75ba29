"""The reward model: what a user clicks next and, given the click, whether it ends in a purchase.

One causal encoder reads a history, `start, item 1, ..., item L`, and has two heads on the state after every
prefix:

* click: a softmax over the whole catalogue minus what the user has had (SASRec with full softmax: Kang &
  McAuley, ICDM 2018; Klenitskiy & Vasilev, RecSys 2023). Input and output item embeddings are tied.
* purchase given click: a low-rank logit for every item, fitted on clicked events only.

As in the entire-space model (ESMM: Ma et al., SIGIR 2018) a purchase is a click that converts, so that

    reward(history, item) = log P(click item) + log P(purchase item | click item)      [nats, <= 0]

with both factors calibrated on validation: a temperature for the click softmax, scale and offset (Platt) for
the purchase logit. It is the log-probability of one event, "the next thing this user takes is this item, and
it is bought", hence comparable between users and between items.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmrec.errors import DataError, ModelError
from llmrec.files import write_json
from reward_models.storage import MEND, check_catalogue, load_config, load_state, save_tensors

FAMILY = "click_purchase"
NOT_PURCHASED, PURCHASED, UNKNOWN = 0, 1, 2  # rows of the purchase embedding


@dataclass(frozen=True)
class ClickPurchaseConfig:
    """Shape of the model; saved as `config.json`.

    Attributes:
        num_items: size N of the catalogue.
        items_sha256: fingerprint of the item ids in catalogue order (`fingerprint`), or "" if unknown.
        hidden_size: width D of the encoder.
        num_layers: transformer blocks.
        num_heads: attention heads; divides `hidden_size`.
        dropout: on embeddings and on the output of each half block.
        window: newest items of a history that the encoder reads.
        rank: width of the purchase head's dot product.
    """

    num_items: int
    items_sha256: str = ""
    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 2
    dropout: float = 0.2
    window: int = 50
    rank: int = 16


def had_after_each(history: Tensor, mask: Tensor, num_items: int) -> Tensor:
    """Which items have appeared at or before each position: history, mask [B, L] -> bool [B, L, N]."""
    batch, length = history.shape
    position = torch.arange(length, device=history.device).expand(batch, length)
    first = torch.full((batch, num_items), length, device=history.device)
    first = first.scatter_reduce(1, history, position.masked_fill(~mask, length), "amin")
    return first[:, None] <= torch.arange(length, device=history.device)[:, None]


def lowest_for_had(rewards: Tensor, had: Tensor) -> Tensor:
    """Gives items that a user already has the lowest reward of their row: [..., N] -> [..., N], all finite.

    They can be no next click (log-probability -inf), but an expectation over items must stay a number.
    """
    lowest = rewards.masked_fill(had, float("inf")).amin(-1, keepdim=True)
    # With every item had, no reward says more than another.
    lowest = torch.where(lowest.isinf(), torch.zeros_like(lowest), lowest)
    return torch.where(had, lowest, rewards)


class Block(nn.Module):
    """Pre-norm causal transformer block with a learned bias for every distance between two positions.

    Distances, not absolute positions: a window cut out of the middle of a history then means the same as one
    at its start.
    """

    def __init__(self, config: ClickPurchaseConfig):
        super().__init__()
        size = config.hidden_size
        self.heads, self.dropout = config.num_heads, config.dropout
        self.attention_norm, self.feed_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.distance_bias = nn.Parameter(torch.zeros(config.num_heads, config.window + 1))
        self.feed = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        batch, length, size = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        position = torch.arange(length, device=x.device)
        distance = position[:, None] - position  # [T, T], negative in the future
        bias = self.distance_bias[:, distance.clamp(min=0)].masked_fill(distance < 0, float("-inf"))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        mixed = self.out(mixed.transpose(1, 2).reshape(batch, length, size))
        x = x + F.dropout(mixed, self.dropout, self.training)
        return x + F.dropout(self.feed(self.feed_norm(x)), self.dropout, self.training)


class ClickPurchaseModel(nn.Module):
    """Click and purchase-given-click scores of every item after every prefix of a history.

    In the methods below `history` is int64 [B, L], left-aligned; what stands at
    padded positions does not matter to the positions before it, but must be an item index. `purchased` is int
    [B, L] (0, 1, or `UNKNOWN`), bool [B, L], or None when nothing is known of purchases.
    """

    def __init__(self, config: ClickPurchaseConfig):
        super().__init__()
        if config.hidden_size % config.num_heads:
            raise ModelError(f"hidden_size {config.hidden_size} is not a multiple of num_heads {config.num_heads}.")
        self.config = config
        size, items = config.hidden_size, config.num_items
        self.items = nn.Embedding(items + 1, size)  # the last row is the start of every history
        self.purchase_state = nn.Embedding(3, size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(size)
        self.click_bias = nn.Parameter(torch.zeros(items))
        self.purchase_query = nn.Linear(size, config.rank)
        self.purchase_items = nn.Embedding(items, config.rank)
        self.purchase_item_bias = nn.Parameter(torch.zeros(items))
        self.purchase_user_bias = nn.Linear(size, 1)
        # Calibration: no gradients, set once after training.
        self.register_buffer("click_temperature", torch.tensor(1.0))
        self.register_buffer("purchase_scale", torch.tensor(1.0))
        self.register_buffer("purchase_offset", torch.tensor(0.0))
        for module in self.modules():
            if isinstance(module, nn.Embedding | nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.purchase_query.weight, std=0.1)
        nn.init.normal_(self.purchase_items.weight, std=0.1)

    @property
    def device(self) -> torch.device:
        return self.click_bias.device

    def states(self, history: Tensor, purchased: Tensor | None) -> Tensor:
        """States before the first item and after each: [B, L] -> [B, L + 1, D], L <= `config.window`."""
        if history.shape[1] > self.config.window:
            raise ValueError(f"A packed history has {history.shape[1]} items; the window is {self.config.window}.")
        if purchased is None:
            purchased = torch.full_like(history, UNKNOWN)
        history = F.pad(history, (1, 0), value=self.config.num_items)
        purchased = F.pad(purchased.long(), (1, 0), value=UNKNOWN)
        x = self.items(history) + self.purchase_state(purchased)
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def prefix_states(self, history: Tensor, purchased: Tensor | None) -> Tensor:
        """State after each item, reading the newest `window` items up to it: [B, L] -> [B, L, D], any L."""
        window, (batch, length) = self.config.window, history.shape
        if length <= window:
            return self.states(history, purchased)[:, 1:]
        if purchased is None:
            purchased = torch.full_like(history, UNKNOWN)
        head = self.states(history[:, :window], purchased[:, :window])[:, 1:]
        # Prefixes longer than the window: each is a row of its own, so that it sees exactly its newest items.
        cuts = [x[:, 1:].unfold(1, window, 1).reshape(-1, window) for x in (history, purchased)]
        tail = self.states(*cuts)[:, -1]
        return torch.cat([head, tail.view(batch, length - window, -1)], dim=1)

    def click_scores(self, states: Tensor, items: Tensor | None = None) -> Tensor:
        """Uncalibrated click logits [..., N] of states [..., D], or [..., S] of the shared `items` [S]."""
        if items is None:
            return F.linear(states, self.items.weight[:-1], self.click_bias)
        return F.linear(states, self.items(items), self.click_bias[items])

    def purchase_scores(self, states: Tensor, items: Tensor | None = None) -> Tensor:
        """Uncalibrated purchase logits [..., N] of states [..., D], or [...] of one item a state."""
        query, user = self.purchase_query(states), self.purchase_user_bias(states)
        if items is None:
            return F.linear(query, self.purchase_items.weight, self.purchase_item_bias) + user
        return (query * self.purchase_items(items)).sum(-1) + self.purchase_item_bias[items] + user.squeeze(-1)

    def click_logits(self, history: Tensor, purchased: Tensor | None) -> Tensor:
        """Calibrated click logits [B, L, N] after every prefix; a softmax over items gives P(click)."""
        return self.click_scores(self.prefix_states(history, purchased)) / self.click_temperature

    def purchase_logits(self, history: Tensor, purchased: Tensor | None) -> Tensor:
        """Calibrated logits of P(purchase | click) of every item after every prefix, [B, L, N]."""
        return self.calibrated_purchase(self.prefix_states(history, purchased))

    def calibrated_purchase(self, states: Tensor, items: Tensor | None = None) -> Tensor:
        """`purchase_scores` after calibration: a sigmoid gives P(purchase | click)."""
        return self.purchase_scale * self.purchase_scores(states, items) + self.purchase_offset

    def rewards_of_states(self, states: Tensor, had: Tensor) -> Tensor:
        """Rewards [..., N] in nats of states [..., D]; `had`, bool [..., N], marks items the user has.

        The click softmax runs over the items not had, as in training. An item already had can be no next
        click: it gets the lowest reward of its row, which is finite so that an expectation over items stays a
        number.
        """
        logits = (self.click_scores(states) / self.click_temperature).masked_fill(had, float("-inf"))
        rewards = logits.log_softmax(-1) + F.logsigmoid(self.calibrated_purchase(states))
        return lowest_for_had(rewards, had)

    @torch.no_grad()
    def log_rewards(
        self, histories: Sequence[np.ndarray], purchases: Sequence[np.ndarray | None] | None = None
    ) -> Tensor:
        """Reward of every item as the next of each history.

        Args:
            histories: item indices in time order, any length, also empty; the encoder reads the newest
                `window`.
            purchases: whether each item was purchased; None, or None for one history: not known.

        Returns:
            float [B, N], nats; see `rewards_of_states` for items that the history holds.

        Raises:
            DataError: an item outside the catalogue, or purchases of another length than their history.
        """
        return self.rewards_of_states(*self.last_states(histories, purchases))

    @torch.no_grad()
    def log_clicks(
        self, histories: Sequence[np.ndarray], purchases: Sequence[np.ndarray | None] | None = None
    ) -> Tensor:
        """Calibrated log P(click) alone, float [B, N], nats: a next-item recommender (SASRec).

        Arguments, errors and items that the history holds as in `log_rewards`.
        """
        states, had = self.last_states(histories, purchases)
        logits = self.click_scores(states) / self.click_temperature
        return lowest_for_had(logits.masked_fill(had, float("-inf")).log_softmax(-1), had)

    def last_states(
        self, histories: Sequence[np.ndarray], purchases: Sequence[np.ndarray | None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """State after the last item [B, D], and which items each history holds, bool [B, N]."""
        history, purchased, lengths, had = self._pack(histories, purchases)
        states = self.states(history, purchased)
        return states[torch.arange(len(lengths), device=self.device), lengths], had

    @torch.no_grad()
    def log_rewards_packed(
        self,
        history: Tensor,
        purchased: Tensor | None = None,
        mask: Tensor | None = None,
        had: Tensor | None = None,
    ) -> Tensor:
        """Reward of every item after every prefix of packed histories.

        Args:
            history: item indices, int64 [B, L], left-aligned. One pass up to the window; each prefix beyond
                it is a pass over its newest `window` items.
            purchased: int or bool [B, L], or None if not known.
            mask: bool [B, L], False at padding; rewards there are 0. None: no padding.
            had: bool [B, N], items that the user had before the first one here.

        Returns:
            float [B, L, N], nats: [:, t] is the reward after items 0..t, the same as `log_rewards` of that
            prefix.

        Raises:
            DataError: an item outside the catalogue.
        """
        history = history.to(self.device)
        mask = torch.ones_like(history, dtype=torch.bool) if mask is None else mask.to(self.device).bool()
        history = history.masked_fill(~mask, 0)
        self._check_items(history)
        purchased = None if purchased is None else purchased.to(self.device).long().masked_fill(~mask, UNKNOWN)
        states = self.prefix_states(history, purchased)
        seen = had_after_each(history, mask, self.config.num_items)
        if had is not None:
            seen = seen | had.to(self.device)[:, None]
        return self.rewards_of_states(states, seen).masked_fill(~mask[..., None], 0.0)

    def _check_items(self, items: Tensor) -> None:
        if items.numel() and (items.min() < 0 or items.max() >= self.config.num_items):
            wrong = items[(items < 0) | (items >= self.config.num_items)][0].item()
            raise DataError(
                f"A history holds item index {wrong}, but this reward model knows "
                f"{self.config.num_items} items (0 up to that). "
                "Was it trained on another catalogue? Run the reward stage on this data."
            )

    def _pack(self, histories, purchases) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """history [B, L], purchased [B, L], lengths [B], had [B, N]; L is the longest, cut to the window."""
        window, batch = self.config.window, len(histories)
        lengths = torch.tensor([min(len(history), window) for history in histories], dtype=torch.long)
        width = int(lengths.max()) if batch else 0
        packed = torch.zeros(batch, width, dtype=torch.long)
        purchased = torch.full((batch, width), UNKNOWN, dtype=torch.long)
        had = torch.zeros(batch, self.config.num_items, dtype=torch.bool)
        for row, history in enumerate(histories):
            items = torch.as_tensor(np.asarray(history, dtype=np.int64))
            self._check_items(items)
            had[row, items] = True
            cut = items[len(items) - lengths[row] :]
            packed[row, : len(cut)] = cut
            known = None if purchases is None else purchases[row]
            if known is None:
                continue
            if len(known) != len(items):
                raise DataError(f"History {row} has {len(items)} items but {len(known)} purchase flags.")
            flags = torch.as_tensor(np.asarray(known, dtype=np.int64))
            purchased[row, : len(cut)] = flags[len(items) - lengths[row] :]
        return tuple(value.to(self.device) for value in (packed, purchased, lengths, had))

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes `model.safetensors` and `config.json`; other files in `directory` stay.

        Raises:
            UserError: the disk is full or the place is not writable.
        """
        directory = Path(directory)
        save_tensors(directory / "model.safetensors", self.state_dict())
        write_json(directory / "config.json", {"model_type": FAMILY, **asdict(self.config)})

    @classmethod
    def from_pretrained(cls, directory: str | Path, item_ids: Iterable[str] | None = None) -> "ClickPurchaseModel":
        """Reads what `save_pretrained` wrote, in eval mode.

        Args:
            directory: the run's `reward/`.
            item_ids: the catalogue's item ids; if given, the model must have been trained on exactly these.

        Raises:
            ModelError: a file is missing, truncated or of another model, or the catalogue is another.
        """
        directory = Path(directory)
        values = load_config(directory / "config.json", FAMILY)
        try:
            config = ClickPurchaseConfig(**values)
            model = cls(config)
        except (TypeError, ValueError, RuntimeError, ModelError) as error:
            raise ModelError(f"{directory / 'config.json'} does not describe this model ({error}). {MEND}") from None
        check_catalogue(directory, config.num_items, config.items_sha256, item_ids)
        load_state(model, directory / "model.safetensors")
        return model.eval()
