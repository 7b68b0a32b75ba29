"""Guarded RL: the best adapter by validation is kept, and none is handed over that is worse than the SFT start."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from llmrec.policy.model import RecPolicy
from llmrec.policy.validation import Held, best_items, mean_ndcg, of_lists

NDCG, REWARD, JUDGE = "eval/ndcg@10", "eval/reward", "eval/judge"


@dataclass(frozen=True)
class Validation:
    """Validation users and what is known of them.

    Attributes:
        held: their prompts, and the item each took next.
        reward: what the trained reward says of every item, nats, float [U, N].
        judge: what a judge that was fitted on other users says, nats, float [U, N].
    """

    held: Held
    reward: torch.Tensor
    judge: torch.Tensor


class Guard:
    """Measures NDCG@10, the reward and an independent judge on validation during training.

    An adapter is kept if its NDCG@10 is the best so far and the judge does not like its lists less than the SFT
    start's: a reward that rises while the judge's falls is being hacked. Both are means over the ten best items, not
    expectations under the policy: those also rise where a policy is merely surer of the same list.

    Args:
        validation: who is looked at.
        directory: where the best adapter is kept.

    Attributes:
        history: what was seen, each `{step, kept, eval/...}`; step 0 is the SFT start.
    """

    def __init__(self, validation: Validation, directory: Path):
        self.validation = validation
        self.directory = directory
        self.history: list[dict] = []

    def look(self, policy: RecPolicy, step: int) -> tuple[dict[str, float], str]:
        """Measures the policy; keeps its adapter if it is the best so far.

        Returns:
            metrics, and what was done in words.
        """
        seen = broadcast_object_list([self.measure(policy)])[0]  # processes must agree on the best
        start = self.history[0] if self.history else seen
        best = max((entry[NDCG] for entry in self.history if entry["kept"]), default=-np.inf)
        better, trusted = seen[NDCG] > best, seen[JUDGE] >= start[JUDGE]
        self.history.append({"step": step, "kept": better and trusted, **seen})
        if better and trusted and PartialState().is_main_process:
            policy.save_pretrained(self.directory / f"adapter-{step}")
        PartialState().wait_for_everyone()
        gap = (seen[REWARD] - start[REWARD]) - (seen[JUDGE] - start[JUDGE])
        metrics = seen | {"eval/judge_gap": gap, "eval/best_ndcg@10": self._best[NDCG], "guard/kept": float(better)}
        metrics["guard/judge_refused"] = float(better and not trusted)
        if better and not trusted:
            return metrics, f"guard: best NDCG@10 {seen[NDCG]:.4f}, but the judge prefers the SFT start: not kept"
        if better:
            return metrics, f"guard: best NDCG@10 so far, {seen[NDCG]:.4f}: kept"
        return metrics, f"guard: NDCG@10 {seen[NDCG]:.4f}, the adapter of step {self.best_step} stays the best"

    def measure(self, policy: RecPolicy) -> dict[str, float]:
        """NDCG@10 of the ranking (ties count half), and mean reward and judge of the ten best items."""
        scores = self.validation.held.scores(policy)
        lists = best_items(scores)
        return {
            NDCG: mean_ndcg(scores, self.validation.held.targets),
            REWARD: float(of_lists(lists, self.validation.reward).mean()),
            JUDGE: float(of_lists(lists, self.validation.judge).mean()),
        }

    def restore_best(self, policy: RecPolicy) -> None:
        """Puts the best adapter's weights into the policy."""
        policy.load_adapter_weights(self.directory / f"adapter-{self.best_step}")

    @property
    def best_step(self) -> int:
        """Step of the best adapter; 0 is the SFT start."""
        return self._best["step"]

    @property
    def _best(self) -> dict:
        return max((entry for entry in self.history if entry["kept"]), key=lambda entry: entry[NDCG])

    def report(self) -> dict:
        """What the guard saw and did, as JSON values."""
        return {
            "best_step": self.best_step,
            "fell_back_to_sft": self.best_step == 0,
            "sft_ndcg@10": self.history[0][NDCG],
            "best_ndcg@10": self._best[NDCG],
            "users": len(self.validation.held.windows),
            "history": self.history,
        }
