"""The final norm of a cut base, refitted to the layer that is now the last.

`model.layers` keeps the first layers of a base and its final norm, which was trained behind the last layer. Early
layers carry a few channels of huge values: behind the third layer of SmolLM2-135M one channel has 40 % of the energy.
Logits then hang on these channels, and dropout hits them hardest. So the norm is scaled to give every channel the same
spread. Its weight is trained and saved with the adapter.
"""

from collections.abc import Iterable

import torch
from torch import nn
from transformers import PreTrainedModel

SMALLEST_SPREAD = 0.1  # of the median channel; quieter channels are not amplified further


def final_norm_name(base: PreTrainedModel) -> str | None:
    """Dotted name of the norm behind the last decoder layer, such as `model.norm`; None if the base has none."""
    norms = [name for name, child in base.base_model.named_children() if _is_norm(child)]
    return f"{base.base_model_prefix}.{norms[-1]}" if norms else None


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.dim() == 1


@torch.no_grad()
def spread_of_channels(hidden: Iterable[torch.Tensor]) -> torch.Tensor:
    """Standard deviation of every channel over the tokens of several prompts.

    Args:
        hidden: last hidden states of each prompt, [L, d].

    Returns:
        float [d], at least `SMALLEST_SPREAD` of the median.
    """
    spread = torch.cat(list(hidden)).float().std(0)
    return spread.clamp(min=SMALLEST_SPREAD * float(spread.median()))


@torch.no_grad()
def scale_norm(norm: nn.Module, factor: torch.Tensor) -> None:
    """Changes a norm so that its output is multiplied by `factor`, [d].

    Some families (Gemma) multiply by 1 + weight instead of the weight.
    """
    weight = norm.get_parameter("weight")
    before = weight.clone()
    weight.zero_()
    offset = float(norm(weight.new_ones(1, len(weight)))[0, 0] != 0)
    weight.copy_((before + offset) * factor - offset)
