"""The evaluation stage: every model on every split, what the policies wrote, and what RL did to the reward.

Nothing here is sampled but the reward comparison: ranking is over the full catalogue minus what the user had, ties
broken by a seeded hash; generated text is the most probable one.
"""

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from llmrec.catalogue.facts import FactBook
from llmrec.catalogue.prompt import Recommendation
from llmrec.config import Config
from llmrec.data.dataset import InteractionData, Targets, load_data
from llmrec.evaluation.baselines import EASE, Markov, Popularity
from llmrec.evaluation.examples import answers, examples
from llmrec.evaluation.metrics import (
    bootstrap_ci,
    coverage,
    hit_rate,
    holm,
    ndcg,
    paired_bootstrap,
    per_user,
    ranks,
    reciprocal_rank,
    top_k,
)
from llmrec.files import write_json
from llmrec.policy.generate import generate, parse
from llmrec.policy.model import RecPolicy
from llmrec.policy.packed import Window, pack
from llmrec.policy.ranking import item_scores
from llmrec.ppo.stage import target_windows
from llmrec.run import STAGES, VERBS, Run, library_versions
from reward_models import EaseJudge, Rewarder, load_reward_model
from reward_models.composite import CompositeReward
from reward_models.groundedness import check, faithfulness

COMPARISONS = (("ppo", "sft"), ("ppo", "markov"), ("sft", "markov"))
COMPARED_METRICS = ("hr@10", "ndcg@10", "mrr")
BATCH = 64
FAITHFULNESS_USERS = 300  # three forward passes each
Advance = Callable[..., None]  # () is one batch further; (description, total) begins a new bar


@dataclass(frozen=True)
class Ranked:
    """What one model makes of M targets.

    Attributes:
        ranks: rank of each target, [M].
        lists: the ten best items of each row, [M, 10].
    """

    ranks: np.ndarray
    lists: np.ndarray


def evaluate(run: Run) -> dict:
    """Measures all models of a run and writes `report.json`; returns the report.

    Raises:
        RunError: an earlier stage has not finished.
    """
    run.require("data", "sft", "reward", "ppo")
    run.begin("evaluate")
    data, config = load_data(run.path("data")), run.config
    model = load_reward_model(run.path("reward"), data.items["item_id"])
    judge = EaseJudge.from_pretrained(run.path("reward"), data.items["item_id"])
    ranked: dict[str, dict[str, Ranked]] = {split: {} for split in data.targets}
    generation, rewards, written = {}, {}, {}
    with _progress() as progress:
        task = progress.add_task("baselines", total=None)

        def advance(description: str | None = None, total: int | None = None) -> None:
            if total is None:
                progress.advance(task)
            else:
                progress.reset(task, total=total, description=description)

        for name, scores in baselines(data, model).items():
            for split, parts in data.targets.items():
                ranked[split][name] = _rank(data, parts["test"], scores, config)
        for name in ("sft", "ppo"):
            policy = RecPolicy.from_pretrained(run.path(name, "adapter")).eval()
            for split, parts in data.targets.items():
                windows = target_windows(data, parts["test"], config)
                advance(f"{name}: ranking, {split}", -(-len(windows) // BATCH))
                ranked[split][name] = _rank_policy(policy, data, parts["test"], windows, config, advance)
            advance(f"{name}: writing for every user", -(-data.num_users // BATCH))
            generation[name] = generation_rates(policy, data, config, advance)
            written[name] = answers(policy, data, config)
            targets = data.selection_targets()
            advance(f"{name}: reward on validation", -(-len(targets) // BATCH))
            reward = CompositeReward.from_pretrained(run.path("reward"), data, policy.facts, config.reward)
            rewards[name] = sampled_rewards(policy, data, targets, reward, judge, config, advance)
    report = {
        "splits": {split: _split_report(data, split, models, config) for split, models in ranked.items()},
        "generation": generation,
        "reward": reward_report(rewards["sft"], rewards["ppo"], config),
        "reward_model": run.metrics("reward"),
        "guard": run.metrics("ppo")["guard"],
        "examples": examples(data, config, written),
        "data": data.card,
        "environment": environment(config),
        "commands": [f"llmrec {VERBS[stage]} {run.directory}" for stage in STAGES],
        "seconds": {stage: run.record(stage)["seconds"] for stage in STAGES if stage != "evaluate"},
    }
    write_json(run.report_path, plain(report))
    run.finish("evaluate", {"report": run.report_path.name})
    return report


# -- ranking --


def baselines(data: InteractionData, model: Rewarder) -> dict[str, Callable]:
    """Scoring functions of models that are not the policy: histories [B] to scores [B, N]."""
    fitted = {"popularity": Popularity(), "markov": Markov(), "ease": EASE()}
    scores = {name: baseline.fit(data.train_histories, data.num_items).scores for name, baseline in fitted.items()}
    return scores | {"reward_model": lambda histories: model.log_rewards(histories).numpy()}


def _rank(data: InteractionData, targets: Targets, scores: Callable, config: Config) -> Ranked:
    parts = []
    for rows in _chunks(len(targets)):
        histories = [data.histories[targets.users[m]][: targets.positions[m]] for m in rows]
        parts.append(_ranked(scores(histories), data, targets, rows, config))
    return _join(parts)


def _rank_policy(
    policy: RecPolicy,
    data: InteractionData,
    targets: Targets,
    windows: list[Window],
    config: Config,
    advance: Advance,
) -> Ranked:
    parts = []
    batches = item_scores(policy, windows, BATCH)
    for rows, scores in zip(_chunks(len(targets)), batches, strict=True):
        parts.append(_ranked(scores.float().cpu().numpy(), data, targets, rows, config))
        advance()
    return _join(parts)


def _ranked(scores: np.ndarray, data: InteractionData, targets: Targets, rows: range, config: Config) -> Ranked:
    histories = [data.histories[targets.users[m]][: targets.positions[m]] for m in rows]
    items = np.array([data.histories[targets.users[m]][targets.positions[m]] for m in rows])
    best = top_k(scores, 10, histories, config.seed)
    return Ranked(ranks(scores, items, histories, config.seed), best)


def _join(parts: list[Ranked]) -> Ranked:
    return Ranked(np.concatenate([p.ranks for p in parts]), np.concatenate([p.lists for p in parts]))


def _chunks(count: int) -> Iterator[range]:
    for start in range(0, count, BATCH):
        yield range(start, min(start + BATCH, count))


def _split_report(data: InteractionData, split: str, models: dict[str, Ranked], config: Config) -> dict:
    users = data.targets[split]["test"].users
    values = {name: _per_user_metrics(ranked, users, config) for name, ranked in models.items()}
    settings = {"samples": config.evaluation.bootstrap, "seed": config.seed}
    report: dict = {"models": {}, "comparisons": {}, "targets": len(users), "users": len(np.unique(users))}
    for name, metrics in values.items():
        report["models"][name] = {metric: _interval(column, settings) for metric, column in metrics.items()}
        covered = coverage(models[name].lists, data.num_items)
        report["models"][name]["coverage"] = {"value": covered, "n": len(users)}
    for one, two in COMPARISONS:
        tests = {m: paired_bootstrap(values[one][m], values[two][m], **settings) for m in COMPARED_METRICS}
        adjusted = holm([p for *_, p in tests.values()])
        report["comparisons"][f"{one}_vs_{two}"] = {
            metric: {"difference": difference, "ci95": [low, high], "p_holm": p}
            for (metric, (difference, low, high, _)), p in zip(tests.items(), adjusted, strict=True)
        }
    return report


def _per_user_metrics(ranked: Ranked, users: np.ndarray, config: Config) -> dict[str, np.ndarray]:
    ks = sorted({*config.evaluation.ks, 10})  # the comparisons are made at 10
    columns = {f"hr@{k}": hit_rate(ranked.ranks, k) for k in ks}
    columns |= {f"ndcg@{k}": ndcg(ranked.ranks, k) for k in ks}
    columns["mrr"] = reciprocal_rank(ranked.ranks)
    return {name: per_user(column, users)[1] for name, column in columns.items()}


def _interval(values: np.ndarray, settings: dict) -> dict:
    value, low, high = bootstrap_ci(values, **settings)
    return {"value": value, "ci95": [low, high], "n": len(values)}


# -- what the policy writes --


def generation_rates(policy: RecPolicy, data: InteractionData, config: Config, advance: Advance) -> dict:
    """Writes the most probable recommendation for every user, from the whole history, and counts what holds.

    Returns:
        `validity` (an item of the catalogue, and the completion ended), `unseen` and `groundedness`, each
        `{rate, n}`; `distinct_wordings`, how many once names are taken out; and `faithfulness`, on a seeded sample of
        at most `FAITHFULNESS_USERS` (see `reward_models.groundedness.faithfulness`).
    """
    facts = policy.facts
    lengths = np.array([len(history) for history in data.histories])
    users = np.flatnonzero(lengths < data.num_items)  # nothing is left to recommend to the others
    lengths = lengths[users]
    windows = target_windows(data, Targets(users, lengths), config)
    valid, unseen, grounded, wordings, written = [], [], [], set(), []
    for rows in _chunks(len(windows)):
        prompts = pack(policy, [windows[m] for m in rows]).to(policy.device)
        completions = generate(policy, prompts, config.ppo.response_length)
        written += parse(policy, completions)
        for user, recommendation in zip(users[rows], written[rows.start :], strict=True):
            history = set(data.histories[user].tolist())
            valid.append(0 <= recommendation.item < data.num_items and recommendation.finished)
            unseen.append(recommendation.item >= 0 and recommendation.item not in history)
            grounded.append(check(facts, recommendation, history).grounded)
            wordings.add(_wording(recommendation, facts))
        advance()
    counted = {"validity": valid, "unseen": unseen, "groundedness": grounded}
    rates = {name: {"rate": float(np.mean(values)), "n": len(values)} for name, values in counted.items()}
    rates["distinct_wordings"] = {"count": len(wordings), "n": len(windows)}
    sample = np.random.default_rng((config.seed, 17)).permutation(len(windows))[:FAITHFULNESS_USERS]
    chosen = [windows[m] for m in sample], [written[m] for m in sample]
    return rates | {"faithfulness": faithfulness(policy, *chosen, seed=config.seed, batch=BATCH)}


def _wording(recommendation: Recommendation, facts: FactBook) -> str:
    text = "".join(s if isinstance(s, str) else " X" for s in recommendation.segments)
    return " ".join(facts.find(text)[1].split())


# -- reward before and after RL --


def sampled_rewards(
    policy: RecPolicy,
    data: InteractionData,
    targets: Targets,
    reward: CompositeReward,
    judge: EaseJudge,
    config: Config,
    advance: Advance,
) -> dict[str, np.ndarray]:
    """Rewards of completions sampled as in training, the same random numbers for every policy.

    Returns:
        `reward` (what PPO maximises), its parts, and `judge` (the item's reward with the judge in the place of the
        click/purchase model), each [M].
    """
    windows = target_windows(data, targets, config)
    uniforms = np.random.default_rng((config.seed, 13)).random((len(windows), config.ppo.response_length))
    columns: dict[str, list[np.ndarray]] = {}
    for rows in _chunks(len(windows)):
        part = [windows[m] for m in rows]
        prompts = pack(policy, part).to(policy.device)
        drawn = torch.from_numpy(uniforms[rows.start : rows.stop]).to(policy.device)
        completions = generate(policy, prompts, config.ppo.response_length, drawn, temperature=config.ppo.temperature)
        recommendations = parse(policy, completions)
        asked = [
            {
                "profile": w.profile,
                "prior": w.prior,
                "items": w.items,
                "purchased": data.purchases[targets.users[m]][: targets.positions[m]],
            }
            for m, w in zip(rows, part, strict=True)
        ]
        scored = reward(recommendations, asked)
        judged = reward.item_rewards(judge.log_rewards([np.array([*w.prior, *w.items]) for w in part]).cpu())
        items = torch.tensor([max(r.item, 0) for r in recommendations])
        judged = judged.gather(1, items[:, None])[:, 0]
        values = {"reward": scored.item + scored.text, **scored.parts, "judge": judged}
        for name, value in values.items():
            columns.setdefault(name, []).append(value.numpy())
        advance()
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def reward_report(before: dict[str, np.ndarray], after: dict[str, np.ndarray], config: Config) -> dict:
    """Mean rewards before (SFT) and after (PPO) and their paired differences, with intervals over users."""
    settings = {"samples": config.evaluation.bootstrap, "seed": config.seed}
    report = {}
    for name in before:
        prefix = "" if name == "reward" else f"{name}_"
        report[f"{prefix}before"] = _interval(before[name], settings)
        report[f"{prefix}after"] = _interval(after[name], settings)
        value, low, high, _ = paired_bootstrap(after[name], before[name], **settings)
        report[f"{prefix}difference"] = {"value": value, "ci95": [low, high], "n": len(before[name])}
    return report


# -- the report --


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


def _progress() -> Progress:
    columns = (
        TextColumn("evaluate"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, TextColumn("{task.description}"))
