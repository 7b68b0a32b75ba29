"""Benchmarks of speed and memory. `benchmarks/research/` holds the scripts that compare methods."""
