"""The evaluation stage: every model on every split, what the policies wrote, and what RL did to the reward.

Nothing here is sampled but the reward comparison: ranking is over the full catalogue minus what the user had, ties
broken by a seeded hash; generated text is the most probable one.
"""

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from llmrec.config import Config
from llmrec.data.dataset import InteractionData, load_data
from llmrec.data.decision import Decisions
from llmrec.evaluation.examples import answers, examples
from llmrec.evaluation.generation import generation_rates
from llmrec.evaluation.optimum import has_optimum, item_rewards, optimum, optimum_report
from llmrec.evaluation.ranking import (
    BATCH,
    RANKS,
    Ranked,
    distinct_targets,
    rank,
    rank_batches,
    rank_policy,
    save_ranks,
)
from llmrec.evaluation.reward_change import list_rewards, reward_report, sampled_rewards
from llmrec.evaluation.split_report import split_report
from llmrec.files import write_json
from llmrec.policy.model import RecPolicy
from llmrec.recommenders.tuning import fit_baselines
from llmrec.reward.composite import CompositeReward
from llmrec.run import STAGES, VERBS, Run, library_versions
from reward_models import EaseJudge, Rewarder, load_reward_model
from reward_models.features import profile_words


def evaluate(run: Run) -> dict:
    """Measures all models of a run and writes `report.json`, and the rank of every target; returns the report.

    Raises:
        RunError: an earlier stage has not finished.
    """
    run.require("data", "sft", "reward", "ppo")
    run.begin("evaluate")
    data, config = load_data(run.path("data")), run.config
    targets, rows = distinct_targets({split: parts["test"] for split, parts in data.targets.items()})
    decisions = Decisions.from_targets(data, targets, config.catalogue)
    valid = Decisions.from_targets(data, data.selection_targets(), config.catalogue)
    model = load_reward_model(run.path("reward"), data.items["item_id"])
    judge = EaseJudge.from_pretrained(run.path("reward"), data.items["item_id"])
    generation, written, rewards, lists, log_probs, objective = {}, {}, {}, {}, {}, {}
    with _progress() as advance:
        fitted = fit_baselines(data, config, advance)
        ranked = {name: rank(baseline.scores, decisions, config.seed) for name, baseline in fitted.items()}
        ranked["reward_model"] = rank_batches(
            reward_scores(model, profile_words(data.users), decisions, config.reward.conversion_weight),
            decisions,
            config.seed,
        )
        for name in ("sft", "ppo"):
            policy = RecPolicy.from_pretrained(run.path(name, "adapter")).eval()
            policy.merge()
            advance(f"{name}: ranking", -(-len(decisions) // BATCH))
            ranked[name], found = rank_policy(policy, decisions, config.seed, advance)
            if has_optimum(config.ppo):
                log_probs[name] = found
            advance(f"{name}: writing for every user", -(-data.num_users // BATCH))
            generation[name] = generation_rates(policy, data, config, advance)
            written[name] = answers(policy, data, config)
            advance(f"{name}: reward on validation", 2 * -(-len(valid) // BATCH))
            lists[name] = rank_policy(policy, valid, config.seed, advance)[0].lists
            reward = CompositeReward.from_pretrained(run.path("reward"), data, policy.facts, config.reward)
            rewards[name] = sampled_rewards(policy, valid, reward, config, advance)
        for name, columns in list_rewards(lists, valid, reward, judge).items():
            rewards[name] = columns | rewards[name]
        if has_optimum(config.ppo):
            scores, objective = optimum(log_probs, item_rewards(reward, decisions), config.ppo)
            ranked["optimum"] = rank_batches(scores, decisions, config.seed)
    report = {
        "splits": {split: _of_split(data, decisions, rows[split], ranked, objective, config) for split in rows},
        "baselines": {name: baseline.report for name, baseline in fitted.items()},
        "generation": generation,
        "reward": reward_report(rewards["sft"], rewards["ppo"], valid.users, config),
        "reward_model": run.metrics("reward"),
        "guard": run.metrics("ppo")["guard"],
        "examples": examples(data, config, written),
        "data": data.card,
        "environment": environment(config),
        "commands": [f"llmrec {VERBS[stage]} {run.directory}" for stage in STAGES],
        "seconds": {stage: run.record(stage)["seconds"] for stage in STAGES if stage != "evaluate"},
    }
    save_ranks(run.path("evaluate", RANKS), targets, rows, ranked)
    write_json(run.report_path, plain(report))
    run.finish("evaluate", {"report": run.report_path.name})
    return report


def reward_scores(
    model: Rewarder, profiles: np.ndarray, decisions: Decisions, conversion_weight: float
) -> Iterator[np.ndarray]:
    """The reward model as a ranker, with the purchases and profiles that it was trained with: float [b, N] a batch.

    Args:
        profiles: profile words of every user of the log, int64 [U, P].
    """
    for part in decisions.batches(BATCH):
        words = profiles[part.users]
        yield model.log_rewards(part.histories, part.purchased, words, conversion_weight).cpu().numpy()


def _of_split(
    data: InteractionData,
    decisions: Decisions,
    rows: np.ndarray,
    ranked: dict[str, Ranked],
    objective: dict[str, np.ndarray],
    config: Config,
) -> dict:
    """What the report says of the questions `rows` of one split."""
    asked = decisions.select(rows)
    models = {name: one.select(rows) for name, one in ranked.items()}
    report = split_report(data, asked, models, config.evaluation, config.seed)
    if objective:
        values = {name: column[rows] for name, column in objective.items()}
        settings = {"section": config.ppo, "samples": config.evaluation.bootstrap, "seed": config.seed}
        report["optimum"] = optimum_report(values, report["models"], asked.users, **settings)
    return report


def environment(config: Config) -> dict:
    """Versions, seed and kind of machine."""
    return {
        "versions": library_versions(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "seed": config.seed,
    }


def plain(value):
    """Numpy numbers and arrays as Python's own."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


@contextmanager
def _progress() -> Iterator[Callable[..., None]]:
    """A progress bar: called without arguments it moves on by one; with (description, total) it begins anew."""
    columns = (
        TextColumn("evaluate"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("", total=None)

        def advance(description: str | None = None, total: int | None = None) -> None:
            if total is None:
                progress.advance(task)
            else:
                progress.reset(task, total=total, description=description)

        yield advance
