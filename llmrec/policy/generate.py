"""Sampling completions from the masked distribution, with a key-value cache."""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from transformers import Cache, DynamicCache

from llmrec.language.attention import layer_masks
from llmrec.language.grammar import DONE
from llmrec.language.prompt import Recommendation
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import PackedBatch

CHECK_EVERY = 4  # steps between looks at which rows have ended; a look waits for the accelerator


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
        rows: list[list[int]] = self.tokens.tolist()
        lengths: list[int] = self.mask.sum(1).tolist()
        return [row[:length] for row, length in zip(rows, lengths, strict=True)]


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
    with torch.no_grad(), policy.shards.gathered():  # weights gathered in inference mode could not be trained
        return _generate(policy, prompts, max_new_tokens, uniforms, num_generations, temperature, first_items)


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
    prompt_hidden, cache, mask = read_prompts(policy, prompts, max_new_tokens)
    rows = torch.arange(len(prompt_hidden), device=device).repeat_interleave(num_generations)
    if num_generations > 1:
        cache.batch_repeat_interleave(num_generations)
    state, length = prompts.start(policy).select(rows), prompts.prompt_length[rows]
    mask = None if mask is None else mask[rows]
    hidden = prompt_hidden[rows, length - 1]
    forced = None if first_items is None else _padded_sequences(policy, first_items)

    shape = (len(rows), max_new_tokens)
    written = torch.full(shape, pad, device=device)
    log_probs = torch.zeros(shape, device=device)
    real = torch.zeros(shape, dtype=torch.bool, device=device)
    states = hidden.new_zeros(*shape, hidden.shape[1])
    live = torch.arange(len(rows), device=device)  # rows that the cache still holds
    for step in range(max_new_tokens):
        following = policy.distribution.next_token(hidden, state, temperature)
        token = following.pick(None if uniforms is None else uniforms[live, step])
        log_probs[live, step] = following.gather(token)
        if forced is not None and step < forced.shape[1]:
            token = torch.where(forced[live, step] >= 0, forced[live, step], token)
        written[live, step], states[live, step], real[live, step] = token, hidden, state.region != DONE
        if step == max_new_tokens - 1:
            break
        state = policy.decoder.advance(state, token)
        if step % CHECK_EVERY == CHECK_EVERY - 1:
            going = (state.region != DONE).nonzero()[:, 0]
            if not policy.shards.any_process(len(going) > 0):
                break
            if 0 < len(going) <= len(live) / 2:  # drop rows that have ended, so that they cost nothing more
                live, token, length, state = live[going], token[going], length[going], state.select(going)
                mask = None if mask is None else mask[going]
                cache.batch_select_indices(going)
        positions = (length + step)[:, None]
        read = None if mask is None else mask[:, : prompt_hidden.shape[1] + step + 1]
        output = policy.backbone(
            policy.embed(token[:, None]),
            attention_mask=None if read is None else layer_masks(policy.config, read, positions),
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


def read_prompts(
    policy: RecPolicy, prompts: PackedBatch, max_new_tokens: int
) -> tuple[torch.Tensor, Cache, torch.Tensor | None]:
    """Reads the prompts.

    Returns:
        hidden states [B, L, d], the key-value cache, and the attention mask [B, L + `max_new_tokens`], which is None if
        the prompts have one length.
    """
    tokens, positions, mask = prompts.inputs()
    is_padded = bool((prompts.prompt_length < tokens.shape[1]).any())
    cache = DynamicCache()  # keeps all keys: a window of the last ones would count padding
    output = policy.backbone(
        policy.embed(tokens),
        attention_mask=mask if is_padded else None,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    hidden, cache = cast(torch.Tensor, output.last_hidden_state), cast(Cache, output.past_key_values)
    return hidden, cache, F.pad(mask, (0, max_new_tokens), value=1) if is_padded else None


def _padded_sequences(policy: RecPolicy, items: torch.Tensor) -> torch.Tensor:
    """Token sequences of items [B], padded with -1, int64 [B, longest]."""
    indices: list[int] = items.tolist()
    sequences = [torch.tensor(policy.vocabulary.sequences[item]) for item in indices]
    return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=-1).to(policy.device)


def parse(policy: RecPolicy, completions: Completions) -> list[Recommendation]:
    """Reads sampled completions back as recommendations, in order."""
    return [policy.prompts.parse(tokens) for tokens in completions.lists()]
