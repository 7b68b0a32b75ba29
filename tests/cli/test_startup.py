"""What the commands import: libraries that only training or reports need would slow down every start."""

import json
import os
import subprocess
import sys
from pathlib import Path

from llmrec.policy.model import RecPolicy
from tests.conftest import make_config

ROOT = Path(__file__).parents[2]
OF_OTHER_COMMANDS = {"trl", "datasets", "sklearn", "matplotlib"}


def modules_after(code: str) -> set[str]:
    """Names of all modules that a fresh process has imported after some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, json\n{code}\nprint(json.dumps(list(sys.modules)))"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_command_line_imports_no_library_of_numbers():
    assert not modules_after("import llmrec.cli.app") & {"torch", "transformers", "pandas", *OF_OTHER_COMMANDS}


def test_recommending_imports_neither_training_nor_tables_nor_a_compiler(tiny_base, data, tmp_path):
    RecPolicy.create(make_config(tiny_base), data).save_pretrained(tmp_path / "adapter")
    command = ["llmrec", "recommend", "--model", str(tmp_path / "adapter"), "--history-ids", "i1"]
    code = f"from llmrec.cli.app import main\nsys.argv = {command}\ntry:\n    main()\nexcept SystemExit as stop:\n"
    imported = modules_after(f"{code}    assert not stop.code, stop.code")
    assert "transformers.models.llama.modeling_llama" in imported
    assert not imported & {*OF_OTHER_COMMANDS, "pandas", "torch._inductor.compile_fx"}
