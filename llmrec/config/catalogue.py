"""Config section `catalogue`: how items and histories become tokens of the language model."""

from typing import Literal

from pydantic import Field

from llmrec.config.section import Section


class CatalogueConfig(Section):
    """How items and histories become tokens of the language model."""

    scheme: Literal["atomic", "title"] = Field(
        default="atomic",
        description="Tokens of an item. `atomic`: one new token. `title`: the tokens of its title, which also covers "
        "items without training data.",
    )
    max_history: int = Field(default=50, ge=2, description="Number of newest items of a history that the prompt shows.")
    system_prompt: str = Field(default="Recommend.", description="System message of the prompt.")
    user_attributes: list[str] = Field(default=[], description="Columns of the user table that the prompt shows.")
    cooccurrence_weight: float = Field(
        default=1.0,
        ge=0,
        description="Weight of item co-occurrence when item embeddings are initialized. 0 uses the title words only.",
    )
