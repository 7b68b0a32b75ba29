"""Gradients of single users: each is clipped, their sum gets Gaussian noise (DP-SGD, Abadi et al., 2016)."""

import torch
from torch import nn


class NoisySum:
    """The sum of the clipped gradients of an optimizer step, to which noise is added.

    A user adds one gradient of norm `clip` at most. So the sum of a log with the user and the sum of the log without
    the user differ by `clip` at most, and noise of standard deviation `noise_multiplier * clip` hides the difference.

    Args:
        weights: the trained weights, all float32. Noise in fewer bits would be rounded away.
        clip: largest norm of a user's gradient.

    Attributes:
        total: the sum so far, one number for each number of the weights, float32.
        users: gradients in the sum.
        clipped: how many of them were longer than `clip`.
    """

    def __init__(self, weights: list[nn.Parameter], clip: float):
        self.weights = weights
        self.clip = clip
        self.total = torch.zeros(sum(weight.numel() for weight in weights), device=weights[0].device)
        self.users = 0
        self.clipped = 0

    def add(self, loss: torch.Tensor) -> None:
        """Adds the gradient of a user's loss. One that is not finite would make the sum useless, and adds nothing."""
        gradients = torch.autograd.grad(loss, self.weights, allow_unused=True)
        parts = [
            (torch.zeros_like(weight) if gradient is None else gradient).flatten()
            for weight, gradient in zip(self.weights, gradients, strict=True)
        ]
        gradient = torch.cat(parts)
        norm = float(torch.linalg.vector_norm(gradient))
        self.users += 1
        self.clipped += not norm <= self.clip
        if torch.isfinite(gradient).all():
            self.total.add_(gradient, alpha=min(1.0, self.clip / norm) if norm > 0 else 1.0)

    def set_gradients(self, noise_multiplier: float, batch_size: float, generator: torch.Generator) -> None:
        """Writes (sum + noise) / batch size into the gradients of the weights.

        Args:
            noise_multiplier: standard deviation of the noise, in units of `clip`.
            batch_size: expected number of users of a step. The actual number would need noise of its own.
            generator: draws the noise, on the device of the weights.
        """
        noise = torch.randn(self.total.shape, generator=generator, device=self.total.device)
        mean = (self.total + noise_multiplier * self.clip * noise) / batch_size
        sizes = [weight.numel() for weight in self.weights]
        for weight, part in zip(self.weights, mean.split(sizes), strict=True):
            weight.grad = part.view_as(weight).clone()
