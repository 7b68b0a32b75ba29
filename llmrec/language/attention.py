"""What the tokens of each layer of a base attend to.

transformers derives windows of sliding layers from indices. Indices are no positions where completions branch off a
packed prompt, or where a cache holds padding. The masks of such batches are therefore made here, from positions.
"""

from typing import Any

import torch

FULL = "full_attention"
SLIDING = "sliding_attention"
LOWEST = torch.finfo(torch.float32).min


def attention_windows(config: Any) -> dict[str, int | None]:
    """The attention window of each type of layer of a base, in tokens, the token itself included.

    Args:
        config: the base's config.

    Returns:
        type of layer, as transformers names it, to the window; None for layers that attend to the whole past.
    """
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None) or [SLIDING if window else FULL]
    return {kind: window if kind == SLIDING else None for kind in dict.fromkeys(types)}


def layer_masks(config: Any, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
    """Attention masks as the layers of a base take them.

    Args:
        config: the base's config.
        mask: true at real keys, [B, K], padding after the queries or between cache and queries; or what each query
            attends to without windows, bool [B, 1, Q, K].
        positions: position of each query in its text, int64 [B, Q].

    Returns:
        a mask for all layers, or one for each type of layer. Masks [B, K] stay as they are if transformers reads them
        correctly: if nothing is cached, or if all layers attend to the whole past. With SDPA and a cache they never
        stay, because transformers reads every such mask on the host, which would wait for a GPU at every token.
    """
    windows = attention_windows(config)
    key_positions = positions
    if mask.ndim == 2:
        is_sdpa = config._attn_implementation == "sdpa"
        if mask.shape[1] == positions.shape[1] or not (is_sdpa or any(windows.values())):
            return mask
        key_positions = mask.cumsum(1) - 1
        mask = mask[:, None, None].bool() & (key_positions[:, None] <= positions[:, :, None])[:, None]
    distance = (positions[:, :, None] - key_positions[:, None])[:, None]
    masks = {kind: mask if window is None else mask & (distance < window) for kind, window in windows.items()}
    if config._attn_implementation == "eager":  # adds its mask to the scores
        masks = {
            kind: torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, LOWEST) for kind, mask in masks.items()
        }
    return masks if len(masks) > 1 else next(iter(masks.values()))
