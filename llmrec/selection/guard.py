"""Guarded RL: the best adapter by validation is kept, and none is handed over that is worse than the SFT start."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from llmrec.data.decision import Decisions
from llmrec.distributed import is_main_process
from llmrec.files import read_json, write_json
from llmrec.policy.model import RecPolicy
from llmrec.selection.validation import all_item_scores, best_items, of_lists, user_ndcg

NDCG, REWARD, JUDGE = "eval/ndcg@10", "eval/reward", "eval/judge"
SURE_GAIN = "eval/sure_gain"  # lower end of the 95 % interval of the gain in NDCG@10 over the SFT start


@dataclass(frozen=True)
class Validation:
    """Validation users and what is known of them.

    Attributes:
        decisions: U validation users with the item that each took next.
        reward: what the trained reward says of every item, nats, float [U, N].
        judge: what a judge that was fitted on other users says, nats, float [U, N].
    """

    decisions: Decisions
    reward: torch.Tensor
    judge: torch.Tensor


class Guard:
    """Measures NDCG@10, the reward and an independent judge on validation during training.

    An adapter is kept if its NDCG@10 is the best so far and the judge does not like its lists less than the SFT
    start's: a reward that rises while the judge's falls is being hacked. But the judge knows few users, and what users
    took is no model: it has no say where the gain in NDCG@10 over the start, paired by user, is surely above 0. Reward
    and judge are means over the ten best items, not expectations under the policy: those also rise where a policy is
    merely surer of the same list.

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
        better, liked = seen[NDCG] > best, seen[JUDGE] >= start[JUDGE]
        trusted = liked or seen[SURE_GAIN] > 0
        self.history.append({"step": step, "kept": better and trusted, **seen})
        if better and trusted and is_main_process():
            policy.save_pretrained(self.directory / f"adapter-{step}")
        PartialState().wait_for_everyone()
        gap = (seen[REWARD] - start[REWARD]) - (seen[JUDGE] - start[JUDGE])
        metrics = seen | {"eval/judge_gap": gap, "eval/best_ndcg@10": self._best[NDCG], "guard/kept": float(better)}
        metrics["guard/judge_refused"] = float(better and not trusted)
        if better and not trusted:
            return metrics, f"guard: best NDCG@10 {seen[NDCG]:.4f}, but the judge prefers the SFT start: not kept"
        if better:
            but = "" if liked else ", though the judge prefers the SFT start: the gain over it is sure"
            return metrics, f"guard: best NDCG@10 so far, {seen[NDCG]:.4f}: kept{but}"
        return metrics, f"guard: NDCG@10 {seen[NDCG]:.4f}, the adapter of step {self.best_step} stays the best"

    def measure(self, policy: RecPolicy) -> dict[str, float]:
        """NDCG@10 of the ranking (ties count half), its sure gain, and mean reward and judge of the ten best items."""
        decisions = self.validation.decisions
        scores = all_item_scores(policy, decisions)
        lists = best_items(scores)
        ndcg = user_ndcg(scores, torch.from_numpy(decisions.targets))
        return {
            NDCG: float(ndcg.mean()),
            SURE_GAIN: self._sure_gain(ndcg),
            REWARD: float(of_lists(lists, self.validation.reward).mean()),
            JUDGE: float(of_lists(lists, self.validation.judge).mean()),
        }

    def _sure_gain(self, ndcg: torch.Tensor) -> float:
        """Mean gain of users [U] over their NDCG@10 at the start, less 1.96 standard errors; 0 if that is not known."""
        file = self.directory / "start_ndcg.json"  # outlives the process, as the kept adapters do
        if not self.history and is_main_process():
            write_json(file, ndcg.tolist())
        if not self.history or len(ndcg) < 2 or not file.is_file():  # an earlier version began the run
            return 0.0
        gain = ndcg - torch.tensor(read_json(file))
        return float(gain.mean() - 1.96 * gain.std() / len(gain) ** 0.5)

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
            "users": len(self.validation.decisions),
            "history": self.history,
        }
