"""What RL did to the reward: of the ten best items and of sampled completions, before (SFT) and after (PPO)."""

from collections.abc import Callable

import numpy as np
import torch

from llmrec.config import Config
from llmrec.data.decision import Decisions
from llmrec.evaluation.metrics import bootstrap_ci, paired_bootstrap, per_user
from llmrec.evaluation.optimum import item_rewards
from llmrec.evaluation.ranking import by_length, chunks
from llmrec.policy.generate import generate, parse
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack
from llmrec.reward.composite import CompositeReward
from llmrec.selection.validation import of_lists
from reward_models import EaseJudge


def sampled_rewards(
    policy: RecPolicy,
    decisions: Decisions,
    reward: CompositeReward,
    config: Config,
    advance: Callable[..., None],
) -> dict[str, np.ndarray]:
    """Rewards of completions sampled as in training, the same random numbers for every policy.

    Returns:
        `reward` (what PPO maximises) and its parts, each [M].
    """
    uniforms = np.random.default_rng((config.seed, 13)).random((len(decisions), config.ppo.response_length))
    columns: dict[str, list[np.ndarray]] = {}
    order = by_length(decisions)
    for rows in chunks(len(decisions)):
        places = order[rows]
        part = decisions.select(places)
        prompts = pack(policy, part).to(policy.device)
        drawn = torch.from_numpy(uniforms[places]).to(policy.device)
        completions = generate(policy, prompts, config.ppo.response_length, drawn, temperature=config.ppo.temperature)
        scored = reward(parse(policy, completions), part)
        values = {"reward": scored.item + scored.text, **scored.parts}
        for name, value in values.items():
            columns.setdefault(name, []).append(value.numpy())
        advance()
    back = np.argsort(order)
    return {name: np.concatenate(parts)[back] for name, parts in columns.items()}


def list_rewards(
    lists: dict[str, np.ndarray], decisions: Decisions, reward: CompositeReward, judge: EaseJudge
) -> dict[str, dict[str, np.ndarray]]:
    """Mean item rewards of lists: unlike those of samples, they stay as they are where a policy is merely surer of the
    same list.

    Args:
        lists: by policy the best items at M decisions, -1 where there are fewer, [M, 10].

    Returns:
        by policy `list_reward` (by the reward that PPO maximises) and `list_judge` (the judge in the place of the
        click/purchase model), each [M].
    """
    judged = reward.judged(judge)
    columns = {name: {"list_reward": [], "list_judge": []} for name in lists}
    for rows in chunks(len(decisions)):
        part = decisions.select(rows)
        by_reward = item_rewards(reward, part)
        by_judge = judged(part.histories)
        for name, found in columns.items():
            listed = torch.from_numpy(lists[name][rows])
            found["list_reward"].append(of_lists(listed, by_reward))
            found["list_judge"].append(of_lists(listed, by_judge))
    return {name: {key: torch.cat(values).numpy() for key, values in found.items()} for name, found in columns.items()}


def reward_report(
    before: dict[str, np.ndarray], after: dict[str, np.ndarray], users: np.ndarray, config: Config
) -> dict:
    """Mean rewards before (SFT) and after (PPO) and their paired differences, with intervals over users.

    Args:
        before, after: by part, of M targets, [M]; see `list_rewards` and `sampled_rewards`.
        users: of each target, [M].
        config: of the bootstrap.
    """
    settings = {"samples": config.evaluation.bootstrap, "seed": config.seed}
    report = {}
    for name in before:
        prefix = "" if name == "reward" else f"{name}_"
        first, second = (per_user(columns[name], users)[1] for columns in (before, after))
        n = len(first)
        for moment, values in (("before", first), ("after", second)):
            value, low, high = bootstrap_ci(values, **settings)
            report[f"{prefix}{moment}"] = {"value": value, "ci95": [low, high], "n": n}
        value, low, high, _ = paired_bootstrap(second, first, **settings)
        report[f"{prefix}difference"] = {"value": value, "ci95": [low, high], "n": n}
    return report
