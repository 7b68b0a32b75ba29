"""SASRec, the sequential baseline: a small causal transformer over item ids (Kang & McAuley, ICDM 2018).

It is trained with the softmax over the whole catalogue, which makes it competitive with later models (Klenitskiy &
Vasilev, RecSys 2023). Seen items are left out of the softmax if the ranking leaves them out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmrec.recommenders.sequence import Batch, ItemEncoder, SequenceModel


class Encoder(ItemEncoder):
    """Item and position embeddings, and pre-norm transformer blocks with a causal mask.

    Args:
        num_items: size N of the catalogue.
        hidden_size: width D. Heads are 32 wide, or the next larger width that divides D.
        num_layers: number of transformer blocks.
        dropout: dropout probability of the embeddings and inside the blocks.
        window: largest sequence length T.
    """

    def __init__(self, num_items: int, hidden_size: int, num_layers: int, dropout: float, window: int) -> None:
        super().__init__(num_items, hidden_size)
        self.positions = nn.Embedding(window, hidden_size)
        self.dropout = nn.Dropout(dropout)
        heads = next(count for count in range(max(1, hidden_size // 32), 0, -1) if hidden_size % count == 0)
        block = nn.TransformerEncoderLayer(
            hidden_size, heads, 2 * hidden_size, dropout, "gelu", batch_first=True, norm_first=True
        )
        norm = nn.LayerNorm(hidden_size)
        self.blocks = nn.TransformerEncoder(block, num_layers, norm, enable_nested_tensor=False)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, items: Tensor) -> Tensor:
        """State after each item: item indices int64 [B, T], padded on the right -> float [B, T, D]."""
        length = items.shape[1]
        x = self.dropout(self.items(items) + self.positions.weight[:length])
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=items.device)
        return self.blocks(x, mask=mask, is_causal=True)


class SASRec(SequenceModel):
    """The baseline; its arguments are those of `SequenceModel`."""

    def make_encoder(self, num_items: int) -> Encoder:
        """A new transformer for a catalogue of N items."""
        return Encoder(num_items, self.hidden_size, self.num_layers, self.dropout, self.window)

    def loss(self, encoder: ItemEncoder, states: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy of the next items among those that may come next, in nats."""
        return unseen_cross_entropy(encoder.logits(states), batch)


def unseen_cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy of the targets among the items that the user had not seen, in nats.

    Args:
        logits: float [R, N]; changed in place.
        batch: the R decisions.
    """
    batch.exclude_seen(logits, -torch.inf)  # their probability is 0, and so is their gradient
    return F.cross_entropy(logits, batch.targets)
