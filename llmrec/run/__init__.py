"""The run directory of one experiment and its stages."""

from llmrec.run.run import (
    NOT_SET,
    STAGE_TABLE,
    STAGES,
    VERBS,
    Run,
    Stage,
    fingerprint,
    flatten,
    library_versions,
    run_all,
    run_stage,
)

__all__ = [
    "NOT_SET",
    "Run",
    "STAGES",
    "STAGE_TABLE",
    "Stage",
    "VERBS",
    "fingerprint",
    "flatten",
    "library_versions",
    "run_all",
    "run_stage",
]
