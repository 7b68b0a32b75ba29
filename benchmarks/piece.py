"""One stage of a run in a process of its own, for the benchmarks: what it took, and how well it ranks."""

import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, its own package is not on the path

from llmrec.cli.process import use_huge_pages
from llmrec.run import Run, run_stage


def run_piece(run: Run, stage: str, rank: bool = False) -> dict:
    """Runs a stage in a fresh process.

    Args:
        run: of which all that the stage needs has finished.
        stage: out of `llmrec.run.STAGES`.
        rank: afterwards, measure its adapter.

    Returns:
        `peak`, bytes of the stage's resident set at most (VmHWM, Linux), `seconds`, and with `rank` `ndcg@10`.
    """
    command = [sys.executable, __file__, str(run.directory), stage, *(["rank"] if rank else [])]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def validation_ndcg(run: Run, stage: str) -> float:
    """NDCG@10 of a stage's adapter on the validation targets that models are chosen on."""
    from llmrec.data.dataset import load_data
    from llmrec.data.decision import Decisions
    from llmrec.policy.model import RecPolicy
    from llmrec.selection.validation import mean_policy_ndcg

    data = load_data(run.path("data"))
    decisions = Decisions.from_targets(data, data.selection_targets(), run.config.catalogue)
    return mean_policy_ndcg(RecPolicy.from_pretrained(run.path(stage, "adapter")), decisions)


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    directory, stage, *more = sys.argv[1:]
    use_huge_pages()  # as the command does
    run = Run.open(directory)
    run_stage(run, stage)
    result = {"peak": _peak_bytes(), "seconds": run.record(stage)["seconds"]}
    if more:
        result["ndcg@10"] = validation_ndcg(run, stage)
    print(json.dumps(result))
