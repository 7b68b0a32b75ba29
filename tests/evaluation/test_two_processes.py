"""Two processes that share the users measure what one process measures."""

from typing import Any

import pytest

from llmrec.distributed import own_rows
from llmrec.files import read_json
from tests.evaluation.shared_measures import main
from tests.processes import run_processes


def numbers(value: Any, path: str = "") -> dict[str, Any]:
    """All leaves of nested JSON by their path."""
    if isinstance(value, dict):
        return {leaf: one for key, part in value.items() for leaf, one in numbers(part, f"{path}.{key}").items()}
    if isinstance(value, list):
        return {leaf: one for n, part in enumerate(value) for leaf, one in numbers(part, f"{path}[{n}]").items()}
    return {path: value}


def test_shared_users_give_the_same_measurements(tiny_base, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    main(tiny_base, one)
    assert run_processes(2, main, tiny_base, two) == [0, 0]
    alone, first, second = (numbers(read_json(path)) for path in (one / "0.json", two / "0.json", two / "1.json"))
    assert first == second
    assert set(alone) == set(first) and len(alone) > 100
    for path, value in alone.items():
        expected = pytest.approx(value, abs=1e-6, rel=0) if isinstance(value, float) else value
        assert first[path] == expected, path


def test_every_row_has_one_process_and_all_have_equally_many(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    parts = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        parts.append(own_rows(7).tolist())
    assert parts == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]  # the last row again, so that nobody waits for a forward pass
    assert own_rows(0).tolist() == []
