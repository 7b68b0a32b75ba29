"""Section `reward`."""

from typing import Literal

from pydantic import Field

from llmrec.config.section import Section


class TextRewardConfig(Section):
    """A second reward model, which reads prompt and completion as words: `model.base` with a LoRA adapter."""

    loss: Literal["pairwise", "pointwise"] = Field("pairwise", description="Bradley-Terry, or binary cross-entropy")
    pairs: int = Field(2000, ge=2, description="seeded sample of training pairs")
    max_history: int = Field(10, ge=1, description="newest titles of a history that it reads")
    num_train_epochs: float = Field(1.0, gt=0)
    learning_rate: float = Field(2e-4, gt=0)
    per_device_train_batch_size: int = Field(8, ge=1, description="pairs a step")
    weight: float = Field(0.5, ge=0, description="of its calibrated log-odds in the reward")


class PenaltyConfig(Section):
    """What faults of a recommendation cost, in nats of log-odds; each fault lies in [0, 1]."""

    had: float = Field(5.0, ge=0, description="recommending what the user has had")
    too_short: float = Field(1.0, ge=0, description="share of `min_words` that is missing")
    too_long: float = Field(1.0, ge=0, description="words above `max_words`, as a share of it")
    repeated: float = Field(1.0, ge=0, description="share of word pairs that stood before in the same justification")
    min_words: int = Field(3, ge=1, description="of a justification; a citation is one word")
    max_words: int = Field(24, ge=1)


class TermConfig(Section):
    """A number known of every item, such as its margin or year, as a part of the reward."""

    column: str = Field(description="column of the item table; standardised over the catalogue, no effect where empty")
    weight: float = Field(description="nats of log-odds a standard deviation; below 0: less is better")


class PartConfig(Section):
    """Any Python function as a part of the reward."""

    callable: str = Field(description="`module:function`, called with (recommendations, rows): one number each")
    weight: float


class RewardConfig(Section):
    """The click/purchase model, its judge, and the weights of the parts of the reward."""

    num_train_epochs: int = Field(28, ge=1)
    learning_rate: float = Field(3e-3, gt=0)
    per_device_train_batch_size: int = Field(64, ge=1, description="history windows a step")
    weight_decay: float = Field(0.0, ge=0)
    hidden_size: int = Field(64, ge=4, multiple_of=2)
    num_layers: int = Field(2, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    purchase_weight: float = Field(1.0, ge=0, description="of the purchase loss; 1: joint likelihood")
    negatives: int = Field(1024, ge=1, description="sampled a step, in catalogues above 20,000 items")
    ensemble: int = Field(1, ge=1, description="models that differ in their seed and are averaged")
    uncertainty_penalty: float = Field(
        1.0, ge=0, description="standard deviations between the ensemble's members that the reward is lowered by"
    )
    linear: bool = Field(False, description="pool the ensemble with a linear next-item model, fitted in closed form")
    judge_users: float = Field(0.1, gt=0, lt=1, description="share of users kept for the judge alone")
    item_weight: float = Field(1.0, ge=0, description="weight of the log-odds of click and purchase")
    conversion_weight: float = Field(
        1.0, ge=0, description="in them, of log P(purchase | click) beside log P(click); 1: joint; 0: clicks alone"
    )
    popularity_weight: float = Field(
        1.0, ge=0, le=1, description="share of an item's own log-odds that is taken off: 1 leaves what is personal"
    )
    groundedness_weight: float = Field(1.0, ge=0, description="weight of the groundedness of the justification")
    text: TextRewardConfig | None = Field(None, description="null: no text reward model")
    penalties: PenaltyConfig = PenaltyConfig()
    terms: list[TermConfig] = []
    parts: list[PartConfig] = []
