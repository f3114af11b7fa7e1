"""What error answers mean, service by service, from one table each."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.base import errors
from gce_backend.clients import gcloud, json_api
from gce_backend.clients.compute.errors import ERRORS as COMPUTE
from gce_backend.clients.error_table import FIRM, ErrorTable, Said, said_in
from gce_backend.clients.exchange import MAX_RETRY_AFTER_SECONDS, MESSAGE_CHARACTERS, Answer

TABLES = [COMPUTE, gcloud.ERRORS, json_api.ERRORS]


def answered(status: int, body: Any, headers: dict[str, str] | None = None) -> Answer:
    """An answer with a JSON body."""
    return Answer(status, headers or {}, json.dumps(body).encode())


def error_object(status: int, word: str, table: ErrorTable) -> dict[str, Any]:
    """Google's error object, in the style of a table's service."""
    worded = {"status": word} if table.newer else {"errors": [{"reason": word}]}
    return {"error": {"code": status, "message": "m", **worded}}


@pytest.mark.parametrize(
    ("table", "status", "word", "kind"),
    [
        (gcloud.ERRORS, 404, "NOT_FOUND", errors.NotFoundError),
        (gcloud.ERRORS, 404, "", errors.InvalidRequestError),
        (gcloud.ERRORS, 409, "ABORTED", errors.AbortedError),
        (gcloud.ERRORS, 409, "ALREADY_EXISTS", errors.AlreadyExistsError),
        (gcloud.ERRORS, 400, "INVALID_ARGUMENT", errors.InvalidRequestError),
        (gcloud.ERRORS, 400, "NOT_FOUND", errors.InvalidRequestError),
        (gcloud.ERRORS, 403, "PERMISSION_DENIED", errors.PermissionDeniedError),
        (gcloud.ERRORS, 429, "RESOURCE_EXHAUSTED", errors.RateLimitedError),
        (gcloud.ERRORS, 499, "CANCELLED", errors.TransientError),
        (gcloud.ERRORS, 500, "NOT_FOUND", errors.TransientError),
        (json_api.ERRORS, 404, "notFound", errors.NotFoundError),
        (json_api.ERRORS, 404, "", errors.NotFoundError),
        (json_api.ERRORS, 403, "forbidden", errors.PermissionDeniedError),
        (json_api.ERRORS, 400, "badRequest", errors.InvalidRequestError),
        (COMPUTE, 404, "notFound", errors.NotFoundError),
        (COMPUTE, 404, "", errors.MalformedResponseError),
        (COMPUTE, 412, "", errors.ConditionNotMetError),
    ],
)
def test_status_and_word_give_the_error_of_their_service(
    table: ErrorTable, status: int, word: str, kind: type[errors.RemoteError]
) -> None:
    """Exactly this type, with the service's own words."""
    error = table.error("m", answered(status, error_object(status, word, table)))
    assert type(error) is kind
    assert (error.method, error.status, error.reason, error.message) == ("m", status, word, "m")


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(("status", "kind"), FIRM.items())
def test_some_statuses_mean_the_same_everywhere(
    table: ErrorTable, status: int, kind: type[errors.RemoteError]
) -> None:
    """Whatever word stands beside them."""
    for word in ("", *table.words):
        assert table.kind(status, word) is kind


@pytest.mark.parametrize("table", [COMPUTE, gcloud.ERRORS])
def test_a_word_of_another_status_decides_nothing(table: ErrorTable) -> None:
    """What a proxy repeats of another answer, or one without a code, is not the service's word."""
    word = next(iter(table.words))
    for code in (500, None, "404", True):
        body = error_object(404, word, table)
        body["error"]["code"] = code
        error = table.error("m", answered(404, body))
        assert not isinstance(error, errors.NotFoundError)
        assert error.reason == ""


def test_a_redirect_is_told_as_one() -> None:
    """Also when its body holds an error object."""
    for table in TABLES:
        error = table.error("m", answered(302, error_object(302, "x", table)))
        assert type(error) is errors.InvalidRequestError
        assert "redirects are not followed" in error.message


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["reason", "code", "status", "message"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(
    table=st.sampled_from(TABLES),
    status=st.integers(300, 599),
    body=st.fixed_dictionaries(
        {},
        optional={
            "error": ODD
            | st.fixed_dictionaries(
                {}, optional=dict.fromkeys(("code", "status", "errors", "message", "details"), ODD)
            )
        },
    ),
    wait=st.none() | st.text(max_size=10) | st.sampled_from(["9" * 400, "nan", "-1", "inf"]),
)
def test_every_error_answer_is_one_of_the_projects_errors(
    table: ErrorTable, status: int, body: dict[str, Any], wait: str | None
) -> None:
    """Odd shapes say nothing, but spoil nothing; texts and delays are within bounds."""
    headers = {} if wait is None else {"Retry-After": wait}
    error = table.error("m", answered(status, body, headers))
    assert isinstance(error, errors.RemoteError)
    assert error.retryable or status < 500
    assert 0 < len(error.message) <= MESSAGE_CHARACTERS
    assert error.retry_after is None or 0 < error.retry_after <= MAX_RETRY_AFTER_SECONDS


def test_what_an_error_object_says_is_read_in_bounds() -> None:
    """Long texts are cut, and the older word counts before the newer one."""
    body = {
        "error": {
            "code": 409,
            "status": "ABORTED",
            "message": "x" * 5000,
            "errors": [{"reason": "conflict"}, {"reason": "second"}],
            "details": [{"reason": "A"}, {"@type": "t"}, 5],
        }
    }
    said = said_in(json.dumps(body).encode())
    assert said == Said(409, "ABORTED", "conflict", "x" * MESSAGE_CHARACTERS, frozenset({"A", ""}))
    assert said.word == "conflict"
    assert said_in(b"<html>") is said_in(b"[1]") is said_in(b'{"error": "no"}') is None
