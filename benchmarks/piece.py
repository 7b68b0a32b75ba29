"""Runs one stage in a process of its own and measures its memory, its time and the accuracy of its adapter."""

import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script has only its own folder on the path

from benchmarks.resident_memory import peak_bytes
from llmrec.cli.process import use_huge_pages
from llmrec.run import Run, run_stage


def run_piece(run: Run, stage: str, rank: bool = False) -> dict[str, float]:
    """Runs a stage in a fresh process.

    Args:
        run: a run in which all stages that this one requires have finished.
        stage: one of `llmrec.run.STAGES`.
        rank: whether to measure the adapter of the stage afterwards.

    Returns:
        `peak`, the peak resident memory in bytes (VmHWM, Linux), `seconds`, and with `rank` also `ndcg@10`.
    """
    command = [sys.executable, __file__, str(run.directory), stage, *(["rank"] if rank else [])]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def validation_ndcg(run: Run, stage: str) -> float:
    """NDCG@10 of the adapter of a stage on the validation targets."""
    from llmrec.data.dataset import load_data
    from llmrec.data.decision import Decisions
    from llmrec.policy.model import RecPolicy
    from llmrec.selection.validation import mean_policy_ndcg

    data = load_data(run.path("data"))
    decisions = Decisions.from_targets(data, data.selection_targets(), run.config.catalogue)
    return mean_policy_ndcg(RecPolicy.from_pretrained(run.path(stage, "adapter")), decisions)


if __name__ == "__main__":
    directory, stage, *more = sys.argv[1:]
    use_huge_pages()  # as the command `llmrec` does
    run = Run.open(directory)
    run_stage(run, stage)
    result = {"peak": peak_bytes(), "seconds": run.record(stage)["seconds"]}
    if more:
        result["ndcg@10"] = validation_ndcg(run, stage)
    print(json.dumps(result))
