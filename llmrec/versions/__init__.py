"""Versions of a run's adapter: which one is served to whom, and the history of that."""
