"""Off-policy evaluation: estimates the click rate of a policy from the log of another policy."""
