"""Sections of `report.json` that earlier stages measured: the data, the reward model and PPO's guard."""

from typing import Annotated, Any

from pydantic import AliasChoices, BeforeValidator, Field

from llmrec.evaluation.estimates import Estimate, Interval, Number, Section


class DatasetSource(Section):
    """Where the log came from."""

    format: str | None = Field(default=None, description="Reader of the log, `data.format` of the config.")
    path: str | None = Field(default=None, description="Path of the log, `data.path` of the config.")


class DatasetSplit(Section):
    """Sizes of one split."""

    train: int | None = Field(default=None, description="Number of training clicks.")
    valid: dict[str, int] = Field(default={}, description="Number of validation `targets` and of their `users`.")
    test: dict[str, int] = Field(default={}, description="Number of test `targets` and of their `users`.")
    starts: dict[str, str] = Field(
        default={}, description="Time at which validation and test begin, for a temporal split."
    )


class ExposureChecks(Section):
    """Properties of logged exposures that off-policy results depend on."""

    click_rate: Number = Field(default=None, description="Share of the exposures that were clicked.")
    without_propensity: Number = Field(default=None, description="Share of the exposures without a propensity.")
    smallest_propensity: Number = Field(default=None, description="Smallest known propensity.")
    median_propensity: Number = Field(default=None, description="Median of the known propensities.")
    uniform_sample_size: Number = Field(
        default=None,
        description="Effective sample size of a policy that shows the logged items equally often, as a share of the "
        "exposures with a propensity.",
    )


class DataWarning(Section):
    """A property of the log that harms results, and what to do about it."""

    harm: str | None = Field(
        default=None,
        description="`wrong`: results say something else than they seem to; `weak`: models learn less, or the result "
        "holds for less; `odd`: results hardly change. Null for a card of an earlier version.",
    )
    share: Number = Field(
        default=None,
        description="How large a part of the log it is about, 0 to 1: of its events, users, items or test targets.",
    )
    why: str | None = Field(default=None, description="How it harms.")
    text: str = Field(default="", description="What was found, and what to do.")


class DatasetChecks(Section):
    """Properties of the log that can make a ranking look better or more meaningful than it is."""

    sorted_histories: Number = Field(
        default=None, description="Share of users whose history is in order of item id, shorter ids first."
    )
    sorted_by_chance: Number = Field(
        default=None, description="The same share for histories in random order, the mean of 1 / n!."
    )
    repeated_clicks: Number = Field(
        default=None, description="Share of the clicks on an item that the user has clicked at an earlier time."
    )
    test_rows_seen_in_training: Number = Field(
        default=None,
        description="Share of the log's own test rows whose pair of user and item is also a training row; null for a "
        "log without a split.",
    )
    same_day_targets: dict[str, Number] = Field(
        default={},
        description="Share of the test targets on the calendar day (UTC) of the item before, by split; empty for a log "
        "without times.",
    )
    median_seconds_before_target: dict[str, Number] = Field(
        default={},
        description="Median time between the item before and the test target, by split, in seconds; empty for a log "
        "without times.",
    )
    known_sequences: dict[str, Number] = Field(
        default={},
        description="Share of the test targets whose whole sequence of 3 or more items is also the start of a training "
        "history, by split.",
    )
    largest_user: Number = Field(default=None, description="Share of the clicks that the most active user has.")
    largest_item: Number = Field(default=None, description="Share of the clicks that the most clicked item has.")
    exposures: ExposureChecks | None = Field(
        default=None, description="Properties of the logged exposures; null for a log without them."
    )


class CountsAccuracy(Section):
    """Accuracy of counts on the test targets of one split."""

    hr: Number = Field(default=None, description="HR@10.")
    ndcg: Number = Field(default=None, description="NDCG@10.")
    hr_interval: Interval = Field(
        default=None, description="95 % interval of HR@10 over users by the normal approximation."
    )
    ndcg_interval: Interval = Field(
        default=None, description="95 % interval of NDCG@10 over users by the normal approximation."
    )


class CountedTargets(Section):
    """Test targets of one split at which the accuracy of counts was measured."""

    targets: int | None = Field(default=None, description="Number of measured test targets.")
    users: int | None = Field(default=None, description="Number of their users.")
    of_users: int | None = Field(default=None, description="Number of users with a test target in the split.")


def _warning_of(value: Any) -> Any:
    """A warning of a card; cards of earlier versions have its text alone."""
    return {"text": value} if isinstance(value, str) else value


class DatasetCard(Section):
    """Counts and rules of the prepared data, as `data/card.json` has them."""

    source: DatasetSource | None = Field(default=None, description="Where the log came from.")
    rules: dict[str, list[str]] = Field(
        default={}, description="Rules by which an event is a `click` and a `purchase`."
    )
    repeats: str | None = Field(default=None, description="`data.repeats` of the config.")
    repeated_items: Number = Field(
        default=None, description="Share of the items of histories that the user has clicked before."
    )
    users: int | None = Field(default=None, description="Number of users.")
    items: int | None = Field(default=None, description="Number of items of the catalogue.")
    events: int | None = Field(default=None, description="Number of rows of the log.")
    click_events: int | None = Field(default=None, description="Number of rows of the log that are clicks.")
    purchase_events: int | None = Field(default=None, description="Number of rows of the log that are purchases.")
    clicks: int | None = Field(
        default=None,
        description="Number of distinct pairs of a user and a clicked item. If repeats are kept, clicks of one pair at "
        "different times count.",
    )
    purchases: int | None = Field(default=None, description="Number of those clicks that are purchases.")
    hidden_purchases: int | None = Field(
        default=None,
        description="Number of the clicks whose item the user bought, but too late for training to know: not before "
        "the user's first held-out click and the start of the temporal validation.",
    )
    exposures: int | None = Field(default=None, description="Number of logged exposures.")
    facts: int | None = Field(default=None, description="Number of facts about items.")
    density: Number = Field(default=None, description="Distinct pairs divided by users times items.")
    sparsity: Number = Field(default=None, description="1 minus the density.")
    tied_events: Number = Field(
        default=None,
        description="Share of clicks with a click of the same user and time, but another item.",
    )
    tie_break: dict[str, Any] = Field(default={}, description="Rule that orders tied events, and its seed.")
    time: dict[str, str] = Field(
        default={}, description="Time of the `first` and `last` event; empty for a log without times."
    )
    history_length: dict[str, Number] = Field(default={}, description="Quantiles of the number of clicks per user.")
    train_clicks: int | None = Field(default=None, description="Number of clicks that every split leaves for training.")
    splits: dict[str, DatasetSplit] = Field(default={}, description="Sizes of each split, by name.")
    dropped_users: int | None = Field(default=None, description="Number of users dropped by `data.min_user_events`.")
    min_user_events: int | None = Field(default=None, description="`data.min_user_events` of the config.")
    items_without_events: int | None = Field(default=None, description="Number of items that no event mentions.")
    items_without_clicks: int | None = Field(default=None, description="Number of items that no user clicked.")
    items_with_a_repeated_title: int | None = Field(
        default=None, description="Number of items that share their title with another item."
    )
    losses: dict[str, Any] = Field(
        default={},
        description="Rows read; rows left out, by table and reason; users with attributes and items with facts; and "
        "warnings about unlikely ratios.",
    )
    checks: DatasetChecks | None = Field(default=None, description="Properties of the log that can mislead.")
    warnings: list[Annotated[DataWarning, BeforeValidator(_warning_of)]] = Field(
        default=[], description="All that is known to harm results on the log, most harmful first."
    )
    counts: dict[str, dict[str, dict[str, CountsAccuracy]]] = Field(
        default={},
        description="Accuracy of `popularity`, `first_order`, `transitions` and, if repeats are kept, "
        "`personal_popularity` by split, counts and training data (`train`, or `refitted` on all events before the "
        "test). Measured by `llmrec prepare --report`.",
    )
    counted: dict[str, CountedTargets] = Field(
        default={}, description="Test targets behind `counts`, by split: a seeded sample of users if there are many."
    )
    curves: dict[str, list[tuple[float, float]]] = Field(
        default={},
        description="Points of curves that show the log, by name, see `llmrec.data.curves`. Measured by "
        "`llmrec prepare --report`.",
    )


class Reliability(Section):
    """Reliability diagram in bins of equal count."""

    predicted: list[Number] = Field(default=[], description="Mean predicted probability of each bin.")
    observed: list[Number] = Field(
        default=[], description="Share of positive events in each bin; null for an empty bin."
    )
    count: list[int] = Field(default=[], description="Number of events in each bin.")

    @property
    def points(self) -> list[tuple[float, float]]:
        """Pairs of predicted and observed probability in ascending order, without undefined bins."""
        pairs = zip(self.predicted, self.observed, strict=True)
        return sorted((p, o) for p, o in pairs if p is not None and o is not None)


class EventQuality(Section):
    """How well predicted probabilities of held-out events discriminate and how well they are calibrated."""

    n: int | None = Field(default=None, description="Number of labeled events.")
    positives: int | None = Field(default=None, description="Number of positive events.")
    auc: Estimate | None = Field(
        default=None, description="Area under the ROC curve; null if all events have one label."
    )
    log_loss: Estimate | None = Field(default=None, description="Mean negative log-likelihood, in nats.")
    brier: Estimate | None = Field(default=None, description="Mean squared error of the probability.")
    ece: Estimate | None = Field(default=None, description="Expected calibration error, ten bins of equal count.")
    ece_floor: Number = Field(
        default=None, description="Calibration error that a perfectly calibrated model would show on as many events."
    )
    auc_popularity_matched: Estimate | None = Field(
        default=None, description="AUC with negatives drawn in proportion to their training clicks (clicks only)."
    )
    lift_auc_popularity_matched: Estimate | None = Field(
        default=None, description="The same AUC for the log-probability minus the log of the item's share of clicks."
    )
    catalogue_loss: Number = Field(
        default=None, description="Negative log-likelihood per click over all unseen items, in nats (clicks only)."
    )
    ece_of_first_choice: Number = Field(
        default=None, description="Calibration error of the probability of the most probable item (clicks only)."
    )
    log_loss_weighted: Number = Field(
        default=None, description="Log-loss under inverse propensity weights (exposures only), in nats."
    )
    reliability: Reliability | None = Field(default=None, description="Numbers of the reliability diagram.")
    slices: dict[str, "EventQuality"] = Field(
        default={}, description="The same metrics on thirds of the events, by user activity and by item popularity."
    )
    baselines: dict[str, "EventQuality"] = Field(
        default={}, description="The same metrics for predictors that need no reward model, by name."
    )


class ExposureQuality(EventQuality):
    """Quality of P(click | shown) on held-out exposures."""

    effective_sample_size: Number = Field(
        default=None, description="Effective sample size of the inverse propensity weights."
    )
    propensities_clipped: Number = Field(default=None, description="Share of exposures whose propensity was clipped.")
    position_bias: dict[str, Number] = Field(
        default={}, description="Log-odds of a click at each position relative to the first position."
    )


class RewardModelSplit(Section):
    """Quality of the reward model on one split."""

    n: int | None = Field(default=None, description="Number of held-out clicks.")
    part: str | None = Field(
        default=None, description="Part that was measured: `test`, or `valid` if there is no test part."
    )
    ranking: dict[str, Number] = Field(
        default={}, description="NDCG@10 and HR@10 over all unseen items, ranked by P(click) and by the reward."
    )
    click: EventQuality | None = Field(default=None, description="Quality of P(click).")
    purchase: EventQuality | None = Field(
        default=None, description="Quality of P(purchase | click); null without purchases."
    )


class RewardModelReport(Section):
    """How far the reward model can be trusted, as the reward stage measured it (`reward/metrics.json`)."""

    training: dict[str, Number] = Field(default={}, description="Counts of the training events.")
    calibration: dict[str, Number] = Field(
        default={}, description="Temperature, scale and offset fitted on validation."
    )
    ensemble: dict[str, Number] = Field(default={}, description="Number of members and the uncertainty penalty.")
    splits: dict[str, RewardModelSplit] = Field(default={}, description="Quality on each split, by name.")
    ranking: dict[str, Any] = Field(
        default={}, description="Ranking metrics on the validation part that chose the epoch."
    )
    exposures: ExposureQuality | None = Field(
        default=None, description="Quality on held-out exposures, if the log has any."
    )
    linear: dict[str, Any] = Field(
        default={}, description="Settings and pool weights of the linear model, if one was fitted."
    )
    judge: dict[str, Any] = Field(
        default={},
        description="Users, mixture, ranking metrics of the judge, and its correlation with the reward model.",
    )
    text: dict[str, Any] = Field(
        default={}, description="Accuracy and calibration of the text reward model, if one was fitted."
    )
    curve: list[Any] = Field(default=[], description="Training curve; one list per member of an ensemble.")
    seconds: Number = Field(default=None, description="Duration of the fit, in seconds.")


class GuardEvaluation(Section):
    """One evaluation of the policy on validation users during PPO."""

    step: int = Field(description="PPO update after which the policy was evaluated; 0 is the SFT start.")
    kept: bool = Field(default=False, description="Whether the adapter was the best so far and was saved.")
    ndcg: Number = Field(default=None, alias="eval/ndcg@10", description="Mean NDCG@10; ties count half.")
    gain_lower_bound: Number = Field(
        default=None,
        validation_alias=AliasChoices("eval/sure_gain", "eval/gain_lower_bound"),
        serialization_alias="eval/sure_gain",
        description="Lower end of the 95 % interval of the paired NDCG@10 gain over the SFT start. Only in runs whose "
        "guard tested every evaluation.",
    )
    reward: Number = Field(
        default=None, alias="eval/reward", description="Mean learned reward of the ten best items, in nats."
    )
    judge: Number = Field(
        default=None, alias="eval/judge", description="Mean reward of the ten best items by the judge, in nats."
    )


class GuardDifference(Section):
    """Mean difference between the chosen adapter and the SFT start, paired by deciding user."""

    mean: Number = Field(default=None, description="Mean over the users.")
    lower: Number = Field(default=None, description="Lower one-sided 95 % bound.")
    upper: Number = Field(default=None, description="Upper one-sided 95 % bound.")


class GuardDecision(Section):
    """The one decision between the chosen adapter and the SFT start."""

    step: int = Field(description="PPO update of the adapter that the choosing users chose.")
    users: int = Field(description="Number of deciding users. None of them took part in the choice.")
    gain: GuardDifference = Field(description="Difference in NDCG@10.")
    judge: GuardDifference = Field(description="Difference in the judge's mean score of the ten best items, in nats.")
    detectable_gain: Number = Field(default=None, description="NDCG@10 gain that the test finds with 80 % probability.")
    accepted: bool = Field(
        description="Whether the adapter replaces the SFT start, which is the case if `gain.lower` is above 0."
    )


class GuardReport(Section):
    """What PPO's guard measured on validation users and which adapter it kept."""

    best_step: int | None = Field(default=None, description="PPO update of the kept adapter; 0 is the SFT start.")
    fell_back_to_sft: bool = Field(
        default=False, description="Whether no PPO adapter was accepted, so that the SFT adapter was kept."
    )
    sft_ndcg: Number = Field(
        default=None, alias="sft_ndcg@10", description="NDCG@10 of the SFT start for the choosing users."
    )
    best_ndcg: Number = Field(
        default=None, alias="best_ndcg@10", description="NDCG@10 of the kept adapter for the choosing users."
    )
    users: int | None = Field(default=None, description="Number of validation users who choose the best adapter.")
    decision: GuardDecision | None = Field(
        default=None, description="The decision; null if no adapter was better than the SFT start for these users."
    )
    history: list[GuardEvaluation] = Field(default=[], description="Every evaluation, in order of updates.")
