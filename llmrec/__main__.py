"""Makes `python -m llmrec` the same as the command `llmrec`."""

from llmrec.cli.app import main

main()
