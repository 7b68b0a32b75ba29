"""Config section `simulator`: the world that is fitted on held-out users, and what is assumed about it."""

from pydantic import Field

from llmrec.config.section import Section


class AssumptionsConfig(Section):
    """What a log of clicks cannot tell about people. `llmrec simulate` shows how much conclusions depend on each."""

    click_rate: float = Field(
        default=0.1, gt=0, lt=1, description="Click rate of the 50 most popular items. It sets the utility of no click."
    )
    noise: float = Field(
        default=1.0, gt=0, description="Scale of the noise of a choice, relative to that of the fitted tastes."
    )
    position: float = Field(
        default=0.85, gt=0, le=1, description="Odds of a click at a position of a slate, relative to the one before."
    )
    category_satiation: float = Field(
        default=1.0,
        ge=0,
        description="Utility in nats that an item loses if everything shown lately has its categories.",
    )
    category_recovery: float = Field(
        default=1.0, gt=0, description="Days after which 1/e of the fatigue of a category is left."
    )
    item_satiation: float = Field(
        default=3.0,
        ge=0,
        description="Utility in nats that an item loses by a click on it. Unused if the log has no repeated clicks.",
    )
    item_recovery: float = Field(
        default=7.0, gt=0, description="Days after which 1/e of that loss is left. Unused as the key above."
    )
    patience: float = Field(
        default=0.35,
        ge=0,
        description="Log-odds of ending a session, for each unit by which the recent click rate is below `click_rate`, "
        "relative to it.",
    )
    return_satisfaction: float | None = Field(
        default=0.5,
        description="Change of the log-odds of coming back with the satisfaction of a session. null: the estimate of "
        "the log.",
    )
    gap_satisfaction: float = Field(
        default=0.0, description="Change of the logarithm of the days until the return with the satisfaction."
    )
    return_rate: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Probability of coming back after an average session. null: the estimate of the log.",
    )
    margin: float = Field(
        default=1.0, gt=0, description="Share of an item's price that a purchase earns. An item without price has 1."
    )


class RewardsConfig(Section):
    """Weights of the parts of the reward that a world gives."""

    click: float = Field(default=1.0, ge=0, description="Weight of a click.")
    purchase: float = Field(default=1.0, ge=0, description="Weight of the value of a purchase.")
    return_visit: float = Field(default=0.0, ge=0, description="Weight of coming back to a further session.")


class SimulatorConfig(Section):
    """The simulator: worlds that `llmrec simulate` fits on users whom nothing else is trained on."""

    min_users: int = Field(
        default=100, ge=20, description="Fewest held-out users. Each world is fitted on half of them."
    )
    session_gap: float = Field(
        default=60.0, gt=0, description="Minutes without a click after which a new session starts."
    )
    known_items: int = Field(
        default=10, ge=0, description="First clicks of a user that are known when a life begins. 0: all users are new."
    )
    horizon_days: float = Field(default=30.0, gt=0, description="Days after which a life is over.")
    max_steps: int = Field(default=200, ge=1, description="Steps after which a life is cut off.")
    slate: int = Field(default=1, ge=1, description="Number of items that are shown in one step.")
    lives: int = Field(
        default=300, ge=20, description="Lives on which each policy is evaluated, the same lives for every policy."
    )
    permutations: int = Field(
        default=40, ge=20, description="Permutations behind the null distribution of the discriminator."
    )
    max_discriminator_auc: float = Field(
        default=0.6,
        gt=0.5,
        lt=1,
        description="Largest AUC of the discriminator with which a world counts as validated. A larger limit from the "
        "null distribution takes its place.",
    )
    assumptions: AssumptionsConfig = Field(
        default=AssumptionsConfig(), description="Parameters that the log cannot tell."
    )
    rewards: RewardsConfig = Field(default=RewardsConfig(), description="Weights of the reward's parts.")
