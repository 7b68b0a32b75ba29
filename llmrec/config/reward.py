"""Config section `reward`: the reward models, and the weights of what PPO maximizes."""

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from llmrec.config.section import Section


class TextRewardConfig(Section):
    """A second reward model that reads prompt and completion as text: `model.base` with a LoRA adapter."""

    loss: Literal["pairwise", "pointwise"] = Field(
        default="pairwise", description="Training loss. `pairwise`: Bradley-Terry. `pointwise`: binary cross-entropy."
    )
    pairs: int = Field(default=2000, ge=2, description="Number of training pairs, drawn at random.")
    max_history: int = Field(default=10, ge=1, description="Number of newest titles of a history that the model reads.")
    num_train_epochs: float = Field(default=1.0, gt=0, description="Number of passes over the training pairs.")
    learning_rate: float = Field(default=2e-4, gt=0, description="Peak learning rate.")
    batch_size: int = Field(default=8, ge=1, description="Pairs in one optimizer step, over all processes.")
    weight: float = Field(default=0.5, ge=0, description="Weight of the model's calibrated log-odds in the reward.")


class PenaltyConfig(Section):
    """Penalties of a recommendation: a weight in nats of log-odds times a violation in [0, 1]."""

    seen: float = Field(
        default=5.0, ge=0, description="Weight of the penalty for recommending an item that the user has seen."
    )
    too_short: float = Field(
        default=1.0, ge=0, description="Weight of the share of `min_words` that a justification lacks."
    )
    too_long: float = Field(
        default=1.0, ge=0, description="Weight of the relative excess over `max_words`. The excess is capped at 1."
    )
    repeated: float = Field(
        default=1.0, ge=0, description="Weight of the share of word pairs that occur earlier in the same justification."
    )
    min_words: int = Field(
        default=3, ge=1, description="Fewest words of a justification. A citation counts as one word."
    )
    max_words: int = Field(
        default=24, ge=1, description="Most words of a justification. A citation counts as one word."
    )

    @model_validator(mode="after")
    def _limits_fit(self) -> Self:
        if self.min_words > self.max_words:
            raise ValueError(
                f"reward.penalties.min_words is {self.min_words}, more than max_words ({self.max_words}): every "
                "justification would be penalized. Lower min_words or raise max_words."
            )
        return self


class TermConfig(Section):
    """A number known of every item, such as its margin or year, as a part of the item reward."""

    column: str = Field(
        description="Column of the item table. Its values are standardized over the catalogue; an empty cell counts 0."
    )
    weight: float = Field(description="Reward in nats for one standard deviation. Below 0, small values are preferred.")


class PartConfig(Section):
    """A Python function as a part of the text reward."""

    callable: str = Field(
        description="Function as `module:function`. It takes the recommendations and the decisions that they answer, "
        "and returns one number for each recommendation."
    )
    weight: float = Field(description="Weight of the function's values in the reward.")

    @field_validator("callable")
    @classmethod
    def _names_a_function(cls, name: str) -> str:
        if not re.fullmatch(r"[\w.]+:\w+", name):
            raise ValueError(
                "expected `module:function`, for instance `my_rewards:brevity` for the function `brevity` in "
                "my_rewards.py."
            )
        return name


class RewardConfig(Section):
    """The click/purchase model, the judge, and the weights of the reward's parts."""

    num_train_epochs: int = Field(
        default=28, ge=1, description="Number of training epochs. The best epoch on validation is kept."
    )
    learning_rate: float = Field(
        default=3e-3, gt=0, description="Peak learning rate. It falls to a twentieth of this along a cosine."
    )
    batch_size: int = Field(default=64, ge=1, description="History windows in one optimizer step.")
    weight_decay: float = Field(default=0.0, ge=0, description="Weight decay of AdamW.")
    hidden_size: int = Field(default=64, ge=4, multiple_of=2, description="Width of the hidden states, an even number.")
    num_layers: int = Field(default=2, ge=1, description="Number of transformer layers.")
    window: int = Field(
        default=50, ge=2, description="Number of newest items of a history that the click/purchase model reads."
    )
    dropout: float = Field(default=0.2, ge=0, lt=1, description="Dropout probability.")
    next_click_weight: float = Field(
        default=1.0,
        ge=0,
        description="Weight of the loss of the next click among all items, relative to the loss of clicks on shown "
        "items. It only matters for logs with exposures.",
    )
    purchase_weight: float = Field(
        default=1.0,
        ge=0,
        description="Weight of the purchase loss relative to the click loss. 1 maximizes the joint likelihood of click "
        "and purchase.",
    )
    negatives: int = Field(
        default=1024,
        ge=1,
        description="Negative items that each step samples. Catalogues up to 20,000 items use all items.",
    )
    ensemble: int = Field(
        default=1, ge=1, description="Number of models with different seeds whose predictions are averaged."
    )
    uncertainty_penalty: float = Field(
        default=1.0,
        ge=0,
        description="Weight of the ensemble's standard deviation, which is subtracted from the reward. No effect on "
        "one model.",
    )
    linear: bool = Field(
        default=True,
        description="Whether a linear next-item model joins the ensemble. Default: true, but false for logs with "
        "exposures.",
    )
    judge_users: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Share of users whose events train only the judge, an independent reward model.",
    )
    item_weight: float = Field(default=1.0, ge=0, description="Weight of the click/purchase log-odds in the reward.")
    conversion_weight: float = Field(
        default=0.0,
        ge=0,
        description="Weight of log P(purchase | click) in the log-odds. 0: clicks only. 1: the joint probability of "
        "click and purchase.",
    )
    popularity_weight: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Weight of the item's mean log-odds over users, which is subtracted from the reward. 1 scores the "
        "lift over popularity alone.",
    )
    groundedness_weight: float = Field(
        default=1.0, ge=0, description="Weight of the share of the justification's statements that are true."
    )
    request_weight: float = Field(
        default=5.0,
        ge=0,
        description="Reward in nats for an item that satisfies the request. Only prompts with a request have it, see "
        "`sft.requests`.",
    )
    text: TextRewardConfig | None = Field(
        default=None, description="Second reward model, which reads text. null: no text reward model."
    )
    penalties: PenaltyConfig = Field(
        default=PenaltyConfig(), description="Penalties that are subtracted from the reward."
    )
    terms: list[TermConfig] = Field(
        default=[], description="Columns of the item table that are added to the item reward."
    )
    parts: list[PartConfig] = Field(default=[], description="Python functions that are added to the text reward.")

    @model_validator(mode="after")
    def _each_part_once(self) -> Self:
        for key, names in (
            ("terms", [term.column for term in self.terms]),
            ("parts", [part.callable for part in self.parts]),
        ):
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"reward.{key} names `{twice[0]}` twice: expected each name once, with one weight.")
        return self
