"""Selects the PPO adapter by validation NDCG@10 and rejects adapters that exploit the reward model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmrec.data.decision import Decisions
from llmrec.distributed import is_main_process
from llmrec.files import read_json, write_json
from llmrec.policy.model import RecPolicy
from llmrec.selection.best_adapter import BestAdapter
from llmrec.selection.validation import all_item_scores, best_items, mean_list_reward, user_ndcg

NDCG = "eval/ndcg@10"
REWARD = "eval/reward"
JUDGE = "eval/judge"
# Lower end of the 95 % interval of the paired NDCG@10 gain over the SFT start. Files on disk use this older key.
GAIN_LOWER_BOUND = "eval/sure_gain"


@dataclass(frozen=True)
class ValidationSet:
    """Validation decisions and two independent scores of every item.

    Attributes:
        decisions: U validation decisions with known targets.
        rewards: item rewards of the reward model that PPO maximizes, nats, float [U, N].
        judge_rewards: item rewards of a judge that was fitted on other users, nats, float [U, N].
    """

    decisions: Decisions
    rewards: torch.Tensor
    judge_rewards: torch.Tensor


class Guard(BestAdapter):
    """Keeps the best adapter by validation NDCG@10, subject to a check by an independent judge.

    An adapter is kept if two conditions hold:

    1. Its NDCG@10 is the highest so far.
    2. The judge scores its lists at least as high as those of the SFT start, or the NDCG@10 gain over the SFT start is
       significantly positive (the 95 % interval of the gain, paired by user, lies above 0).

    A rising reward with a falling judge score is the sign of reward hacking. The judge is fitted on few users and can
    be wrong, so it is overruled by a significant gain.

    Reward and judge score are means over the ten best items. Expectations under the policy would also rise when the
    policy merely becomes more confident of the same list.

    Args:
        validation: the decisions to evaluate on.
        directory: folder that receives the adapters.

    Attributes:
        history: one entry an evaluation, `{step, kept, eval/...}`; step 0 is the SFT start.
    """

    def __init__(self, validation: ValidationSet, directory: Path):
        super().__init__(validation.decisions, directory, NDCG)
        self.validation = validation

    def on_evaluation(self, policy: RecPolicy, step: int) -> tuple[dict[str, float], str]:
        """Evaluates the policy and keeps its adapter if it is the best so far.

        Returns:
            metrics to log, and one sentence that says what was decided.
        """
        previous = self.best_ndcg
        measured = self.evaluate(policy, step)
        start = self.history[0]
        improves = measured[NDCG] > previous
        kept = bool(self.history[-1]["kept"])
        metrics = measured | {
            "eval/judge_gap": (measured[REWARD] - start[REWARD]) - (measured[JUDGE] - start[JUDGE]),
            "eval/best_ndcg@10": self.best_ndcg,
            "guard/kept": float(kept),
            "guard/judge_refused": float(improves and not kept),
        }
        ndcg = f"NDCG@10 is {measured[NDCG]:.4f}"
        if not improves:
            return metrics, f"guard: {ndcg}; the adapter of step {self.best_step} remains the best"
        if not kept:
            return metrics, f"guard: {ndcg}, the best so far; not kept, because the judge score is below the SFT start"
        if self._passes_judge(measured):
            return metrics, f"guard: {ndcg}, the best so far; kept"
        overruled = "although the judge score is below the SFT start, because the NDCG@10 gain is significant"
        return metrics, f"guard: {ndcg}, the best so far; kept {overruled}"

    def accepts(self, measured: dict[str, float]) -> bool:
        """Whether the two conditions of the class docstring hold."""
        trusted = self._passes_judge(measured) or measured[GAIN_LOWER_BOUND] > 0
        return super().accepts(measured) and trusted

    def measure(self, policy: RecPolicy) -> dict[str, float]:
        """NDCG@10 of the ranking (ties count half), its gain, and reward and judge score of the ten best items."""
        decisions = self.validation.decisions
        scores = all_item_scores(policy, decisions)
        lists = best_items(scores)
        ndcg = user_ndcg(scores, torch.from_numpy(decisions.targets))
        return {
            NDCG: float(ndcg.mean()),
            GAIN_LOWER_BOUND: self._gain_lower_bound(ndcg),
            REWARD: float(mean_list_reward(lists, self.validation.rewards).mean()),
            JUDGE: float(mean_list_reward(lists, self.validation.judge_rewards).mean()),
        }

    def report(self) -> dict[str, Any]:
        """All evaluations and the selected step, as JSON values."""
        return {
            "best_step": self.best_step,
            "fell_back_to_sft": self.best_step == 0,
            "sft_ndcg@10": self.history[0][NDCG],
            "best_ndcg@10": self.best_ndcg,
            "users": len(self.validation.decisions),
            "history": self.history,
        }

    def _passes_judge(self, measured: dict[str, float]) -> bool:
        """Whether the judge scores the lists at least as high as those of the SFT start."""
        start = self.history[0] if self.history else measured
        return measured[JUDGE] >= start[JUDGE]

    def _gain_lower_bound(self, ndcg: torch.Tensor) -> float:
        """Mean NDCG@10 gain over the SFT start minus 1.96 standard errors, paired by user.

        The first call writes the NDCG@10 of the SFT start to disk, because a resumed process needs it too.

        Args:
            ndcg: NDCG@10 of each user, [U].

        Returns:
            0 at the SFT start, for a single user, and in runs of older versions, which did not write that file.
        """
        file = self.directory / "start_ndcg.json"
        if not self.history and is_main_process():
            write_json(file, ndcg.tolist())
        if not self.history or len(ndcg) < 2 or not file.is_file():
            return 0.0
        gain = ndcg - torch.tensor(read_json(file))
        return float(gain.mean() - 1.96 * gain.std() / len(gain) ** 0.5)

    def _kept(self) -> list[dict[str, Any]]:
        return [entry for entry in self.history if entry["kept"]]

    def _entry(self, step: int, kept: bool, measured: dict[str, float]) -> dict[str, Any]:
        return {"step": step, "kept": kept, **measured}
