"""Mistakes in a config are named, with what is allowed or nearest."""

from pathlib import Path

import pytest

from llmrec.config import Config, default_of, load_config
from llmrec.config.checks import check_options
from llmrec.errors import ConfigError

MINIMAL = "name: a\ndata: {format: movielens, path: x}\n"


def _load(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "experiment.yaml"
    file.write_text(text, encoding="utf-8")
    return load_config(file)


def test_minimal_config_has_the_defaults(tmp_path: Path) -> None:
    config = _load(tmp_path, MINIMAL)
    assert (config.output_dir, config.seed, config.catalogue.scheme) == ("runs", 0, "atomic")


def test_resolved_config_reads_back_as_itself(tmp_path: Path) -> None:
    import yaml

    config = _load(tmp_path, MINIMAL + "sft: {learning_rate: 1e-5}\n")
    assert _load(tmp_path, yaml.safe_dump(config.model_dump(mode="json"))) == config


@pytest.mark.parametrize("number", ["5e-4", "5.0e-4", "0.0005"])
def test_exponents_need_no_dot(tmp_path: Path, number: str) -> None:
    assert _load(tmp_path, MINIMAL + f"sft: {{learning_rate: {number}}}\n").sft.learning_rate == 0.0005


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MINIMAL + "sft: {learning_rte: 1}", "unknown key `sft.learning_rte`: did you mean `learning_rate`?"),
        (MINIMAL + "zzz: 1", "unknown key `zzz`: known keys here: `name`, `output_dir`"),
        ("name: a\ndata: {format: table, path: x, columns: {user: u}}", "did you mean `user_id`?"),
        ("name: a\ndata: {format: movielen, path: x}", "is 'movielen': did you mean `movielens`? (allowed: "),
        (
            "name: a\ndata: {format: table, path: x, splits: [tempral]}",
            "`data.splits[0]` is 'tempral': did you mean",
        ),
        (MINIMAL + "ppo: {kl_estimator: k2}", "`ppo.kl_estimator` is 'k2': allowed: `k1`, `k3`."),
        (MINIMAL + "sft: {learning_rate: fast}", "`sft.learning_rate` is 'fast': a number was expected."),
        (MINIMAL + "sft: {learning_rate: '0.1'}", "`sft.learning_rate` is '0.1': a number was expected."),
        (MINIMAL + "evaluation: {bootstrap: 1.5}", "a whole number was expected"),
        (MINIMAL + "evaluation: {ks: 10}", "`evaluation.ks` is 10: a list was expected"),
        (
            MINIMAL + "sft: {num_train_epochs: -1}",
            "`sft.num_train_epochs` is -1: input should be greater than 0.",
        ),
        (MINIMAL + "reward: {text: {pair: 9}}", "unknown key `reward.text.pair`: did you mean `pairs`?"),
        (MINIMAL + "reward: {text: {loss: pair}}", "`reward.text.loss` is 'pair': did you mean `pairwise`?"),
        (MINIMAL + "reward: {terms: [{colum: a, weight: 1}]}", "`reward.terms[0].colum`: did you mean `column`?"),
        (MINIMAL + "reward: {parts: [{callable: 'a:b'}]}", "the key `reward.parts[0].weight` is missing"),
        (MINIMAL + "sft:", "`sft` is empty: keys and values were expected"),
        ("name: 2024\ndata: {format: table, path: x}", "`name` is 2024: text was expected"),
        ("name: a b\ndata: {format: table, path: x}", "`name` is 'a b': letters, digits"),
        ("name: a", "the key `data` is missing: a section that has at least `format`, `path`."),
        ("name: a\ndata: {path: x}", "the key `data.format` is missing: one of `movielens`"),
        (
            "name: a\ndata: {format: table, path: x, rating_range: [1]}",
            "`data.rating_range` has too few values.",
        ),
        ("- a", "expected keys and values"),
        ("", "found nothing"),
        (MINIMAL + "name: b", "`name` is given twice"),
        (MINIMAL + "sft: [", "is not readable as YAML"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text)
    assert says in str(caught.value)
    assert "experiment.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        ("{parts: [{callable: brevity, weight: 1}]}", "`brevity` does not name a function; expected `module:function`"),
        ("{parts: [{callable: 'a:b', weight: 1}, {callable: 'a:b', weight: 2}]}", "reward.parts names `a:b` twice"),
        ("{terms: [{column: a, weight: 1}, {column: a, weight: 2}]}", "reward.terms names `a` twice"),
        ("{penalties: {min_words: 9, max_words: 8}}", "reward.penalties.min_words is 9, more than max_words (8)"),
    ],
)
def test_parts_of_the_reward_that_cannot_work(tmp_path: Path, reward: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_options(_load(tmp_path, MINIMAL + f"reward: {reward}\n"))
    assert says in str(caught.value)


@pytest.mark.parametrize("section", ["sft", "ppo"])
def test_an_optimiser_that_is_not_installed(tmp_path: Path, section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _load(tmp_path, MINIMAL + f"{section}: {{optim: adamw_bnb_8bit}}\n")
    monkeypatch.setattr("llmrec.config.checks.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=f"{section}.optim is `adamw_bnb_8bit`.*pip install"):
        check_options(config)


def test_defaults_by_dotted_key() -> None:
    assert default_of("reward.text.pairs") == 2000
    assert default_of("reward.text") is None and default_of("data.path") is None
    assert default_of("evaluation.sasrec.dropout") == [0.2, 0.5]


def test_every_mistake_is_listed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, MINIMAL + "sed: 1\nsft: {learning_rate: x}\n")
    assert len(str(caught.value).splitlines()) == 2


def test_missing_file_suggests_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text(MINIMAL)
    with pytest.raises(ConfigError, match="Did you mean .*quickstart.yaml"):
        load_config(tmp_path / "quickstrat.yaml")


def test_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not readable as YAML"):
        load_config(tmp_path / "a.yaml")
