"""The reward that PPO maximizes: reward models, groundedness and penalties, combined."""
