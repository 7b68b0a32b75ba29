"""The configuration and the transformer block of the click/purchase model."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ClickPurchaseConfig:
    """Shape of the model; saved as `config.json`.

    Attributes:
        num_items: size N of the catalogue.
        items_sha256: hash of the item ids in catalogue order (`storage.catalogue_hash`), or "" if unknown.
        hidden_size: width D of the hidden states.
        num_layers: number of transformer blocks.
        num_heads: number of attention heads; must divide `hidden_size`.
        dropout: dropout probability, on embeddings and on the output of each half block.
        window: number of newest items of a history that the encoder reads.
        rank: width R of the dot product in the purchase head.
        words: number W of columns in the table of item words.
        purchases: False for a log without purchases; P(purchase | click) is then 1.
        repeats: whether a seen item can be the next click.

    Raises:
        ValueError: `num_heads` does not divide `hidden_size`.
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
    repeats: bool = False

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}.")


class Block(nn.Module):
    """Pre-norm causal transformer block with a learned bias for every distance between two positions.

    Distances replace absolute positions, so a window from the middle of a history is read like one from its start.
    """

    def __init__(self, config: ClickPurchaseConfig):
        super().__init__()
        size = config.hidden_size
        self.heads = config.num_heads
        self.dropout = config.dropout
        self.attention_norm = nn.LayerNorm(size)
        self.feed_norm = nn.LayerNorm(size)
        self.qkv = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)
        self.distance_bias = nn.Parameter(torch.zeros(config.num_heads, config.window + 1))
        self.feed = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states [B, T, D] to hidden states [B, T, D]."""
        batch, length, size = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        position = torch.arange(length, device=x.device)
        distance = position[:, None] - position  # [T, T], negative in the future
        bias = self.distance_bias[:, distance.clamp(min=0)].masked_fill(distance < 0, float("-inf"))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        mixed = self.out(mixed.transpose(1, 2).reshape(batch, length, size))
        x = x + F.dropout(mixed, self.dropout, self.training)
        return x + F.dropout(self.feed(self.feed_norm(x)), self.dropout, self.training)
