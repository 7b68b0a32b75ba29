"""`llmrec prepare --check`: what an unknown log is, and a config that reads it.

`log` puts a check together. `files` reads the first lines, `known` recognizes data sets by their files. `roles` finds
the columns, by their `names` and their `values`; `columns` describes them. `neighbors` reads the tables beside the log,
and `tables` chooses among them. `rules` finds the rules for clicks and purchases.
"""

from llmrec.data.check.columns import ColumnCheck
from llmrec.data.check.log import LogCheck, check_config, check_file

__all__ = ["ColumnCheck", "LogCheck", "check_config", "check_file"]
