"""Config files: what is read, which defaults hold, and how a mistake is reported."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from llmrec.config import Config, DataConfig, PPOConfig, dump_config, load_config, load_saved_config, parse_config
from llmrec.config.batch import BatchShare, ppo_share, sft_share, share_batch
from llmrec.config.former import FORMER_DEFAULTS, upgraded_record
from llmrec.errors import ConfigError

MINIMAL = "name: a\ndata: {format: movielens, path: x}\n"
VALUES = {"name": "a", "data": {"format": "movielens", "path": "x"}}


def _load(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "experiment.yaml"
    file.write_text(text, encoding="utf-8")
    return load_config(file)


# --- reading and writing --------------------------------------------------------------------------


def test_minimal_config_has_the_defaults(tmp_path: Path) -> None:
    config = _load(tmp_path, MINIMAL)
    assert (config.output_dir, config.seed, config.catalogue.scheme) == ("runs", 0, "atomic")


def test_a_written_config_reads_back_as_itself(tmp_path: Path) -> None:
    sections = {"sft": {"learning_rate": 1e-5}, "catalogue": {"system_prompt": "yes", "user_attributes": ["Größe"]}}
    config = parse_config(VALUES | sections | {"reward": {"text": {}, "terms": [{"column": "1e3", "weight": -1.0}]}})
    text = dump_config(config)
    assert _load(tmp_path, text) == config
    assert list(config.model_dump())[:3] == [line.partition(":")[0] for line in text.splitlines()[:3]]


def test_a_config_that_pyyaml_wrote_reads_back(tmp_path: Path) -> None:
    """Earlier versions wrote config.yaml with PyYAML, in YAML 1.1."""
    sections = {"catalogue": {"system_prompt": "on", "user_attributes": ["no", "12:30", "1e5x", "~", "0x1f"]}}
    config = parse_config(VALUES | sections | {"sft": {"learning_rate": 1e-5}})
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    assert _load(tmp_path, text) == config


@pytest.mark.parametrize("number", ["5e-4", "5.0e-4", "0.0005"])
def test_exponents_need_no_dot(tmp_path: Path, number: str) -> None:
    assert _load(tmp_path, MINIMAL + f"sft: {{learning_rate: {number}}}\n").sft.learning_rate == 0.0005


def test_words_are_not_booleans(tmp_path: Path) -> None:
    assert _load(tmp_path, MINIMAL + "catalogue: {system_prompt: yes}\n").catalogue.system_prompt == "yes"


def test_missing_file_suggests_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text(MINIMAL)
    with pytest.raises(ConfigError, match="Did you mean .*quickstart.yaml"):
        load_config(tmp_path / "quickstrat.yaml")


def test_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not readable as YAML"):
        load_config(tmp_path / "a.yaml")


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MINIMAL + "sft: {learning_rte: 1}", "unknown key `sft.learning_rte`: did you mean `learning_rate`?"),
        (MINIMAL + "zzz: 1", "unknown key `zzz`: expected one of name, output_dir"),
        ("name: a\ndata: {format: table, path: x, columns: {user: u}}", "did you mean `user_id`?"),
        (MINIMAL + "reward: {text: {pair: 9}}", "unknown key `reward.text.pair`: did you mean `pairs`?"),
        (MINIMAL + "reward: {terms: [{colum: a, weight: 1}]}", "`reward.terms[0].colum`: did you mean `column`?"),
        (MINIMAL + "reward: {penalties: {had: 2.0}}", "it is now called `reward.penalties.seen`"),
        ("name: a\ndata: {format: movielen, path: x}", "is 'movielen': Input should be 'movielens', 'recbole'"),
        ("name: a\ndata: {format: movielen, path: x}", "Did you mean `movielens`?"),
        ("name: a\ndata: {format: table, path: x, splits: [tempral]}", "`data.splits[0]` is 'tempral'"),
        ("name: a\ndata: {format: table, path: x, splits: [tempral]}", "Did you mean `temporal`?"),
        (MINIMAL + "ppo: {kl_estimator: k2}", "`ppo.kl_estimator` is 'k2': Input should be 'k1' or 'k3'."),
        (MINIMAL + "reward: {text: {loss: pair}}", "`reward.text.loss` is 'pair': Input should be 'pairwise'"),
        (MINIMAL + "sft: {learning_rate: fast}", "`sft.learning_rate` is 'fast': Input should be a valid number."),
        (MINIMAL + "sft: {learning_rate: '0.1'}", "`sft.learning_rate` is '0.1': Input should be a valid number."),
        (MINIMAL + "sft: {gradient_checkpointing: yes}", "is 'yes': Input should be a valid boolean."),
        (MINIMAL + "evaluation: {bootstrap: 1.5}", "`evaluation.bootstrap` is 1.5: Input should be a valid integer"),
        (MINIMAL + "evaluation: {ks: 10}", "`evaluation.ks` is 10: Input should be a valid list."),
        (MINIMAL + "sft: {num_train_epochs: -1}", "`sft.num_train_epochs` is -1: Input should be greater than 0."),
        (MINIMAL + "sft:", "`sft` is null: Input should be a valid dictionary"),
        ("name: 2024\ndata: {format: table, path: x}", "`name` is 2024: Input should be a valid string."),
        ("name: a b\ndata: {format: table, path: x}", "`name` is 'a b': String should match pattern"),
        ("name: a b\ndata: {format: table, path: x}", "letters, digits"),
        ("name: a", "the key `data` is missing. Event log"),
        ("name: a\ndata: {path: x}", "the key `data.format` is missing. Format of the event log."),
        (MINIMAL + "reward: {parts: [{callable: 'a:b'}]}", "the key `reward.parts[0].weight` is missing"),
        ("name: a\ndata: {format: table, path: x, rating_range: [1]}", "the key `data.rating_range[1]` is missing."),
        ("- a", "expected keys and values"),
        ("", "found nothing"),
        (MINIMAL + "name: b", 'is not readable as YAML: line 3: found duplicate key "name".'),
        (MINIMAL + "sft: [", "is not readable as YAML: line 3: expected the node content"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text)
    assert says in str(caught.value)
    assert "experiment.yaml" in str(caught.value)


def test_every_mistake_is_listed_once(tmp_path: Path) -> None:
    """Defaults that depend on the wrong `ppo.advantage` are no mistakes of their own."""
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, MINIMAL + "sed: 1\nsft: {learning_rate: x}\nppo: {advantage: exct}\n")
    assert len(str(caught.value).splitlines()) == 3


# --- rules for several keys -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"reward": {"parts": [{"callable": "brevity", "weight": 1}]}}, "is 'brevity': expected `module:function`"),
        ({"reward": {"parts": 2 * [{"callable": "a:b", "weight": 1}]}}, "reward.parts names `a:b` twice"),
        ({"reward": {"terms": 2 * [{"column": "a", "weight": 1}]}}, "reward.terms names `a` twice"),
        ({"reward": {"penalties": {"min_words": 9, "max_words": 8}}}, "min_words is 9, more than max_words (8)"),
        ({"catalogue": {"scheme": "title"}, "ppo": {"advantage": "exact"}}, "set ppo.advantage to `gae`"),
        ({"ppo": {"advantage": "gae", "item_entropy_coef": 1.0}}, "an entropy bonus, found `gae`"),
        ({"ppo": {"advantage": "rloo"}}, "set it to 2 or more"),
        ({"ppo": {"num_generations": 5}}, "ppo.num_generations is 5, which does not divide"),
        ({"ppo": {"num_mini_batches": 3}}, "ppo.batch_size is 32, expected a multiple of"),
        ({"ppo": {"batch_size": 12, "num_generations": 4, "num_mini_batches": 2}}, "num_generations (4) times"),
        ({"data": {"format": "table", "path": "x", "splits": ["given", "temporal"]}}, "expected `given` alone"),
        ({"data": {"format": "table", "path": "x", "min_user_events": 2}}, "leave_one_out needs 3 clicks a user"),
        ({"hub": {"repo": "a/b/c"}}, "`hub.repo` is 'a/b/c': expected a repository name, OWNER/NAME."),
        ({"hub": {"repo": "a/b", "revision": "0" * 40}}, "expected the name of a branch"),
        ({"hub": {"repo": "a/b", "titles": False}, "catalogue": {"scheme": "title"}}, "hub.titles is false"),
    ],
)
def test_combinations_that_cannot_work(sections: dict, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(VALUES | sections)
    assert says in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_classes_check_the_same_rules() -> None:
    with pytest.raises(ValidationError, match="expected a multiple"):
        PPOConfig(num_mini_batches=3)
    with pytest.raises(ValidationError, match="set ppo.advantage to `gae`"):
        Config.model_validate({**VALUES, "catalogue": {"scheme": "title"}, "ppo": PPOConfig()})


# --- defaults that depend on other keys -----------------------------------------------------------


def test_items_of_several_tokens_are_sampled() -> None:
    for ppo in ({}, {"total_episodes": 8}):
        config = parse_config(VALUES | {"catalogue": {"scheme": "title"}, "ppo": ppo})
        assert config.ppo.advantage == "gae" and config.ppo.item_entropy_coef == 0


@pytest.mark.parametrize("advantage", ["gae", "rloo", "group"])
def test_sampled_advantages_have_smaller_steps_and_no_entropy_bonus(advantage: str) -> None:
    ppo = parse_config(VALUES | {"ppo": {"advantage": advantage, "num_generations": 2}}).ppo
    assert (ppo.learning_rate, ppo.kl_coef, ppo.item_entropy_coef) == (1e-4, 0.1, 0.0)
    exact = parse_config(VALUES).ppo
    assert (exact.advantage, exact.learning_rate, exact.kl_coef, exact.item_entropy_coef) == ("exact", 1e-3, 1.0, 1.0)


@pytest.mark.parametrize(("passes", "mini_batches"), [(1, 1), (2, 2), (3, 1), (4, 4), (6, 2), (8, 4)])
def test_mini_batches_fit_the_batch(passes: int, mini_batches: int) -> None:
    assert PPOConfig(batch_size=8 * passes).num_mini_batches == mini_batches


@pytest.mark.parametrize(
    ("data", "linear"),
    [
        ({"format": "open_bandit"}, False),
        ({"format": "table", "columns": {"propensity": "p"}}, False),
        ({"format": "table", "columns": {"rating": "r"}}, True),
        ({"format": "movielens"}, True),
    ],
)
def test_the_linear_model_is_for_logs_without_exposures(data: dict, linear: bool) -> None:
    values = {"name": "a", "data": data | {"path": "x"}}
    assert parse_config(values).reward.linear is linear
    assert parse_config(values | {"reward": {"linear": not linear}}).reward.linear is not linear
    assert Config(name="a", data=DataConfig(**values["data"])).reward.linear is linear


# --- configs of earlier versions ------------------------------------------------------------------


def test_a_key_that_a_saved_config_lacks_has_its_former_value(tmp_path: Path) -> None:
    values = parse_config(VALUES).model_dump(mode="json")
    del values["ppo"]["ema_decay"], values["reward"]["linear"], values["sft"]["optim"]
    values["reward"]["penalties"]["had"] = values["reward"]["penalties"].pop("seen") + 1
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(values))
    config = load_saved_config(file)
    assert (config.ppo.ema_decay, config.reward.linear, config.sft.optim) == (0.0, False, "adamw_torch_fused")
    assert config.reward.penalties.seen == 6.0
    with pytest.raises(ConfigError, match="unknown key `reward.penalties.had`"):  # not from a run directory
        load_config(file)


def test_a_saved_config_with_accumulation_has_the_batch_of_one_process(tmp_path: Path) -> None:
    values = parse_config(VALUES).model_dump(mode="json")
    for section in ("sft", "ppo"):
        del values[section]["batch_size"]
        values[section] |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 6, "num_mini_batches": 2}
    del values["sft"]["num_mini_batches"]
    values["reward"]["per_device_train_batch_size"] = 2 * values["reward"].pop("batch_size")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(values))
    config = load_saved_config(file)
    assert (config.sft.batch_size, config.ppo.batch_size, config.reward.batch_size) == (24, 24, 128)
    with pytest.raises(ConfigError) as caught:  # not from a run directory
        load_config(file)
    assert "Set `ppo.batch_size`" in str(caught.value) and "now called `reward.batch_size`" in str(caught.value)
    record = {"ppo.per_device_train_batch_size": 4, "ppo.gradient_accumulation_steps": 6, "seed": 1}
    assert upgraded_record(record) == {"ppo.per_device_train_batch_size": 4, "ppo.batch_size": 24, "seed": 1}


def test_columns_that_were_null_before_there_was_drop_keep_their_names(tmp_path: Path) -> None:
    """They were read under llmrec's names then. Today null leaves a column unread."""
    columns = {"event_type": None, "rating": "stars", "position": None}
    data = {"format": "table", "path": "x", "columns": columns}
    file = tmp_path / "config.yaml"
    for drop, expected in (({}, ("event_type", "position")), ({"drop": []}, (None, None))):
        file.write_text(yaml.safe_dump({"name": "a", "data": data | drop}), encoding="utf-8")
        read = load_saved_config(file).data.columns
        assert (read.event_type, read.position) == expected and read.rating == "stars"
        record = {f"data.columns.{name}": value for name, value in columns.items()}
        record = upgraded_record(record | {f"data.{key}": value for key, value in drop.items()})
        assert (record["data.columns.event_type"], record["data.columns.position"]) == expected


@pytest.mark.parametrize(
    ("rows", "processes", "most", "together", "forward", "passes"),
    [
        (8, 1, 8, 1, 8, 1),
        (8, 2, 8, 1, 4, 1),
        (8, 8, 8, 1, 1, 1),
        (32, 2, 8, 1, 8, 2),
        (12, 1, 8, 1, 6, 2),  # two equal passes
        (7, 1, 4, 1, 1, 7),
        (24, 2, 8, 4, 4, 3),  # three prompts of four generations a process; two of them would leave one
    ],
)
def test_processes_share_a_step_in_few_passes(
    rows: int, processes: int, most: int, together: int, forward: int, passes: int
) -> None:
    assert share_batch("sft.batch_size", rows, processes, most, together) == BatchShare(forward, passes)
    assert processes * forward * passes == rows


def test_processes_that_cannot_share_a_step_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    config = parse_config(VALUES | {"ppo": {"num_generations": 2}})
    with pytest.raises(ConfigError, match="^`sft.batch_size`: 3 processes .* processes that can: 1, 2, 4, 8. Launch"):
        sft_share(config.sft)
    with pytest.raises(ConfigError, match="^`ppo.batch_size`: 3 processes .*the 4 prompts .* that can: 1, 2, 4. "):
        ppo_share(config.ppo)


def test_former_defaults_differ_from_today_s() -> None:
    today = parse_config(VALUES)
    for key, former in FORMER_DEFAULTS.items():
        section, name = key.split(".")
        assert getattr(getattr(today, section), name) != former, key
