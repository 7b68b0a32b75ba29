"""Properties of prepared data that make a ranking look better or more meaningful than it is, and what to do about them.

`measure_checks` runs in the prepare stage; its result is `checks` of the dataset card. `warnings_of` turns a card into
sentences. What plain counts reach on the data is measured in `llmrec.recommenders.counts`.
"""

import math
from typing import Any

import numpy as np
import pandas as pd

from llmrec.data.dataset import InteractionData, Targets
from llmrec.data.event_store import EventCounts
from llmrec.data.exposures import check_exposures
from llmrec.data.harm import Warned
from llmrec.data.ragged import Ragged

SECONDS_PER_DAY = 86_400
# Above these shares `warnings_of` warns.
MANY_TIES = 0.1
MANY_SAME_DAY = 0.2
MANY_REPEATS = 0.1
MANY_EQUAL_TITLES = 0.05
# HR@10 of good models on the usual benchmarks is about 0.1. If a twentieth of the users have their items in order of
# id, a model can earn half of that from the order.
SORTED_ABOVE_CHANCE = 0.05
MOSTLY_SORTED = 0.5
KNOWN_SEQUENCES = 0.01
FEWEST_KNOWN = 5  # in fewer test sequences, chance may be the reason
ONE_SITTING = 60  # seconds
# A user or an item dominates with more than this share of the clicks, and this many times the mean share.
DOMINANT = 0.1
DOMINANT_TIMES = 5
SMALL_SAMPLE = 0.1  # effective share of the exposures
SHORTEST_SEQUENCE = 3  # items; shorter sequences are equal by chance


def measure_checks(data: InteractionData, counts: EventCounts, timed: bool) -> dict[str, Any]:
    """The checks of a prepared log as JSON values.

    Args:
        data: the prepared log.
        counts: counts of the events of its users.
        timed: whether timestamps are times.

    Returns:
        `sorted_histories`: share of users whose history of two or more items is in order of item id, shorter ids first.
        `sorted_by_chance`: the same share for histories in random order, the mean of 1 / n!.
        `repeated_clicks`: share of the clicks on an item that the user has clicked at an earlier time.
        `test_rows_seen_in_training`: share of the log's own test rows whose pair of user and item is also a training
        row; null if the log has no split.
        `same_day_targets`, `median_seconds_before_target`: share of a split's test targets on the calendar day (UTC) of
        the item before, and median time since that item, by split; empty without times.
        `known_sequences`: share of a split's test targets whose whole sequence of 3 or more items, target included, is
        the start of a training history, by split.
    """
    tests = {split: parts["test"] for split, parts in data.targets.items()}
    gaps = {split: gap_to_item_before(data, targets) for split, targets in tests.items()} if timed else {}
    in_order, by_chance = _shares_in_order(data)
    histories = Ragged.of(data.histories)
    lengths = histories.lengths
    return {
        "sorted_histories": in_order,
        "sorted_by_chance": by_chance,
        "repeated_clicks": (counts.moments - counts.pairs) / counts.moments,
        "test_rows_seen_in_training": _test_rows_seen_in_training(counts),
        "same_day_targets": {split: float(is_same_day(data, tests[split]).mean()) for split in gaps},
        "median_seconds_before_target": {split: float(np.median(gap)) for split, gap in gaps.items()},
        "known_sequences": _known_sequences(data, tests),
        "largest_user": float(lengths.max() / lengths.sum()),
        "largest_item": float(np.bincount(histories.flat()).max() / lengths.sum()),
        "exposures": check_exposures(data.exposures),
    }


def gap_to_item_before(data: InteractionData, targets: Targets) -> np.ndarray:
    """Time between each target and the item before it in the history, seconds, int64 [M].

    Args:
        data: the prepared log, with timestamps that are times.
        targets: M targets at position 1 or later.
    """
    return _times(data, targets, 0) - _times(data, targets, 1)


def is_same_day(data: InteractionData, targets: Targets) -> np.ndarray:
    """Whether each target has the calendar day (UTC) of the item before it, bool [M]; arguments as above."""
    return _times(data, targets, 0) // SECONDS_PER_DAY == _times(data, targets, 1) // SECONDS_PER_DAY


def _times(data: InteractionData, targets: Targets, back: int) -> np.ndarray:
    return Ragged.of(data.timestamps).at(targets.users, targets.positions - back)


def _shares_in_order(data: InteractionData) -> tuple[float, float]:
    """Share of users with two or more items whose ids ascend, and the same share for random orders."""
    ids = data.items["item_id"].astype("str")
    place = np.empty(data.num_items, dtype=np.int64)
    place[np.lexsort((ids, ids.str.len()))] = np.arange(data.num_items)
    histories = Ragged.of(data.histories)
    lengths = histories.lengths
    long = lengths > 1
    if not long.any():
        return 0.0, 0.0
    places = place[histories.flat()]
    falls = np.append(np.diff(places) <= 0, False)
    ends = np.cumsum(lengths) - 1
    falls[ends[lengths > 0]] = False  # the next item belongs to another user
    falls_before = np.append(0, np.cumsum(falls))
    ascending = falls_before[ends + 1] == falls_before[ends + 1 - lengths]
    chances = np.array([1 / math.factorial(n) for n in range(21)])  # 1 / 20! is 0 in practice
    return float(np.mean(ascending[long])), float(np.mean(chances[np.minimum(lengths[long], 20)]))


def _test_rows_seen_in_training(counts: EventCounts) -> float | None:
    if counts.test_rows is None:
        return None
    return counts.test_rows_in_training / counts.test_rows if counts.test_rows else 0.0


def _known_sequences(data: InteractionData, tests: dict[str, Targets]) -> dict[str, float]:
    starts, hashes = _prefix_hashes(data)
    lengths = Ragged.of(data.histories).lengths
    positions = np.arange(len(hashes)) - np.repeat(starts, lengths)
    is_training = positions < np.repeat(data.train_lengths, lengths)
    training = pd.Series(hashes[is_training & (positions >= SHORTEST_SEQUENCE - 1)])
    shares = {}
    for split, targets in tests.items():
        is_long = targets.positions >= SHORTEST_SEQUENCE - 1
        tested = hashes[(starts[targets.users] + targets.positions)[is_long]]
        known = training[training.isin(tested)]  # few, so one table of the targets is searched and none of the clicks
        shares[split] = float(np.isin(tested, known).sum() / max(1, len(targets)))
    return shares


def _prefix_hashes(data: InteractionData) -> tuple[np.ndarray, np.ndarray]:
    """A hash of each prefix of each history.

    Returns:
        position of each user's first click among all clicks, int64 [U], and the hash of the user's items up to each
        click, uint64 [E].
    """
    histories = Ragged.of(data.histories)
    lengths = histories.lengths
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    keys = np.random.default_rng(0).integers(1, 2**63, size=data.num_items, dtype=np.uint64)
    powers = np.cumprod(np.full(lengths.max(), 0x9E3779B97F4A7C15, dtype=np.uint64))
    terms = keys[histories.flat()] * powers[positions]
    sums = np.cumsum(terms)  # modulo 2^64, so differences of sums are exact
    before = np.concatenate([np.zeros(1, dtype=np.uint64), sums])[starts]  # a user without clicks may be the last
    return starts, sums - np.repeat(before, lengths)


# --- warnings -----------------------------------------------------------------------------------------


def warnings_of(card: dict[str, Any]) -> list[Warned]:
    """A sentence or two for each property of the data that misleads: what was found, and what to do.

    Args:
        card: the dataset card. Measurements that it lacks give no warnings.
    """
    checks = card.get("checks", {})
    return [
        *_order_warnings(card, checks),
        *_overlap_warnings(card, checks),
        *_item_warnings(card, checks),
        *_dominance_warnings(card, checks),
        *_exposure_warnings(card, checks),
    ]


def _order_warnings(card: dict[str, Any], checks: dict[str, Any]) -> list[Warned]:
    found = []
    share = checks.get("sorted_histories", 0.0)
    chance = checks.get("sorted_by_chance", 0.0)
    in_order = f"{share:.0%} of the histories are in order of item id, {chance:.1%} would be by chance"
    by_id = "a model can predict the order of ids in place of what users do"
    if share > MOSTLY_SORTED:
        found.append(
            Warned(
                "wrong",
                share,
                by_id,
                f"{in_order}: the order of this log is not time. Do not use it for next-item prediction; find a copy "
                "in time order.",
            )
        )
    elif share > chance + SORTED_ABOVE_CHANCE:
        found.append(
            Warned(
                "wrong",
                share,
                by_id,
                f"{in_order}: events of equal time are probably in order of id. Models that learn the order of ids "
                "profit; compare with transition counts, and use a copy with times if there is one.",
            )
        )
    ties = card.get("tied_events") or 0.0
    if ties > MANY_TIES:
        found.append(
            Warned(
                "wrong",
                ties,
                "the next item of these clicks is drawn by a seed",
                f"{ties:.0%} of the clicks share user and time with another click: their order is a seeded hash. "
                "Repeat the result with another `data.seed`, and lead with targets of later days.",
            )
        )
    return [*found, *_sitting_warnings(checks)]


def _sitting_warnings(checks: dict[str, Any]) -> list[Warned]:
    """Warnings about test targets that come soon after the item before."""
    found = []
    for split, share in checks.get("same_day_targets", {}).items():
        if share > MANY_SAME_DAY:
            found.append(
                Warned(
                    "weak",
                    share,
                    "the result holds for the rest of a session, and less for the next visit",
                    f"{share:.0%} of the {split} test targets fall on the day of the item before: they complete a "
                    "basket or a session. Lead with the slice `later_day` of the report, beside `same_day`.",
                )
            )
    for split, seconds in checks.get("median_seconds_before_target", {}).items():
        if seconds < ONE_SITTING:
            found.append(
                Warned(
                    "wrong",
                    0.5,  # at least half of the targets, by the definition of a median
                    "a model can predict the order of a page in place of a choice over time",
                    f"The median {split} test target comes {seconds:.0f} s after the item before: users enter many "
                    "items in one sitting, and the order may be that of a page. Prefer `temporal` and the slice "
                    "`later_day`.",
                )
            )
    return found


def _overlap_warnings(card: dict[str, Any], checks: dict[str, Any]) -> list[Warned]:
    found = []
    share = checks.get("test_rows_seen_in_training") or 0.0
    if share > 0 and card.get("repeats") != "keep":
        found.append(
            Warned(
                "weak",
                share,
                "results on these targets cannot be compared with those of others",
                f"{share:.1%} of the test rows repeat a training row of the same user and item: they are no targets "
                "here, but they are in results of others. Compare only results on the same targets.",
            )
        )
    for split, share in checks.get("known_sequences", {}).items():
        targets = card.get("splits", {}).get(split, {}).get("test", {}).get("targets", 0)
        if share > KNOWN_SEQUENCES and round(share * targets) >= FEWEST_KNOWN:
            found.append(
                Warned(
                    "wrong",
                    share,
                    "a model can repeat what it was trained on",
                    f"{share:.1%} of the {split} test sequences are also the start of a training history: the log may "
                    "hold users twice. Remove duplicate users.",
                )
            )
    return found


def _item_warnings(card: dict[str, Any], checks: dict[str, Any]) -> list[Warned]:
    found = []
    share = checks.get("repeated_clicks", 0.0)
    if share > MANY_REPEATS and card.get("repeats") != "keep":
        found.append(
            Warned(
                "weak",
                share,
                "repeats, which are the easiest to predict, are no targets",
                f"{share:.0%} of the clicks repeat an item of the user and are dropped: the task is to predict new "
                "items only. Do not compare with results that count repeats, or set `data.repeats: keep`.",
            )
        )
    equal = (card.get("items_with_a_repeated_title") or 0) / max(1, card.get("items") or 1)
    if equal > MANY_EQUAL_TITLES:
        found.append(
            Warned(
                "weak",
                equal,
                "words do not tell these items apart",
                f"{equal:.0%} of the items share their title with another item: results that compare titles are "
                "higher. Score by item id, and use `catalogue.scheme: atomic`.",
            )
        )
    return found


def _dominance_warnings(card: dict[str, Any], checks: dict[str, Any]) -> list[Warned]:
    """Warnings about one user, or one item, with far more clicks than the mean."""
    found = []
    user = checks.get("largest_user", 0.0)
    if _dominates(user, card.get("users")):
        found.append(
            Warned(
                "weak",
                user,
                "models learn from this user most of all, and every count of clicks is mostly about one person",
                f"One user has {user:.0%} of the clicks, of {card['users']:,} users. Programs, staff and accounts that "
                "many people share look like that. Remove the events of the user with the most rows, unless it is one "
                "person.",
            )
        )
    item = checks.get("largest_item", 0.0)
    if _dominates(item, card.get("items")):
        found.append(
            Warned(
                "weak",
                item,
                "a list that always begins with this item is right that often",
                f"One item has {item:.0%} of the clicks, of {card['items']:,} items. Compare with `popularity`, and "
                "remove an item that users do not choose, such as a bag, a deposit or a start page.",
            )
        )
    return found


def _dominates(share: float, count: int | None) -> bool:
    return share > max(DOMINANT, DOMINANT_TIMES / max(1, count or 1))


def _exposure_warnings(card: dict[str, Any], checks: dict[str, Any]) -> list[Warned]:
    exposures = checks.get("exposures") or {}
    missing = exposures.get("without_propensity", 0.0)
    found = []
    if 0 < missing < 1:
        found.append(
            Warned(
                "weak",
                missing,
                "`llmrec off-policy` needs the propensity of every exposure",
                f"{missing:.1%} of the {card.get('exposures') or 0:,} exposures have no propensity. Complete the "
                "column `propensity`, or remove these rows.",
            )
        )
    size = exposures.get("uniform_sample_size")
    if size is not None and size < SMALL_SAMPLE:
        found.append(
            Warned(
                "weak",
                1 - size,
                "a few exposures decide on estimates for other policies",
                f"The exposures are worth {size:.1%} of their number for a policy that shows all logged items equally "
                "often, because some propensities are very small. Estimate policies that are close to the logged one.",
            )
        )
    return found
