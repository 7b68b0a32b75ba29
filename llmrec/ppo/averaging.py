"""The average of the policy's weights over training, which wanders less than the weights themselves."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from llmrec.policy.model import RecPolicy

FILE = "average.safetensors"


class WeightAverage:
    """An exponential moving average of the weights that train (Polyak & Juditsky, 1992; of policies: Rame et al.,
    WARP, 2024, arXiv:2406.16768).

    Args:
        policy: whose weights are averaged; it goes on training with its own.
        decay: share of the old average that an update keeps. The first updates keep less, (1 + n) / (10 + n) after n,
            so that the start is soon forgotten.
    """

    def __init__(self, policy: RecPolicy, decay: float):
        self.decay = decay
        self.trained = {name: weight for name, weight in policy.named_parameters() if weight.requires_grad}
        self.weights = {name: weight.detach().clone() for name, weight in self.trained.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after update `step`, counted from 1."""
        keep = min(self.decay, (1 + step) / (10 + step))
        for name, weight in self.trained.items():
            self.weights[name].lerp_(weight.detach(), 1 - keep)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the policy has the average; afterwards its own weights again, bit for bit."""
        own = {name: weight.detach().clone() for name, weight in self.trained.items()}
        self.apply()
        try:
            yield
        finally:
            self._put(own)

    def apply(self) -> None:
        """Gives the policy the average for good."""
        self._put(self.weights)

    def save(self, folder: Path) -> None:
        """Writes the average into a checkpoint."""
        save_file({name: weight.contiguous() for name, weight in self.weights.items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Reads what `save` wrote."""
        for name, weight in load_file(folder / FILE).items():
            self.weights[name].copy_(weight)

    @torch.no_grad()
    def _put(self, weights: dict[str, torch.Tensor]) -> None:
        for name, weight in weights.items():
            self.trained[name].copy_(weight)
