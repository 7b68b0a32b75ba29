"""Which clicks are known to be purchases at which time."""

import numpy as np


def bought_by(timestamps: np.ndarray, bought_at: np.ndarray, moment: np.ndarray | float) -> np.ndarray:
    """Whether each click is known to be a purchase before a moment: the item was bought before it, or by the click.

    Args:
        timestamps: time of each click, int64 [E].
        bought_at: time of the first purchase of the clicked item, NaN without one, float64 [E].
        moment: time of the next event, the same for all clicks or one for each, [E].

    Returns:
        bool [E].
    """
    return (bought_at < moment) | (bought_at <= timestamps)


def known_purchases(
    timestamps: np.ndarray,
    bought_at: np.ndarray,
    lengths: np.ndarray,
    train_lengths: np.ndarray,
    cut: float = np.inf,
) -> np.ndarray:
    """Which clicks count as purchased.

    A training click counts if it is known to be a purchase before the user's first held-out click and before the cut,
    because a model that is trained on these clicks must not know later events. A held-out click counts if the item was
    ever bought.

    Args:
        timestamps: time of each click, sorted by user and time, int64 [E].
        bought_at: time of the first purchase of the clicked item, NaN without one, float64 [E].
        lengths: clicks of each user, int64 [U].
        train_lengths: training clicks of each user, int64 [U].
        cut: start of the validation window of a temporal split; infinity without one.

    Returns:
        bool [E].
    """
    starts = np.cumsum(lengths) - lengths
    has_held_out = train_lengths < lengths
    end = np.full(len(lengths), cut)
    end[has_held_out] = np.minimum(cut, timestamps[(starts + train_lengths)[has_held_out]])
    is_training = np.arange(len(timestamps)) < np.repeat(starts + train_lengths, lengths)
    return np.where(is_training, bought_by(timestamps, bought_at, np.repeat(end, lengths)), ~np.isnan(bought_at))
