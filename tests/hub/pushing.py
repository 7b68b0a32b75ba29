"""What the tests of `llmrec.hub` share: the tiny run that they push, and commands in processes of their own."""

import os
import subprocess
from pathlib import Path
from typing import Any

from llmrec.config import HubConfig
from llmrec.files import read_json, write_json
from llmrec.hub.bundle import build_folder
from llmrec.run import Run
from tests import commands

ROOT = Path(__file__).parents[2]
TOKEN = "hf_secretsecret"
NAME = "alice/tiny"
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
BUNDLED_BASE = "bundled:smollm2-135m-instruct"

DOWNLOAD = "import sys, huggingface_hub as h; h.snapshot_download('alice/tiny', local_dir=sys.argv[1])"


def set_base(run: Run, base: str, base_model: str | None = None) -> None:
    """Writes another base model into the adapters of a run, with 8 of its layers.

    Args:
        run: the run.
        base: base model as the config names it.
        base_model: its hub id or absolute directory; None if that is the same.
    """
    for stage in ("sft", "ppo"):
        file = run.path(stage, "adapter", "llmrec.json")
        about = read_json(file)
        model = about["model"] | {"base": base, "layers": 8}
        write_json(file, about | {"base_model": base_model or base, "model": model})


def weights_of(run: Run, stage: str) -> bytes:
    """The weights of an adapter."""
    return run.path(stage, "adapter", "adapter_model.safetensors").read_bytes()


def build(run: Run, folder: Path, ask_hub: bool = False, say: Any = lambda line: None, **hub: Any) -> Path:
    """Builds the folder that a push of the PPO adapter uploads."""
    folder.mkdir(exist_ok=True)
    build_folder(run, HubConfig(repo=NAME, **hub), "ppo", folder, ask_hub=ask_hub, say=say)
    return folder


def run_python(code: str, hub_url: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a process of its own, because huggingface_hub reads HF_ENDPOINT when it is imported."""
    variables = {
        **os.environ,
        "HF_ENDPOINT": hub_url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    return commands.run_python("-c", code, *arguments, environment=variables)


def llmrec_push(run: Run, hub_url: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `llmrec push` in a process of its own."""
    code = "from llmrec.cli.app import main; main()"
    return run_python(code, hub_url, "push", "--run", str(run.directory), *arguments, **environment)
