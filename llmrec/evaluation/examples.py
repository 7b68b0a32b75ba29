"""Recommendations of the policies to a few test users, with each statement marked true or false."""

import numpy as np

from llmrec.config import Config
from llmrec.data.dataset import InteractionData, Targets
from llmrec.data.decision import Decisions
from llmrec.evaluation.report import Example, ExampleAnswer, Statement
from llmrec.language.groundedness import check, statements
from llmrec.policy.generate import generate, parse
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack

USERS = 6
SHOWN_HISTORY = 8  # number of newest titles shown


def example_targets(data: InteractionData, config: Config) -> Targets:
    """Up to `USERS` test targets of different users from the first split, drawn with the seed of the config."""
    targets = next(iter(data.targets.values()))["test"]
    order = np.random.default_rng((config.seed, 19)).permutation(len(targets))
    first_of_user = np.unique(targets.users[order], return_index=True)[1]
    rows = order[np.sort(first_of_user)[:USERS]]
    return Targets(targets.users[rows], targets.positions[rows])


def answers(policy: RecPolicy, data: InteractionData, config: Config) -> list[ExampleAnswer]:
    """The most probable recommendation for each of `example_targets`, in their order."""
    targets = example_targets(data, config)
    titles = data.items["title"].tolist()
    decisions = Decisions.from_targets(data, targets, config.catalogue)
    if not len(decisions):
        return []
    prompts = pack(policy, decisions).to(policy.device)
    found = []
    written = parse(policy, generate(policy, prompts, config.ppo.response_length))
    for seen, recommendation in zip(decisions.histories, written, strict=True):
        history = set(seen.tolist())
        justification = [
            Statement(text=statement.text(titles), true=statement.true)
            for statement in statements(policy.facts, recommendation, history)
        ]
        found.append(
            ExampleAnswer(
                item=titles[recommendation.item] if recommendation.item >= 0 else None,
                justification=justification,
                grounded=check(policy.facts, recommendation, history).grounded,
            )
        )
    return found


def examples(data: InteractionData, config: Config, written: dict[str, list[ExampleAnswer]]) -> list[Example]:
    """The example users with their history, their next item and the answers of each policy.

    Args:
        data: the prepared log.
        config: config of the run.
        written: the `answers` of each policy, by its name.
    """
    targets = example_targets(data, config)
    titles = data.items["title"].tolist()
    return [
        Example(
            user=str(data.users["user_id"].iloc[user]),
            history=[titles[item] for item in data.histories[user][max(0, position - SHOWN_HISTORY) : position]],
            took=titles[data.histories[user][position]],
            **{name: answers_of_policy[row] for name, answers_of_policy in written.items()},
        )
        for row, (user, position) in enumerate(zip(targets.users, targets.positions, strict=True))
    ]
