"""An exponential moving average of the policy's weights, which varies less between updates than the weights."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from llmrec.sharding import assign, whole

FILE = "average.safetensors"


class WeightAverage:
    """An exponential moving average of the trained weights (Polyak & Juditsky, 1992; WARP, 2024, arXiv:2406.16768).

    Args:
        model: the model whose trained weights are averaged. Its training is not affected. The average is whole in
            every process, so all processes must call the methods.
        decay: share of the average that an update keeps. After n updates it is at most (1 + n) / (10 + n), so that the
            initial weights lose their influence quickly.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.weights = {name: whole(weight).clone() for name, weight in self.trained.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Adds the weights after update `step`, counted from 1."""
        keep = min(self.decay, (1 + step) / (10 + step))
        for name, weight in self.trained.items():
            self.weights[name].lerp_(whole(weight), 1 - keep)

    @contextmanager
    def applied(self) -> Generator[None]:
        """Gives the model the average inside the `with` block, and its own weights again afterwards."""
        own = {name: whole(weight).clone() for name, weight in self.trained.items()}
        self.apply()
        try:
            yield
        finally:
            self.set(own)

    def apply(self) -> None:
        """Gives the model the average permanently."""
        self.set(self.weights)

    def copy(self) -> dict[str, torch.Tensor]:
        """A copy of the average, by name of the weight."""
        return {name: weight.clone() for name, weight in self.weights.items()}

    def save(self, folder: Path) -> None:
        """Writes the average into a checkpoint folder."""
        save_file({name: weight.contiguous() for name, weight in self.weights.items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Reads the average from a checkpoint folder."""
        for name, weight in load_file(folder / FILE).items():
            self.weights[name].copy_(weight)

    def set(self, weights: dict[str, torch.Tensor]) -> None:
        """Gives the model these weights, by name."""
        for name, weight in weights.items():
            assign(self.trained[name], weight)
