"""Fixtures: the command line."""

from tests.cli.conftest import llmrec

__all__ = ["llmrec"]
