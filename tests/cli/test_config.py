"""`llmrec config`: lists keys, explains one and prints the JSON schema."""

import json

import pytest
from typer.testing import CliRunner

from llmrec.cli.app import app
from llmrec.config import json_schema
from llmrec.errors import UserError


def config(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["config", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


def test_all_keys_are_listed_with_their_defaults() -> None:
    lines = config().splitlines()
    assert [line.split() for line in lines[:2]] == [["name", "(required)"], ["output_dir", '"runs"']]
    assert ["ppo.kl_coef", "1.0"] in [line.split() for line in lines]


def test_one_key_is_explained() -> None:
    assert "meaning:  Clip range of the probability ratio." in config("--explain", "ppo.cliprange")


def test_the_schema_is_json() -> None:
    assert json.loads(config("--schema")) == json_schema()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--explain", "ppo.cliprang"], "Did you mean `ppo.cliprange`?"),
        (["--explain", "ppo.cliprange", "--schema"], "--explain and --schema were both given."),
    ],
)
def test_mistakes_are_user_errors(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        config(*arguments)
    assert caught.value.exit_code == 2
