"""Experiments that compare methods: each script trains or measures several of them on the same run."""
