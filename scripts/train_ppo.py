"""Trains the SFT adapter with PPO against the reward models, in one process or several.

    accelerate launch scripts/train_ppo.py --config configs/quickstart.yaml

On CPUs: `accelerate launch --config_file configs/accelerate/cpu.yaml scripts/train_ppo.py --config ...`.
A single process needs no launcher: `llmrec ppo CONFIG` does the same.
"""

from llmrec.cli.launch import stage_main

if __name__ == "__main__":
    stage_main("ppo")
