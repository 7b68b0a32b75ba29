"""The keys of the small test that all modules share."""

from typing import Any

from llmrec.config import ABTestConfig, parse_section

EXAMPLE: dict[str, Any] = {
    "name": "small",
    "salt": "s",
    "arms": {"live": 0.5, "new": 0.5},
    "start": "2026-03-01",
    "end": "2026-03-10",
    "planned_users": 400,
    "covariate_days": 7,
    "data": {"path": "none.csv", "columns": {"session_id": "session_id", "propensity": "propensity"}},
    "metrics": [
        {"name": "click_rate", "kind": "rate", "event": "click>=1", "role": "primary"},
        {"name": "conversion", "kind": "conversion", "event": "purchase>=1"},
        {"name": "satisfaction", "kind": "mean", "column": "rating"},
        {"name": "session_length", "kind": "session_length"},
        {"name": "retention", "kind": "retention", "role": "guardrail", "margin": 0.2},
    ],
}


def config_of(**changes: Any) -> ABTestConfig:
    """The small test with other values of some keys."""
    return parse_section(EXAMPLE | changes, ABTestConfig)
