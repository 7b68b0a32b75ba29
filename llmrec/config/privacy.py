"""Config section `privacy`: training with user-level differential privacy."""

from typing import Literal

from pydantic import Field

from llmrec.config.section import Section


class PrivacyConfig(Section):
    """User-level differential privacy of SFT. The stages reward, ppo and evaluate are then refused."""

    unit: Literal["user"] = Field(
        default="user",
        description="What is protected. `user`: everything that the training histories hold of a person.",
    )
    epsilon: float = Field(
        gt=0,
        allow_inf_nan=False,
        description="Privacy budget of the whole training. The noise is computed from it.",
    )
    delta: float = Field(
        gt=0,
        lt=1,
        description="Probability with which the bound by epsilon may fail. It must be below 1 / number of users.",
    )
    clip: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="Largest norm of a user's gradient in an optimizer step. Longer ones are scaled down to it.",
    )
