"""How the API server's refusals are told apart."""

import json

import pytest

from vectorizer_operator.kube.errors import ApiError, Conflict, NotFound, TooManyRequests, error_of


def status(**fields: object) -> bytes:
    return json.dumps({"kind": "Status", "apiVersion": "v1", **fields}).encode()


@pytest.mark.parametrize(
    ("code", "kind"),
    [(404, NotFound), (409, Conflict), (429, TooManyRequests), (403, ApiError), (500, ApiError)],
)
def test_each_status_is_the_error_that_callers_act_upon(code: int, kind: type[ApiError]) -> None:
    error = error_of("GET /x", code, status(reason="Why", message="because"), None)
    assert type(error) is kind
    assert (error.status, error.reason, error.message) == (code, "Why", "because")
    assert str(error) == f"GET /x: {code} Why: because"


@pytest.mark.parametrize(
    ("header", "details", "seconds"),
    [
        ("3", {}, 3.0),
        (None, {"retryAfterSeconds": 5}, 5.0),
        ("2", {"retryAfterSeconds": 5}, 2.0),
        (None, {}, None),
    ],
)
def test_the_time_to_wait_is_taken_from_the_header_or_the_body(
    header: str | None, details: dict[str, int], seconds: float | None
) -> None:
    assert error_of("GET /x", 429, status(details=details), header).retry_after == seconds


def test_a_proxys_page_is_quoted() -> None:
    error = error_of("GET /x", 502, b"<html>Bad Gateway</html>", "tomorrow")
    assert str(error) == "GET /x: 502 : <html>Bad Gateway</html>"
    assert error.retry_after is None


@pytest.mark.parametrize(
    ("code", "final"), [(422, True), (403, True), (400, True), (409, False), (503, False)]
)
def test_only_what_will_be_refused_again_is_final(code: int, final: bool) -> None:
    assert error_of("PATCH /x", code, status(), None).is_final is final
