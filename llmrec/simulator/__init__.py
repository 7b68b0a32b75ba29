"""A world whose users answer back: fitted on a log, checked against it, and played as a gymnasium environment."""
