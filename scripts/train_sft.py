"""Fine-tunes the base model on the catalogue (SFT), in one process or several.

    accelerate launch scripts/train_sft.py --config configs/quickstart.yaml

On CPUs: `accelerate launch --config_file configs/accelerate/cpu.yaml scripts/train_sft.py --config ...`.
A single process needs no launcher: `llmrec sft CONFIG` does the same.
"""

from llmrec.cli.launch import stage_main

if __name__ == "__main__":
    stage_main("sft")
