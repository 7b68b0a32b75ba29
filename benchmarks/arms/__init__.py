"""The arms of `benchmarks/controls.py`: ways to spend the same CPU time after SFT, or the total time from the start.

An arm is a function of a start and a budget that returns a trained arm. Most start from the SFT adapter. They learn
from the training windows of PPO in batches of 8, with AdamW and a weight average. The docstring of an arm says where it
departs from that. Justifications are trained only by `sft_continued` and `sft_ema`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.arms.grpo import grpo
from benchmarks.arms.rewarded import distill, exact_ppo, policy_gradient, pool, pool_to_sasrec
from benchmarks.arms.start import DECAY, Start
from benchmarks.arms.supervised import sdpo, sft, sft_continued, sft_purchases, soft_label_sft
from benchmarks.budget import Budget, Trained


@dataclass(frozen=True)
class Arm:
    """An entry of the table.

    Attributes:
        train: the function.
        rates: learning rates to choose from on validation.
        purchases: whether validation counts purchased targets alone.
        total_time: whether the arm also gets the time of SFT, which it does not start from.
    """

    train: Callable[[Start, Budget], Trained]
    rates: tuple[float, ...] = (1e-3, 3e-4)
    purchases: bool = False
    total_time: bool = False


NO_RATE = (0.0,)
ARMS = {
    "sft": Arm(sft, NO_RATE),
    "pool": Arm(pool, NO_RATE),
    "exact_ppo": Arm(exact_ppo),
    "distill_reverse": Arm(partial(distill, forward=False)),
    "distill_forward": Arm(partial(distill, forward=True)),
    "sft_continued": Arm(sft_continued),
    "sft_ema": Arm(partial(sft_continued, decay=DECAY)),
    "sdpo": Arm(sdpo, (1e-3, 3e-4, 1e-4)),
    "grpo16": Arm(partial(grpo, beam=False), (1e-3, 3e-4, 1e-4, 1e-5)),
    "grpo16_rank": Arm(partial(grpo, beam=True), (1e-3, 3e-4, 1e-4, 1e-5)),
    "every_prefix_one_action": Arm(partial(policy_gradient, every_prefix=True, every_action=False)),
    "last_prefix_every_action": Arm(partial(policy_gradient, every_prefix=False, every_action=True)),
    "last_prefix_one_action": Arm(partial(policy_gradient, every_prefix=False, every_action=False)),
    "sft_purchases": Arm(sft_purchases, purchases=True),
    "conversion_0": Arm(partial(distill, forward=False, conversion_weight=0.0), purchases=True),
    "conversion_0.5": Arm(partial(distill, forward=False, conversion_weight=0.5), purchases=True),
    "conversion_1": Arm(partial(distill, forward=False, conversion_weight=1.0), purchases=True),
    "pool_to_sasrec": Arm(pool_to_sasrec, total_time=True),
    "soft_label_sft": Arm(soft_label_sft, total_time=True),
}
