"""A/B tests: assignment of users, metrics with intervals that stay valid at every look, and planning."""
