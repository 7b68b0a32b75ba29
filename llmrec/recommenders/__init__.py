"""Baselines to compare with: popularity, Markov, transitions, item kNN, EASE and SASRec, and their tuning.

A learned recommender must beat all of them to be useful. Each has the interface `protocol.Baseline`.
"""
