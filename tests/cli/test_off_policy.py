"""The command `off-policy`: arguments. Estimates and refusals are tested in `tests/off_policy`."""

import pytest


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ([], "--target-log LOG or --run DIR"),
        (["--target-log", "b", "--run", "c"], "exactly one of them"),
        (["--target-log", "b", "--model", "ppo"], "Give --run DIR as well"),
        (["--target-log", "b", "--model", "optimum"], "'optimum' is not one of"),
    ],
)
def test_one_policy_must_be_named(llmrec, capsys, monkeypatch, arguments: list[str], shown: str) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert llmrec("off-policy", "log", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and shown in err
