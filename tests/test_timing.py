"""Seconds by part of a stage."""

from itertools import count

import pytest

from llmrec import timing


@pytest.fixture
def ticks(monkeypatch):
    """A clock on which every look takes one second, and half a second of process time."""
    seconds = count()
    monkeypatch.setattr(timing, "_now", lambda: (float(now := next(seconds)), now / 2))
    timing.start_clock()
    yield
    monkeypatch.undo()
    timing.start_clock()


def test_nested_parts_add_up_to_the_whole(ticks):
    @timing.timed("inner")
    def inner() -> None:
        pass

    with timing.timed("outer"):  # looks at 1 (begin), 2 and 3 (inner), 4 (end)
        inner()
    # Seconds 0 to 1 and 4 to 5 are outside; 1 to 2 and 3 to 4 are of the outer part; 2 to 3 of the inner one.
    assert timing.spent() == {
        "other": {"seconds": 2.0, "cpu_seconds": 1.0},
        "outer": {"seconds": 2.0, "cpu_seconds": 1.0},
        "inner": {"seconds": 1.0, "cpu_seconds": 0.5},
    }


def test_a_failed_part_ends(ticks):
    with pytest.raises(ValueError, match="stop"), timing.timed("failing"):
        raise ValueError("stop")
    assert timing.spent()["failing"]["seconds"] == 1.0
    with timing.timed("next"):
        pass
    assert timing.spent()["next"]["seconds"] == 1.0


def test_a_stage_forgets_the_parts_of_the_stage_before(ticks):
    with timing.timed("before"):
        pass
    timing.start_clock()
    assert list(timing.spent()) == ["other"]
