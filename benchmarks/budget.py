"""Training for a fixed CPU time, and selection of the best weights on validation users."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from llmrec.data.decision import Decisions
from llmrec.ppo.averaging import WeightAverage

Scores = Callable[[Decisions], torch.Tensor]  # M decisions -> scores of all items, float [M, N], -inf for seen items
Step = Callable[[float], None]  # one optimizer step; takes the share of the budget that is spent

WARMUP = 0.05  # share of the budget in which the learning rate of a model without pretraining rises


@dataclass(frozen=True)
class Budget:
    """What each arm may spend.

    The time is that of this process on the CPU, so it does not depend on what else the machine does. It covers training
    alone; loading, validation and the test are free. Run with one thread: time on several threads adds up.

    Attributes:
        seconds: CPU seconds of training.
        learning_rate: peak learning rate, which falls linearly to 0.
        validate: returns the validation metric of a scoring function.
        evaluations: number of evaluations on validation after the start, at equal shares of the time.
    """

    seconds: float
    learning_rate: float
    validate: Callable[[Scores], float]
    evaluations: int = 6

    def longer(self, seconds: float) -> "Budget":
        """The same budget with additional seconds."""
        return Budget(self.seconds + seconds, self.learning_rate, self.validate, self.evaluations)


@dataclass(frozen=True)
class Trained:
    """A trained arm.

    Attributes:
        scores: scoring function of the weights that are best on validation.
        validation: the validation metric at the start and at each evaluation.
        steps: number of optimizer steps, or of updates of PPO.
        notes: other measurements of the arm, by name.
    """

    scores: Scores
    validation: list[float]
    steps: int = 0
    notes: dict[str, float] = field(default_factory=dict)


def fit(model: nn.Module, scores: Scores, step: Step, budget: Budget, decay: float = 0.0) -> Trained:
    """Trains until the budget is spent, and gives the model the weights that are best on validation.

    Args:
        model: trained in place by `step`.
        scores: scoring function of the model.
        step: one optimizer step.
        budget: time and validation.
        decay: decay of the weight average that is validated, for each step; 0 validates the weights themselves.
    """
    average = WeightAverage(model, decay)
    validation = [budget.validate(scores)]
    best = average.copy()
    spent = 0.0
    steps = 0
    for evaluation in range(1, budget.evaluations + 1):
        while spent < budget.seconds * evaluation / budget.evaluations:
            began = time.process_time()
            step(spent / budget.seconds)
            steps += 1
            average.update(steps)
            spent += time.process_time() - began
        with average.applied():
            validation.append(budget.validate(scores))
        if validation[-1] > max(validation[:-1]):
            best = average.copy()
    average.set(best)
    return Trained(scores, validation, steps)


def gradient_step(model: nn.Module, loss: Callable[[], torch.Tensor], budget: Budget, warmup: float = 0.0) -> Step:
    """A step of AdamW without weight decay on the trained weights, with the gradient norm clipped to 1.

    Args:
        model: its trained weights are changed.
        loss: the loss of the next batch.
        budget: the peak learning rate, which falls linearly to 0 over the budget.
        warmup: share of the budget in which the learning rate rises to its peak.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, budget.learning_rate, weight_decay=0.0)

    def step(share: float) -> None:
        rise = 1.0 if warmup == 0 else min(1.0, (share + 1e-3) / warmup)
        optimizer.param_groups[0]["lr"] = budget.learning_rate * rise * max(0.0, 1 - share)
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step
