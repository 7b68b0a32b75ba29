"""What RL did to the reward: completions sampled with the same random numbers before (SFT) and after (PPO)."""

from collections.abc import Callable

import numpy as np
import torch

from llmrec.config import Config
from llmrec.data.dataset import InteractionData, Targets
from llmrec.evaluation.metrics import bootstrap_ci, paired_bootstrap, per_user
from llmrec.evaluation.ranking import by_length, chunks
from llmrec.policy.generate import generate, parse
from llmrec.policy.model import RecPolicy
from llmrec.policy.packed import pack
from llmrec.policy.validation import target_windows
from reward_models import EaseJudge
from reward_models.composite import CompositeReward


def sampled_rewards(
    policy: RecPolicy,
    data: InteractionData,
    targets: Targets,
    reward: CompositeReward,
    judge: EaseJudge,
    config: Config,
    advance: Callable[..., None],
) -> dict[str, np.ndarray]:
    """Rewards of completions sampled as in training, the same random numbers for every policy.

    Returns:
        `reward` (what PPO maximises), its parts, and `judge` (the item's reward with the judge in the place of the
        click/purchase model), each [M].
    """
    windows = target_windows(data, targets, config)
    uniforms = np.random.default_rng((config.seed, 13)).random((len(windows), config.ppo.response_length))
    columns: dict[str, list[np.ndarray]] = {}
    order, judge_rewards = by_length(windows), reward.judged(judge)
    for rows in chunks(len(windows)):
        places = order[rows]
        part = [windows[m] for m in places]
        prompts = pack(policy, part).to(policy.device)
        drawn = torch.from_numpy(uniforms[places]).to(policy.device)
        completions = generate(policy, prompts, config.ppo.response_length, drawn, temperature=config.ppo.temperature)
        recommendations = parse(policy, completions)
        asked = [
            {
                "user": targets.users[m],
                "profile": w.profile,
                "prior": w.prior,
                "items": w.items,
                "purchased": data.purchases_before(targets.users[m], targets.positions[m]),
            }
            for m, w in zip(places, part, strict=True)
        ]
        scored = reward(recommendations, asked)
        histories = [np.array([*w.prior, *w.items]) for w in part]
        judged = judge_rewards(histories)
        items = torch.tensor([r.item for r in recommendations])
        picked = judged.gather(1, items.clamp(min=0)[:, None])[:, 0]
        judged = torch.where(items >= 0, picked, -reward.CLIP * config.reward.item_weight)
        values = {"reward": scored.item + scored.text, **scored.parts, "judge": judged}
        for name, value in values.items():
            columns.setdefault(name, []).append(value.numpy())
        advance()
    back = np.argsort(order)
    return {name: np.concatenate(parts)[back] for name, parts in columns.items()}


def reward_report(
    before: dict[str, np.ndarray], after: dict[str, np.ndarray], users: np.ndarray, config: Config
) -> dict:
    """Mean rewards before (SFT) and after (PPO) and their paired differences, with intervals over users.

    Args:
        before, after: by part, of M targets, [M]; see `sampled_rewards`.
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
