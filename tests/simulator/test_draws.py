"""Random numbers as functions of seed, life, step and purpose."""

import numpy as np
from scipy import stats

from llmrec.simulator.draws import Purpose, keys, uniforms

LIVES = np.arange(20_000)
ZEROS = np.zeros(len(LIVES), np.int64)


def test_they_depend_on_nothing_else() -> None:
    together = uniforms(keys(3, LIVES, ZEROS), Purpose.CHOICE)
    backwards = uniforms(keys(3, LIVES[::-1], ZEROS), Purpose.CHOICE)[::-1]
    alone = uniforms(keys(3, np.array([17]), np.array([0])), Purpose.CHOICE)
    assert (together == backwards).all()
    assert together[17] == alone[0]


def test_they_are_uniform_and_independent() -> None:
    one = uniforms(keys(0, LIVES, ZEROS), Purpose.CHOICE)
    assert one.min() >= 0.0 and one.max() < 1.0
    others = {
        "purpose": uniforms(keys(0, LIVES, ZEROS), Purpose.END),
        "step": uniforms(keys(0, LIVES, ZEROS + 1), Purpose.CHOICE),
        "seed": uniforms(keys(1, LIVES, ZEROS), Purpose.CHOICE),
        "life": np.roll(one, 1),
    }
    assert stats.kstest(one, "uniform").pvalue > 1e-3
    for name, other in others.items():
        # 4.5 standard errors of a correlation that is 0
        assert abs(np.corrcoef(one, other)[0, 1]) < 4.5 / np.sqrt(len(one)), name
        assert (one != other).all(), name
