"""Runs the `llmrec` command as `python -m llmrec`."""

from llmrec.cli.app import main

if __name__ == "__main__":
    main()
