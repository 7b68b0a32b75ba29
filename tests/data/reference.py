"""A plain pandas version of the prepare stage, for logs in memory: what the streamed version must equal."""

import numpy as np
import pandas as pd

from llmrec.data.histories import natural_key
from llmrec.data.splits import PARTS, seeded_hash


def reference_histories(
    events: pd.DataFrame, item_ids: list[str], seed: int, least: int, repeats: bool = False
) -> dict[str, pd.DataFrame]:
    """Rows of `item, timestamp, bought_at, part` of each user that is kept, in the order of users and time.

    Args:
        events: rows of `user_id, item_id, timestamp, click, purchase`, optional `split`.
        item_ids: the ids of the item table.
        seed: seed of the hash that orders equal times.
        least: fewest clicks of a user.
        repeats: whether clicks of one pair at different times are all kept.
    """
    pair = ["user_id", "item_id", *(["timestamp"] if repeats else [])]
    clicks = events[events["click"] | events["purchase"]].sort_values("timestamp", kind="stable")
    first = clicks.drop_duplicates(pair).reset_index(drop=True)
    bought = events[events["purchase"]].groupby(pair)["timestamp"].min()
    first["bought_at"] = bought.reindex(pd.MultiIndex.from_frame(first[pair])).to_numpy(dtype=np.float64)
    first["part"] = pd.Index(PARTS).get_indexer(pd.Index(first["split"])) if "split" in first else -1
    first["item"] = pd.Index(item_ids).get_indexer(pd.Index(first["item_id"]))
    tie = seeded_hash(seed, "ties", first["user_id"], first["item_id"])
    ordered = first.iloc[np.lexsort((tie, first["part"], first["timestamp"]))]
    users = {user: rows for user, rows in ordered.groupby("user_id") if len(rows) >= least}
    return {user: users[user] for user in sorted(users, key=natural_key)}
