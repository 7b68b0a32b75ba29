"""Examples for people: what the policies recommend to a few test users, each statement marked true or false."""

import numpy as np

from llmrec.config import Config
from llmrec.data.dataset import InteractionData, Targets
from llmrec.data.decision import Decisions
from llmrec.language.groundedness import check, marks
from llmrec.policy.generate import generate, parse
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack

USERS = 6
SHOWN_HISTORY = 8  # newest titles


def example_targets(data: InteractionData, config: Config) -> Targets:
    """Up to `USERS` test targets of the first split, of different users: drawn by the seed, not picked."""
    targets = next(iter(data.targets.values()))["test"]
    order = np.random.default_rng((config.seed, 19)).permutation(len(targets))
    first_of_user = np.unique(targets.users[order], return_index=True)[1]
    rows = order[np.sort(first_of_user)[:USERS]]
    return Targets(targets.users[rows], targets.positions[rows])


def answers(policy: RecPolicy, data: InteractionData, config: Config) -> list[dict]:
    """The most probable recommendation for each of `example_targets`.

    Returns:
        one a target: `item` (title, null if the completion broke off), `justification` (in order, each
        `{text, true}`, `true` null where nothing is stated) and `grounded`.
    """
    targets, titles = example_targets(data, config), data.items["title"].tolist()
    decisions = Decisions.from_targets(data, targets, config.catalogue)
    if not len(decisions):
        return []
    prompts = pack(policy, decisions).to(policy.device)
    found = []
    written = parse(policy, generate(policy, prompts, config.ppo.response_length))
    for items, recommendation in zip(decisions.histories, written, strict=True):
        history = set(items.tolist())
        justification = [
            {"text": f' "{titles[mark.segment]}"' if isinstance(mark.segment, int) else mark.segment, "true": mark.true}
            for mark in marks(policy.facts, recommendation, history)
        ]
        found.append(
            {
                "item": titles[recommendation.item] if recommendation.item >= 0 else None,
                "justification": justification,
                "grounded": check(policy.facts, recommendation, history).grounded,
            }
        )
    return found


def examples(data: InteractionData, config: Config, written: dict[str, list[dict]]) -> list[dict]:
    """Users with what they had, what they took next, and the answers of each policy side by side.

    Args:
        data: of the run.
        config: of the run.
        written: by policy, `answers` of it.

    Returns:
        one a user: `user` (id), `history` (newest titles, oldest first), `took` (title), and each policy's answer under
        its name.
    """
    targets, titles = example_targets(data, config), data.items["title"].tolist()
    return [
        {
            "user": str(data.users["user_id"].iloc[user]),
            "history": [titles[item] for item in data.histories[user][max(0, position - SHOWN_HISTORY) : position]],
            "took": titles[data.histories[user][position]],
            **{name: answer[row] for name, answer in written.items()},
        }
        for row, (user, position) in enumerate(zip(targets.users, targets.positions, strict=True))
    ]
