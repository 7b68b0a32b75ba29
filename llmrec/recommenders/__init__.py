"""Baselines to compare with: popularity, Markov, item kNN, EASE and SASRec, and their tuning."""
