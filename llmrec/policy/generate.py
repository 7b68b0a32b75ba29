"""Sampling completions from the masked distribution, with a key-value cache."""

from dataclasses import dataclass
from typing import cast

import torch
from transformers import Cache, DynamicCache

from llmrec.language.grammar import DONE
from llmrec.language.prompt import Recommendation
from llmrec.policy.attention import layer_masks
from llmrec.policy.distribution import Group
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import PackedBatch


@dataclass(frozen=True)
class Completions:
    """Sampled completions, G for each of B prompts, prompt-major.

    Attributes:
        tokens: token ids, padded with the end token, int64 [B*G, T].
        log_probs: log-probability of each token when it was sampled, 0 after the end, float32 [B*G, T].
        mask: true up to and including the end token, bool [B*G, T].
        hidden: hidden state that predicted each token, [B*G, T, d].
        prompt_hidden: last hidden states of the prompts, [B, L, d].
    """

    tokens: torch.Tensor
    log_probs: torch.Tensor
    mask: torch.Tensor
    hidden: torch.Tensor
    prompt_hidden: torch.Tensor

    def lists(self) -> list[list[int]]:
        """Token ids of each completion without padding."""
        return [row[real].tolist() for row, real in zip(self.tokens, self.mask, strict=True)]


def generate(
    policy: RecPolicy,
    prompts: PackedBatch,
    max_new_tokens: int,
    uniforms: torch.Tensor | None = None,
    num_generations: int = 1,
    temperature: float = 1.0,
    first_items: torch.Tensor | None = None,
) -> Completions:
    """Samples completions. Each prompt is read once, whatever the number of completions.

    Args:
        policy: the policy.
        prompts: B prompts without completions.
        max_new_tokens: greatest length T of a completion.
        uniforms: random numbers in [0, 1), [B*G, T], that decide which token is drawn at each step. Results then do
            not depend on how prompts are batched or spread over processes. None takes the most probable token.
        num_generations: number G of completions of each prompt.
        temperature: divides the logits.
        first_items: items to recommend, int64 [B*G], so that only the justification is generated.

    Returns:
        the completions; truncated ones lack the end token.
    """
    policy.eval()
    with torch.inference_mode():
        sampled = _generate(policy, prompts, max_new_tokens, uniforms, num_generations, temperature, first_items)
    # Tensors of inference mode cannot enter a loss, so the result is a copy.
    return Completions(**{name: value.clone() for name, value in vars(sampled).items()})


def _generate(
    policy: RecPolicy,
    prompts: PackedBatch,
    max_new_tokens: int,
    uniforms: torch.Tensor | None,
    num_generations: int,
    temperature: float,
    first_items: torch.Tensor | None,
) -> Completions:
    device, pad = policy.device, policy.prompts.end
    prompt_hidden, cache, mask = _read_prompts(policy, prompts)
    rows = torch.arange(len(mask), device=device).repeat_interleave(num_generations)
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
        if going.sum() <= len(live) / 2:  # drop rows that have ended, so that they cost nothing more
            keep = going.nonzero()[:, 0]
            live, token, mask, length, state = live[keep], token[keep], mask[keep], length[keep], state.select(keep)
            cache.batch_select_indices(keep)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        positions = (length + step)[:, None]
        output = policy.backbone(
            policy.embed(token[:, None]),
            attention_mask=layer_masks(policy.config, mask, positions),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        hidden = cast(torch.Tensor, output.last_hidden_state)[:, -1]
        cache = cast(Cache, output.past_key_values)
    width = int(real.any(0).sum())
    return Completions(
        tokens=written[:, :width],
        log_probs=log_probs[:, :width],
        mask=real[:, :width],
        hidden=states[:, :width],
        prompt_hidden=prompt_hidden,
    )


def _read_prompts(policy: RecPolicy, prompts: PackedBatch) -> tuple[torch.Tensor, Cache, torch.Tensor]:
    """Hidden states [B, L, d] of the prompts, the key-value cache, and the attention mask [B, L]."""
    tokens, positions, mask = prompts.inputs()
    cache = DynamicCache()  # keeps all keys: a window of the last ones would count padding
    output = policy.backbone(
        policy.embed(tokens), attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    )
    return cast(torch.Tensor, output.last_hidden_state), cast(Cache, output.past_key_values), mask


def _pick(group: Group, uniforms: torch.Tensor | None) -> torch.Tensor:
    """A token a row, int64 [r]: the inverse of the cumulative distribution at `uniforms`, or the most probable one."""
    if uniforms is None:
        return group.tokens[group.log_probs.argmax(1)]
    cumulative = group.log_probs.double().exp().cumsum(1)
    # Scaled by the total, so that rounding never selects a column beyond the last allowed one.
    column = torch.searchsorted(cumulative, uniforms.double()[:, None] * cumulative[:, -1:], right=True)
    return group.tokens[column.clamp(max=len(group.tokens) - 1)[:, 0]]


def _padded_sequences(policy: RecPolicy, items: torch.Tensor) -> torch.Tensor:
    """Token sequences of items [B], padded with -1, int64 [B, longest]."""
    indices: list[int] = items.tolist()
    sequences = [torch.tensor(policy.vocabulary.sequences[item]) for item in indices]
    return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=-1).to(policy.device)


def parse(policy: RecPolicy, completions: Completions) -> list[Recommendation]:
    """Reads sampled completions back as recommendations, in order."""
    return [policy.prompts.parse(tokens) for tokens in completions.lists()]
