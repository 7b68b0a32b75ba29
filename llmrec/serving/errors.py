"""Errors that a client of the server gets: a status, a code for programs and a message for people."""

from collections.abc import Mapping


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: HTTP status.
        code: short name of the kind of error, which programs may rely on.
        message: what was found, what was expected and how to fix it.
        headers: further headers of the answer.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})

    def body(self) -> dict[str, dict[str, str]]:
        """The answer as JSON values."""
        return {"error": {"code": self.code, "message": self.message}}


def busy(what: str) -> ApiError:
    """The server has too much to do; the client may try again after a second."""
    return ApiError(503, "busy", f"{what} Try again later.", {"Retry-After": "1"})


def store_unavailable() -> ApiError:
    """The database fails; nothing of the request was kept."""
    message = "The feedback store is not available at present. Nothing was written. Send the request again later."
    return ApiError(503, "store_unavailable", message, {"Retry-After": "5"})
