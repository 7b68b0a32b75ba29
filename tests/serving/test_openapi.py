"""Generated requests against our own OpenAPI document: no crash, and only answers that the document describes."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

pytest.importorskip("schemathesis")

import schemathesis

from llmrec.serving.app import make_app
from llmrec.serving.service import Service
from tests.serving.conftest import LIMITS

BEYOND_THE_SCHEMA = {
    "timestamp_in_the_future",
    "invalid_timestamp",
    "unknown_feedback_type",
    "requests_not_read",
    "unreadable_request",
}


def ask_all(service: Service, max_examples: int, derandomize: bool) -> set[int]:
    """Sends valid and invalid requests to every route; returns the statuses of the answers."""
    document = schemathesis.openapi.from_asgi("/openapi.json", make_app(service, LIMITS, ()))
    statuses: set[int] = set()
    kept = settings(
        max_examples=max_examples,
        deadline=None,
        derandomize=derandomize,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) >= 15
    for operation in operations:
        for mode in schemathesis.GenerationMode:

            @kept
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case) -> None:
                statuses.add(check(case))

            try:
                ask()
            except Unsatisfiable:  # a route without parameters has no invalid request
                assert mode is schemathesis.GenerationMode.NEGATIVE
    return statuses


def check(case) -> int:
    """Every refusal must follow from the schema, but for the rules that a schema cannot state."""
    response = case.call()
    refused = response.status_code == 422 and response.json()["error"]["code"] in BEYOND_THE_SCHEMA
    excluded = [schemathesis.checks.positive_data_acceptance] if refused else []
    case.validate_response(response, excluded_checks=excluded)
    return response.status_code


def test_generated_requests(service: Service) -> None:
    assert ask_all(service, max_examples=3, derandomize=True) >= {200, 404, 422}


@pytest.mark.slow
def test_ten_thousand_generated_requests(service: Service) -> None:
    assert ask_all(service, max_examples=450, derandomize=False) >= {200, 404, 422}
