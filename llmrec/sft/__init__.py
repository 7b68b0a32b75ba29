"""The SFT stage: supervised fine-tuning on training histories."""
