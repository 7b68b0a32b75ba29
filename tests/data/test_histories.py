"""First clicks, known purchases and the order of users."""

import numpy as np
import pandas as pd

from llmrec.data.histories import known_purchases, natural_key


def test_natural_order():
    assert sorted(["10", "9", "u10", "u9", "1a", "1"], key=natural_key) == ["1", "1a", "9", "10", "u9", "u10"]


def test_a_purchase_after_the_training_part_is_not_known_in_it():
    # Two users of four clicks; training is the first two. Item 0 is bought in time, item 1 only after the cut.
    history = pd.DataFrame(
        {
            "timestamp": [1, 2, 3, 4, 1, 2, 3, 4],
            "bought_at": [2, 9, 9, np.nan, 3, np.nan, 4, 5],
        }
    )
    known = known_purchases(history, np.array([4, 4]), np.array([2, 2]))
    assert known.tolist() == [True, False, True, False, True, False, True, True]
