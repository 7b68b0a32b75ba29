"""Keeps the adapter with the highest validation NDCG@10 seen during training."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from llmrec.data.decision import Decisions
from llmrec.distributed import is_main_process
from llmrec.policy.model import RecPolicy
from llmrec.selection.validation import mean_policy_ndcg
from llmrec.timing import timed


def evaluation_due(step: int, last_step: int, eval_steps: float) -> bool:
    """Whether to evaluate after optimizer step or update `step`; always true after the last one.

    Args:
        step: number of the step, from 1.
        last_step: number of the last step.
        eval_steps: steps between evaluations. Below 1 it is a share of all steps: 0.2 makes five evaluations at equal
            distances, the last one after the last step.
    """
    interval = eval_steps if eval_steps >= 1 else eval_steps * last_step
    done, done_before = (math.floor(steps / interval + 1e-9) for steps in (step, step - 1))  # shares are rounded
    return done > done_before or step == last_step


class BestAdapter:
    """Evaluates a policy on validation decisions and keeps its best adapter on disk.

    Adapters are written to `directory/adapter-<step>`, by the main process. All processes must call `evaluate`.

    Args:
        decisions: U validation decisions with known targets.
        directory: folder that receives the adapters.
        metric: key of the validation NDCG@10 in `history`.

    Attributes:
        history: one entry an evaluation, `{step, <metric>}`.
    """

    def __init__(self, decisions: Decisions, directory: Path, metric: str):
        self.decisions = decisions
        self.directory = directory
        self.metric = metric
        self.history: list[dict[str, Any]] = []

    @timed("validation")
    def evaluate(self, policy: RecPolicy, step: int) -> dict[str, float]:
        """Measures the policy, keeps its adapter if `accepts` returns true, and extends `history`.

        Returns:
            the metrics of `measure`, as the main process measured them, so that all processes decide alike.
        """
        measured: dict[str, float] = broadcast_object_list([self.measure(policy)])[0]
        kept = self.accepts(measured)
        if kept:
            weights = policy.adapter_weights()
            if is_main_process():
                policy.save_pretrained(self.directory / f"adapter-{step}", weights)
        PartialState().wait_for_everyone()
        self.history.append(self._entry(step, kept, measured))
        return measured

    def measure(self, policy: RecPolicy) -> dict[str, float]:
        """Mean NDCG@10 of the policy's ranking of the catalogue; ties count half."""
        return {self.metric: mean_policy_ndcg(policy, self.decisions)}

    def accepts(self, measured: dict[str, float]) -> bool:
        """Whether these metrics earn their adapter a place on disk: NDCG@10 is above that of all kept adapters."""
        return measured[self.metric] > self.best_ndcg

    def restore_best(self, policy: RecPolicy) -> None:
        """Loads the best adapter into the policy. Without any evaluation the policy stays as it is."""
        if self.history:
            policy.load_adapter_weights(self.directory / f"adapter-{self.best_step}")

    @property
    def best_step(self) -> int:
        """Step of the best adapter."""
        return int(max(self._kept(), key=lambda entry: entry[self.metric])["step"])

    @property
    def best_ndcg(self) -> float:
        """NDCG@10 of the best adapter; -inf before the first evaluation."""
        return max((entry[self.metric] for entry in self._kept()), default=-np.inf)

    def _kept(self) -> list[dict[str, Any]]:
        """Entries of `history` among which the best adapter is chosen."""
        return self.history

    def _entry(self, step: int, kept: bool, measured: dict[str, float]) -> dict[str, Any]:
        return {"step": step, **measured}
