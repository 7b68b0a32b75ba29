"""Choice of the best adapter on validation users."""
