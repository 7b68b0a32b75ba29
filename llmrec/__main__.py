"""`python -m llmrec` is `llmrec`."""

from llmrec.cli.app import main

main()
