"""Checks a world against clicks of the log that it was not fitted on, and decides whether it passes its gate."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmrec.config import SimulatorConfig
from llmrec.data.dataset import InteractionData
from llmrec.errors import DataError
from llmrec.evaluation.metrics import bootstrap_ci, paired_bootstrap, per_user, ranks
from llmrec.simulator.distances import discriminator_auc, ks_distance, permutation_null, with_interval
from llmrec.simulator.events import Choices, UserEvents, fatigue_before
from llmrec.simulator.people import People
from llmrec.simulator.sessions import sessions_of
from llmrec.simulator.state import NEVER, State
from llmrec.simulator.world import World, fits_behavior, split_choices

LONGEST_WINDOW = 10  # clicks of a window that the discriminator judges
MIN_WINDOWS = 20
VECTOR_SIZE = 32
GATE = (
    "The AUC of the next click is significantly above that of popularity, and the discriminator's AUC is at most "
    "`simulator.max_discriminator_auc` or the 97.5 % quantile of its null distribution, whichever is larger."
)


@dataclass(frozen=True)
class Windows:
    """The next clicks of some users after the first 80 % of their history.

    Attributes:
        users: place of each user in the events, int64 [n].
        items: clicks, int64 [n, W].
        purchased: whether each was a purchase, bool [n, W].
        new_session: whether a session began with the click, bool [n, W].
    """

    users: np.ndarray
    items: np.ndarray
    purchased: np.ndarray
    new_session: np.ndarray


def validate(world: World, events: UserEvents, data: InteractionData, config: SimulatorConfig) -> dict[str, Any]:
    """Compares a world with the held-out part of its log.

    Args:
        world: the world.
        events: clicks of its users, those it was fitted on and those that test it.
        data: the prepared log; its training clicks give the vectors of items in which the discriminator sees windows.
        config: permutations and gate.

    Returns:
        the content of `validation.json`, with `validated` and `gate`.
    """
    people = world.people()
    next_click = next_click_quality(world, events)
    real = real_windows(events)
    simulated = simulated_windows(people, events, real, world.seed)
    lives = life_distances(world, people, events)
    found = {
        "world": world.name,
        "family": world.population.tastes.family,
        "users": len(events),
        "next_click": next_click,
        "purchase_auc": purchase_auc(people, events),
        "popularity_curve": popularity_curve(world, events, real, simulated),
        "category_runs": with_interval(
            ks_distance,
            [run_lengths(row, world.population.categories) for row in real.items],
            [run_lengths(row, world.population.categories) for row in simulated.items],
            world.seed,
        ),
        **lives,
        "discriminator": discriminate(world, events, data, real, simulated, config.permutations),
    }
    found["gate"] = GATE
    found["failed"] = failed_conditions(found, config.max_discriminator_auc)
    found["validated"] = not found["failed"]
    return found


def failed_conditions(found: dict[str, Any], max_auc: float) -> list[str]:
    """The conditions of the gate that a world fails, in words; none if it is validated."""
    failed = []
    difference = found["next_click"]["difference"]
    if difference["ci95"][0] <= 0:
        failed.append(f"the AUC of the next click is {difference['value']:+.3f} against popularity, not surely above 0")
    judged = found["discriminator"]
    limit = max(max_auc, judged["null_97.5"])
    if judged["auc"] > limit:
        failed.append(f"the discriminator's AUC is {judged['auc']:.3f}, above {limit:.3f}")
    return failed


# --- the next click -------------------------------------------------------------------------------


def next_click_quality(world: World, events: UserEvents) -> dict[str, Any]:
    """AUC of each test click among the items that the user had not taken, beside popularity; intervals over users."""
    train, _, test = _split(world, events)
    seen = np.zeros((len(test), events.num_items), bool)
    for row, (user, position) in enumerate(zip(test.users, test.positions, strict=True)):
        seen[row, events.items[user][:position]] = True
    seen[np.arange(len(test)), test.items] = False  # a repeated click would otherwise exclude its own target
    counts = np.bincount(train.items, minlength=events.num_items).astype(np.float64)
    behavior = world.people().behavior
    loss = behavior.category_satiation * test.fatigue @ world.population.categories.T
    utilities = world.population.tastes.all_utilities(test.moments) - loss
    unseen = (~seen).sum(axis=1)

    def of(scores: np.ndarray) -> np.ndarray:
        values = 1.0 - (ranks(scores, test.items, seen) - 1.0) / (unseen - 1.0)
        return per_user(values, test.users)[1]

    own = of(utilities)
    popular = of(np.broadcast_to(counts, utilities.shape))
    return {
        "auc": _estimate(bootstrap_ci(own)),
        "popularity_auc": _estimate(bootstrap_ci(popular)),
        "difference": _estimate(paired_bootstrap(own, popular)[:3]),
        "n": len(test),
    }


def purchase_auc(people: People, events: UserEvents) -> float | None:
    """AUC of P(purchase | click) on the test clicks; None if all or none are purchases."""
    starts = events.test_starts
    users = np.repeat(np.arange(len(events)), events.lengths - starts)
    items = np.concatenate([items[start:] for items, start in zip(events.items, starts, strict=True)])
    bought = np.concatenate([bought[start:] for bought, start in zip(events.purchases, starts, strict=True)])
    if bought.all() or not bought.any():
        return None
    from sklearn.metrics import roc_auc_score

    positions = np.concatenate([np.arange(start, end) for start, end in zip(starts, events.lengths, strict=True)])
    return float(roc_auc_score(bought, people.purchase_probabilities(users, items, positions)))


def _split(world: World, events: UserEvents) -> tuple[Choices, Choices, Choices]:
    return split_choices(events, world.population.categories, world.people().behavior.category_recovery)


def _estimate(values: tuple[float, float, float]) -> dict[str, Any]:
    value, low, high = values
    return {"value": value, "ci95": [low, high]}


# --- windows --------------------------------------------------------------------------------------


def real_windows(events: UserEvents) -> Windows:
    """What users with enough test clicks really took.

    A window has as many clicks as half of the users have test clicks, between 2 and `LONGEST_WINDOW`.

    Raises:
        DataError: too few users have such a window.
    """
    starts = events.test_starts
    width = int(np.clip(np.median(events.lengths - starts), 2, LONGEST_WINDOW))
    users = np.flatnonzero(events.lengths - starts >= width)
    if len(users) < MIN_WINDOWS:
        raise DataError(
            f"{len(users)} users of the world have {width} or more test clicks, the last fifth of their history; "
            f"expected at least {MIN_WINDOWS}. Use a longer log, or raise `data.temporal_test`."
        )
    cuts = [slice(starts[user], starts[user] + width) for user in users]
    breaks = [np.diff(events.sessions[user], prepend=events.sessions[user][0]) > 0 for user in users]
    return Windows(
        users=users,
        items=np.array([events.items[user][cut] for user, cut in zip(users, cuts, strict=True)]),
        purchased=np.array([events.purchases[user][cut] for user, cut in zip(users, cuts, strict=True)]),
        new_session=np.array([row[cut] for row, cut in zip(breaks, cuts, strict=True)]),
    )


def simulated_windows(people: People, events: UserEvents, real: Windows, seed: int) -> Windows:
    """What the world's people take at the same points of the same histories.

    People who leave for good before the window is full are kept: the rest of their window is filled in a new session.
    """
    users = real.users
    state = state_in_log(people, events, users, seed)
    items, purchased, new_session = [], [], []
    began = np.zeros(len(users), bool)
    for _ in range(real.items.shape[1]):
        outcome = people.browse(state)
        items.append(outcome.clicked)
        purchased.append(outcome.purchased)
        new_session.append(began)
        began = outcome.ended
        left = np.flatnonzero(state.over)
        state.over[left] = False
        state.session_steps[left] = 0
        state.session_purchases[left] = 0
    return Windows(users, np.stack(items, axis=1), np.stack(purchased, axis=1), np.stack(new_session, axis=1))


def state_in_log(people: People, events: UserEvents, users: np.ndarray, seed: int) -> State:
    """The state of users at the start of their test clicks, as the log left them."""
    state = people.reset(seed, len(users))
    state.user[:] = users
    state.recent[:] = people.num_items
    state.last_click[:] = NEVER
    for row, user in enumerate(users):
        start = events.test_starts[user]
        items = events.items[user][:start]
        days = events.days[user][:start]
        state.last_click[row, items] = days - days[-1]
        newest = items[-people.history :]
        state.recent[row, -len(newest) :] = newest
        state.taken[row] = len(items)
        rows = np.concatenate([people.population.categories[items], np.zeros((1, state.fatigue.shape[1]), np.float32)])
        times = np.append(days, days[-1])
        behavior = people.behavior
        state.fatigue[row] = fatigue_before(rows, times, behavior.category_memory, behavior.category_recovery)[-1]
        in_session = events.sessions[user][:start] == events.sessions[user][start - 1]
        if events.sessions[user][start] == events.sessions[user][start - 1]:
            state.session_steps[row] = in_session.sum()
            state.session_purchases[row] = events.purchases[user][:start][in_session].sum()
    return state


def popularity_curve(world: World, events: UserEvents, real: Windows, simulated: Windows) -> dict[str, Any]:
    """Distance of the clicks over items ordered by their popularity in the clicks that fitted the world."""
    train, _, _ = _split(world, events)
    order = np.argsort(-np.bincount(train.items, minlength=events.num_items), kind="stable")
    place = np.empty(events.num_items, np.int64)
    place[order] = np.arange(events.num_items)
    return with_interval(ks_distance, list(place[real.items]), list(place[simulated.items]), world.seed)


def run_lengths(items: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """Lengths of runs of clicks in which each shares a category with the one before, int64 [runs].

    Args:
        items: clicks in order, int64 [W].
        categories: rows of categories, [N, C].
    """
    shares = (categories[items[1:]] * categories[items[:-1]]).sum(axis=1) > 0
    starts = np.flatnonzero(np.concatenate([[True], ~shares]))
    return np.diff(np.append(starts, len(items)))


# --- sessions and returns -------------------------------------------------------------------------


def life_distances(world: World, people: People, events: UserEvents) -> dict[str, Any]:
    """Session lengths and times to return of users on whom the behavior was not fitted, beside simulated lives."""
    tested = np.flatnonzero(~fits_behavior(len(events), world.seed))
    log = sessions_of(events.subset(tested))
    lengths, gaps = simulated_lives(people, events, tested, world.seed)
    horizon = people.behavior.horizon
    real_lengths = [log.clicks[log.user == user] for user in range(len(tested))]
    real_gaps = [log.gap[(log.user == user) & (log.gap <= horizon)] for user in range(len(tested))]
    return {
        "session_length": with_interval(ks_distance, real_lengths, lengths, world.seed)
        | {"real_mean": float(log.clicks.mean()), "simulated_mean": float(np.concatenate(lengths).mean())},
        "time_to_return": with_interval(ks_distance, real_gaps, gaps, world.seed)
        | {
            "real_sessions": len(log) / len(tested),
            "simulated_sessions": float(np.mean([len(values) for values in lengths])),
        },
    }


def simulated_lives(
    people: People, events: UserEvents, users: np.ndarray, seed: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Session lengths and days between sessions of each user, from the first click to the end of the log.

    A session that the number of items or `limit` cuts off counts as it is.
    """
    state = people.reset(seed, len(users))
    state.user[:] = users
    state.recent[:] = people.num_items
    state.last_click[:] = NEVER
    state.taken[:] = 0
    days_left = np.array([events.last_day - events.days[user][0] for user in users])
    limit = min(people.num_items - 1, 4 * int(events.lengths.max()))
    lengths: list[list[int]] = [[] for _ in users]
    gaps: list[list[float]] = [[] for _ in users]
    for _ in range(limit):
        before = state.session_steps.copy()
        live = ~state.over
        outcome = people.browse(state)
        state.over &= ~(outcome.truncated & ~outcome.ended)  # a log has no limit of steps
        state.over |= state.day > days_left
        for row in np.flatnonzero(outcome.ended):
            lengths[row].append(int(before[row]) + 1)
            if outcome.returned[row] and not state.over[row]:
                gaps[row].append(float(outcome.gap[row]))
        if not live.any():
            break
    for row in np.flatnonzero(~state.over):
        lengths[row].append(int(max(1, state.session_steps[row])))
    return [np.array(row, dtype=np.int64) for row in lengths], [np.array(row) for row in gaps]


# --- the discriminator ----------------------------------------------------------------------------


def discriminate(
    world: World, events: UserEvents, data: InteractionData, real: Windows, simulated: Windows, permutations: int
) -> dict[str, Any]:
    """AUC of a classifier of real against simulated windows, with its null distribution and the log against itself."""
    vectors = item_vectors(data)
    clicks = np.concatenate([np.zeros(0, np.int64), *data.train_histories])
    popularity = np.log1p(np.bincount(clicks, minlength=data.num_items))
    of_real = window_features(events, real, vectors, popularity, world.population.categories)
    of_simulated = window_features(events, simulated, vectors, popularity, world.population.categories)
    features = np.concatenate([of_real, of_simulated])
    labels = np.repeat([1, 0], [len(of_real), len(of_simulated)])
    users = np.concatenate([real.users, simulated.users])
    null = permutation_null(features, labels, users, permutations, world.seed)
    value = discriminator_auc(features, labels, users, world.seed)
    halves = np.random.default_rng(world.seed).permutation(len(of_real)) % 2
    return {
        "auc": value,
        "null_mean": float(null.mean()),
        "null_97.5": float(np.quantile(null, 0.975)),
        "p": float((1 + (null >= value).sum()) / (1 + len(null))),
        "real_against_real": discriminator_auc(of_real, halves, real.users, world.seed),
        "windows": len(of_real),
    }


def item_vectors(data: InteractionData) -> np.ndarray:
    """Vectors of items from the training clicks of other users: SVD of positive pointwise mutual information.

    Returns:
        float64 [N, d], rows of length 1 or 0.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import svds

    histories = data.train_histories
    rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    items = np.concatenate([np.zeros(0, np.int64), *histories])
    clicks = csr_array((np.ones(len(items)), (rows, items)), shape=(len(histories), data.num_items))
    together = (clicks.T @ clicks).tocoo()
    count = np.bincount(items, minlength=data.num_items) + 1.0
    pointwise = np.log(together.data * count.sum() / (count[together.row] * count[together.col]))
    positive = csr_array((np.maximum(pointwise, 0.0), (together.row, together.col)), shape=together.shape)
    size = min(VECTOR_SIZE, data.num_items - 1)
    left, strength, _ = svds(positive, k=size, v0=np.ones(data.num_items))
    vectors = left * np.sqrt(strength)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def window_features(
    events: UserEvents, windows: Windows, vectors: np.ndarray, popularity: np.ndarray, categories: np.ndarray
) -> np.ndarray:
    """What the discriminator sees of each window, float64 [n, F]. Vectors and popularity come from other users.

    Popularity of the items, likeness to the history and to the item before, categories beside those of the history,
    purchases, and starts of sessions.
    """
    rows = []
    for user, items, purchased, new_session in zip(
        windows.users, windows.items, windows.purchased, windows.new_session, strict=True
    ):
        history = events.items[user][: events.test_starts[user]]
        likeness = vectors[items] @ vectors[history].T
        steps = (vectors[items[1:]] * vectors[items[:-1]]).sum(axis=1)
        mix = categories[items].mean(axis=0)
        nearest = np.sort(likeness, axis=1)[:, -10:]
        rows.append(
            [
                popularity[items].mean(),
                popularity[items].std(),
                popularity[items].min(),
                popularity[items].mean() - popularity[history].mean(),
                likeness.mean(),
                nearest.mean(),
                steps.mean(),
                steps.std(),
                np.abs(mix - categories[history].mean(axis=0)).sum(),
                purchased.mean(),
                new_session.sum(),
                *mix,
            ]
        )
    return np.array(rows)
