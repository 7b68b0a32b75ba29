"""Checks that stop PPO when a number cannot be right, before the policy learns from it."""

import math

from llmrec.errors import TrainingError


def check_start(metrics: dict[str, float], tolerance: float) -> None:
    """Checks that the policy equals its reference before the first update.

    Raises:
        TrainingError: the KL of text or items is not 0.
    """
    for name in ("objective/kl", "objective/item_kl"):
        if not abs(metrics.get(name, 0.0)) < tolerance:
            raise TrainingError(
                f"{name} is {metrics[name]:.3g} before the first update, expected 0. The policy and its reference "
                "assign different probabilities to the same tokens. Check changes to the mask, the cache or the "
                "adapters."
            )


def check_first_step(step: dict[str, float], tolerance: float) -> None:
    """Checks that scoring reproduces the probabilities of sampling before the first optimizer step.

    Raises:
        TrainingError: the probability ratio is not 1, or the KL is not 0.
    """
    ratio = step.get("val/ratio", 1.0)
    kl = approx_kl(step)
    if not (abs(ratio - 1) < tolerance and kl < tolerance**1.5):
        raise TrainingError(
            f"The probability ratio is {ratio:.5f} and the KL {kl:.3g} before the first optimizer step, expected 1 and "
            "0. Sampling and scoring assign different probabilities to the same tokens. Check changes to the mask, the "
            "temperature, the cache, positions or dropout."
        )


def check_finite(step: dict[str, float]) -> None:
    """Checks that losses, gradient norm and metrics of a mini-batch are finite.

    Raises:
        TrainingError: one of them is NaN or infinite.
    """
    wrong = [f"{name} ({value})" for name, value in step.items() if not math.isfinite(value)]
    if wrong:
        raise TrainingError(
            f"Not finite in this mini-batch: {', '.join(wrong)}. The last checkpoint is safe. Lower ppo.learning_rate "
            "or check the reward, then run the same command again."
        )


def approx_kl(step: dict[str, float]) -> float:
    """KL between the policy that learns and the policy that sampled, nats: text estimate and exact items, if any."""
    return step.get("policy/approxkl_avg", 0.0) + step.get("policy/item_kl_avg", 0.0)
