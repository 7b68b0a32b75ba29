"""What all config sections share."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of all sections: no unknown keys, no silent conversion of a string to a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


# The name that transformers has for it; the first is what it takes by itself.
Optimizer = Literal["adamw_torch_fused", "adamw_bnb_8bit"]
