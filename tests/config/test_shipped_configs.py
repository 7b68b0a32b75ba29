"""The configs that come with the project: accelerate reads them, and each says how to launch it."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType

from llmrec.config import load_config
from llmrec.config.checks import check_options
from llmrec.errors import ConfigError
from llmrec.ppo.stage import refuse_sharding

FOLDER = Path(__file__).parents[2] / "configs" / "accelerate"
EXPECTED = {
    "cpu": (DistributedType.MULTI_GPU, "no"),
    "ddp": (DistributedType.MULTI_GPU, "bf16"),
    "fsdp": (DistributedType.FSDP, "bf16"),
    "zero2": (DistributedType.DEEPSPEED, "bf16"),
}


def test_every_accelerate_config_is_covered():
    assert {path.stem for path in FOLDER.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_reads_the_config(name):
    path = FOLDER / f"{name}.yaml"
    config = load_config_from_file(str(path))  # unknown keys are errors
    assert (config.distributed_type, config.mixed_precision) == EXPECTED[name]
    first = path.read_text().splitlines()[0]
    assert first.startswith(f"# accelerate launch --config_file configs/accelerate/{name}.yaml ")
    assert "scripts/train_" in first


def test_fsdp_is_version_2_and_saves_whole_adapters():
    config = load_config_from_file(str(FOLDER / "fsdp.yaml")).fsdp_config
    assert config["fsdp_version"] == 2 and config["fsdp_state_dict_type"] == "FULL_STATE_DICT"


@pytest.mark.parametrize("name", ["FSDP", "DeepSpeed"])
def test_ppo_says_where_it_does_not_run(name, monkeypatch):
    monkeypatch.setenv(f"ACCELERATE_USE_{name.upper()}", "true")
    with pytest.raises(ConfigError, match=f"{name}.*ddp.yaml"):
        refuse_sharding()


@pytest.mark.parametrize("path", sorted(FOLDER.parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_is_a_valid_config(path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # what it names may be installed later
    check_options(load_config(path))


def test_the_7b_config_says_how_to_launch_it():
    lines = (FOLDER.parent / "qlora_7b.yaml").read_text().splitlines()
    for line, stage in zip(lines, ("sft", "reward", "ppo"), strict=False):
        launch = f"accelerate launch --mixed_precision bf16 --num_processes 1 scripts/train_{stage}.py"
        assert line == f"# {launch} --config configs/qlora_7b.yaml"
