"""Config section `model`: the base language model and its LoRA adapter."""

from typing import Literal

from pydantic import Field, field_validator

from llmrec.config.section import Section

LOCAL_BASE = "local:"  # prefix that a push gives to a base model that was a directory of the machine it came from

_UNUSABLE_ATTENTION = {
    "flash_attention_2": "it takes no mask for completions that branch off one prompt",
    "flash_attention_3": "it takes no mask for completions that branch off one prompt",
    "flex_attention": "PyTorch has no backward pass of it on CPUs, and llmrec has not been tested with it on GPUs",
}


class ModelConfig(Section):
    """The base language model and its LoRA adapter."""

    base: str = Field(
        default="bundled:smollm2-135m-instruct",
        description="Base model: a hub id, a local directory, or `bundled:NAME` for a model inside an installed "
        "Python package.",
    )
    layers: int | None = Field(
        default=None,
        ge=1,
        description="Number of the base model's first layers that are kept. The final norm is then refitted to the "
        "last of them and trained with the adapter. null: all layers, and the norm as it is.",
    )
    quantization: Literal["nf4", "int8"] | None = Field(
        default=None,
        description="Number format of the base model's linear layers, which are frozen. It needs bitsandbytes. "
        "null: full precision.",
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto",
        description="Number format of the base model's weights, which are frozen. Trained weights, logits and "
        "log-probabilities are float32 in any case. auto: bfloat16 on a GPU that computes in it, else float32.",
    )
    attention: Literal["auto", "sdpa", "eager"] = Field(
        default="auto",
        description="Implementation of attention, as transformers names it. auto: what transformers chooses, which "
        "is sdpa for most models.",
    )
    lora_r: int = Field(default=16, ge=1, description="Rank of the LoRA matrices.")
    lora_alpha: int = Field(
        default=32, ge=1, description="Scale of the LoRA update, which is multiplied by lora_alpha / lora_r."
    )
    lora_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Dropout probability on the inputs of the LoRA matrices."
    )

    @field_validator("attention", mode="before")
    @classmethod
    def _takes_our_masks(cls, value: object) -> object:
        """Refuses implementations that cannot compute packed completions, or train them."""
        if isinstance(value, str) and value in _UNUSABLE_ATTENTION:
            raise ValueError(f"`{value}` cannot be used: {_UNUSABLE_ATTENTION[value]}. Choose auto, sdpa or eager.")
        return value
