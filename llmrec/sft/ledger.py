"""The ledger of a private training: every step that was begun, so that no interruption loses or hides one.

    {"noise_multiplier": 2.1, "sampling_rate": 0.068, "steps": 150, ...}    the plan
    {"begun": 1}                                                            on disk before the step computes anything
    {"done": 1, "users": 61, "clipped": 60}

A step that is run again after a crash is begun twice and counts twice. The training ends when as many steps were begun
as the plan has, so it never costs more than its budget.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmrec.errors import RunError


@dataclass(frozen=True)
class Plan:
    """What a training was calibrated to.

    Attributes:
        epsilon: the budget.
        delta: its failure probability.
        clip: largest norm of a user's gradient.
        noise_multiplier: standard deviation of the noise, in units of `clip`.
        users: users of the training data, U.
        batch_size: expected number of users of a step.
        steps: optimizer steps.
    """

    epsilon: float
    delta: float
    clip: float
    noise_multiplier: float
    users: int
    batch_size: int
    steps: int

    @property
    def sampling_rate(self) -> float:
        """Probability with which a user is drawn into a step."""
        return self.batch_size / self.users


class Ledger:
    """The ledger of a training. It continues the file if there is one.

    Args:
        path: the file.
        plan: the plan.

    Attributes:
        plan: the plan.
        begun: steps that were begun, ever.
        users: gradients of users in finished steps.
        clipped: how many of them were clipped.

    Raises:
        RunError: the file is of another plan, or not readable.
    """

    def __init__(self, path: Path, plan: Plan):
        self.path = path
        self.plan = plan
        self.begun = 0
        self.users = 0
        self.clipped = 0
        if path.is_file():
            self._read()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append(asdict(plan))

    @property
    def exhausted(self) -> bool:
        """Whether the whole budget is spent."""
        return self.begun >= self.plan.steps

    def begin(self, step: int) -> None:
        """Counts a step before it computes anything.

        Raises:
            RunError: the budget is spent.
        """
        if self.exhausted:
            raise RunError(f"{self.path}: all {self.plan.steps} steps of the privacy budget were begun before.")
        self._append({"begun": step})
        self.begun += 1

    def end(self, step: int, users: int, clipped: int) -> None:
        """Records how many users a step had, and how many of their gradients were clipped."""
        self._append({"done": step, "users": users, "clipped": clipped})
        self.users += users
        self.clipped += clipped

    def _append(self, entry: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> None:
        first, *lines = self.path.read_text(encoding="utf-8").splitlines() or [""]
        found = _parsed(first)
        expected = asdict(self.plan)
        differing = sorted(name for name in expected if found.get(name) != expected[name])
        if differing:
            raise RunError(
                f"{self.path} belongs to another training: {', '.join(differing)} differ. Delete {self.path.parent} to "
                "train from the start, which costs another budget, or give this config another `name`."
            )
        for line in lines:
            entry = _parsed(line)
            self.users += entry.get("users", 0)
            self.clipped += entry.get("clipped", 0)
            self.begun += "done" not in entry  # a line that a power failure cut off counts as a step, to be safe


def _parsed(line: str) -> dict[str, Any]:
    """The value of a line; empty if it was cut off."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
