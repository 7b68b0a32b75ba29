"""Measures a tiny policy as evaluation and the guard do, in any number of processes that share the users."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from llmrec.data.decision import Decision, Decisions
from llmrec.evaluation.generation import generation_report
from llmrec.evaluation.ranking import rank_policy
from llmrec.evaluation.requests import request_reports
from llmrec.evaluation.reward_change import sampled_rewards
from llmrec.files import plain, write_json
from llmrec.language.prompt import Recommendation
from llmrec.policy.model import RecPolicy
from llmrec.reward.protocol import RewardBatch
from llmrec.selection.guard import ValidationSet, _user_means
from llmrec.selection.validation import mean_policy_ndcg
from tests.conftest import disturb, make_config, make_data


def lengths(recommendations: Sequence[Recommendation], decisions: Sequence[Decision]) -> RewardBatch:
    """A reward of the item's index and of the number of segments."""
    item = torch.tensor([float(one.item) for one in recommendations])
    text = torch.tensor([float(len(one.segments)) for one in recommendations])
    return RewardBatch(item=item, text=text, parts={"segments": text})


def main(base: str, output: Path) -> None:
    """Writes all measurements of this process to `RANK.json`."""
    data = make_data()
    config = make_config(base, sft={"requests": 0.5})
    torch.manual_seed(0)
    policy = RecPolicy.create(config, data).eval()
    disturb(policy)
    decisions = Decisions.from_targets(data, data.targets["leave_one_out"]["test"], config.catalogue).select(range(5))
    rewards = torch.arange(50.0).view(5, 10)
    done: list[None] = []
    ranked, log_probs = rank_policy(policy, decisions, 0, lambda _: done.append(None), keep=True)
    measured = {
        "ranks": ranked.ranks.tolist(),
        "lists": ranked.lists.tolist(),
        "probabilities": log_probs.exp().tolist(),
        "generation": generation_report(policy, data, config, lambda _: None).model_dump(),
        "rewards": sampled_rewards(policy, decisions, lengths, config, lambda _: None),
        "ndcg": mean_policy_ndcg(policy, decisions),
        "guard": _user_means(policy, ValidationSet(decisions, rewards, -rewards)),
        "batches": len(done),
        "requests": {
            kind: one.model_dump()
            for kind, one in request_reports(policy, decisions, log_probs, np.ones(10), 20, 0, lambda _: None).items()
        },
    }
    write_json(output / f"{os.environ.get('RANK', '0')}.json", plain(measured))
