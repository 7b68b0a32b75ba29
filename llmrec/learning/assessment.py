"""What a round has reached: the new adapter against the present one on new events that neither was trained on."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmrec.data.dataset import InteractionData, load_data
from llmrec.data.decision import Decisions
from llmrec.distributed import own_device
from llmrec.errors import DataError
from llmrec.evaluation.metrics import per_user
from llmrec.off_policy import estimators
from llmrec.off_policy.bootstrap import Estimate, bootstrap
from llmrec.off_policy.diagnostics import diagnose
from llmrec.off_policy.evaluate import make_rounds
from llmrec.off_policy.logs import BOOTSTRAP_SAMPLES, read_exposure_log
from llmrec.off_policy.policies import policy_of_run
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import all_item_scores
from llmrec.run import Run
from llmrec.selection.guard import MIN_DECIDING_USERS, Difference, difference_bounds
from llmrec.selection.validation import user_ndcg


@dataclass(frozen=True)
class HeldOut:
    """NDCG@10 on the newest events, of which each user counts once.

    Attributes:
        users: number of users.
        present: mean of the present adapter.
        new: mean of the new adapter.
        gain: their difference.
    """

    users: int
    present: float
    new: float
    gain: Difference


@dataclass(frozen=True)
class OffPolicy:
    """Clicks per shown item of both adapters, estimated from the lists that the server has shown.

    Attributes:
        rounds: shown items of the newest events.
        effective_sample_size: of the importance weights, by adapter (`present`, `new`).
        values: self-normalized estimate by adapter, with clipped weights; empty if the log holds too little data about
            one of them.
        gain: their difference with its interval over users; None likewise.
        refusal: why there are no estimates; None if there are.
    """

    rounds: int
    effective_sample_size: dict[str, float]
    values: dict[str, float]
    gain: Estimate | None
    refusal: str | None


@dataclass(frozen=True)
class Assessment:
    """Whether a round's adapter may be served.

    Attributes:
        held_out: NDCG@10 on the newest clicks.
        off_policy: estimates from the server's log.
        accepted: whether the adapter becomes a candidate.
        why: one sentence.
    """

    held_out: HeldOut
    off_policy: OffPolicy
    accepted: bool
    why: str

    def as_json(self) -> dict[str, Any]:
        """The assessment as JSON values."""
        return asdict(self)


def assess(run: Run) -> Assessment:
    """Assesses the run of a round, whose SFT adapter is the present version and whose PPO adapter is the new one.

    The new adapter is accepted if its estimated clicks per shown item are significantly higher. People can only click
    on what the present version shows, so NDCG@10 on their clicks favors that version. It decides only if the log holds
    too little exploration for an estimate.
    """
    held_out = compare_held_out(run, load_data(run.path("data")))
    off_policy = compare_off_policy(run)
    accepted, why = decide(held_out, off_policy)
    return Assessment(held_out, off_policy, accepted, why)


def decide(held_out: HeldOut, off_policy: OffPolicy) -> tuple[bool, str]:
    """Whether the new adapter is significantly better, and one sentence that says by what measure."""
    if off_policy.gain is not None:
        low, high = off_policy.gain.ci95
        change = f"{off_policy.gain.value:+.4f} (95 % interval {low:+.4f} to {high:+.4f})"
        found = f"estimated clicks per shown item of {off_policy.rounds:,} held-out ones change by {change}"
        return low > 0, found
    gain = held_out.gain
    found = f"NDCG@10 of {held_out.users} users on held-out clicks changes by {gain.mean:+.4f}"
    bounds = f"(95 % bounds {gain.lower:+.4f}, {gain.upper:+.4f})"
    enough = held_out.users >= MIN_DECIDING_USERS
    needed = "" if enough else f"; a decision needs {MIN_DECIDING_USERS} users"
    return enough and gain.lower > 0, f"{found} {bounds}{needed}"


def compare_held_out(run: Run, data: InteractionData) -> HeldOut:
    """NDCG@10 of both adapters at the test targets."""
    targets = data.targets["temporal"]["test"]
    decisions = Decisions.from_targets(data, targets, run.config.catalogue)
    present, new = (_mean_ndcg(run.path(stage, "adapter"), decisions) for stage in ("sft", "ppo"))
    mean, lower, upper = (float(value) for value in difference_bounds(new - present))
    return HeldOut(len(new), float(present.mean()), float(new.mean()), Difference(mean, lower, upper))


def _mean_ndcg(adapter: Path, decisions: Decisions) -> np.ndarray:
    """Mean NDCG@10 of each user's targets, float64 [U]."""
    policy = RecPolicy.from_pretrained(adapter).to(own_device()).eval()
    values = user_ndcg(all_item_scores(policy, decisions), torch.from_numpy(decisions.targets))
    return per_user(values.double().cpu().numpy(), decisions.users)[1]


def compare_off_policy(run: Run) -> OffPolicy:
    """Estimates for both adapters from the shown items of the test window."""
    try:
        log = read_exposure_log(run.directory)
        targets = [policy_of_run(log, run, stage) for stage in ("sft", "ppo")]
        rounds = [make_rounds(log, target)[0] for target in targets]
    except DataError as error:
        return OffPolicy(0, {}, {}, None, str(error))
    clicks = rounds[0].clicks
    present, new = (estimators.clipped_weights(one.weights) for one in rounds)
    if len(present) != len(new):
        return OffPolicy(len(clicks), {}, {}, None, "One of the adapters gives no probability to some shown items.")
    names = ("present", "new")
    found = dict(zip(names, (diagnose(clicks, weights) for weights in (present, new)), strict=True))
    sizes = {name: one.effective_sample_size for name, one in found.items()}
    refusal = next((one.refusal for one in found.values() if one.refusal is not None), None)
    if refusal is not None:
        return OffPolicy(len(clicks), sizes, {}, None, refusal)

    def gain(rows: np.ndarray) -> dict[str, float]:
        r = clicks[rows]
        return {"gain": estimators.snips(r, new[rows]) - estimators.snips(r, present[rows])}

    values = {"present": estimators.snips(clicks, present), "new": estimators.snips(clicks, new)}
    return OffPolicy(len(clicks), sizes, values, bootstrap(gain, rounds[0].users, BOOTSTRAP_SAMPLES)["gain"], None)
