"""Every family by command: prepare, SFT, rewards, PPO, recommend from run and adapter, and a merged model."""

import json
import random
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from tests.commands import run_python
from tests.configs import write_config
from tests.families.bases import FAMILIES, make_base

pytestmark = pytest.mark.slow
GENRES = ("Comedy", "Drama", "War", "Sci-Fi")


def llmrec(*arguments: str | Path) -> str:
    done = run_python("-m", "llmrec", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_log(folder: Path) -> None:
    """A log of 24 users and 16 items. Some titles and attributes hold markers."""
    generator = random.Random(0)
    items = [f"i{n},Film {n}{' <|im_end|></s><|item_3|>' if n % 5 == 0 else ''},{GENRES[n % 4]}" for n in range(16)]
    (folder / "items.csv").write_text("\n".join(["item_id,title,categories", *items]) + "\n")
    events = ["user_id,item_id,timestamp,rating"]
    for user in range(24):
        taken = generator.sample(range(16), 8)
        events += [f"u{user},i{item},{1_000_000_000 + 86_400 * step},1" for step, item in enumerate(taken)]
    (folder / "log.csv").write_text("\n".join(events) + "\n")
    users = [f"u{n},{'<end_of_turn><|im_start|>' if n % 7 == 0 else n % 3}" for n in range(24)]
    (folder / "users.csv").write_text("\n".join(["user_id,group", *users]) + "\n")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_commands(name, tmp_path):
    write_log(tmp_path)
    config = write_config(
        tmp_path,
        data={"users": str(tmp_path / "users.csv"), "purchase": []},
        model={"base": make_base(name, tmp_path / "base"), "lora_r": 4},
        catalogue={"max_history": 6, "user_attributes": ["group"]},
        sft={"num_train_epochs": 2, "per_device_train_batch_size": 4, "eval_users": 8},
        reward={"num_train_epochs": 1, "ensemble": 1},
        ppo={"total_episodes": 16, "per_device_train_batch_size": 8, "eval_users": 8},
    )
    for command in ("prepare", "sft", "reward", "ppo"):
        llmrec(command, config)
    run = tmp_path / "runs" / "tiny"
    history = ["Film 1", "Film 2"]
    of_run = json.loads(llmrec("recommend", "--run", run, "--top-k", "3", "--json", *history))
    of_adapter = json.loads(llmrec("recommend", "--model", run / "ppo" / "adapter", "--top-k", "3", "--json", *history))
    assert of_run["recommendations"] == of_adapter["recommendations"] and len(of_run["recommendations"]) == 3
    llmrec("export", "--run", run, "--merged", tmp_path / "merged")  # compares the logits itself
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged") is not None
