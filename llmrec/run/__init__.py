"""The run directory of one experiment, the table of its stages, and the check that results fit the config."""

from llmrec.run.fingerprint import NOT_SET, config_fingerprint, flatten
from llmrec.run.run import Run
from llmrec.run.stages import STAGE_TABLE, STAGES, VERBS, Stage, refuse_unprotected, run_all, run_stage
from llmrec.run.versions import library_versions

__all__ = [
    "NOT_SET",
    "STAGES",
    "STAGE_TABLE",
    "VERBS",
    "Run",
    "Stage",
    "config_fingerprint",
    "flatten",
    "library_versions",
    "refuse_unprotected",
    "run_all",
    "run_stage",
]
