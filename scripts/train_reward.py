"""Fits the click/purchase reward model.

    accelerate launch scripts/train_reward.py --config configs/quickstart.yaml

On CPUs: `accelerate launch --config_file configs/accelerate/cpu.yaml scripts/train_reward.py --config ...`.
One process needs no launcher: `llmrec reward CONFIG` does the same.
"""

from llmrec.cli.launch import stage_main

if __name__ == "__main__":
    stage_main("reward")
