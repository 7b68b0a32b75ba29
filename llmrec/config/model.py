"""Section `model`."""

from typing import Literal

from pydantic import Field

from llmrec.config.section import Section

LOCAL_BASE = "local:"  # what a push writes before the name of a base that is a directory of the machine it came from


class ModelConfig(Section):
    """The base language model and its adapter."""

    base: str = Field("bundled:smollm2-135m-instruct", description="hub id, local directory or `bundled:NAME`")
    layers: int | None = Field(None, ge=1, description="keep the first N layers; null: all")
    quantization: Literal["nf4", "int8"] | None = Field(
        None, description="of the frozen base's linear layers, by bitsandbytes; null: full precision"
    )
    lora_r: int = Field(16, ge=1)
    lora_alpha: int = Field(32, ge=1)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
