"""Guarded RL: the best adapter by validation is kept, and none is handed over that is worse than the SFT start."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from llmrec.errors import RunError
from llmrec.files import read_json, write_json
from llmrec.policy.model import RecPolicy
from llmrec.policy.packed import Window
from llmrec.policy.ranking import item_scores


class Guard:
    """Measures NDCG@10 on validation during training.

    Args:
        windows: prompts of validation users.
        targets: the item each of them took next.
        directory: where the best adapter is kept; also its own state, so that a resumed run goes on.
    """

    def __init__(self, windows: Sequence[Window], targets: Sequence[int], directory: Path):
        self.windows = windows
        self.targets = torch.tensor(np.asarray(targets))
        self.directory = directory
        self.history: list[dict] = []

    def look(self, policy: RecPolicy, step: int) -> dict[str, float]:
        """Measures the policy; keeps its adapter if it is the best so far (the SFT start is step 0)."""
        ndcg = broadcast_object_list([self.ndcg(policy)])[0]  # processes must agree on the best
        best = max((entry["ndcg@10"] for entry in self.history), default=-np.inf)
        self.history.append({"step": step, "ndcg@10": ndcg})
        if PartialState().is_main_process:
            if ndcg > best:
                policy.save_pretrained(self.directory / f"adapter-{step}")
            write_json(self.directory / "guard.json", self.history)
        PartialState().wait_for_everyone()
        return {"eval/ndcg@10": ndcg, "eval/best_ndcg@10": max(best, ndcg)}

    def ndcg(self, policy: RecPolicy) -> float:
        """Mean NDCG@10 of the policy's ranking; ties count half."""
        scores = torch.cat([batch.cpu() for batch in item_scores(policy, self.windows)])
        of_target = scores.gather(1, self.targets[:, None])
        rank = 1 + (scores > of_target).sum(1) + ((scores == of_target).sum(1) - 1) / 2
        gain = torch.where((rank <= 10) & of_target[:, 0].isfinite(), 1 / torch.log2(rank + 1), 0.0)
        return float(gain.mean())

    def restore_best(self, policy: RecPolicy) -> None:
        """Puts the best adapter's weights into the policy."""
        policy.load_adapter_weights(self.directory / f"adapter-{self.best_step}")

    @property
    def best_step(self) -> int:
        """Step of the best adapter; 0 is the SFT start."""
        return max(self.history, key=lambda entry: entry["ndcg@10"])["step"]

    def report(self) -> dict:
        """What the guard saw and did, as JSON values."""
        by_step = {entry["step"]: entry["ndcg@10"] for entry in self.history}
        return {
            "best_step": self.best_step,
            "fell_back_to_sft": self.best_step == 0,
            "sft_ndcg@10": by_step[0],
            "best_ndcg@10": max(by_step.values()),
            "users": len(self.windows),
            "history": self.history,
        }

    def load(self, step: int) -> None:
        """Reads what it saw up to a step back, to go on from a checkpoint.

        Raises:
            RunError: its file is gone.
        """
        try:
            self.history = [entry for entry in read_json(self.directory / "guard.json") if entry["step"] <= step]
        except (FileNotFoundError, ValueError) as error:
            raise RunError(
                f"{self.directory} lost guard.json: delete {self.directory.parent} to start over."
            ) from error
