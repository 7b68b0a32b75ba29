"""Section `catalogue`."""

from typing import Literal

from pydantic import Field

from llmrec.config.section import Section


class CatalogueConfig(Section):
    """How items become words."""

    scheme: Literal["atomic", "title"] = "atomic"
    max_history: int = Field(50, ge=2, description="newest items of a history that the prompt shows")
    system_prompt: str = "Recommend."
    user_attributes: list[str] = Field([], description="columns of the user table that the prompt names")
    cooccurrence_weight: float = Field(
        1.0, ge=0, description="of what is had together, beside words, in the start of item embeddings; 0: words alone"
    )
