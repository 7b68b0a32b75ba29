"""Evaluation of a run: rankings, written recommendations and rewards of every model, collected in `report.json`."""
