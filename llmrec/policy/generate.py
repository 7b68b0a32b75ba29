"""Sampling completions with a key-value cache, from the one masked distribution."""

from dataclasses import dataclass

import torch

from llmrec.language.grammar import DONE
from llmrec.language.prompt import Recommendation
from llmrec.policy.distribution import Group
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import PackedBatch


@dataclass(frozen=True)
class Completions:
    """Sampled completions, G for each of B prompts, prompt-major.

    Attributes:
        tokens: padded with the end token, int64 [B*G, T].
        log_probs: of each token when it was sampled, 0 beyond the end, float32 [B*G, T].
        mask: true up to and including the end token, bool [B*G, T].
        hidden: state that decided each token, [B*G, T, d].
        prompt_hidden: last hidden states of the prompts, [B, L, d].
    """

    tokens: torch.Tensor
    log_probs: torch.Tensor
    mask: torch.Tensor
    hidden: torch.Tensor
    prompt_hidden: torch.Tensor

    def lists(self) -> list[list[int]]:
        """Token ids of each completion without padding."""
        return [row[keep].tolist() for row, keep in zip(self.tokens, self.mask, strict=True)]


def generate(
    policy: RecPolicy,
    prompts: PackedBatch,
    max_new_tokens: int,
    uniforms: torch.Tensor | None = None,
    num_generations: int = 1,
    temperature: float = 1.0,
    first_items: torch.Tensor | None = None,
) -> Completions:
    """Writes completions; prompts are read once, whatever the number of completions.

    Args:
        prompts: B prompts without completions.
        max_new_tokens: T at most.
        uniforms: randomness in [0, 1), [B*G, T]: which token is drawn at each step, so that results do not depend on
            how prompts are batched or spread over processes. None: the most probable token.
        num_generations: G.
        temperature: of the distribution.
        first_items: recommend these items, int64 [B*G], and write only the justification.

    Returns:
        completions; those that did not end within T have no end token.
    """
    policy.eval()
    with torch.inference_mode():
        parts = _generate(policy, prompts, max_new_tokens, uniforms, num_generations, temperature, first_items)
    return Completions(*(part.clone() for part in parts))  # tensors of inference mode cannot be learned from


def _generate(policy, prompts, max_new_tokens, uniforms, num_generations, temperature, first_items):
    device, pad = policy.device, policy.prompts.end
    tokens, positions, mask = prompts.inputs()
    output = policy.backbone(policy.embed(tokens), attention_mask=mask, position_ids=positions, use_cache=True)
    prompt_hidden, cache = output.last_hidden_state, output.past_key_values
    rows = torch.arange(len(tokens), device=device).repeat_interleave(num_generations)
    if num_generations > 1:
        cache.batch_repeat_interleave(num_generations)
    state, mask, length = prompts.start(policy).select(rows), mask[rows], prompts.prompt_length[rows]
    hidden = prompt_hidden[rows, length - 1]
    forced = None if first_items is None else _padded_sequences(policy, first_items)

    shape = (len(rows), max_new_tokens)
    written = torch.full(shape, pad, device=device)
    log_probs = torch.zeros(shape, device=device)
    real = torch.zeros(shape, dtype=torch.bool, device=device)
    states = hidden.new_zeros(*shape, hidden.shape[1])
    live = torch.arange(len(rows), device=device)  # rows that the cache still holds
    for step in range(max_new_tokens):
        token = torch.full_like(live, pad)
        for group in policy.distribution.groups(hidden, state, temperature):
            picked = _pick(group, None if uniforms is None else uniforms[live[group.rows], step])
            token[group.rows] = picked
            log_probs[live[group.rows], step] = group.gather(picked)
        if forced is not None and step < forced.shape[1]:
            token = torch.where(forced[live, step] >= 0, forced[live, step], token)
        written[live, step], states[live, step], real[live, step] = token, hidden, state.region != DONE
        state = policy.decoder.advance(state, token)
        going = state.region != DONE
        if step == max_new_tokens - 1 or not going.any():
            break
        if going.sum() <= len(live) / 2:  # what has ended costs nothing more
            keep = going.nonzero()[:, 0]
            live, token, mask, length, state = live[keep], token[keep], mask[keep], length[keep], state.select(keep)
            cache.batch_select_indices(keep)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        output = policy.backbone(
            policy.embed(token[:, None]),
            attention_mask=mask,
            position_ids=(length + step)[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        hidden, cache = output.last_hidden_state[:, -1], output.past_key_values
    width = int(real.any(0).sum())
    return written[:, :width], log_probs[:, :width], real[:, :width], states[:, :width], prompt_hidden


def _pick(group: Group, uniforms: torch.Tensor | None) -> torch.Tensor:
    """A token a row: the inverse of the cumulative distribution at `uniforms`, or the most probable one."""
    if uniforms is None:
        return group.tokens[group.log_probs.argmax(1)]
    cumulative = group.log_probs.double().exp().cumsum(1)
    # Scaled by the total, so that rounding can never choose a column beyond the last allowed one.
    column = torch.searchsorted(cumulative, uniforms.double()[:, None] * cumulative[:, -1:], right=True)
    return group.tokens[column.clamp(max=len(group.tokens) - 1)[:, 0]]


def _padded_sequences(policy: RecPolicy, items: torch.Tensor) -> torch.Tensor:
    """Token sequences of items [B], padded with -1: [B, longest]."""
    sequences = [torch.tensor(policy.vocabulary.sequences[item]) for item in items.tolist()]
    return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=-1).to(policy.device)


def parse(policy: RecPolicy, completions: Completions) -> list[Recommendation]:
    """Reads sampled completions back, in order."""
    return [policy.prompts.parse(tokens) for tokens in completions.lists()]
