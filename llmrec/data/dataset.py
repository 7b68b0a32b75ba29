"""`InteractionData`, the prepared data that every later stage reads, and its files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmrec.data.purchases import bought_by
from llmrec.data.ragged import Ragged
from llmrec.errors import RunError
from llmrec.files import atomic_directory, read_json, write_json

if TYPE_CHECKING:  # pandas takes half a second, and recommending to somebody outside of the log needs no table
    import pandas as pd


def _no_rows() -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame()


@dataclass(frozen=True)
class Targets:
    """Prediction targets of one split part.

    Target m is the item `histories[users[m]][positions[m]]`. It is predicted from the items before that position.

    Attributes:
        users: user index of each target, int64 [M].
        positions: position of each target in the history of its user, int64 [M].
    """

    users: np.ndarray
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    def of_users(self, chosen: np.ndarray) -> "Targets":
        """The targets of some users; `chosen` marks them, bool [U]."""
        rows = chosen[self.users]
        return Targets(self.users[rows], self.positions[rows])


@dataclass(frozen=True)
class InteractionData:
    """A prepared event log. From here on, users and items are indices 0 to U-1 and 0 to N-1.

    A history holds a user's first click on each item in time order, or all clicks with `repeats`; a seeded hash orders
    equal timestamps. The first
    `train_lengths[u]` items are training data. At least one split holds out each of the other items. `load_data` maps
    the arrays of histories into memory, so that only what is read takes space there.

    Attributes:
        items: N rows of `item_id, title, categories (list of str), year (Int64, may be NA)` and the other columns of
            the item table.
        users: U rows of `user_id` and the attributes of the user table, as text, "" where an attribute is missing.
        facts: rows of `item (int), relation (str), tail (str), named (bool)`: facts about items beyond their own
            columns. `named` says whether the tail reads as a name; otherwise it is an opaque entity id.
        histories: item indices of each user, int64 [n_u].
        purchases: whether the user purchased each item, bool [n_u]. For training items, only purchases before the
            user's first held-out click and before the validation window of a temporal split count. `purchases_before`
            gives the purchases known at a time.
        timestamps: time of each click, seconds since 1970, int64 [n_u].
        train_lengths: number of training items of each user, int64 [U].
        targets: prediction targets by split (`temporal`, `leave_one_out`, `given`) and part (`valid`, `test`).
        exposures: logged impressions in time order, rows of `user, item, timestamp, click (bool), position (Int64, may
            be NA), propensity (float64, may be NaN), ranking (int64, equal in one list, -1 unknown)`; empty if the log
            has none.
        bought_at: time of the user's first purchase of each item, seconds since 1970, NaN without one, float64 [n_u].
            The list is empty if purchases happen with the click.
        card: the dataset card as JSON values, see `llmrec.data.card`.
        repeats: whether histories and targets hold repeated clicks, so that seen items may be recommended.
    """

    items: "pd.DataFrame"
    users: "pd.DataFrame"
    facts: "pd.DataFrame"
    histories: Sequence[np.ndarray]
    purchases: Sequence[np.ndarray]
    timestamps: Sequence[np.ndarray]
    train_lengths: np.ndarray
    targets: dict[str, dict[str, Targets]]
    exposures: "pd.DataFrame" = field(default_factory=_no_rows)
    bought_at: Sequence[np.ndarray] = field(default_factory=list)
    card: dict[str, Any] = field(default_factory=dict)
    repeats: bool = False

    @property
    def num_items(self) -> int:
        """Number N of items."""
        return len(self.items)

    @property
    def num_users(self) -> int:
        """Number U of users."""
        return len(self.users)

    @cached_property
    def train_histories(self) -> Ragged:
        """The training part of every history."""
        return Ragged.of(self.histories).first(self.train_lengths)

    def purchases_before(self, user: int, position: int) -> np.ndarray:
        """Which of a user's first items were known to be purchased when the next item was clicked.

        Args:
            user: user index.
            position: number of items. At the end of a history all purchases are known.

        Returns:
            bool [position].
        """
        if not len(self.bought_at):
            return self.purchases[user][:position]
        at_the_end = position == len(self.histories[user])
        moment = np.inf if at_the_end else self.timestamps[user][position]
        return bought_by(self.timestamps[user][:position], self.bought_at[user][:position], moment)

    def temporal_cuts(self) -> tuple[float, float]:
        """Times of the first validation and the first test target of the temporal split.

        Returns:
            seconds since 1970; infinity without such targets.
        """
        parts = self.targets.get("temporal", {})

        def first(part: str) -> float:
            return float(self._times_of(parts[part]).min()) if len(parts.get(part, ())) else np.inf

        return first("valid"), first("test")

    def selection_targets(self) -> Targets:
        """The validation targets on which models are selected and calibrated, for tests under every split.

        These are the leave-one-out validation targets before the test window of the temporal split, so that a selection
        uses no click from the time it is tested in. If there are none, they are the validation targets of the temporal
        split. Without leave-one-out they are those of the first split.
        """
        if not len(self.targets.get("leave_one_out", {}).get("valid", ())):
            return next(iter(self.targets.values()))["valid"]
        valid = self.targets["leave_one_out"]["valid"]
        _, test_start = self.temporal_cuts()
        is_before = self._times_of(valid) < test_start
        if is_before.any():
            return Targets(valid.users[is_before], valid.positions[is_before])
        return self.targets["temporal"]["valid"]

    def _times_of(self, targets: Targets) -> np.ndarray:
        """Timestamp of each target, int64 [M]."""
        return Ragged.of(self.timestamps).at(targets.users, targets.positions)

    @cached_property
    def item_index(self) -> dict[str, int]:
        """Item index by item id."""
        return {item: index for index, item in enumerate(self.items["item_id"])}

    @cached_property
    def user_index(self) -> dict[str, int]:
        """User index by user id."""
        return {user: index for index, user in enumerate(self.users["user_id"])}


# --- files --------------------------------------------------------------------------------------------


def save_data(data: InteractionData, directory: str | Path) -> None:
    """Writes Arrow and Parquet files and `card.json`; on failure nothing is written.

    Args:
        data: the data.
        directory: the run's `data/`; replaced if it exists.

    Raises:
        UserError: the disk is full or the directory is not writable.
    """
    frames = {"items": data.items, "users": data.users, "facts": data.facts, "targets": _flat_targets(data)}
    if len(data.exposures):
        frames["exposures"] = data.exposures
    histories = Ragged.of(data.histories)
    clicks = {
        "item": histories.flat(),
        "timestamp": Ragged.of(data.timestamps).flat(),
        "purchase": Ragged.of(data.purchases).flat().view(np.uint8),  # Arrow packs bits, which cannot be mapped
    }
    if len(data.bought_at):
        clicks["bought_at"] = Ragged.of(data.bought_at).flat()
    with atomic_directory(directory) as temporary:
        for name, frame in frames.items():
            frame.to_parquet(temporary / f"{name}.parquet", index=False)
        _write_arrow(temporary / "clicks.arrow", clicks)
        lengths = {"length": histories.lengths, "train_length": data.train_lengths}
        _write_arrow(temporary / "histories.arrow", lengths)
        write_json(temporary / "card.json", data.card)


def _write_arrow(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Writes columns as one batch, uncompressed, so that they can be mapped into memory."""
    import pyarrow as pa

    batch = pa.record_batch({name: pa.array(values) for name, values in columns.items()})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def _map_arrow(path: Path) -> dict[str, np.ndarray]:
    """Columns that are mapped into memory, read-only."""
    import pyarrow as pa

    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    return {name: batch[name].to_numpy() for name in batch.schema.names}


def _flat_targets(data: InteractionData) -> "pd.DataFrame":
    """All targets of all splits, one row per target."""
    import pandas as pd

    frames = [
        pd.DataFrame({"split": split, "part": part, "user": targets.users, "position": targets.positions})
        for split, parts in data.targets.items()
        for part, targets in parts.items()
    ]
    return pd.concat(frames, ignore_index=True)


def load_data(directory: str | Path) -> InteractionData:
    """Reads what the prepare stage wrote.

    Args:
        directory: the run's `data/`.

    Raises:
        RunError: the prepare stage has not finished there, its files are damaged, or an earlier version wrote them.
    """
    import pandas as pd

    directory = Path(directory)
    if not (directory / "card.json").is_file():
        raise RunError(f"{directory} holds no prepared data: run the prepare stage first.")
    if (directory / "events.parquet").is_file():
        raise RunError(
            f"{directory} was prepared by an earlier version of llmrec, which wrote events.parquet; expected "
            "clicks.arrow. Delete the run, or take another `name`, and run the prepare stage again."
        )
    try:
        names = ("items", "users", "facts", "targets")
        frames = {name: pd.read_parquet(directory / f"{name}.parquet") for name in names}
        exposures_path = directory / "exposures.parquet"
        exposures = pd.read_parquet(exposures_path) if exposures_path.is_file() else pd.DataFrame()
        clicks = _map_arrow(directory / "clicks.arrow")
        lengths = _map_arrow(directory / "histories.arrow")
        card = read_json(directory / "card.json")
    except (OSError, ValueError) as error:  # pyarrow and json raise subclasses of these
        raise RunError(f"{directory} is damaged ({error}): delete it and run the prepare stage again.") from None
    items = frames["items"]
    items["categories"] = pd.Series([list(values) for values in items["categories"]], dtype=object)
    histories = Ragged.of_lengths(clicks["item"], lengths["length"])

    def like_histories(values: np.ndarray) -> Ragged:
        return Ragged(values, histories.starts, histories.stops)

    return InteractionData(
        items=items,
        users=frames["users"],
        facts=frames["facts"],
        histories=histories,
        purchases=like_histories(clicks["purchase"].view(bool)),
        bought_at=like_histories(clicks["bought_at"]) if "bought_at" in clicks else [],
        timestamps=like_histories(clicks["timestamp"]),
        train_lengths=lengths["train_length"],
        targets=_nested_targets(frames["targets"]),
        exposures=exposures,
        card=card,
        repeats=card.get("repeats") == "keep",
    )


def _nested_targets(frame: "pd.DataFrame") -> dict[str, dict[str, Targets]]:
    """Targets by split and part, from the rows that `_flat_targets` made."""
    targets: dict[str, dict[str, Targets]] = {}
    for split in frame["split"].unique():
        rows = frame[frame["split"] == split]
        targets[split] = {
            part: Targets(
                rows["user"][rows["part"] == part].to_numpy(), rows["position"][rows["part"] == part].to_numpy()
            )
            for part in rows["part"].unique()
        }
    return targets
