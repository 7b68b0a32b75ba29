"""The PPO stage: rollouts, advantages, losses, the trainer and its checkpoints."""
