"""llmrec: fine-tune a language model to recommend."""

__version__ = "0.1.0"
