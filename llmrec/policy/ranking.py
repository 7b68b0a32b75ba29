"""Ranking the whole catalogue: exact probabilities for one token an item, a beam search otherwise."""

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from transformers import Cache

from llmrec.data.decision import Decision
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import PackedBatch, pack
from llmrec.requests.request import Request

BEAM_WIDTH = 40
BATCH = 64  # prompts in a forward pass of `all_item_scores`


@torch.no_grad()
def item_scores(policy: RecPolicy, decisions: Sequence[Decision], batch_size: int = 32) -> Iterator[torch.Tensor]:
    """Log-probability of every item as the next recommendation.

    Args:
        policy: the policy.
        decisions: M prompts.
        batch_size: prompts a forward pass.

    Yields:
        float32 [b, N] for each batch of prompts in order; -inf for items that may not be recommended. With several
        tokens an item, items outside the beam are -inf as well.
    """
    policy.eval()
    for start in range(0, len(decisions), batch_size):
        part = decisions[start : start + batch_size]
        with policy.shards.gathered():
            if policy.vocabulary.trie.flat:
                batch = pack(policy, part).to(policy.device)
                hidden = policy(*batch.inputs())
                row = torch.arange(len(part), device=hidden.device)
                scores = _scores_after(policy, batch, hidden, row, slot=(batch.items >= 0).sum(1))
            else:
                scores = torch.cat([_beam(policy, decision) for decision in part])
        yield scores


def all_item_scores(
    policy: RecPolicy,
    decisions: Sequence[Decision],
    advance: Callable[[int], None] = lambda _: None,
    share_prompts: bool = False,
) -> torch.Tensor:
    """Log-probabilities of all items at M decisions; arguments as in `score_batches`.

    Returns:
        float32 [M, N], on the CPU; -inf as in `item_scores`.
    """
    scores = torch.empty(len(decisions), policy.vocabulary.trie.num_items)
    for rows, of_rows in score_batches(policy, decisions, advance, share_prompts):
        scores[rows] = of_rows
    return scores


@torch.no_grad()
def score_batches(
    policy: RecPolicy,
    decisions: Sequence[Decision],
    advance: Callable[[int], None] = lambda _: None,
    share_prompts: bool = False,
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Log-probabilities of all items at M decisions, batch by batch. Prompts of similar length share a batch.

    Args:
        policy: the policy.
        decisions: the M decisions.
        advance: called after each batch with the number of decisions that it answered.
        share_prompts: decisions of one user share a prompt where they can, see `shared_prompts`. Processes with equally
            many decisions may then make different numbers of forward passes, so each needs the whole weights.

    Yields:
        rows of b decisions, int64 [b], and their log-probabilities on the CPU, float32 [b, N]; -inf as in
        `item_scores`. Each row comes once.
    """
    policy.eval()
    flat = policy.vocabulary.trie.flat
    prompt_of = shared_prompts(decisions) if flat and share_prompts else np.arange(len(decisions))
    lengths = np.array([len(decision.items) for decision in decisions], dtype=np.int64)
    for chosen, answered in _prompt_batches(prompt_of, lengths):
        part = [decisions[prompt] for prompt in chosen.tolist()]
        with policy.shards.gathered():
            if flat:
                batch = pack(policy, part).to(policy.device)
                hidden = policy(*batch.inputs())
                row = np.cumsum(np.diff(prompt_of[answered], prepend=chosen[:1]) != 0)  # its prompt in the batch
                for some in np.array_split(np.arange(len(answered)), -(-len(answered) // BATCH)):  # [b, N] in memory
                    where = torch.from_numpy(np.stack([row[some], lengths[answered[some]]])).to(hidden.device)
                    yield answered[some], _scores_after(policy, batch, hidden, *where).float().cpu()
            else:
                yield answered, torch.cat([_beam(policy, decision) for decision in part]).float().cpu()
        advance(len(answered))


def _prompt_batches(prompt_of: np.ndarray, lengths: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Prompts in the order of their length, and the decisions that each batch of them answers, prompt by prompt."""
    prompts, place, counts = np.unique(prompt_of, return_inverse=True, return_counts=True)
    by_prompt = np.argsort(place, kind="stable")
    first = np.cumsum(counts) - counts
    order = np.argsort(lengths[prompts], kind="stable")
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        answered = [by_prompt[first[one] : first[one] + counts[one]] for one in chosen]
        yield prompts[chosen], np.concatenate(answered)


def shared_prompts(decisions: Sequence[Decision]) -> np.ndarray:
    """For each of M decisions the one whose prompt also answers it, int64 [M].

    A prompt holds a decision after each shown item. If prompts show several histories of one user whole, and one begins
    with the others, its prompt answers all of them.
    """
    longest: dict[tuple[int, str, Request | None], int] = {}
    decisions = list(decisions)
    whole = [decision.user is not None and not len(decision.prior) for decision in decisions]
    for m in np.flatnonzero(whole).tolist():
        key = (cast(int, decisions[m].user), decisions[m].profile, decisions[m].request)
        if key not in longest or len(decisions[m].items) > len(decisions[longest[key]].items):
            longest[key] = m
    found = np.arange(len(decisions))
    for m in np.flatnonzero(whole).tolist():
        prompt = longest[cast(int, decisions[m].user), decisions[m].profile, decisions[m].request]
        if np.array_equal(decisions[m].items, decisions[prompt].items[: len(decisions[m].items)]):
            found[m] = prompt
    return found


def _scores_after(
    policy: RecPolicy, batch: PackedBatch, hidden: torch.Tensor, row: torch.Tensor, slot: torch.Tensor
) -> torch.Tensor:
    """Log-probability of every item after the first `slot` shown items of some prompts, for one token an item.

    Args:
        policy: the policy that made `hidden`.
        batch: the prompts.
        hidden: last hidden states of all tokens, [B, L, d].
        row: prompt of each of R decisions, int64 [R].
        slot: number of shown items before each of them, int64 [R].

    Returns:
        [R, N]; -inf for items that may not be recommended.
    """
    shown = (batch.items >= 0).sum(1)
    position = batch.prompt_length[row] - 1 - shown[row] + slot  # an item is one token
    unseen = batch.seen_since()[row] > slot[:, None]
    columns = policy.distribution.items(hidden[row, position], torch.zeros_like(row), unseen)
    return torch.empty_like(columns).index_copy_(1, policy.vocabulary.trie.order, columns)


def _beam(policy: RecPolicy, decision: Decision, width: int = BEAM_WIDTH) -> torch.Tensor:
    """Log-probabilities [1, N] of the items that a beam of `width` over the trie reaches, -inf for all others."""
    trie = policy.vocabulary.trie
    batch = pack(policy, [decision]).to(policy.device)
    scores = torch.full((1, trie.num_items), -torch.inf, device=policy.device)
    output = policy.backbone(policy.embed(batch.tokens), use_cache=True)
    cache = cast(Cache, output.past_key_values)
    hidden = cast(torch.Tensor, output.last_hidden_state)[:, -1]
    state = batch.start(policy)
    total = torch.zeros(1, device=policy.device)
    while len(total):
        following = policy.distribution.next_token(hidden, state)
        best, index = (total[:, None] + following.log_probs).flatten().topk(min(width, following.log_probs.numel()))
        possible = best > -torch.inf
        index, best = index[possible], best[possible]
        columns = following.choice.tokens
        parents, tokens = index // len(columns), columns[index % len(columns)]
        nodes = trie.step(state.node[parents], trie.columns_of(tokens))
        done = trie.node_item[nodes] >= 0
        scores[0, trie.node_item[nodes[done]]] = best[done]
        parents, tokens, total = parents[~done], tokens[~done], best[~done]
        if len(total):
            policy.shards.any_process(True)
            state = policy.decoder.advance(state.select(parents), tokens)
            cache.batch_select_indices(parents)
            output = policy.backbone(policy.embed(tokens[:, None]), past_key_values=cache, use_cache=True)
            hidden = cast(torch.Tensor, output.last_hidden_state)[:, -1]
    while policy.shards.any_process(False):  # other processes search deeper and need this one's shards
        policy.backbone(policy.embed(batch.tokens), use_cache=False)
    return scores
