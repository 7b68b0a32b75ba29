"""The learning-rate schedule of the small models: linear warm-up and half a cosine down to a twentieth of the peak."""

import math

FLOOR = 0.05  # last learning rate as a share of the peak


def warmup_cosine(
    step: int, total_steps: int, warmup_steps: float, first_step: float = 1.0, peak: float = 1.0
) -> float:
    """The learning rate of a step.

    The cosine starts at the first step and is multiplied by the warm-up. The schedulers of transformers start the
    cosine after the warm-up, which gives other learning rates.

    Args:
        step: optimizer step, from 0.
        total_steps: number of steps in which the cosine falls to its floor. A later step would rise again.
        warmup_steps: number of steps in which the warm-up reaches 1.
        first_step: where the warm-up starts, in steps: it is `first_step / warmup_steps` at step 0.
        peak: highest learning rate. 1 gives the share of the peak.
    """
    warmup = min(1.0, (step + first_step) / warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * step / total_steps))
    return peak * warmup * (FLOOR + (1 - FLOOR) * cosine)
