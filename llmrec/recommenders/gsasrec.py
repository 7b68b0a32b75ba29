"""gSASRec: SASRec with drawn negatives and the loss gBCE, which corrects for the sampling.

Source: Petrov & Macdonald, RecSys 2023. The loss costs the same for every size of the catalogue.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from llmrec.recommenders.sasrec import SASRec
from llmrec.recommenders.sequence import Batch, ItemEncoder

NEGATIVES = 256  # drawn items of each decision, as in the paper
CALIBRATION = 0.75  # t of the paper: 0 is binary cross-entropy, and 1 removes the overconfidence altogether


class GSASRec(SASRec):
    """The baseline; its arguments are those of `SequenceModel`."""

    def loss(self, encoder: ItemEncoder, states: Tensor, batch: Batch) -> Tensor:
        """Mean gBCE of the next items against uniformly drawn items."""
        num_items = len(encoder.bias)
        drawn = torch.randint(num_items, (len(states), min(NEGATIVES, num_items - 1)), device=states.device)
        drawn = torch.where(drawn == batch.targets[:, None], (drawn + 1) % num_items, drawn)
        items = torch.cat([batch.targets[:, None], drawn], 1)
        logits = torch.einsum("rd,rkd->rk", states, encoder.items(items)) + encoder.bias[items]
        return gbce(logits, num_items)


def gbce(logits: Tensor, num_items: int) -> Tensor:
    """Mean generalized binary cross-entropy of decisions (eq. 9 of the paper).

    The probability of the target is raised to the power beta = a (t (1 - 1 / a) + 1 / a), where a is the share of the
    negatives that were drawn and t is `CALIBRATION`.

    Args:
        logits: float [R, 1 + K]: of the target, and of K drawn negatives.
        num_items: size N of the catalogue.
    """
    drawn = logits.shape[1] - 1
    share = drawn / (num_items - 1)
    beta = share * (CALIBRATION * (1 - 1 / share) + 1 / share)
    losses = -beta * F.logsigmoid(logits[:, 0]) - F.logsigmoid(-logits[:, 1:]).sum(1)
    return losses.mean() / (drawn + 1)
