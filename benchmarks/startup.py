"""What `llmrec recommend` for one person costs from start to end, beside the imports that it cannot avoid.

    python benchmarks/startup.py --run runs/quickstart --rounds 3
    python benchmarks/startup.py --run runs/quickstart --against ../llmrec-before    # another checkout, paired

Each contender is a process of its own. They take turns in every round, so a busy machine slows all of them. CPU seconds
are those of the process and its threads (`getrusage`). They depend less on the load of the machine than seconds do.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from llmrec.files import read_json
from llmrec.run import Run

ROOT = Path(__file__).parents[1]
IMPORTS = {
    "import torch": "import torch",
    "import torch, transformers, peft": "import torch, peft; from transformers import AutoTokenizer, LlamaForCausalLM",
}


def spent(command: list[str], checkout: Path) -> tuple[float, float]:
    """CPU seconds and seconds of a Python process that imports llmrec from a checkout.

    Args:
        command: the arguments of Python.
        checkout: the folder that holds the package.
    """
    variables = os.environ | {"PYTHONPATH": str(checkout.resolve())}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    # Python puts its working directory before PYTHONPATH
    subprocess.run([sys.executable, *command], cwd=checkout, env=variables, stdout=subprocess.DEVNULL, check=True)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds


def contenders(run: Path, against: Path | None) -> dict[str, tuple[list[str], Path]]:
    """Name of each contender to its command and checkout."""
    items = read_json(Run.open(run).adapter() / "item_vocabulary.json")["items"]
    liked = [argument for item in items[:2] for argument in ("--history-ids", item["item_id"])]
    command = ["-m", "llmrec", "recommend", "--run", str(run.resolve()), "--top-k", "5", *liked]
    found = {name: (["-c", code], ROOT) for name, code in IMPORTS.items()} | {"recommend": (command, ROOT)}
    return found if against is None else found | {"recommend, other checkout": (command, against)}


def main() -> None:
    """Measures all contenders in turn and prints medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="Run directory with a trained adapter.")
    parser.add_argument("--against", type=Path, help="Another checkout of llmrec to compare with.")
    parser.add_argument("--rounds", type=int, default=3, help="Measured rounds, after one that fills the disk cache.")
    parser.add_argument("--json", action="store_true", help="Print JSON on stdout.")
    arguments = parser.parse_args()
    commands = contenders(arguments.run, arguments.against)
    rounds = [[spent(*of_one) for of_one in commands.values()] for _ in range(arguments.rounds + 1)][1:]
    numbers = np.array(rounds)  # [rounds, contenders, 2]
    ratios = numbers[:, :, 0] / numbers[:, list(commands).index("recommend"), 0][:, None]
    rows = [
        {"name": name, "cpu_s": cpu, "seconds": seconds, "cpu_over_recommend": ratio}
        for name, (cpu, seconds), ratio in zip(
            commands, np.median(numbers, 0).tolist(), np.median(ratios, 0).tolist(), strict=True
        )
    ]
    if arguments.json:
        print(json.dumps({"rounds": arguments.rounds, "rows": rows}))
        return
    print(f"{'':34}{'CPU s':>8}{'s':>8}{'CPU / recommend':>18}")
    for row in rows:
        print(f"{row['name']:34}{row['cpu_s']:8.2f}{row['seconds']:8.2f}{row['cpu_over_recommend']:18.2f}")


if __name__ == "__main__":
    main()
