"""How fast an update could be at most: the operations that the algorithm needs, at the rate of a matrix product."""

import time

import torch
from transformers import PretrainedConfig

from benchmarks.contenders import Ours


def linear_shapes(model: PretrainedConfig) -> list[tuple[int, int]]:
    """(in, out) of the linear maps of one decoder layer: q, k, v, o, gate, up, down."""
    size, feed = model.hidden_size, model.intermediate_size
    queries, keys = model.num_attention_heads * model.head_dim, model.num_key_value_heads * model.head_dim
    return [(size, queries), (size, keys), (size, keys), (queries, size), (size, feed), (size, feed), (feed, size)]


def needed_flops(model: PretrainedConfig, ours: Ours, shown: int, text_tokens: int) -> dict[str, float]:
    """Floating-point operations of one update, a multiplication and an addition being two.

    Counted are matrix products over tokens that somebody needs: a prompt is read once for all its rollouts, the last
    token of a completion is not read at all, and the head is evaluated over the items at item decisions and over the
    words of justifications elsewhere. Frozen weights have no gradient of their own, so a backward pass through them
    costs one forward pass; through LoRA's factors, the item rows and attention it costs two. In the rollouts and the
    reference LoRA counts nothing: it can be merged. Not counted: norms, softmaxes, the critic's head, the reward
    model, the optimiser, and that the matrix products of decoding are too thin to reach the full rate.

    Args:
        model: shapes of the language model.
        ours: what one update does.
        shown: items that a prompt shows; each is a decision under `exact`.
        text_tokens: token ids that free text may use.

    Returns:
        by phase.
    """
    work, rank = ours.workload, ours.workload.lora_r
    prompts, read, written = work.episodes // ours.generations, work.prompt_tokens, work.completion_tokens - 1
    tokens = {"prefill": prompts * read, "decode": work.episodes * written}
    pairs = {
        "prefill": prompts * read * (read + 1) / 2,
        "decode": work.episodes * (written * read + written * (written + 1) / 2),
    }
    linears = linear_shapes(model)
    dense = model.num_hidden_layers * sum(2 * i * o for i, o in linears)
    lora = model.num_hidden_layers * sum(2 * rank * (i + o) for i, o in linears)
    attention = model.num_hidden_layers * 4 * linears[0][1]  # of one query and one key: their product, and the value
    item_head = 2 * model.hidden_size * ours.items * prompts * (shown if ours.advantage == "exact" else 1)
    text_head = 2 * model.hidden_size * text_tokens * work.episodes * written

    body = {part: dense * tokens[part] + attention * pairs[part] for part in tokens}
    forward = sum(body.values()) + item_head + text_head
    adapter = lora * sum(tokens.values())
    backward = forward + attention * sum(pairs.values()) + item_head
    return {
        "prefill": body["prefill"] + item_head,
        "decode": body["decode"] + text_head,
        "reference": forward,
        "update forward": work.ppo_epochs * (forward + adapter),
        "update backward": work.ppo_epochs * (backward + 2 * adapter),
    }


def matmul_rate(model: PretrainedConfig, rows: int, repeats: int = 10) -> float:
    """Best floating-point operations a second of fp32 products [rows, in] x [in, out] of the model's shapes."""
    best = 0.0
    for inner, outer in set(linear_shapes(model)):
        left, right, result = torch.randn(rows, inner), torch.randn(inner, outer), torch.empty(rows, outer)
        for _ in range(repeats):
            started = time.perf_counter()
            torch.mm(left, right, out=result)
            best = max(best, 2 * rows * inner * outer / (time.perf_counter() - started))
    return best
