"""A reward model that reads the titles of a history, a recommended title and its justification."""
