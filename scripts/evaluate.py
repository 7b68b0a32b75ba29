"""Measures all models of a run in several processes, which share the users.

    accelerate launch scripts/evaluate.py --config configs/quickstart.yaml

On CPUs: `accelerate launch --config_file configs/accelerate/cpu.yaml scripts/evaluate.py --config ...`.
A single process needs no launcher: `llmrec evaluate CONFIG` does the same.
"""

from llmrec.cli.launch import stage_main

if __name__ == "__main__":
    stage_main("evaluate")
