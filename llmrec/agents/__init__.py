"""Learners of Stable-Baselines3 and simpler ones that act in the worlds of `llmrec.simulator`, and their comparison."""
