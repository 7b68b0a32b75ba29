"""How well a policy follows requests: satisfied items and accuracy, beside a filter that knows the attributes.

Each test target gets requests that are true of it. The policy ranks once with the request and once without. The oracle
filter takes the ranking without request and removes the items that do not satisfy it. It knows the conditions, where
the policy reads words.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from llmrec.data.decision import Decisions
from llmrec.data.seen_mask import seen_mask
from llmrec.evaluation.comparisons import user_mean
from llmrec.evaluation.metrics import bootstrap_ratio, ndcg, per_user
from llmrec.evaluation.ranking import LIST_LENGTH, Ranked, rank_batches, rank_policy
from llmrec.evaluation.report import Estimate, RequestReport
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import all_item_scores
from llmrec.requests.attributes import Attributes
from llmrec.requests.draw import KINDS, Kind, RequestSampler
from llmrec.requests.request import Request

TARGETS = 1000  # test targets with requests at most
SETS: tuple[tuple[Kind, int], ...] = tuple(  # kind of request and number of its conditions
    (kind, number) for kind in KINDS for number in {"unseen_pair": (2,), "unseen_value": (1,)}.get(kind, (1, 2))
)


@dataclass(frozen=True)
class Asked:
    """Decisions with a request each, of one kind.

    Attributes:
        rows: index of each decision among those that were asked about, int64 [m].
        decisions: the decisions with their requests, [m].
        satisfied: which items satisfy each request, bool [m, N].
        open: items that satisfy each request and that the user has not seen, int64 [m].
    """

    rows: np.ndarray
    decisions: Decisions
    satisfied: np.ndarray
    open: np.ndarray


def request_reports(
    policy: RecPolicy,
    test: Decisions,
    log_probs: torch.Tensor | None,
    clicks: np.ndarray,
    samples: int,
    seed: int,
    advance: Callable[[int], None],
) -> dict[str, RequestReport]:
    """Measures requests of each kind and number of conditions. The processes share the decisions.

    Args:
        policy: a policy that was trained with requests.
        test: M decisions with known targets and without requests.
        log_probs: log-probability of every item at these decisions, float [M, N]; None computes what is needed.
        clicks: training clicks of each item, [N].
        samples: bootstrap resamples.
        seed: seed of the sample of decisions, of the requests and of the bootstrap.
        advance: called after each batch with the number of its decisions.

    Returns:
        reports by name of the set, such as `unseen_wording_2`. A set for which no request can be drawn is left out.
    """
    attributes = policy.attributes
    assert attributes is not None, "the policy was trained without requests"
    chosen = np.sort(np.random.default_rng((seed, 23)).permutation(len(test))[:TARGETS])
    decisions = test.select(chosen)
    scores = all_item_scores(policy, decisions, share_prompts=True) if log_probs is None else log_probs[chosen]
    without = scores.numpy()
    found: dict[str, RequestReport] = {}
    for kind, number in SETS:
        asked = draw_requests(decisions, attributes, kind, number, seed)
        if not len(asked.rows):
            continue
        with_request, _ = rank_policy(policy, asked.decisions, seed, advance)
        found[f"{kind}_{number}"] = request_report(asked, with_request, without[asked.rows], clicks, samples, seed)
    return found


def draw_requests(decisions: Decisions, attributes: Attributes, kind: Kind, number: int, seed: int) -> Asked:
    """A request of a kind for each decision, true of its target. Decisions without one are left out."""
    sampler = RequestSampler(attributes)
    generator = random.Random(f"{kind} {number} {seed}")
    requests: dict[int, Request] = {}
    for row, (history, target) in enumerate(zip(decisions.histories, decisions.targets.tolist(), strict=True)):
        shown = history[-decisions.max_history :].tolist()
        request = sampler.draw(target, shown, generator, kind, number)
        if request is not None:
            requests[row] = request
    rows = np.array(list(requests), dtype=np.int64)
    chosen = decisions.select(rows)
    satisfied = np.array([attributes.satisfied(request.conditions) for request in requests.values()], dtype=bool)
    satisfied = satisfied.reshape(len(rows), attributes.num_items)
    possible = ~seen_mask(chosen.masked, attributes.num_items)
    return Asked(
        rows=rows,
        decisions=replace(chosen, requests=list(requests.values())),
        satisfied=satisfied,
        open=(satisfied & possible).sum(1),
    )


def request_report(
    asked: Asked, with_request: Ranked, without: np.ndarray, clicks: np.ndarray, samples: int, seed: int
) -> RequestReport:
    """Satisfied items and accuracy with the request, without it, and without it under the oracle filter.

    Args:
        asked: m decisions with their requests.
        with_request: the policy's ranking with the request.
        without: its log-probabilities without the request, float [m, N].
        clicks: training clicks of each item, [N].
        samples: bootstrap resamples.
        seed: seed of the bootstrap, and of the order among equal scores.
    """
    decisions = asked.decisions
    users = decisions.users
    popular = np.where(asked.satisfied, clicks, -np.inf)
    rankings = {
        "": with_request,
        "_without": rank_batches([without], decisions, seed),
        "_oracle": rank_batches([np.where(asked.satisfied, without, -np.inf)], decisions, seed),
        "_popular": rank_batches([popular], decisions, seed),
    }
    accuracy = {name: ndcg(ranked.ranks, 10) for name, ranked in rankings.items()}
    by_user = {name: per_user(values, users)[1] for name, values in accuracy.items()}
    ratio = bootstrap_ratio(by_user[""], by_user["_oracle"], samples, seed)
    of_oracle = Estimate(value=None, ci95=None) if ratio is None else Estimate(value=ratio[0], ci95=ratio[1:])
    of_oracle.n = len(by_user[""])

    def mean(values: np.ndarray) -> Estimate:
        return user_mean(values, users, samples, seed)

    return RequestReport(
        requests=len(asked.rows),
        satisfied=mean(satisfied_share(rankings[""].lists, asked)),
        satisfied_without=mean(satisfied_share(rankings["_without"].lists, asked)),
        ndcg=mean(accuracy[""]),
        ndcg_without=mean(accuracy["_without"]),
        ndcg_oracle=mean(accuracy["_oracle"]),
        ndcg_popular=mean(accuracy["_popular"]),
        of_oracle=of_oracle,
    )


def satisfied_share(lists: np.ndarray, asked: Asked) -> np.ndarray:
    """Share of each list that satisfies its request; of as many items as could, if fewer than ten could, float [m].

    Args:
        lists: item indices, -1 where there is none, [m, 10].
        asked: the requests.
    """
    listed = np.take_along_axis(asked.satisfied, np.maximum(lists, 0), 1) & (lists >= 0)
    return listed.sum(1) / np.clip(asked.open, 1, LIST_LENGTH)
