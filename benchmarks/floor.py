"""A lower bound on the time of a PPO update: its necessary operations at the speed of matrix products."""

import time

import torch
from transformers import PretrainedConfig

from benchmarks.contenders import Ours


def linear_shapes(model: PretrainedConfig) -> list[tuple[int, int]]:
    """(input size, output size) of the linear maps of one decoder layer: q, k, v, o, gate, up, down."""
    size: int = model.hidden_size
    feed: int = model.intermediate_size
    queries: int = model.num_attention_heads * model.head_dim
    keys: int = model.num_key_value_heads * model.head_dim
    return [(size, queries), (size, keys), (size, keys), (queries, size), (size, feed), (size, feed), (feed, size)]


def needed_flops(model: PretrainedConfig, ours: Ours, shown: int, text_tokens: int) -> dict[str, float]:
    """Floating-point operations of one update. A multiplication and an addition are two operations.

    Only matrix products over necessary tokens count. A prompt is read once for all its completions. The last token of
    a completion is never read. The output head is evaluated over the items at item decisions, and over the tokens of
    justifications elsewhere. A backward pass costs as much as a forward pass through frozen weights, which have no
    gradient, and twice as much through LoRA's factors, the item rows and attention. LoRA costs nothing in the rollout
    and the reference, because it can be merged.

    Left out are norms, softmaxes, the critic's head, the reward model and the optimizer. The products of decoding are
    too small to reach full speed, which is left out as well.

    Args:
        model: shapes of the language model.
        ours: the contender.
        shown: items that a prompt shows. With `exact`, each of them is a decision.
        text_tokens: number of tokens that a justification can hold.

    Returns:
        operations by phase.
    """
    work = ours.workload
    prompts = work.episodes // ours.generations
    written = work.completion_tokens - 1
    tokens = {"prefill": prompts * work.prompt_tokens, "decode": work.episodes * written}
    attended = {  # pairs of a query and a key
        "prefill": prompts * work.prompt_tokens * (work.prompt_tokens + 1) / 2,
        "decode": work.episodes * (written * work.prompt_tokens + written * (written + 1) / 2),
    }
    linears = linear_shapes(model)
    layers: int = model.num_hidden_layers
    dense = layers * sum(2 * inner * outer for inner, outer in linears)
    lora = layers * sum(2 * work.lora_r * (inner + outer) for inner, outer in linears)
    attention = layers * 4 * linears[0][1]  # per pair: the product of query and key, and the weighted value
    decisions = prompts * (shown if ours.advantage == "exact" else 1)
    item_head = 2 * model.hidden_size * ours.items * decisions
    text_head = 2 * model.hidden_size * text_tokens * work.episodes * written

    body = {part: dense * tokens[part] + attention * attended[part] for part in tokens}
    forward = sum(body.values()) + item_head + text_head
    adapter = lora * sum(tokens.values())
    backward = forward + attention * sum(attended.values()) + item_head
    return {
        "prefill": body["prefill"] + item_head,
        "decode": body["decode"] + text_head,
        "reference": forward,
        "update forward": work.ppo_epochs * (forward + adapter),
        "update backward": work.ppo_epochs * (backward + 2 * adapter),
    }


def matmul_rate(model: PretrainedConfig, rows: int, repeats: int = 10) -> float:
    """Highest measured speed of the model's matrix products, in floating-point operations per second.

    Args:
        model: shapes of the language model; products are [rows, in] x [in, out] in float32.
        rows: number of rows.
        repeats: how often each product is measured.
    """
    best = 0.0
    for inner, outer in set(linear_shapes(model)):
        left = torch.randn(rows, inner)
        right = torch.randn(inner, outer)
        result = torch.empty(rows, outer)
        for _ in range(repeats):
            started = time.perf_counter()
            torch.mm(left, right, out=result)
            best = max(best, 2 * rows * inner * outer / (time.perf_counter() - started))
    return best
