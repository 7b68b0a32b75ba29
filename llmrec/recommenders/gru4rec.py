"""GRU4Rec, the recurrent baseline (Hidasi & Karatzoglou, CIKM 2018), with either of its official losses.

The official code compares a target with the other targets of a batch and with drawn items. Here the cross-entropy takes
the whole catalogue, of which that is a sample, and BPR-max takes one drawn set of items for all decisions of a batch.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmrec.recommenders.sasrec import unseen_cross_entropy
from llmrec.recommenders.sequence import Batch, ItemEncoder, SequenceModel

NEGATIVES = 2048  # drawn items of BPR-max, the default of the official code
SCORE_PENALTY = 1.0  # weight of the squared scores of negatives in BPR-max, `bpreg` of the official code


class Encoder(ItemEncoder):
    """Item embeddings with dropout, and a GRU of the same width; arguments as in SASRec's encoder."""

    def __init__(self, num_items: int, hidden_size: int, num_layers: int, dropout: float) -> None:
        super().__init__(num_items, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(hidden_size, hidden_size, num_layers, batch_first=True)

    def forward(self, items: Tensor) -> Tensor:
        """State after each item: item indices int64 [B, T], padded on the right -> float [B, T, D]."""
        return self.dropout(self.gru(self.dropout(self.items(items)))[0])


class GRU4Rec(SequenceModel):
    """The baseline.

    Args:
        arguments: those of `SequenceModel`.
        loss_name: `cross_entropy` among unseen items, or `bpr_max`.
        settings: those of `SequenceModel`.
    """

    def __init__(
        self, *arguments: Any, loss_name: Literal["cross_entropy", "bpr_max"] = "cross_entropy", **settings: Any
    ) -> None:
        super().__init__(*arguments, **settings)
        self.loss_name = loss_name

    def make_encoder(self, num_items: int) -> Encoder:
        """A new GRU for a catalogue of N items."""
        return Encoder(num_items, self.hidden_size, self.num_layers, self.dropout)

    def loss(self, encoder: ItemEncoder, states: Tensor, batch: Batch) -> Tensor:
        """Mean loss of the next items."""
        logits = encoder.logits(states)
        return unseen_cross_entropy(logits, batch) if self.loss_name == "cross_entropy" else bpr_max(logits, batch)


def bpr_max(logits: Tensor, batch: Batch) -> Tensor:
    """Mean BPR-max loss: -log sum_j s_j sigmoid(r_i - r_j) + penalty sum_j s_j r_j^2 (eq. 10 of the paper).

    s is the softmax over the scores r_j of drawn unseen items j, and r_i is the score of the target.

    Args:
        logits: float [R, N].
        batch: the R decisions.
    """
    excluded = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    batch.exclude_seen(excluded, True)
    excluded.scatter_(1, batch.targets[:, None], True)
    drawn = torch.randperm(logits.shape[1], device=logits.device)[:NEGATIVES]
    negative = logits[:, drawn]
    log_weight = negative.masked_fill(excluded[:, drawn], -torch.inf).log_softmax(1)
    margin = F.logsigmoid(logits.gather(1, batch.targets[:, None]) - negative)
    penalty = (log_weight.exp() * negative.square()).sum(1)
    return (SCORE_PENALTY * penalty - torch.logsumexp(log_weight + margin, 1)).mean()
