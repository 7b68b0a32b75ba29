"""Numbers that cannot be right stop training: before they are learned from, and in words that say where to look."""

import math

from llmrec.errors import TrainingError


def check_start(metrics: dict[str, float], tolerance: float) -> None:
    """Before the first update the policy is its reference.

    Raises:
        TrainingError: a KL is not 0.
    """
    for name in ("objective/kl", "objective/item_kl"):
        if not abs(metrics.get(name, 0.0)) < tolerance:
            raise TrainingError(
                f"Before the first update {name} is {metrics[name]:.3g}, expected 0: what is sampled and what the "
                "reference scores are not one distribution. Check changes to the mask, the cache or the adapters."
            )


def check_first_step(step: dict[str, float], tolerance: float) -> None:
    """Before the first optimiser step after a rollout the policy is the one that sampled.

    Raises:
        TrainingError: the ratio is not 1, or the KL not 0.
    """
    ratio, kl = step["val/ratio"], drift(step)
    if not (abs(ratio - 1) < tolerance and kl < tolerance**1.5):
        raise TrainingError(
            f"Before the first step the ratio to the policy that sampled is {ratio:.5f} and the KL {kl:.3g}, "
            "expected 1 and 0: sampling and scoring are not one distribution. Check changes to the mask, the "
            "temperature, the cache, positions or dropout."
        )


def check_finite(step: dict[str, float]) -> None:
    """Raises TrainingError if a loss, a gradient or anything else of a mini-batch is not a number."""
    wrong = [name for name, value in step.items() if not math.isfinite(value)]
    if wrong:
        raise TrainingError(
            f"{', '.join(wrong)} became not a number. The last checkpoint is safe; lower ppo.learning_rate or look at "
            "the reward, then start again."
        )


def drift(step: dict[str, float]) -> float:
    """KL to the policy that sampled, nats: of the text, and exact of the items where there is that."""
    return step["policy/approxkl_avg"] + step.get("policy/item_kl_avg", 0.0)
