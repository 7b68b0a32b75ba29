"""The rule that promotes a canary or takes it out of service: an A/B test against the current version.

Users are assigned by the hash of `llmrec.versions.traffic`. A user counts a day after the first list that the test
showed them. The metric is clicks per shown item. The interval of its difference is a confidence sequence, so the test
may be looked at as often as one likes.
"""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
import pandas as pd

from llmrec.ab_test.analyze import analyze
from llmrec.ab_test.log import typed_events
from llmrec.ab_test.results import ABTestReport
from llmrec.ab_test.sample_ratio import THRESHOLD, always_valid_p
from llmrec.config import ABTestConfig, LearnConfig, parse_section
from llmrec.data.readers.raw import Source, Table
from llmrec.serving import tables
from llmrec.serving.people import SEEN
from llmrec.serving.store import Store
from llmrec.versions.history import Change
from llmrec.versions.registry import Registry, Version
from llmrec.versions.traffic import canary_test

ARMS = ("current", "canary")


@dataclass(frozen=True)
class Verdict:
    """What to do with a canary.

    Attributes:
        action: `promote`, `roll back` or `wait`.
        why: one sentence.
        metrics: the numbers that the verdict rests on.
    """

    action: Literal["promote", "roll back", "wait"]
    why: str
    metrics: dict[str, Any]


def tolerated_loss(store: Store, config: LearnConfig) -> dict[str, float]:
    """The margin of a canary, from all that the store holds before it starts.

    Returns:
        `click_rate`, clicks per shown item, and `margin` in the same unit.
    """
    shown, clicks = _shown_and_clicked(store)
    rate = len(clicks) / len(shown) if len(shown) else 0.0
    return {"click_rate": rate, "margin": config.margin * rate}


def judge(registry: Registry, canary: Version, store: Store, config: LearnConfig, now: float) -> Verdict:
    """Applies the rule to the feedback of a canary until now.

    - Rolled back: the interval lies below 0, the arms do not hold their shares of users, or the test is undecided after
      `learn.canary_days`. The p-value of the shares holds at every look as well.
    - Promoted: the interval lies above the tolerated loss.

    Args:
        registry: the versions.
        canary: the canary.
        store: the feedback.
        config: the rule.
        now: seconds since 1970.
    """
    start = next(one for one in reversed(registry.history()) if one.version == canary.number and one.state == "canary")
    test = _test(registry, start, config)
    begun = datetime.fromisoformat(start.at).timestamp()
    rows = _rows(registry, canary, store, begun, int(now))
    over = now > begun + config.canary_days * 86_400
    if not set(ARMS) <= set(rows["arm"]):
        late = f"it served nobody in {config.canary_days} days"
        return Verdict("roll back", late, {}) if over else Verdict("wait", "nobody was served yet", {})
    # The store is complete until now, so days are over also if nobody has come since. Nobody is enrolled by this row.
    rows.loc[len(rows) + 1] = {"user_id": "nobody", "timestamp": now, "arm": "", "event_type": "end"}
    events = typed_events(Table(rows, Source(path="the feedback store")), test)
    report = analyze(events, test, until=int(now))
    return _verdict(report, over, config)


def _verdict(report: ABTestReport, over: bool, config: LearnConfig) -> Verdict:
    ratio = report.sample_ratio
    if ratio.is_wrong:  # by a test for one look, so a sound canary may get here for a while
        p = always_valid_p(ratio.users, ratio.expected)
        metrics = {"users": ratio.users, "expected": ratio.expected, "p": p}
        if over or p < THRESHOLD:
            return Verdict("roll back", "the arms do not hold their shares of users", metrics)
        return Verdict("wait", "the arms may not hold their shares of users", metrics)
    clicks, loss = report.comparisons
    kept = ("users", "control", "treatment", "difference", "interval", "relative", "p")
    metrics = {key: value for key, value in asdict(clicks).items() if key in kept}
    if clicks.interval is None:
        shown = ""
    else:
        low, high = clicks.interval
        shown = f": clicks per shown item change by {clicks.difference:+.4f} [{low:+.4f}, {high:+.4f}]"
    if clicks.verdict == "worse" or loss.verdict == "violated":
        return Verdict("roll back", f"it is worse{shown}", metrics)
    if loss.verdict == "holds":
        found = "it is better" if clicks.verdict == "better" else "its loss is tolerated"
        return Verdict("promote", f"{found}{shown}", metrics)
    if over:
        return Verdict("roll back", f"it is undecided after {config.canary_days} days{shown}", metrics)
    few = sum(clicks.users.values())
    return Verdict("wait", f"it is undecided after {few:,} users{shown}", metrics)


def _test(registry: Registry, start: Change, config: LearnConfig) -> ABTestConfig:
    """The A/B test of a canary."""
    share = start.share or 0.0
    first = datetime.fromisoformat(start.at).astimezone(UTC)
    rate = {"kind": "rate", "event": "click", "per": "impression", "window_days": 1}
    values = {
        "name": canary_test(start.version),
        "salt": registry.salt(),
        "arms": dict(zip(ARMS, (1 - share, share), strict=True)),
        "start": str(first.date()),
        "end": str((first + timedelta(days=config.canary_days)).date()),
        "planned_users": config.canary_users,
        "alpha": config.alpha,
        "covariate_days": None,
        "data": {"path": "the feedback store", "columns": {"event_type": "event_type"}},
        "metrics": [
            {"name": "clicks", "role": "primary", **rate},
            {"name": "loss", "role": "guardrail", "margin": start.metrics.get("margin", 0.0), **rate},
        ],
    }
    return parse_section(values, ABTestConfig, "the test of the canary")


def _rows(registry: Registry, canary: Version, store: Store, begun: float, until: int) -> pd.DataFrame:
    """The log of the test until a time: shown items with their arm, and clicks on them.

    The test begins with the first list of the canary. A server takes a canary over some seconds after it was started,
    and in these seconds only the users of the current version would join the test. Other lists that another version
    ranked than the one that the hash assigns are left out.
    """
    shown, clicks = _shown_and_clicked(store, begun)
    traffic = registry.traffic()
    label_of = {traffic.current: registry.current().label, canary.number: canary.label}
    users = shown["user_id"].unique()
    version_of = {user: traffic.version_of(user) for user in users}
    assigned = shown["user_id"].map(version_of)
    shown = shown[shown["policy"] == assigned.map(label_of)]
    shown = shown[(shown["at"] >= shown["at"][shown["policy"] == canary.label].min()) & (shown["at"] < until)]
    arms = shown["user_id"].map(version_of).map({traffic.current: ARMS[0], canary.number: ARMS[1]})
    clicks = clicks[clicks["request_id"].isin(shown["request_id"])]
    parts = [
        shown[["user_id", "at"]].assign(arm=arms, event_type="impression"),
        clicks[["user_id", "at"]].assign(arm="", event_type="click"),
    ]
    rows = pd.concat(parts, ignore_index=True).rename(columns={"at": "timestamp"})
    rows.index = np.arange(1, len(rows) + 1)
    return rows


def _shown_and_clicked(store: Store, since: float = 0.0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What was shown to people with an id, and the first click of each person on each item after it was shown.

    Args:
        store: the feedback.
        since: seconds since 1970; what was shown before is left out.

    Returns:
        rows of `request_id, user_id, item_id, policy, at`; and of `user_id, item_id, at, request_id`, with the newest
        list that showed the item before the click.
    """
    impressions, feedback = tables.impressions.c, tables.feedback.c
    named = impressions.user_id.is_not(None) & (impressions.at >= since)
    columns = ["request_id", "user_id", "item_id", "policy", "at"]
    shown = store.frame(tables.impressions, ["at"], named, columns)
    clicked = feedback.type.in_(SEEN) & (feedback.at >= since)
    given = store.frame(tables.feedback, ["at"], clicked, ["user_id", "item_id", "at"])
    if shown.empty or given.empty:
        return shown, given.assign(request_id=None)[:0]
    keys = ["user_id", "item_id"]
    clicks = pd.merge_asof(given, shown[[*keys, "at", "request_id"]], on="at", by=keys)
    return shown, clicks[clicks["request_id"].notna()].drop_duplicates(keys)
