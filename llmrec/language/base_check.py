"""A check of a base before training: llmrec's own forward pass computes what the base computes.

A policy computes hidden states from input embeddings, and logits as products with the output embeddings. A base that
scales or caps its logits would get other probabilities, and an encoder would read the answer from its prompt.
"""

from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from llmrec.errors import ModelError
from llmrec.language.attention import layer_masks

# Largest difference between two computations, relative to the largest value.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05}
LENGTH = 6  # tokens of the checked sequence


@torch.no_grad()
def check_base(model: PreTrainedModel, base: str) -> None:
    """Compares the base's logits with those that a policy would compute.

    Args:
        model: the base, without an adapter.
        base: its name in messages.

    Raises:
        ModelError: the base cannot run on embeddings, is not causal, mixes packed completions, or changes its logits
            after the output layer.
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
        packed = _packed_branches(model, first)
        expected = model(input_ids=tokens[:1]).logits[0]
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
        raise ModelError(
            f"The base model `{base}` does not run on input embeddings with positions and attention masks: {error}. "
            f"{advice}"
        ) from None
    model.eval()
    if _differ(hidden[0, :-1], hidden[1, :-1]):
        raise ModelError(
            f"The base model `{base}` is not causal: its tokens see those that follow, as in an encoder. {advice}"
        )
    if _differ(packed, hidden[0]):
        raise ModelError(
            f"The base model `{base}` ({model.config.model_type}) does not keep apart completions that branch off one "
            f"prompt: its layers ignore attention masks or positions, as recurrent layers do. {advice}"
        )
    if _differ(nn.functional.linear(hidden[0], head.weight, head.bias), expected):
        raise ModelError(
            f"The base model `{base}` ({model.config.model_type}) scales or caps its logits after the output layer, "
            f"which llmrec does not compute. {advice}"
        )


def _packed_branches(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """Hidden states [L, d] of a text [L] whose last two tokens stand behind another branch of the same length."""
    prompt = len(tokens) - 2
    branch = torch.tensor([0] * prompt + [1, 1, 2, 2], device=tokens.device)
    text = torch.cat([tokens[:prompt], tokens[:2], tokens[prompt:]])[None]
    positions = torch.cat([torch.arange(prompt), torch.arange(prompt, prompt + 2).repeat(2)])[None].to(tokens.device)
    causal = torch.ones(len(branch), len(branch), dtype=torch.bool, device=tokens.device).tril()
    mask = causal & ((branch == 0) | (branch == branch[:, None]))
    hidden = model.base_model(
        inputs_embeds=model.get_input_embeddings()(text),
        attention_mask=layer_masks(model.config, mask[None, None], positions),
        position_ids=positions,
        use_cache=False,
    ).last_hidden_state[0]
    return hidden[branch != 1]


def _differ(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors differ by more than rounding."""
    tolerance = TOLERANCE[one.dtype]
    return float((one.float() - other.float()).abs().max()) > tolerance * max(1e-6, float(other.abs().max()))
