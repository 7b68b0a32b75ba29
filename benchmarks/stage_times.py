"""Where the time of a run goes: seconds and process time of each stage and part.

    python benchmarks/stage_times.py configs/quickstart.yaml

Runs the stages that have not finished (see `llmrec run`) and prints the parts, of which small ones are added up. On a
machine with other work compare process time, which still grows with contention for caches and memory.
"""

import argparse
import sys
from pathlib import Path

from llmrec.config import load_config
from llmrec.errors import UserError
from llmrec.evaluation.report import Report
from llmrec.report.tables import Table, times_table
from llmrec.run import Run, run_all


def markdown(table: Table) -> str:
    """A table as Markdown."""
    rows = [[table.corner, *table.columns], ["---", *["---:"] * len(table.columns)]]
    rows += [[row.heading, *(cell.text for cell in row.cells)] for row in table.rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def main() -> None:
    """Finishes the run and prints its times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="YAML config or run directory.")
    path = parser.parse_args().config
    run = Run.open(path) if path.is_dir() else Run.create(load_config(path))
    run_all(run, say=lambda line: print(line, file=sys.stderr, flush=True))
    report = Report.load(run.report_path)
    if not report.parts:
        raise UserError(f"{run.report_path} was written by a version without times of parts: evaluate the run again.")
    environment = report.environment
    print(f"{run.directory}: {'' if environment is None else f'{environment.machine}, {environment.threads} threads'}")
    print(markdown(times_table(report.parts)))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
