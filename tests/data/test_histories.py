"""The order of users."""

from llmrec.data.histories import natural_key


def test_digits_in_user_ids_are_compared_as_numbers():
    assert sorted(["10", "9", "u10", "u9", "1a", "1"], key=natural_key) == ["1", "1a", "9", "10", "u9", "u10"]
    assert sorted(["2" * 5000, "1" * 5000, "007", "8", "7"], key=natural_key)[:3] == ["007", "7", "8"]
