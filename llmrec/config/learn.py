"""Config section `learn`: when a served run learns from its feedback, and the rule that promotes new versions."""

from pydantic import Field

from llmrec.config.section import Section


class LearnConfig(Section):
    """Learning from the feedback of `llmrec serve`, see `llmrec learn`."""

    min_events: int = Field(
        default=500, ge=50, description="Number of new clicks, purchases and ratings from which a round begins."
    )
    every_hours: float | None = Field(
        default=None,
        gt=0,
        description="Hours after which a round begins also with fewer new events, but at least 50. null: never.",
    )
    replay: float = Field(
        default=1.0,
        ge=0,
        description="Clicks of other people that a round also learns from, for each click of those with new events. It "
        "learns from whole histories of people, drawn at random.",
    )
    held_out: float = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="Share of the new events, the newest ones, that no model is trained on. The first third of them "
        "chooses the epoch of the reward models, the others test the adapter.",
    )
    next_click_weight: float = Field(
        default=0.1,
        ge=0,
        description="Weight of the loss of the next click in a round (`reward.next_click_weight`). A low weight lets "
        "the reward follow what people do with shown items now, rather than the order of all former clicks.",
    )
    canary_share: float = Field(
        default=0.1, gt=0, le=0.5, description="Share of users that a new version is served to before it is promoted."
    )
    canary_users: int = Field(
        default=2000,
        ge=200,
        description="Planned number of users of a canary and its control, for which the interval "
        "of the difference is tightest.",
    )
    canary_days: int = Field(
        default=14, ge=2, description="Days after which an undecided canary is rolled back. A user counts after a day."
    )
    margin: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Largest tolerated loss of clicks per shown item, as a share of the rate before the canary. A "
        "canary is promoted when its interval lies above this loss, and rolled back when it lies below 0.",
    )
    alpha: float = Field(
        default=0.05, gt=0, lt=0.5, description="Probability that the interval misses the true difference at any look."
    )
