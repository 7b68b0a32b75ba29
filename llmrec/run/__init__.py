"""The run directory of one experiment, the table of its stages, and the check that results fit the config."""

from llmrec.run.fingerprint import NOT_SET, config_fingerprint, flatten
from llmrec.run.run import Run
from llmrec.run.stages import STAGE_TABLE, STAGES, VERBS, Stage, run_all, run_stage
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
    "run_all",
    "run_stage",
]
