"""Baselines to compare with, and their tuning; `registry.REGISTRY` is the table of them.

A learned recommender must beat all of them to be useful. Each has the interface `protocol.Baseline`.
"""
