"""`llmrec prepare --check`: what an unknown log is, and a config that reads it.

`log` puts a check together. `files` reads the first lines, `known` recognizes data sets by their files. `roles` finds
the columns, by their `names` and their `values`; `columns` describes them. `tables` finds the tables beside the log,
`rules` those for clicks and purchases.
"""

from llmrec.data.check.log import LogCheck, check_config, check_file

__all__ = ["LogCheck", "check_config", "check_file"]
