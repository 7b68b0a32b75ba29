"""Names of the files in an adapter's directory, and the version of its format."""

FILE_NAME = "llmrec.json"
GENERATION_FILE = "generation_config.json"  # as transformers reads it
ADAPTER_CONFIG = "adapter_config.json"  # as peft reads it
FORMAT = 1
