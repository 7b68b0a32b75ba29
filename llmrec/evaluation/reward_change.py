"""The reward before (SFT) and after RL (PPO): of the ten best items and of sampled completions."""

from collections.abc import Callable

import numpy as np
import torch

from llmrec.config import Config
from llmrec.data.decision import Decisions
from llmrec.distributed import gathered, own_rows
from llmrec.evaluation.metrics import bootstrap_ci, paired_bootstrap, per_user
from llmrec.evaluation.ranking import by_length, chunks
from llmrec.evaluation.report import Estimate, RewardReport
from llmrec.policy.generate import generate, parse
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack
from llmrec.reward.composite import CompositeReward
from llmrec.selection.validation import mean_list_reward
from reward_models import EaseJudge


def sampled_rewards(
    policy: RecPolicy,
    decisions: Decisions,
    reward: CompositeReward,
    config: Config,
    advance: Callable[[int], None],
) -> dict[str, np.ndarray]:
    """Rewards of completions that are sampled as in training, with the same random numbers for every policy.

    The processes share the decisions, and all get the result.

    Args:
        policy: the policy to sample from.
        decisions: M decisions to prompt with.
        reward: the reward that PPO maximized.
        config: config of the run.
        advance: called after each batch with the number of its decisions.

    Returns:
        `reward` (what PPO maximizes) and its parts, each [M].
    """
    uniforms = np.random.default_rng((config.seed, 13)).random((len(decisions), config.ppo.response_length))
    columns: dict[str, list[np.ndarray]] = {}
    own = own_rows(len(decisions))
    order = own[by_length(decisions.select(own))]
    for rows in chunks(len(order)):
        places = order[rows]
        part = decisions.select(places)
        prompts = pack(policy, part).to(policy.device)
        drawn = torch.from_numpy(uniforms[places]).to(policy.device)
        completions = generate(policy, prompts, config.ppo.response_length, drawn, temperature=config.ppo.temperature)
        scored = reward(parse(policy, completions), part)
        values = {"reward": scored.item + scored.text, **scored.parts}
        for name, value in values.items():
            columns.setdefault(name, []).append(value.numpy())
        advance(len(part))
    back = np.argsort(order, kind="stable")
    values = np.stack([np.concatenate(parts)[back] for parts in columns.values()], 1)
    return dict(zip(columns, np.stack(gathered(list(values), len(decisions)), 1), strict=True))


def list_rewards(
    lists: dict[str, np.ndarray], decisions: Decisions, reward: CompositeReward, judge: EaseJudge
) -> dict[str, dict[str, np.ndarray]]:
    """Mean item rewards of the ten best items.

    Unlike rewards of samples, they do not change if a policy only becomes more certain of the same list.

    Args:
        lists: the best items at M decisions, by policy, filled up with -1, [M, 10].
        decisions: the M decisions.
        reward: the reward that PPO maximized.
        judge: the independent judge.

    Returns:
        By policy `list_reward` (the reward that PPO maximizes) and `list_judge` (the same reward with the judge in
        place of the click/purchase model), each [M].
    """
    judged = reward.judged(judge)
    columns: dict[str, dict[str, list[torch.Tensor]]] = {name: {"list_reward": [], "list_judge": []} for name in lists}
    for rows in chunks(len(decisions)):
        part = decisions.select(rows)
        by_reward = reward.newest_item_rewards(part)
        by_judge = judged(part.histories)
        for name, found in columns.items():
            listed = torch.from_numpy(lists[name][rows])
            found["list_reward"].append(mean_list_reward(listed, by_reward))
            found["list_judge"].append(mean_list_reward(listed, by_judge))
    return {name: {key: torch.cat(values).numpy() for key, values in found.items()} for name, found in columns.items()}


def reward_report(
    before: dict[str, np.ndarray], after: dict[str, np.ndarray], users: np.ndarray, config: Config
) -> RewardReport:
    """Mean rewards before (SFT) and after (PPO) and their paired differences, with intervals over users.

    Args:
        before: rewards under SFT for M targets, by part, [M] each; see `list_rewards` and `sampled_rewards`.
        after: rewards under PPO for the same targets.
        users: user of each target, [M].
        config: config of the run, for the bootstrap.
    """
    samples = config.evaluation.bootstrap
    seed = config.seed
    estimates: dict[str, Estimate] = {}
    for part in before:
        prefix = "" if part == "reward" else f"{part}_"
        first = per_user(before[part], users)[1]
        second = per_user(after[part], users)[1]
        estimates[f"{prefix}before"] = _estimate(bootstrap_ci(first, samples, seed), len(first))
        estimates[f"{prefix}after"] = _estimate(bootstrap_ci(second, samples, seed), len(first))
        difference, low, high, _ = paired_bootstrap(second, first, samples, seed)
        estimates[f"{prefix}difference"] = _estimate((difference, low, high), len(first))
    return RewardReport(estimates)


def _estimate(mean_and_interval: tuple[float, float, float], n: int) -> Estimate:
    value, low, high = mean_and_interval
    return Estimate(value=value, ci95=(low, high), n=n)
