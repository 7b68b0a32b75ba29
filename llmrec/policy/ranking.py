"""Ranking the whole catalogue: exact probabilities for one token an item, a beam search otherwise."""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from transformers import Cache

from llmrec.data.decision import Decision
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack

BEAM_WIDTH = 40


@torch.inference_mode()
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
        if not policy.vocabulary.trie.flat:
            yield torch.cat([_beam(policy, decision) for decision in part])
            continue
        batch = pack(policy, part).to(policy.device)
        hidden = policy(*batch.inputs())
        last = hidden[torch.arange(len(part), device=hidden.device), batch.prompt_length - 1]
        state = batch.start(policy)
        columns = policy.distribution.items(last, state.node, state.available)
        yield torch.empty_like(columns).index_copy_(1, policy.vocabulary.trie.order, columns)


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
            state = policy.decoder.advance(state.select(parents), tokens)
            cache.batch_select_indices(parents)
            output = policy.backbone(policy.embed(tokens[:, None]), past_key_values=cache, use_cache=True)
            hidden = cast(torch.Tensor, output.last_hidden_state)[:, -1]
    return scores
