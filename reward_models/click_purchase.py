"""The reward model: what a user clicks next and, given the click, whether it ends in a purchase.

One causal encoder reads a history, `start, item 1, ..., item L`, and the user's profile, and has two heads on the
state after every prefix:

* click: a score z_i of every item (SASRec with full softmax: Kang & McAuley, ICDM 2018; Klenitskiy & Vasilev,
  RecSys 2023). Input and output embeddings are tied.
* purchase given click: a low-rank logit for every item, fitted on clicked events only.

An item is the sum of an embedding of its id and one of the words of its title and categories. Items that were
never trained on are their words alone.

**What P(click) means.** Let a user click exactly one item out of a candidate set C next. Then

    P(click i | history, C) = exp(z_i / T) / sum over j in C of exp(z_j / T)

is the probability that it is item i. The reward takes for C the whole catalogue minus what the user has had, so it
is *not* the probability of a click if i were shown (that is `click_if_shown`, for logs with exposures), and it
sums to 1 over C. Calibration is measured on the same formula (`quality.py`).

As in the entire-space model (ESMM: Ma et al., SIGIR 2018) a purchase is a click that converts, so that

    reward(history, item) = log P(click item) + log P(purchase item | click item)      [nats, <= 0]

with both factors calibrated on validation: the temperature T of the click softmax, scale and offset (Platt) of the
purchase logit. It is the log-probability of one event, "the next thing this user takes is this item, and it is
bought", hence comparable between users and between items.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmrec.errors import DataError, ModelError
from llmrec.files import write_json
from reward_models.features import PROFILE_BUCKETS, WORD_BUCKETS
from reward_models.reward_model import Prediction, Rewarder
from reward_models.storage import MEND, check_catalogue, load_config, load_state, save_tensors

FAMILY = "click_purchase"
NOT_PURCHASED, PURCHASED, UNKNOWN = 0, 1, 2  # rows of the purchase embedding
POSITIONS = 64  # ranks of an exposure that have a bias of their own; row 0 stands for an unknown one
ID_DROPOUT = 0.1  # share of items whose id is hidden in training, so that their words learn to stand alone


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
        words: columns W of the table of item words.
        purchases: False for a log without purchases; P(purchase | click) is then 1.
    """

    num_items: int
    items_sha256: str = ""
    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 2
    dropout: float = 0.2
    window: int = 50
    rank: int = 16
    words: int = 1
    purchases: bool = True


def had_after_each(history: Tensor, mask: Tensor, num_items: int) -> Tensor:
    """Which items have appeared at or before each position: history, mask [B, L] -> bool [B, L, N]."""
    batch, length = history.shape
    position = torch.arange(length, device=history.device).expand(batch, length)
    first = torch.full((batch, num_items), length, device=history.device)
    first = first.scatter_reduce(1, history, position.masked_fill(~mask, length), "amin")
    return first[:, None] <= torch.arange(length, device=history.device)[:, None]


@dataclass(frozen=True)
class Candidates:
    """What the heads see of items: click [..., D] and its bias [...], purchase [..., R] and its bias [...]."""

    click: Tensor
    click_bias: Tensor
    purchase: Tensor
    purchase_bias: Tensor


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


class ClickPurchaseModel(Rewarder):
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
        # Words of items. Their sum with the id's parameters is what the heads and the encoder read.
        self.words = nn.EmbeddingBag(WORD_BUCKETS, size, mode="mean", padding_idx=0)
        self.word_heads = nn.Linear(size, config.rank + 2, bias=False)  # click bias, purchase bias, purchase
        self.profile = nn.EmbeddingBag(PROFILE_BUCKETS, size, mode="mean", padding_idx=0)
        # Exposures: log-odds of a click on what is shown, beside the click score.
        self.exposure_level = nn.Linear(size, 1)
        self.position_bias = nn.Embedding(POSITIONS + 1, 1)
        self.register_buffer("item_words", torch.zeros(items, config.words, dtype=torch.long))
        self.register_buffer("trained", torch.ones(items, dtype=torch.bool))  # items with a training click
        # Calibration: no gradients, set once after training.
        self.register_buffer("click_temperature", torch.tensor(1.0))
        self.register_buffer("purchase_scale", torch.tensor(1.0))
        self.register_buffer("purchase_offset", torch.tensor(0.0))
        for module in self.modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag | nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.purchase_query.weight, std=0.1)
        nn.init.normal_(self.purchase_items.weight, std=0.1)
        for bag in (self.words, self.profile):  # a zero row for what has no words
            nn.init.zeros_(bag.weight[0])
        nn.init.zeros_(self.position_bias.weight)

    @property
    def device(self) -> torch.device:
        return self.click_bias.device

    def _known(self, items: Tensor) -> Tensor:
        """Whether an item's id may be read, float [..., 1]: not if untrained, and in training sometimes not."""
        known = self.trained[items]
        if self.training:
            known = known & (torch.rand(known.shape, device=known.device) >= ID_DROPOUT)
        return known.float()[..., None]

    def _of_words(self, items: Tensor) -> Tensor:
        """Embedding of the words of items: [...] -> [..., D]."""
        flat = items.reshape(-1)
        if len(flat) > self.config.num_items:  # each item's words once
            return self.words(self.item_words)[items]
        return self.words(self.item_words[flat]).view(*items.shape, self.config.hidden_size)

    def candidates(self, items: Tensor | None = None) -> Candidates:
        """Items [...] as the heads see them; None: the whole catalogue."""
        items = torch.arange(self.config.num_items, device=self.device) if items is None else items
        known, words = self._known(items), self._of_words(items)
        from_words = self.word_heads(words)
        return Candidates(
            words + known * self.items(items),
            from_words[..., 0] + known[..., 0] * self.click_bias[items],
            from_words[..., 2:] + known * self.purchase_items(items),
            from_words[..., 1] + known[..., 0] * self.purchase_item_bias[items],
        )

    def states(self, history: Tensor, purchased: Tensor | None, profiles: Tensor | None = None) -> Tensor:
        """States before the first item and after each: [B, L] -> [B, L + 1, D], L <= `config.window`.

        `profiles` is int64 [B, P], or None.
        """
        if history.shape[1] > self.config.window:
            raise ValueError(f"A packed history has {history.shape[1]} items; the window is {self.config.window}.")
        if purchased is None:
            purchased = torch.full_like(history, UNKNOWN)
        start = self.items.weight[-1].expand(len(history), 1, -1)
        items = torch.cat([start, self._of_words(history) + self._known(history) * self.items(history)], 1)
        x = items + self.purchase_state(F.pad(purchased.long(), (1, 0), value=UNKNOWN))
        if profiles is not None:
            x = x + self.profile(profiles)[:, None]
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def prefix_states(self, history: Tensor, purchased: Tensor | None, profiles: Tensor | None = None) -> Tensor:
        """State after each item, reading the newest `window` items up to it: [B, L] -> [B, L, D], any L."""
        window, (batch, length) = self.config.window, history.shape
        if length <= window:
            return self.states(history, purchased, profiles)[:, 1:]
        if purchased is None:
            purchased = torch.full_like(history, UNKNOWN)
        head = self.states(history[:, :window], purchased[:, :window], profiles)[:, 1:]
        # Prefixes longer than the window: each is a row of its own, so that it sees exactly its newest items.
        cuts = [x[:, 1:].unfold(1, window, 1).reshape(-1, window) for x in (history, purchased)]
        repeated = None if profiles is None else profiles.repeat_interleave(length - window, 0)
        tail = self.states(*cuts, repeated)[:, -1]
        return torch.cat([head, tail.view(batch, length - window, -1)], dim=1)

    def click_scores(self, states: Tensor, items: Tensor | None = None) -> Tensor:
        """Uncalibrated click scores [..., N] of states [..., D], or [..., S] of the shared `items` [S]."""
        candidates = self.candidates(items)
        return F.linear(states, candidates.click, candidates.click_bias)

    def pair_scores(self, states: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Uncalibrated click scores and purchase logits, each [...], of one item [...] a state [..., D]."""
        candidates = self.candidates(items)
        click = (states * candidates.click).sum(-1) + candidates.click_bias
        purchase = (self.purchase_query(states) * candidates.purchase).sum(-1) + candidates.purchase_bias
        return click, purchase + self.purchase_user_bias(states).squeeze(-1)

    def exposure_logits(self, states: Tensor, items: Tensor, positions: Tensor) -> Tensor:
        """Log-odds [E] of a click on items [E] shown at ranks [E] (0: unknown) in states [E, D]."""
        click, _ = self.pair_scores(states, items)
        bias = self.position_bias(positions.clamp(0, POSITIONS))
        return click + self.exposure_level(states).squeeze(-1) + bias.squeeze(-1)

    def predict_states(self, states: Tensor, had: Tensor) -> Prediction:
        """Calibrated scores of all items in states [..., D]; `had`, bool [..., N], marks items the user has."""
        candidates = self.candidates()
        click = F.linear(states, candidates.click, candidates.click_bias) / self.click_temperature
        log_click = click.masked_fill(had, float("-inf")).log_softmax(-1)
        if not self.config.purchases:
            return Prediction(log_click, torch.full_like(click, float("inf")), had)
        purchase = F.linear(self.purchase_query(states), candidates.purchase, candidates.purchase_bias)
        purchase = purchase + self.purchase_user_bias(states)
        return Prediction(log_click, self.purchase_scale * purchase + self.purchase_offset, had)

    def predict(self, histories, purchases=None, profiles=None) -> Prediction:
        """Scores [B, N] after the last item of each history; arguments as in `log_rewards`."""
        return self.predict_states(*self.last_states(histories, purchases, profiles))

    def predict_packed(self, history, purchased, mask, had=None, profiles=None) -> Prediction:
        """Scores [B, L, N] after every prefix; arguments as in `log_rewards_packed`."""
        history, mask = history.to(self.device), mask.to(self.device)
        history = history.masked_fill(~mask, 0)
        self._check_items(history)
        purchased = None if purchased is None else purchased.to(self.device).long().masked_fill(~mask, UNKNOWN)
        states = self.prefix_states(history, purchased, self._profiles(profiles))
        seen = had_after_each(history, mask, self.config.num_items)
        if had is not None:
            seen = seen | had.to(self.device)[:, None]
        return self.predict_states(states, seen)

    def last_states(self, histories, purchases=None, profiles=None) -> tuple[Tensor, Tensor]:
        """State after the last item [B, D], and which items each history holds, bool [B, N]."""
        history, purchased, lengths, had = self.pack(histories, purchases)
        states = self.states(history, purchased, self._profiles(profiles))
        return states[torch.arange(len(lengths), device=self.device), lengths], had

    @torch.no_grad()
    def click_if_shown(self, histories, items, positions, profiles=None) -> Tensor:
        """P(click on items[b] | it is shown at rank positions[b] after histories[b]), float [B]; needs a model that
        was trained on exposures.

        Args:
            histories: as in `log_rewards`.
            items: item indices, int64 [B].
            positions: ranks from 1, int64 [B]; 0: unknown.
            profiles: as in `log_rewards`.

        Raises:
            DataError: an item outside the catalogue.
        """
        items = torch.as_tensor(np.asarray(items), dtype=torch.long).to(self.device)
        self._check_items(items, "The candidates hold")
        states, _ = self.last_states(histories, None, profiles)
        positions = torch.as_tensor(np.asarray(positions), dtype=torch.long).to(self.device)
        return self.exposure_logits(states, items, positions).sigmoid()

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
                f"{who} item index {wrong}, but this reward model knows "
                f"{self.config.num_items} items (0 up to that). "
                "Was it trained on another catalogue? Run the reward stage on this data."
            )

    def pack(self, histories, purchases) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
