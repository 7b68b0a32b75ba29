"""The command line of llmrec."""
