"""A check of a base before training: llmrec's own forward pass computes what the base computes.

A policy computes hidden states from input embeddings, and logits as products with the output embeddings. A base that
scales or caps its logits would get other probabilities, and an encoder would read the answer from its prompt.
"""

from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from llmrec.errors import ModelError

TOLERANCE = 1e-3  # largest difference between two computations, relative to the largest value
LENGTH = 6  # tokens of the checked sequence


@torch.no_grad()
def check_base(model: PreTrainedModel, base: str) -> None:
    """Compares the base's logits with those that a policy would compute.

    Args:
        model: the base, without an adapter.
        base: its name in messages.

    Raises:
        ModelError: the base cannot run on embeddings, is not causal, or changes its logits after the output layer.
    """
    advice = "Choose a decoder such as Llama, Qwen, SmolLM, Mistral, Gemma 3, Phi or GPT-2 as `model.base`."
    embedding, head = model.get_input_embeddings(), cast(nn.Linear | None, model.get_output_embeddings())
    if head is None:
        raise ModelError(f"The base model `{base}` has no output embeddings. {advice}")
    first = torch.arange(1, LENGTH + 1, device=model.device)
    tokens = torch.stack([first, first])
    tokens[1, -1] = 0  # the two sequences differ in their last token
    # Outside of training, bitsandbytes packs 4-bit weights for inference on CPUs, with other roundings from then on.
    model.train(hasattr(model, "hf_quantizer"))
    try:
        hidden = model.base_model(inputs_embeds=embedding(tokens), use_cache=False).last_hidden_state
        expected = model(input_ids=tokens[:1]).logits[0]
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ModelError(f"The base model `{base}` does not run on input embeddings: {error}. {advice}") from None
    model.eval()
    if _differ(hidden[0, :-1], hidden[1, :-1]):
        raise ModelError(
            f"The base model `{base}` is not causal: its tokens see those that follow, as in an encoder. {advice}"
        )
    if _differ(nn.functional.linear(hidden[0], head.weight, head.bias), expected):
        raise ModelError(
            f"The base model `{base}` ({model.config.model_type}) scales or caps its logits after the output layer, "
            f"which llmrec does not compute. {advice}"
        )


def _differ(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors differ by more than rounding."""
    return float((one - other).abs().max()) > TOLERANCE * max(1e-6, float(other.abs().max()))
