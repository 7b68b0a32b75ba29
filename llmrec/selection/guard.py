"""Chooses the PPO adapter on some validation users and decides on others whether it replaces the SFT start."""

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list

from llmrec.data.decision import Decisions
from llmrec.distributed import gathered, own_rows
from llmrec.errors import RunError
from llmrec.evaluation.metrics import per_user
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import all_item_scores
from llmrec.selection.best_adapter import BestAdapter
from llmrec.selection.validation import best_items, mean_list_reward, user_ndcg
from llmrec.timing import timed

NDCG = "eval/ndcg@10"
REWARD = "eval/reward"
JUDGE = "eval/judge"
LEVEL = 0.05  # error rate of each one-sided test
POWER = 0.8  # probability with which the test finds a gain of `GuardDecision.detectable_gain`
MIN_DECIDING_USERS = 30  # fewer users make the normal approximation of the tests doubtful
FORMER_KEY = "eval/sure_gain"  # key of evaluations under the former rule, which used all users at every evaluation


@dataclass(frozen=True)
class ValidationSet:
    """Validation decisions and two independent scores of every item.

    Attributes:
        decisions: M validation decisions with known targets. Decisions with the same `users` are of one user.
        rewards: item rewards of the reward model that PPO maximizes, nats, float [M, N].
        judge_rewards: item rewards of a judge that never saw the user of the decision, nats, float [M, N].
    """

    decisions: Decisions
    rewards: torch.Tensor
    judge_rewards: torch.Tensor


@dataclass(frozen=True)
class Difference:
    """Mean difference of two adapters on the same users, with bounds that hold with 95 % probability each.

    Attributes:
        mean: mean over users.
        lower: lower one-sided bound; the difference is significantly positive if it is above 0.
        upper: upper one-sided bound; the difference is significantly negative if it is below 0.
    """

    mean: float
    lower: float
    upper: float


@dataclass(frozen=True)
class GuardDecision:
    """The one decision between the chosen adapter and the SFT start.

    Attributes:
        step: PPO update of the chosen adapter.
        users: number of deciding users.
        gain: NDCG@10 of the chosen adapter minus that of the SFT start.
        judge: the same for the judge's mean score of the ten best items, nats.
        detectable_gain: NDCG@10 gain that the test finds with 80 % probability.
        accepted: whether the chosen adapter replaces the SFT start.
    """

    step: int
    users: int
    gain: Difference
    judge: Difference
    detectable_gain: float
    accepted: bool


def difference_bounds(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of paired differences and its one-sided bounds at `LEVEL`, by the normal approximation.

    Args:
        differences: one difference for each of U users, at least two, float [..., U].

    Returns:
        mean, lower bound and upper bound, float [...] each.
    """
    mean = differences.mean(-1)
    margin = NormalDist().inv_cdf(1 - LEVEL) * differences.std(-1, ddof=1) / np.sqrt(differences.shape[-1])
    return mean, mean - margin, mean + margin


def accepted(gain: np.ndarray) -> np.ndarray:
    """The rule of the guard: the gain is significantly positive.

    Args:
        gain: NDCG@10 of the chosen adapter minus that of the SFT start, for each of U deciding users, float [..., U].

    Returns:
        bool [...].
    """
    _, lower, _ = difference_bounds(gain)
    return lower > 0


class Guard(BestAdapter):
    """Chooses the adapter with the best validation NDCG@10 and decides once whether it replaces the SFT start.

    Two groups of validation users have separate tasks:

    1. The choosing users are measured at every evaluation. The adapter with their highest NDCG@10 is chosen.
    2. The deciding users are measured once, after training. The chosen adapter replaces the SFT start if its NDCG@10 is
       significantly higher for them: a one-sided test, paired by user, at 5 %.

    The choice among many evaluations does not affect the test, because it never uses the deciding users. An adapter
    without a gain is accepted in at most 5 % of runs. With fewer than `MIN_DECIDING_USERS` deciding users the SFT start
    stays.

    The judge's score is reported and has no veto. A rising reward with a falling judge score can be a sign of reward
    hacking. Reward and judge score are means over the ten best items. Expectations under the policy would also rise
    when the policy merely becomes more confident of the same list.

    Args:
        choosing: decisions of the choosing users.
        deciding: decisions of the deciding users.
        directory: folder that receives the adapters.

    Attributes:
        history: one entry an evaluation of the choosing users, `{step, kept, eval/...}`; step 0 is the SFT start.
            `kept` marks an adapter that was the best so far.
        decision: the decision, after `decide`; None if there was nothing to decide.
    """

    def __init__(self, choosing: ValidationSet, deciding: ValidationSet, directory: Path):
        super().__init__(choosing.decisions, directory, NDCG)
        self.choosing = choosing
        self.deciding = deciding
        self.decision: GuardDecision | None = None

    def resume(self, history: list[dict[str, Any]]) -> None:
        """Continues from the evaluations of an interrupted training.

        Raises:
            RunError: an earlier version made them. It measured all users, so none are left to decide.
        """
        if any(FORMER_KEY in entry for entry in history):
            folder = self.directory.parent
            raise RunError(
                f"{folder} was interrupted under a former rule of the guard, which leaves no users to decide: delete "
                "that folder and run PPO again."
            )
        self.history = history

    def on_evaluation(self, policy: RecPolicy, step: int) -> tuple[dict[str, float], str]:
        """Evaluates the policy on the choosing users and saves its adapter if it is the best so far.

        Returns:
            metrics to log, and one sentence that says what was found.
        """
        measured = self.evaluate(policy, step)
        start = self.history[0]
        best = bool(self.history[-1]["kept"])
        metrics = measured | {
            "eval/judge_gap": (measured[REWARD] - start[REWARD]) - (measured[JUDGE] - start[JUDGE]),
            "eval/best_ndcg@10": self.best_ndcg,
            "guard/kept": float(best),
        }
        found = "the best so far" if best else f"the adapter of step {self.best_step} remains the best"
        return metrics, f"guard: NDCG@10 of the choosing users is {measured[NDCG]:.4f}; {found}"

    def measure(self, policy: RecPolicy) -> dict[str, float]:
        """Means over the choosing users: NDCG@10 (ties count half), reward and judge score of the ten best items."""
        return {name: float(values.mean()) for name, values in _user_means(policy, self.choosing).items()}

    @timed("validation")
    def decide(self, policy: RecPolicy) -> str:
        """Decides between the chosen adapter and the SFT start, and loads the adapter that stays.

        All processes must call this once, after the last evaluation.

        Returns:
            one sentence that says what was decided and why.
        """
        users = len(np.unique(self.deciding.decisions.users))
        if self.best_step == 0 or users < MIN_DECIDING_USERS:
            policy.load_adapter_weights(self.directory / "adapter-0")
            if self.best_step == 0:
                return "guard: no adapter was better than the SFT start for the choosing users; the SFT adapter stays"
            return f"guard: the SFT adapter stays, because a decision needs {MIN_DECIDING_USERS} users, found {users}"
        self.restore_best(policy)
        best = _user_means(policy, self.deciding)
        policy.load_adapter_weights(self.directory / "adapter-0")
        start = _user_means(policy, self.deciding)
        found = decision_of(self.best_step, {name: best[name] - start[name] for name in best})
        self.decision = broadcast_object_list([found])[0]
        if self.decision.accepted:
            self.restore_best(policy)
        return _event(self.decision)

    def report(self) -> dict[str, Any]:
        """All evaluations, the decision and the adapter that stays, as JSON values."""
        accepted = self.decision is not None and self.decision.accepted
        best = self.best_ndcg if accepted else self.history[0][NDCG]
        return {
            "best_step": self.best_step if accepted else 0,
            "fell_back_to_sft": not accepted,
            "sft_ndcg@10": self.history[0][NDCG],
            "best_ndcg@10": best,
            "users": len(np.unique(self.choosing.decisions.users)),
            "decision": None if self.decision is None else asdict(self.decision),
            "history": self.history,
        }

    def _kept(self) -> list[dict[str, Any]]:
        return [entry for entry in self.history if entry["kept"]]

    def _entry(self, step: int, kept: bool, measured: dict[str, float]) -> dict[str, Any]:
        return {"step": step, "kept": kept, **measured}


def decision_of(step: int, differences: dict[str, np.ndarray]) -> GuardDecision:
    """Applies the rule of `Guard` to paired differences.

    Args:
        step: PPO update of the chosen adapter.
        differences: chosen adapter minus SFT start for each deciding user, by `NDCG` and `JUDGE`, float [U] each.
    """
    gain = Difference(*map(float, difference_bounds(differences[NDCG])))
    judge = Difference(*map(float, difference_bounds(differences[JUDGE])))
    quantile = NormalDist().inv_cdf
    standard_error = (gain.mean - gain.lower) / quantile(1 - LEVEL)
    return GuardDecision(
        step=step,
        users=len(differences[NDCG]),
        gain=gain,
        judge=judge,
        detectable_gain=standard_error * (quantile(1 - LEVEL) + quantile(POWER)),
        accepted=bool(accepted(differences[NDCG])),
    )


def _user_means(policy: RecPolicy, validation: ValidationSet) -> dict[str, np.ndarray]:
    """NDCG@10 (ties count half), reward and judge score of the ten best items, by name, float64 [U] each.

    The processes share the decisions. Every process must call it.
    """
    decisions = validation.decisions
    rows = own_rows(len(decisions))
    own = decisions.select(rows)
    scores = all_item_scores(policy, own)
    lists = best_items(scores)
    columns = {
        NDCG: user_ndcg(scores, torch.from_numpy(own.targets)),
        REWARD: mean_list_reward(lists, validation.rewards[rows]),
        JUDGE: mean_list_reward(lists, validation.judge_rewards[rows]),
    }
    values = np.array(gathered(torch.stack(list(columns.values()), 1).tolist(), len(decisions)))
    return {name: per_user(column, decisions.users)[1] for name, column in zip(columns, values.T, strict=True)}


def _event(decision: GuardDecision) -> str:
    """What was decided and why, in one sentence."""
    gain = decision.gain
    judge = decision.judge
    found = (
        f"guard: for {decision.users} deciding users the adapter of step {decision.step} changes NDCG@10 by "
        f"{gain.mean:+.4f} (95 % lower bound {gain.lower:+.4f}) and the judge's score by {judge.mean:+.3f} nats "
        f"(95 % upper bound {judge.upper:+.3f})"
    )
    if decision.accepted:
        return f"{found}; it replaces the SFT adapter"
    detectable = f"a gain of {decision.detectable_gain:.4f} would be found with {POWER:.0%} probability"
    return f"{found}; the SFT adapter stays, because the gain is not significant ({detectable})"
