"""The click/purchase model: what a user clicks next and, given the click, whether the user purchases it.

One causal encoder reads a history, `start, item 1, ..., item L`, and the user's profile. Two heads read the state after
every prefix:

* click: a score z_i for every item (SASRec with full softmax: Kang & McAuley, ICDM 2018; Klenitskiy & Vasilev,
  RecSys 2023). Input and output embeddings are tied.
* purchase given click: a low-rank logit for every item, fitted on clicked events only.

An item is the sum of an embedding of its id and an embedding of the words in its title and categories. Items without a
training click are represented by their words alone.

**Meaning of P(click).** Assume that a user clicks exactly one item of a candidate set C next. Then

    P(click i | history, C) = exp(z_i / T) / sum over j in C of exp(z_j / T)

is the probability that it is item i. The reward uses the unseen items of the whole catalogue as C, so the
probabilities of unseen items sum to 1. (On a log with `data.repeats: keep`, C is the whole catalogue, and no item
counts as seen.) This is *not* the probability of a click on i if i is shown, which `click_if_shown` gives after
training on a log with exposures. Calibration is measured on the same formula (`quality.py`).

**Reward.** As in the entire-space model (ESMM: Ma et al., SIGIR 2018), a purchase is a click that converts:

    reward(history, item) = log P(click item) + log P(purchase item | click item)      [nats, <= 0]

Both factors are calibrated on validation: the click softmax by a temperature T, the purchase logit by a scale and an
offset (Platt). The reward is the log-probability of one event, "the user clicks this item next and purchases it", so
it is comparable between users and between items.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmrec.data.seen_mask import seen_after_each, seen_mask
from llmrec.errors import DataError
from reward_models.encoder import Block, ClickPurchaseConfig
from reward_models.features import PROFILE_BUCKETS, WORD_BUCKETS
from reward_models.reward_model import Histories, Prediction, Purchases, RewardModel
from reward_models.storage import SavedModel

# Rows of the purchase embedding.
NOT_PURCHASED = 0
PURCHASED = 1
UNKNOWN = 2
POSITIONS = 64  # list ranks of an exposure that have a bias; rank 0 means unknown
ID_DROPOUT = 0.1  # share of item ids that are hidden in training, so that item words learn to predict without ids


@dataclass(frozen=True)
class Candidates:
    """Items as the two heads read them.

    Attributes:
        click: vectors of the click head, [..., D].
        click_bias: biases of the click head, [...].
        purchase: vectors of the purchase head, [..., R].
        purchase_bias: biases of the purchase head, [...].
    """

    click: Tensor
    click_bias: Tensor
    purchase: Tensor
    purchase_bias: Tensor


class ClickPurchaseModel(RewardModel, SavedModel):
    """Scores of clicks and of purchases given a click, for every item after every prefix of a history.

    In the methods below `history` holds item indices, left-aligned, int64 [B, L]. Padding may hold any item index and
    has no effect on the positions before it. `purchased` is int [B, L] (`NOT_PURCHASED`, `PURCHASED` or `UNKNOWN`),
    bool [B, L], or None if all purchases are unknown.
    """

    FAMILY = "click_purchase"

    item_words: Tensor
    trained: Tensor

    def __init__(self, config: ClickPurchaseConfig):
        super().__init__()
        self.config = config
        size = config.hidden_size
        items = config.num_items
        self.items = nn.Embedding(items + 1, size)  # the last row is the start of every history
        self.purchase_state = nn.Embedding(3, size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(size)
        self.click_bias = nn.Parameter(torch.zeros(items))
        self.purchase_query = nn.Linear(size, config.rank)
        self.purchase_items = nn.Embedding(items, config.rank)
        self.purchase_item_bias = nn.Parameter(torch.zeros(items))
        self.purchase_user_bias = nn.Linear(size, 1)
        # Words of items: their embeddings are added to the parameters of the item's id.
        self.words = nn.EmbeddingBag(WORD_BUCKETS, size, mode="mean", padding_idx=0)
        self.word_heads = nn.Linear(size, config.rank + 2, bias=False)  # click bias, purchase bias, purchase vector
        self.profile = nn.EmbeddingBag(PROFILE_BUCKETS, size, mode="mean", padding_idx=0)
        # Exposures: what is added to the click score to give the log-odds of a click on a shown item.
        self.exposure_level = nn.Linear(size, 1)
        self.position_bias = nn.Embedding(POSITIONS + 1, 1)
        self.register_buffer("item_words", torch.zeros(items, config.words, dtype=torch.long))
        self.register_buffer("trained", torch.ones(items, dtype=torch.bool))  # items with a training click
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag | nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.purchase_query.weight, std=0.1)
        nn.init.normal_(self.purchase_items.weight, std=0.1)
        with torch.no_grad():
            for bag in (self.words, self.profile):  # padding, and items or users without words, must stay zero
                bag.weight[0] = 0.0
        nn.init.zeros_(self.position_bias.weight)

    @classmethod
    def _build(cls, values: dict[str, Any], directory: Path, item_ids: list[str] | None) -> Self:
        return cls(ClickPurchaseConfig(**values))

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.click_bias.device

    @property
    def num_items(self) -> int:
        """Size N of the catalogue."""
        return self.config.num_items

    @property
    def window(self) -> int:
        """Number of newest items of a history that the encoder reads."""
        return self.config.window

    # --- items and states ---

    def _id_is_used(self, items: Tensor) -> Tensor:
        """Whether an item's id is used, float [..., 1]: never if untrained, and not always in training."""
        used = self.trained[items]
        if self.training:
            used = used & (torch.rand(used.shape, device=used.device) >= ID_DROPOUT)
        return used.float()[..., None]

    def _word_embeddings(self, items: Tensor) -> Tensor:
        """Embeddings of the words of items: [...] to [..., D]."""
        flat = items.reshape(-1)
        if len(flat) > self.config.num_items:  # cheaper: embed the words of each item once
            return self.words(self.item_words)[items]
        return self.words(self.item_words[flat]).view(*items.shape, self.config.hidden_size)

    def candidates(self, items: Tensor | None = None) -> Candidates:
        """Items [...] as the heads read them; None means the whole catalogue."""
        items = torch.arange(self.config.num_items, device=self.device) if items is None else items
        id_used = self._id_is_used(items)
        words = self._word_embeddings(items)
        from_words = self.word_heads(words)
        return Candidates(
            click=words + id_used * self.items(items),
            click_bias=from_words[..., 0] + id_used[..., 0] * self.click_bias[items],
            purchase=from_words[..., 2:] + id_used * self.purchase_items(items),
            purchase_bias=from_words[..., 1] + id_used[..., 0] * self.purchase_item_bias[items],
        )

    def states(self, history: Tensor, purchased: Tensor | None, profiles: Tensor | None = None) -> Tensor:
        """States before the first item and after each item.

        Args:
            history: int64 [B, L] with L <= `config.window`.
            purchased: see the class.
            profiles: profile words, int64 [B, P], or None.

        Returns:
            [B, L + 1, D].
        """
        if history.shape[1] > self.config.window:
            raise ValueError(f"A packed history has {history.shape[1]} items; the window is {self.config.window}.")
        if purchased is None:
            purchased = torch.full_like(history, UNKNOWN)
        start = self.items.weight[-1].expand(len(history), 1, -1)
        embedded = self._word_embeddings(history) + self._id_is_used(history) * self.items(history)
        states = F.pad(purchased.long(), (1, 0), value=UNKNOWN)
        x = torch.cat([start, embedded], 1) + self.purchase_state(states)
        if profiles is not None:
            x = x + self.profile(profiles)[:, None]
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def prefix_states(self, history: Tensor, purchased: Tensor | None, profiles: Tensor | None = None) -> Tensor:
        """State after each item, from the newest `window` items up to it: [B, L] to [B, L, D], for any L."""
        window = self.config.window
        batch, length = history.shape
        if length <= window:
            return self.states(history, purchased, profiles)[:, 1:]
        if purchased is None:
            purchased = torch.full_like(history, UNKNOWN)
        head = self.states(history[:, :window], purchased[:, :window], profiles)[:, 1:]
        # Each prefix that is longer than the window becomes a row, so that it sees exactly its newest items.
        items, flags = (x[:, 1:].unfold(1, window, 1).reshape(-1, window) for x in (history, purchased))
        repeated = None if profiles is None else profiles.repeat_interleave(length - window, 0)
        tail = self.states(items, flags, repeated)[:, -1]
        return torch.cat([head, tail.view(batch, length - window, -1)], dim=1)

    def last_states(
        self, histories: Histories, purchases: Purchases = None, profiles: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor]:
        """State after the last item, [B, D], and which items each history holds, bool [B, N]."""
        history, purchased, lengths, seen = self.pack(histories, purchases)
        states = self.states(history, purchased, self._profiles(profiles))
        return states[torch.arange(len(lengths), device=self.device), lengths], seen

    # --- scores ---

    def click_scores(self, states: Tensor, items: Tensor | None = None) -> Tensor:
        """Uncalibrated click scores of states [..., D]: [..., N], or [..., S] for the shared `items` [S]."""
        candidates = self.candidates(items)
        return F.linear(states, candidates.click, candidates.click_bias)

    def pair_scores(self, states: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Uncalibrated click scores and purchase logits, each [...], of one item [...] for each state [..., D]."""
        candidates = self.candidates(items)
        click = (states * candidates.click).sum(-1) + candidates.click_bias
        purchase = (self.purchase_query(states) * candidates.purchase).sum(-1) + candidates.purchase_bias
        return click, purchase + self.purchase_user_bias(states).squeeze(-1)

    def exposure_logits(self, states: Tensor, items: Tensor, positions: Tensor) -> Tensor:
        """Log-odds [E] of a click on items [E] that are shown at ranks [E] (0: unknown) in states [E, D]."""
        click, _ = self.pair_scores(states, items)
        bias = self.position_bias(positions.clamp(0, POSITIONS))
        return click + self.exposure_level(states).squeeze(-1) + bias.squeeze(-1)

    def predict_states(self, states: Tensor, seen: Tensor) -> Prediction:
        """Calibrated scores of all items in states [..., D]; `seen`, bool [..., N], is ignored with repeats."""
        seen = torch.zeros_like(seen) if self.config.repeats else seen
        candidates = self.candidates()
        click = F.linear(states, candidates.click, candidates.click_bias) / self.click_temperature
        log_click = torch.where(seen, -torch.inf, click).log_softmax(-1)
        if not self.config.purchases:
            return Prediction(log_click=log_click, purchase=torch.full_like(click, float("inf")), seen=seen)
        purchase = F.linear(self.purchase_query(states), candidates.purchase, candidates.purchase_bias)
        purchase = purchase + self.purchase_user_bias(states)
        calibrated = self.purchase_scale * purchase + self.purchase_offset
        return Prediction(log_click=log_click, purchase=calibrated, seen=seen)

    def predict(
        self,
        histories: Histories,
        purchases: Purchases = None,
        profiles: np.ndarray | None = None,
        clicks_before: Tensor | None = None,
    ) -> Prediction:
        """Scores [B, N] after the last item of each history; arguments as in `RewardModel.predict`."""
        states, in_history = self.last_states(histories, purchases, profiles)
        return self.predict_states(states, _with_earlier(in_history, clicks_before))

    def predict_packed(
        self,
        history: Tensor,
        purchased: Tensor | None,
        mask: Tensor,
        clicks_before: Tensor | None = None,
        profiles: np.ndarray | None = None,
    ) -> Prediction:
        """Scores [B, L, N] after every prefix; arguments as in `log_rewards_packed`."""
        history = history.to(self.device)
        mask = mask.to(self.device)
        padded = history.masked_fill(~mask, 0)
        self._check_items(padded)
        if purchased is not None:
            purchased = purchased.to(self.device).long().masked_fill(~mask, UNKNOWN)
        states = self.prefix_states(padded, purchased, self._profiles(profiles))
        seen_by_then = seen_after_each(history.masked_fill(~mask, -1), self.config.num_items)
        return self.predict_states(states, _with_earlier(seen_by_then, clicks_before))

    @torch.no_grad()
    def click_if_shown(
        self, histories: Histories, items: Any, positions: Any, profiles: np.ndarray | None = None
    ) -> Tensor:
        """Probability of a click on an item that is shown, for models that were trained on exposures.

        Args:
            histories: item indices in time order, [B] histories.
            items: index of the item that is shown after each history, int64 [B].
            positions: rank in the list at which it is shown, from 1, int64 [B]; 0 means unknown.
            profiles: as in `log_rewards`.

        Returns:
            float [B].

        Raises:
            DataError: an item is outside the catalogue.
        """
        shown = torch.as_tensor(np.asarray(items), dtype=torch.long).to(self.device)
        self._check_items(shown, "The candidates hold")
        states, _ = self.last_states(histories, None, profiles)
        ranks = torch.as_tensor(np.asarray(positions), dtype=torch.long).to(self.device)
        return self.exposure_logits(states, shown, ranks).sigmoid()

    # --- inputs ---

    def _profiles(self, profiles: np.ndarray | None) -> Tensor | None:
        """Checked profile words on the device, int64 [B, P]."""
        if profiles is None:
            return None
        words = torch.as_tensor(np.asarray(profiles, dtype=np.int64))
        if words.numel() and (words.min() < 0 or words.max() >= PROFILE_BUCKETS):
            raise DataError(
                f"A profile word is outside 0..{PROFILE_BUCKETS - 1}: make profiles with `features.profile_words`."
            )
        return words.to(self.device)

    def _check_items(self, items: Tensor, who: str = "A history holds") -> None:
        if items.numel() and (items.min() < 0 or items.max() >= self.config.num_items):
            wrong = items[(items < 0) | (items >= self.config.num_items)][0].item()
            raise DataError(
                f"{who} item index {wrong}, but this reward model has {self.config.num_items} items (indices 0 to "
                f"{self.config.num_items - 1}). The model was trained on another catalogue. Run the reward "
                "stage on this data."
            )

    def pack(self, histories: Histories, purchases: Purchases) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Packs histories into tensors on the device, cut to the newest `window` items.

        Returns:
            history [B, L], purchased [B, L], lengths [B], and the items that the uncut histories hold, bool [B, N].
        """
        items = [np.asarray(history, dtype=np.int64) for history in histories]
        self._check_items(torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *items])))
        lengths = [min(len(history), self.config.window) for history in items]
        packed = np.zeros((len(items), max(lengths, default=0)), dtype=np.int64)
        purchased = np.full_like(packed, UNKNOWN)
        for row, (history, length) in enumerate(zip(items, lengths, strict=True)):
            packed[row, :length] = history[len(history) - length :]
            known = None if purchases is None else purchases[row]
            if known is None:
                continue
            if len(known) != len(history):
                raise DataError(f"History {row} has {len(history)} items but {len(known)} purchase flags.")
            purchased[row, :length] = np.asarray(known, dtype=np.int64)[len(history) - length :]
        seen = seen_mask(items, self.config.num_items)
        arrays = (packed, purchased, np.array(lengths, dtype=np.int64), seen)
        history, flags, ends, mask = (torch.from_numpy(values).to(self.device) for values in arrays)
        return history, flags, ends, mask


def _with_earlier(seen: Tensor, clicks_before: Tensor | None) -> Tensor:
    """The seen items of histories, bool [B, N] or [B, L, N], with those clicked before the histories start."""
    if clicks_before is None:
        return seen
    earlier = clicks_before.to(seen.device) > 0
    return seen | (earlier if seen.dim() == 2 else earlier[:, None])
