"""The shipped configs: they are valid, name the command that runs them, and leave the recipe to the defaults."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType

from llmrec.config import load_config
from llmrec.errors import ConfigError
from llmrec.sharding import check_launch

FOLDER = Path(__file__).parents[2] / "configs" / "accelerate"
NOT_EXPERIMENTS = ("ab_test_example",)  # a file of `llmrec ab-test`, with tests of its own
EXPERIMENTS = sorted(path for path in FOLDER.parent.glob("*.yaml") if path.stem not in NOT_EXPERIMENTS)
SECTIONS = {"catalogue", "model", "sft", "reward", "ppo", "evaluation"}
EXPECTED = {
    "cpu": (DistributedType.MULTI_GPU, "no"),
    "ddp": (DistributedType.MULTI_GPU, "bf16"),
    "fsdp2": (DistributedType.FSDP, "bf16"),
    "zero2": (DistributedType.DEEPSPEED, "bf16"),
    "zero3": (DistributedType.DEEPSPEED, "bf16"),
}


def test_every_accelerate_config_is_covered() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_reads_the_config(name: str) -> None:
    path = FOLDER / f"{name}.yaml"
    config = load_config_from_file(str(path))  # unknown keys are errors
    assert (config.distributed_type, config.mixed_precision) == EXPECTED[name]
    first = path.read_text().splitlines()[0]
    assert first.startswith(f"# accelerate launch --config_file configs/accelerate/{name}.yaml ")
    assert "scripts/train_" in first


def test_fsdp_is_version_2_and_saves_whole_adapters() -> None:
    config = load_config_from_file(str(FOLDER / "fsdp2.yaml")).fsdp_config
    assert config["fsdp_version"] == 2 and config["fsdp_state_dict_type"] == "FULL_STATE_DICT"


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_configs_leave_batches_and_clipping_to_the_run(stage: int) -> None:
    config = load_config_from_file(str(FOLDER / f"zero{stage}.yaml")).deepspeed_config
    assert config["zero_stage"] == stage and config["zero3_init_flag"] is False
    assert config["gradient_accumulation_steps"] == config["gradient_clipping"] == "auto"


LAUNCHERS = {
    "FSDP": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
    "ZeRO-3": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
    "ZeRO-2": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_quantized_bases_are_not_sharded(launcher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LAUNCHERS[launcher].items():
        monkeypatch.setenv(name, value)
    check_launch(quantization=None)
    if launcher == "ZeRO-2":  # it shards gradients and optimizer states only
        check_launch("nf4")
        return
    with pytest.raises(ConfigError, match=f"model.quantization is `nf4`, but {launcher} .*ddp.yaml"):
        check_launch("nf4")


@pytest.mark.parametrize("version", ["1", None])
def test_fsdp_1_is_refused(version: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.delenv("FSDP_VERSION", raising=False)
    if version is not None:
        monkeypatch.setenv("FSDP_VERSION", version)
    with pytest.raises(ConfigError, match="version 1.*fsdp2.yaml"):
        check_launch(quantization=None)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_is_a_valid_config_that_says_how_to_run_it(path: Path) -> None:
    load_config(path)
    lines = path.read_text().splitlines()
    assert f"configs/{path.name}" in lines[0] and ("llmrec " in lines[0] or "accelerate launch " in lines[0])
    assert "# yaml-language-server: $schema=schema.json" in lines


# Keys that say what to train on, how large the models are and how long they train.
DATA_AND_SIZE = {
    "name",
    "data",
    "catalogue.user_attributes",
    "model.base",
    "model.layers",
    "sft.num_train_epochs",
    "reward.ensemble",
    "reward.uncertainty_penalty",  # of an ensemble; without one it has no effect
    "ppo.total_episodes",
    "ppo.eval_users",
    "evaluation.sasrec",
}


@pytest.mark.parametrize("name", ["quickstart", "movielens"])
def test_the_recipe_is_the_default(name: str) -> None:
    """What these configs set besides data and size would be a setting that a new user's config lacks."""
    config = load_config(FOLDER.parent / f"{name}.yaml")
    given = set()
    for section in config.model_fields_set:
        value = getattr(config, section)
        given |= {f"{section}.{key}" for key in value.model_fields_set} if section in SECTIONS else {section}
    assert given <= DATA_AND_SIZE


def test_the_recipe() -> None:
    """The settings with which the quickstart's results were made."""
    config = load_config(FOLDER.parent / "quickstart.yaml")
    assert (config.sft.learning_rate, config.sft.per_device_train_batch_size, config.sft.dropout) == (1e-3, 8, 0.2)
    reward = config.reward
    assert (reward.linear, reward.popularity_weight, reward.conversion_weight) == (True, 0.0, 0.0)
    ppo = config.ppo
    assert (ppo.learning_rate, ppo.num_ppo_epochs, ppo.num_mini_batches, ppo.cliprange) == (1e-3, 4, 4, 0.3)
    assert (ppo.kl_coef, ppo.item_kl_coef, ppo.item_entropy_coef, ppo.ptx_coef) == (1.0, 0.3, 1.0, 0.0)
    assert (ppo.ema_decay, ppo.eval_steps, ppo.save_steps) == (0.9, 8, 16)


def test_the_7b_config_says_how_to_launch_it() -> None:
    lines = (FOLDER.parent / "qlora_7b.yaml").read_text().splitlines()
    for line, stage in zip(lines, ("sft", "reward", "ppo"), strict=False):
        launch = f"accelerate launch --mixed_precision bf16 --num_processes 1 scripts/train_{stage}.py"
        assert line == f"# {launch} --config configs/qlora_7b.yaml"
