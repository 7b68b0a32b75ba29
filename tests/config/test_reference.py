"""The reference of config keys: JSON schema, explanations and the markdown page."""

import json
from pathlib import Path

import pytest

from llmrec.config import Config, default_of, explain, json_schema, parse_config, reference_markdown
from llmrec.config.section import fields
from llmrec.errors import ConfigError

SCHEMA = Path(__file__).parents[2] / "configs" / "schema.json"
KEYS = dict(fields(Config))


@pytest.mark.parametrize("key", KEYS)
def test_every_key_has_a_meaning_that_stands_alone(key: str) -> None:
    meaning = KEYS[key].description
    assert meaning and meaning[0].isupper() and meaning.endswith(".") and not meaning.startswith("Of ")


def test_the_committed_schema_is_current() -> None:
    hint = "write it again: llmrec config --schema > configs/schema.json"
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == json_schema(), hint


def test_the_schema_has_the_keys_of_sections() -> None:
    schema = json_schema()
    assert schema["required"] == ["name", "data"] and schema["additionalProperties"] is False
    assert schema["$defs"]["PPOConfig"]["properties"]["lam"]["description"] == "Lambda of GAE."


def test_defaults_by_dotted_key() -> None:
    assert default_of("reward.text.pairs") == 2000
    assert default_of("reward.text") is None and default_of("data.path") is None
    assert default_of("evaluation.sasrec.dropout") == [0.2, 0.5]
    assert default_of("ppo.item_entropy_coef") == 1.0 and default_of("ppo.num_mini_batches") == 4


def test_defaults_are_those_of_a_minimal_config() -> None:
    values = parse_config({"name": "a", "data": {"format": "table", "path": "x"}})
    for section in ("sft", "reward", "ppo", "catalogue", "model", "evaluation"):
        for name, value in getattr(values, section):
            assert default_of(f"{section}.{name}") == value


@pytest.mark.parametrize(
    ("key", "lines"),
    [
        ("sft.dropout", ["type:     number (at least 0, below 1)", "default:  0.2", "meaning:  Dropout probability"]),
        ("data.format", ["`minionerec` or `sequences`", "default:  (required)"]),
        ("data.rating_range", ["[number, number] or null", "default:  null"]),
        ("evaluation.ks", ["list of integer (at least 1), not empty", "[1, 5, 10, 20]"]),
        ("reward.terms", ["list of sections", "default:  []", "keys:     reward.terms.column, reward.terms.weight"]),
        ("hub", ["section or null", "hub.repo"]),
        ("ppo", ["default:  defaults of its keys"]),
    ],
)
def test_explanation_of_a_key(key: str, lines: list[str]) -> None:
    text = explain(key)
    assert text.startswith(f"{key}\n") and all(line in text for line in lines), text


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("sft.learning_rte", "Did you mean `sft.learning_rate`?"),
        ("ema_decay", "Did you mean `ppo.ema_decay`?"),
        ("popularity_weight", "Did you mean `reward.popularity_weight`?"),
        ("q", "`llmrec config` lists all keys."),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        explain(key)
    assert str(caught.value) == f"There is no config key `{key}`. {hint}"


def test_the_page_has_a_row_for_every_key() -> None:
    page = reference_markdown()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) == len(KEYS)
    assert all(row.replace("\\|", "").count("|") == 5 for row in rows)
    assert "## `reward.penalties`" in page and "`[0.2, 0.5]`" in page
