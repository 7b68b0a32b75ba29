"""Config section `model`: the base language model and its LoRA adapter."""

from typing import Literal

from pydantic import Field

from llmrec.config.section import Section

LOCAL_BASE = "local:"  # prefix that a push gives to a base model that was a directory of the machine it came from


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
    lora_r: int = Field(default=16, ge=1, description="Rank of the LoRA matrices.")
    lora_alpha: int = Field(
        default=32, ge=1, description="Scale of the LoRA update, which is multiplied by lora_alpha / lora_r."
    )
    lora_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Dropout probability on the inputs of the LoRA matrices."
    )
