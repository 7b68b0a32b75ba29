"""Fits the click and purchase models, in one process or several.

    accelerate launch scripts/train_reward.py --config configs/quickstart.yaml

On CPUs: `accelerate launch --config_file configs/accelerate/cpu.yaml scripts/train_reward.py --config ...`.
A single process needs no launcher: `llmrec reward CONFIG` does the same.
"""

from llmrec.cli.launch import stage_main

if __name__ == "__main__":
    stage_main("reward")
