"""The evaluation stage: measures every model of a run on every split and writes `report.json`.

Rankings cover the full catalogue without the items that the user has seen. Tied items share the mean of their places.
Generated text is the most probable completion. Only the comparison of rewards before and after RL samples completions.
"""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from llmrec.catalogue.facts import FactBook
from llmrec.config import Config
from llmrec.data.dataset import InteractionData, Targets, load_data
from llmrec.data.decision import Decisions
from llmrec.data.profiles import NEW_USER
from llmrec.distributed import is_main_process, own_device
from llmrec.evaluation.comparisons import best_rival, correct
from llmrec.evaluation.examples import answers, examples
from llmrec.evaluation.generation import WRITTEN_USERS, generation_report
from llmrec.evaluation.metrics import ndcg, per_user
from llmrec.evaluation.optimum import has_optimum, optimum_report
from llmrec.evaluation.purchases import REWARD, Purchases, purchase_report
from llmrec.evaluation.ranking import (
    OBJECTIVES,
    RANKS,
    LogProbs,
    Ranked,
    Recomputed,
    distinct_targets,
    rank,
    rank_policy,
    save_values,
    target_table,
)
from llmrec.evaluation.report import (
    POLICIES,
    BaselineReport,
    DatasetCard,
    Environment,
    ExampleAnswer,
    GenerationReport,
    GuardReport,
    PartTime,
    Report,
    RequestReport,
    RewardModelReport,
    RewardReport,
    SplitReport,
)
from llmrec.evaluation.requests import SETS, TARGETS, request_reports
from llmrec.evaluation.reward_change import list_rewards, reward_report, sampled_rewards
from llmrec.evaluation.reward_rankings import RewardPass, RewardRankings
from llmrec.evaluation.split_report import split_report
from llmrec.language.adapter_files import same_weights
from llmrec.policy.model import RecPolicy
from llmrec.progress.bars import ProgressBar, bar
from llmrec.recommenders.popularity import item_counts
from llmrec.recommenders.registry import fit_baselines
from llmrec.recommenders.tuning import FittedBaseline, evaluated_users
from llmrec.reward.composite import CompositeReward
from llmrec.run import STAGES, VERBS, Run, library_versions
from llmrec.timing import spent, timed
from reward_models import EaseJudge

REWARDED_USERS = 10_000  # users whose rewards before and after RL are compared


@dataclass(frozen=True)
class Inputs:
    """The inputs of an evaluation.

    Attributes:
        run: the run.
        data: its prepared log.
        targets: the M distinct test targets of all splits.
        rows: indices into `targets` for each split, int64.
        test: the decisions at the test targets, [M].
        valid: the decisions at the validation targets of at most `REWARDED_USERS` users, [V].
        reward: the reward that PPO maximized.
    """

    run: Run
    data: InteractionData
    targets: Targets
    rows: dict[str, np.ndarray]
    test: Decisions
    valid: Decisions
    reward: CompositeReward

    @classmethod
    def from_run(cls, run: Run) -> "Inputs":
        """Reads the data and the reward of a run."""
        data = load_data(run.path("data"))
        facts = FactBook.load(run.path("ppo", "adapter"))
        chosen = evaluated_users(data.num_users, run.config)
        rewarded = evaluated_users(data.num_users, run.config, REWARDED_USERS)
        test = {split: parts["test"].of_users(chosen) for split, parts in data.targets.items()}
        targets, rows = distinct_targets(test)
        return cls(
            run=run,
            data=data,
            targets=targets,
            rows=rows,
            test=Decisions.from_targets(data, targets, run.config.catalogue),
            valid=Decisions.from_targets(data, data.selection_targets().of_users(rewarded), run.config.catalogue),
            reward=CompositeReward.from_pretrained(run.path("reward"), data, facts, run.config.reward),
        )

    @property
    def config(self) -> Config:
        """Config of the run."""
        return self.run.config


@dataclass(frozen=True)
class PolicyResults:
    """Measurements of one policy.

    Attributes:
        ranked: its ranking of the test targets.
        as_new_user: its ranking of them with the profile `new user`; None if no prompt holds another profile.
        log_probs: log-probability of every item after every test prompt, [M, N]; None if PPO's objective has no
            computable optimum.
        generation: quality of what it writes.
        answers: its answers to the example users.
        valid_lists: its ten best items for each validation target, [V, 10].
        rewards: rewards of its sampled completions on validation by part, each [V].
        requests: how well it follows requests, by kind; empty if it was trained without requests.
    """

    ranked: Ranked
    as_new_user: Ranked | None
    log_probs: LogProbs | None
    generation: GenerationReport
    answers: list[ExampleAnswer]
    valid_lists: np.ndarray
    rewards: dict[str, np.ndarray]
    requests: dict[str, RequestReport]


def evaluate(run: Run) -> Report | None:
    """Measures all models of a run; writes `report.json` and the rank of every target.

    Processes of `accelerate launch` share what the policies compute. The main process measures the rest and writes.

    Args:
        run: a run whose earlier stages have finished.

    Returns:
        The report; None in a process that is not the main process.

    Raises:
        RunError: an earlier stage has not finished.
    """
    run.require("data", "sft", "reward", "ppo")
    run.begin("evaluate")
    inputs = Inputs.from_run(run)
    with bar("evaluate") as progress:
        policies = measure_policies(inputs, progress)
        if not is_main_process():
            return None
        baselines = fit_baselines(inputs.data, run.config, _callback(progress))
        ranked = {name: rank(one.scores, inputs.test, run.config.seed) for name, one in baselines.items()}
        of_policies = {name: one.ranked for name, one in policies.items()}
        of_policies |= {
            f"{name}_new_user": one.as_new_user for name, one in policies.items() if one.as_new_user is not None
        }
        table = target_table(inputs.data, inputs.targets)
        purchased = table["purchased"].to_numpy()
        by_reward = measure_reward(inputs, policies, ranked | of_policies, purchased, progress)
    reward = compare_rewards(inputs, policies)
    chosen = {name: baseline_report(one) for name, one in baselines.items()}
    rival = best_rival(chosen)
    measured = Rankings(
        ranked=ranked | {REWARD: by_reward.ranked[REWARD]} | of_policies | by_reward.ranked,
        objective=by_reward.objective,
        purchases=Purchases(purchased, by_reward.expected) if purchased.any() else None,
        weighted=by_reward.weighted,
    )
    splits = {split: report_split(inputs, split, measured, rival) for split in inputs.rows}
    correct(splits)
    report = Report(
        splits=splits,
        best_rival=rival,
        baselines=chosen,
        generation={name: policy.generation for name, policy in policies.items()},
        requests={name: policy.requests for name, policy in policies.items() if policy.requests},
        reward=reward,
        reward_model=RewardModelReport.model_validate(run.metrics("reward")),
        guard=GuardReport.model_validate(run.metrics("ppo")["guard"]),
        examples=examples(inputs.data, run.config, {name: policy.answers for name, policy in policies.items()}),
        data=DatasetCard.model_validate(inputs.data.card),
        environment=environment(run.config),
        commands=[f"llmrec {VERBS[stage]} {run.directory}" for stage in STAGES],
        seconds={stage: run.record(stage)["seconds"] for stage in STAGES if stage != "evaluate"},
        parts=time_of_parts(run),
    )
    target_ranks = {name: one.ranks for name, one in measured.ranked.items()}
    save_values(run.path("evaluate", RANKS), table, inputs.rows, target_ranks)
    if measured.objective:
        save_values(run.path("evaluate", OBJECTIVES), table, inputs.rows, measured.objective)
    report.write(run.report_path)
    run.finish("evaluate", {"report": run.report_path.name})
    return report


def baseline_report(one: FittedBaseline) -> BaselineReport:
    """How the setting of a baseline was chosen, and what that cost."""
    return BaselineReport(
        chosen=one.chosen,
        grid=one.grid,
        refitted=one.refitted,
        seconds=one.seconds,
        cpu_seconds=one.cpu_seconds,
    )


def measure_policies(inputs: Inputs, progress: ProgressBar) -> dict[str, PolicyResults]:
    """Measures both policies; once if the guard kept the SFT adapter, because its weights are those of PPO then."""
    sft, ppo = (inputs.run.path(name, "adapter") for name in POLICIES)
    first = measure_policy("sft", inputs, progress)
    return {"sft": first, "ppo": first if same_weights(sft, ppo) else measure_policy("ppo", inputs, progress)}


def measure_policy(name: str, inputs: Inputs, progress: ProgressBar) -> PolicyResults:
    """Ranks the test targets by a policy, lets it write for every user, and samples its rewards on validation."""
    data = inputs.data
    config = inputs.config
    valid = inputs.valid
    with timed("base model"):
        policy = load_policy(name, inputs.run)
    progress.start(f"{name}: ranking", len(inputs.test))
    with timed(f"{name}: ranking"):
        ranked, log_probs = rank_policy(policy, inputs.test, config.seed, progress.advance, keep=True)
    as_new_user = None
    if any(profile != NEW_USER for profile in inputs.test.profiles):
        progress.start(f"{name}: ranking for new users", len(inputs.test))
        strangers = replace(inputs.test, profiles=[NEW_USER] * len(inputs.test))
        with timed(f"{name}: ranking for new users"):
            as_new_user, _ = rank_policy(policy, strangers, config.seed, progress.advance)
    requests = {}
    if policy.attributes is not None:
        progress.start(f"{name}: requests", len(SETS) * min(TARGETS, len(inputs.test)))
        clicks = item_counts(data.train_histories, data.num_items)
        with timed(f"{name}: requests"):
            requests = request_reports(
                policy, inputs.test, log_probs, clicks, config.evaluation.bootstrap, config.seed, progress.advance
            )
    progress.start(f"{name}: writing", min(data.num_users, config.evaluation.users, WRITTEN_USERS))
    with timed(f"{name}: writing"):
        generation = generation_report(policy, data, config, progress.advance)
        written = answers(policy, data, config)
    progress.start(f"{name}: reward on validation", 2 * len(valid))
    with timed(f"{name}: reward on validation"):
        valid_ranked, _ = rank_policy(policy, valid, config.seed, progress.advance)
        rewards = sampled_rewards(policy, valid, inputs.reward, config, progress.advance)
    read: LogProbs = Recomputed(partial(load_policy, name, inputs.run), inputs.test) if log_probs is None else log_probs
    return PolicyResults(
        ranked=ranked,
        as_new_user=as_new_user,
        log_probs=read if has_optimum(config.ppo) else None,
        generation=generation,
        answers=written,
        valid_lists=valid_ranked.lists,
        rewards=rewards,
        requests=requests,
    )


def load_policy(name: str, run: Run) -> RecPolicy:
    """The policy `sft` or `ppo` of a run, for inference on the device of this process."""
    policy = RecPolicy.from_pretrained(run.path(name, "adapter")).eval().to(own_device())
    policy.merge()
    return policy


@timed("reward before and after")
def compare_rewards(inputs: Inputs, policies: dict[str, PolicyResults]) -> RewardReport:
    """Rewards on validation before (SFT) and after (PPO): of the ten best items and of sampled completions."""
    judge = EaseJudge.from_pretrained(inputs.run.path("reward"), inputs.data.items["item_id"])
    lists = {name: policy.valid_lists for name, policy in policies.items()}
    of_lists = list_rewards(lists, inputs.valid, inputs.reward, judge)
    rewards = {name: of_lists[name] | policy.rewards for name, policy in policies.items()}
    return reward_report(rewards["sft"], rewards["ppo"], inputs.valid.users, inputs.config)


@timed("rewards of all items")
def measure_reward(
    inputs: Inputs,
    policies: Mapping[str, PolicyResults],
    ranked: Mapping[str, Ranked],
    purchased: np.ndarray,
    progress: ProgressBar,
) -> RewardRankings:
    """What the reward model gives at the test targets: its ranking, PPO's optimum and rankings for purchases.

    Args:
        inputs: the inputs of the evaluation.
        policies: the policies, with their log-probabilities of all items.
        ranked: rankings of all other models.
        purchased: whether each of the M test targets was purchased, bool [M].
        progress: shows the progress.
    """
    rankings = RewardPass(
        reward=inputs.reward,
        section=inputs.config.ppo,
        lists={name: one.lists for name, one in ranked.items()} if purchased.any() else {},
        log_probs={name: one.log_probs for name, one in policies.items() if one.log_probs is not None},
        seed=inputs.config.seed,
    )
    progress.start("rewards of all items", len(inputs.test))
    return rankings.measure(inputs.test, progress.advance)


@dataclass(frozen=True)
class Rankings:
    """Everything that was measured at the M test targets of all splits.

    Attributes:
        ranked: rankings by model.
        objective: PPO's objective by policy, [M]; empty if it has no computable optimum.
        purchases: purchases; None if there are none.
        weighted: rank of each target in rankings for purchases, by weight and ranking, [M].
    """

    ranked: dict[str, Ranked]
    objective: dict[str, np.ndarray]
    purchases: Purchases | None
    weighted: dict[float, dict[str, np.ndarray]]


@timed("intervals and tests")
def report_split(inputs: Inputs, split: str, measured: Rankings, rival: str | None) -> SplitReport:
    """The report of one split, before Holm's correction.

    Args:
        inputs: the inputs of the evaluation.
        split: name of the split.
        measured: what was measured at all M test targets.
        rival: the strongest baseline on validation.
    """
    rows = inputs.rows[split]
    config = inputs.config
    samples = config.evaluation.bootstrap
    decisions = inputs.test.select(rows)
    models = {name: one.select(rows) for name, one in measured.ranked.items()}
    purchases = measured.purchases.select(rows) if measured.purchases is not None else None
    report = split_report(inputs.data, decisions, models, config.evaluation, config.seed, rival, purchases)
    if measured.objective:
        report.optimum = optimum_report(
            {name: per_user(values[rows], decisions.users)[1] for name, values in measured.objective.items()},
            {name: per_user(ndcg(models[name].ranks, 10), decisions.users)[1] for name in measured.objective},
            section=config.ppo,
            samples=samples,
            seed=config.seed,
        )
    if purchases is not None and measured.weighted:
        weighted = {
            weight: {name: of_targets[rows] for name, of_targets in found.items()}
            for weight, found in measured.weighted.items()
        }
        report.purchases = purchase_report(weighted, purchases.purchased, decisions.users, samples, config.seed)
    return report


def time_of_parts(run: Run) -> dict[str, dict[str, PartTime]]:
    """Time of the parts of each stage, of this one up to now. Stages of earlier versions have no parts."""
    recorded = {stage: run.record(stage).get("parts") or {} for stage in STAGES if stage != "evaluate"}
    recorded["evaluate"] = spent()
    return {
        stage: {name: PartTime.model_validate(one) for name, one in parts.items()} for stage, parts in recorded.items()
    }


def environment(config: Config) -> Environment:
    """Versions, seed and machine."""
    return Environment(
        versions=library_versions(),
        machine=f"{platform.system()} {platform.machine()}",
        device=own_device().type,
        threads=torch.get_num_threads(),
        seed=config.seed,
    )


def _callback(progress: ProgressBar) -> Callable[..., None]:
    """A function that advances the bar by one, or with a description and a total starts it anew."""

    def advance(description: str = "", total: int | None = None) -> None:
        if total is None:
            progress.advance()
        else:
            progress.start(description, total)

    return advance
