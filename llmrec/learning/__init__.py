"""Learning from the feedback of a server: rounds of training, the canary that decides on them, and drift."""
