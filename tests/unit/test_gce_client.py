"""The Compute client against small servers that misbehave in one way each."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import re
import socket
import traceback
import uuid
from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aioresponses import aioresponses
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.base import errors
from gce_backend.clients.compute import transport as gce_transport
from gce_backend.clients.compute.call_budget import Quota, QuotaGroup
from gce_backend.clients.compute.errors import (
    BY_REASON,
    BY_STATUS,
    CONCURRENT_OPERATIONS,
    error_from,
)
from gce_backend.clients.compute.links import CANONICAL_ROOT, ResourceLink
from gce_backend.clients.compute.types import CompleteListing, Operation, PartialListing
from gce_backend.clients.error_table import FIRM
from gce_backend.clients.exchange import Answer
from support.discovery.documents import find
from support.discovery.masks import mask_problems
from support.gce_client_world import (
    CANARY,
    FINGERPRINT,
    GROUP,
    LINK,
    OPERATION,
    REQUEST_ID,
    script,
    world,
)
from support.referee import Referee
from support.responses import (
    MockedResponse,
    error_answer,
    never,
    scripted_server,
)


def page(number: int, token: str = "", **more: Any) -> web.Response:
    """A page of an aggregated list with one group in it."""
    item = {"name": f"g-{number}", "targetSize": 1}
    body = {"items": {"zones/z": {"instanceGroupManagers": [item]}}} | more
    return web.json_response(body | ({"nextPageToken": token} if token else {}))


def names(listing: Any) -> list[str]:
    """The names in a listing."""
    return [item.name for item in listing.items]


async def test_a_listing_follows_the_pages_to_the_end() -> None:
    """All pages, in order, each asked for with its token and a mask; then it is complete."""
    async with world(script(page(1, "a/b +"), page(2, "c"), page(3))) as it:
        listing = await it.client.list_groups("p")
        assert isinstance(listing, CompleteListing)
        assert names(listing) == ["g-1", "g-2", "g-3"]
        assert [r.query.get("pageToken") for r in it.requests] == [None, "a/b +", "c"]
        assert {r.query["maxResults"] for r in it.requests} == {"500"}


async def test_a_lost_page_makes_the_listing_partial() -> None:
    """What came is kept, and the type says that it is not all."""
    async with world(script(page(1, "a"), error_answer(503, "backendError")), tries=2) as it:
        listing = await it.client.list_groups("p")
        assert isinstance(listing, PartialListing)
        assert names(listing) == ["g-1"]
        assert "page 2 is lost" in listing.reasons[0]


async def test_a_lost_first_page_is_an_error() -> None:
    """Nothing at all is no listing."""
    async with world(script(error_answer(403, "forbidden"))) as it:
        with pytest.raises(errors.PermissionDeniedError):
            await it.client.list_groups("p")
        assert len(it.requests) == 1


async def test_a_page_token_that_repeats_ends_the_listing_as_partial() -> None:
    """No endless loop, and no claim to be complete."""
    async with world(script(page(1, "a"), page(2, "b"), page(3, "a"))) as it:
        listing = await it.client.list_groups("p")
        assert isinstance(listing, PartialListing)
        assert len(it.requests) == 3


@pytest.mark.parametrize(
    "more",
    [
        {"warning": {"code": "UNREACHABLE"}},
        {"unreachables": ["zones/y"]},
        {"items": {"zones/y": {"warning": {"code": "UNREACHABLE", "message": "down"}}}},
    ],
)
async def test_an_unreachable_scope_makes_the_listing_partial(more: dict[str, Any]) -> None:
    """Wherever Compute says it."""
    async with world(script(page(1, **more))) as it:
        assert isinstance(await it.client.list_groups("p"), PartialListing)


async def test_an_empty_scope_leaves_the_listing_complete() -> None:
    """NO_RESULTS_ON_PAGE is no loss."""
    body = {"items": {"zones/y": {"warning": {"code": "NO_RESULTS_ON_PAGE"}}}}
    async with world(script(web.json_response(body))) as it:
        assert await it.client.list_groups("p") == CompleteListing(())


async def test_managed_instances_are_decoded_with_their_numbers_and_errors(
    referee: Referee,
) -> None:
    """64-bit ids come as strings; a member without a VM has none. An empty group answers {}."""
    referee.expect("response.kind: no such field")
    attempt = {"errors": {"errors": [{"code": "ZONE_RESOURCE_POOL_EXHAUSTED", "message": "no"}]}}
    members = [
        {
            "instance": "projects/p/zones/z/instances/a",
            "name": "a",
            "id": "18446744073709551615",
            "instanceStatus": "RUNNING",
        },
        {
            "instance": "projects/p/zones/z/instances/b",
            "name": "b",
            "currentAction": "CREATING",
            "lastAttempt": attempt,
        },
    ]
    first = web.json_response({"managedInstances": members, "kind": "ignored"})
    async with world(script(first, web.json_response({}))) as it:
        running, creating = (await it.client.list_managed_instances("p", "z", "g")).items
        assert (running.id, running.instance_status) == (2**64 - 1, "RUNNING")
        assert (creating.id, creating.current_action) == (None, "CREATING")
        assert creating.last_attempt.errors.errors[0].code == "ZONE_RESOURCE_POOL_EXHAUSTED"
        assert await it.client.list_managed_instances("p", "z", "g") == CompleteListing(())
        assert it.seen[0][:3] == (
            "compute.instanceGroupManagers.listManagedInstances",
            QuotaGroup.MUTATE,
            200,
        )


async def test_a_vm_without_metadata_items_has_none() -> None:
    """The ancestor raised."""
    vm = {"name": "vm", "id": "7", "metadata": {"fingerprint": FINGERPRINT}}
    async with world(script(web.json_response(vm))) as it:
        found = await it.client.get_instance("p", "z", "vm")
        assert (found.id, found.metadata.fingerprint) == (7, FINGERPRINT)
        assert found.metadata.as_dict() == {}


EMPTY = web.Response(text="{}", content_type="application/json")
MALFORMED = [
    web.Response(text="<html>Sign in</html>", content_type="text/html"),
    web.Response(text="{}", content_type="text/html"),
    web.Response(text='{"name": "g", "targetSi', content_type="application/json"),
    web.Response(text="[]", content_type="application/json"),
    EMPTY,
    web.Response(body=b"\xff\xfe", content_type="application/json"),
    web.Response(text='{"x":' + "[" * 100_000, content_type="application/json"),
    web.json_response(GROUP | {"targetSize": "many"}),
]


@pytest.mark.parametrize("answer", MALFORMED)
async def test_a_200_that_is_not_the_resource_is_malformed_never_empty(
    answer: web.Response, referee: Referee
) -> None:
    """HTML, truncated JSON, the wrong type: unknown, after the usual repetitions."""
    if answer is not EMPTY:
        referee.expect("response")
    async with world(script(answer)) as it:
        with pytest.raises(errors.MalformedResponseError):
            await it.client.get_group("p", "z", "g")
        assert len(it.requests) == 4


@pytest.mark.parametrize("answer", MALFORMED[:4])
async def test_a_malformed_page_is_never_an_empty_list(
    answer: web.Response, referee: Referee
) -> None:
    """First page: an error. Later: partial."""
    referee.expect("response")
    async with world(script(answer), tries=1) as it:
        with pytest.raises(errors.MalformedResponseError):
            await it.client.list_groups("p")
    async with world(script(page(1, "a"), answer), tries=1) as it:
        assert isinstance(await it.client.list_groups("p"), PartialListing)


@pytest.mark.parametrize(
    "answer",
    [
        web.Response(status=404, text="<html>", content_type="text/html"),
        web.Response(status=404),
        web.json_response({"error": "not found"}, status=404),
        web.json_response({"error": {"code": 404, "message": "no such route"}}, status=404),
        web.json_response({"error": {"code": 500, "errors": [{"reason": "notFound"}]}}, status=404),
    ],
)
async def test_a_404_without_computes_own_word_is_not_absence(
    answer: web.Response, referee: Referee
) -> None:
    """A proxy, a wrong host or a wrong path never proves that something is gone."""
    referee.expect("response")
    async with world(script(answer), tries=2) as it:
        with pytest.raises(errors.MalformedResponseError):
            await it.client.get_group("p", "z", "g")


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (404, "notFound", errors.NotFoundError),
        (409, "alreadyExists", errors.AlreadyExistsError),
        (412, "conditionNotMet", errors.ConditionNotMetError),
        (403, "quotaExceeded", errors.QuotaExceededError),
        (403, "forbidden", errors.PermissionDeniedError),
        (403, "insufficientPermissions", errors.PermissionDeniedError),
        (403, "accessNotConfigured", errors.PermissionDeniedError),
        (400, "resourceNotReady", errors.ResourceNotReadyError),
        (400, "resourceInUseByAnotherResource", errors.ResourceInUseError),
        (400, "invalid", errors.InvalidRequestError),
        (400, "notFound", errors.InvalidRequestError),
        (409, "somethingNew", errors.InvalidRequestError),
        (418, "", errors.InvalidRequestError),
        (503, "backendError", errors.TransientError),
        (500, "notFound", errors.TransientError),
        (504, "", errors.TransientError),
    ],
)
async def test_answers_become_the_projects_errors(
    status: int, reason: str, kind: type[errors.RemoteError]
) -> None:
    """Exactly this type, with method, status, reason and words; terminal ones are not repeated."""
    async with world(script(error_answer(status, reason))) as it:
        with pytest.raises(errors.RemoteError) as caught:
            await it.client.set_instance_metadata(
                "p", "z", "vm", FINGERPRINT, {"k": "v"}, request_id=REQUEST_ID
            )
        error = caught.value
        assert type(error) is kind
        assert error.method == "compute.instances.setMetadata"
        assert (error.status, error.reason) == (status, reason)
        assert error.message == f"said {reason}"
        assert len(it.requests) == (4 if kind.retryable else 1)


@given(
    status=st.integers(300, 599),
    reason=st.sampled_from([*BY_REASON, "", "unheardOf"]),
    retry_after=st.sampled_from(
        [None, "3", "-1", "x", "nan", "inf", "Wed, 21 Oct 2015 07:28:00 GMT"]
    ),
    body=st.none() | st.binary(max_size=40),
)
def test_no_answer_is_left_unmapped(
    status: int, reason: str, retry_after: str | None, body: bytes | None
) -> None:
    """Every status with every body is one of the tree's leaves, with a sane delay."""
    if body is None:
        body = json.dumps({"error": {"code": status, "errors": [{"reason": reason}]}}).encode()
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    error = error_from("m", Answer(status, headers, body), now=30.0)
    known = {*BY_REASON.values(), *BY_STATUS.values(), *FIRM.values()}
    assert type(error) in known | {errors.InvalidRequestError, errors.PermissionDeniedError}
    assert error.retry_after is None or 0 < error.retry_after <= 300
    assert isinstance(error, errors.TransientError) == (
        status >= 500
        or status in FIRM
        or type(error) in {errors.RateLimitedError, errors.MalformedResponseError}
        or (reason in {"backendError", "internalError"} and error.reason == reason)
    )


async def test_retry_after_is_honoured_between_repetitions() -> None:
    """As seconds and as a date."""
    for header in ("7", formatdate(1_000_007, usegmt=True)):
        busy = error_answer(503, "backendError", {"Retry-After": header})
        async with world(script(busy, web.json_response(GROUP)), epoch=1_000_000) as it:
            begun = asyncio.get_running_loop().time()
            it.clock.epoch = 1_000_000 - begun
            await it.client.get_group("p", "z", "g")
            assert 6.5 <= asyncio.get_running_loop().time() - begun <= 10


async def test_429_pauses_its_group_for_as_long_as_it_says() -> None:
    """Nobody else in the group is sent meanwhile."""
    answers = script(
        error_answer(429, "rateLimitExceeded", {"Retry-After": "15"}), web.json_response(GROUP)
    )
    async with world(answers) as it:
        with pytest.raises(errors.RateLimitedError) as caught:
            await it.client.get_group("p", "z", "g")
        assert caught.value.retry_after == 15
        await it.client.get_group("p", "z", "g")
        assert asyncio.get_running_loop().time() >= 15
        assert len(it.requests) == 2


async def test_a_403_rate_limit_pauses_the_whole_group_to_the_next_minute() -> None:
    """S4, fault 11: not another call of the group; other groups and projects go on."""
    operation = web.json_response(OPERATION)
    limited = error_answer(403, "rateLimitExceeded")
    async with world(script(limited, operation), epoch=600.0 + 10) as it:
        with pytest.raises(errors.RateLimitedError) as caught:
            await it.client.delete_group("p", "z", "g", request_id=REQUEST_ID)
        assert caught.value.retry_after == pytest.approx(51, abs=0.1)
        with pytest.raises(errors.RateLimitedError):
            await it.client.list_managed_instances("p", "z", "g")
        assert len(it.requests) == 1
        await it.client.get_operation(LINK)
        await it.client.delete_group("q", "z", "g", request_id=REQUEST_ID)
        await asyncio.sleep(52)
        await it.client.delete_group("p", "z", "g", request_id=REQUEST_ID)


async def test_too_many_concurrent_operations_do_not_pause_the_group() -> None:
    """ErrorInfo tells them from too many calls; listing members goes on."""
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": CONCURRENT_OPERATIONS}
    words = {"code": 403, "message": "too many", "errors": [{"reason": "rateLimitExceeded"}]}
    limited = web.json_response({"error": words | {"details": [info]}}, status=403)
    async with world(script(limited, web.json_response({})), tries=1) as it:
        with pytest.raises(errors.RateLimitedError) as caught:
            await it.client.delete_group("p", "z", "g", request_id=REQUEST_ID)
        assert caught.value.reason == CONCURRENT_OPERATIONS
        await it.client.list_managed_instances("p", "z", "g")
        assert asyncio.get_running_loop().time() < 1


async def test_calls_wait_for_their_turn_in_the_budget() -> None:
    """Repetitions count too: the server never sees more than the limit in a minute."""
    async with world(script(error_answer(503, "backendError")), limit=3) as it:
        with pytest.raises(errors.RateLimitedError) as caught:
            await it.client.get_group("p", "z", "g")
        assert len(it.requests) == 3
        assert caught.value.reason == "callBudget"
        assert it.budget.remaining(Quota("p", QuotaGroup.READ)) == 0


async def test_a_mutation_keeps_its_request_id_and_body_over_all_repetitions() -> None:
    """Dropped connections and 503s: replayed as the same request, so that nothing is doubled."""

    def drop() -> Awaitable[web.StreamResponse]:
        transport = it.server.requests[-1].transport
        assert transport is not None
        transport.abort()
        return never()

    answers = script(drop, error_answer(503, "backendError"), web.json_response(OPERATION))
    async with world(answers) as it:
        body = {"name": "t"}
        operation = await it.client.insert_instance_template("p", body, request_id=REQUEST_ID)
        assert operation.link == LINK
        assert [r.query["requestId"] for r in it.requests] == [REQUEST_ID] * 3
        assert it.server.bodies[-3:] == [b'{"name":"t"}'] * 3
        assert [status for _, _, status, _ in it.seen] == [None, 503, 200]
        assert it.retried == [method for method, _, status, _ in it.seen if status != 200]


@pytest.mark.parametrize("bad", ["", "x", "00000000-0000-0000-0000-000000000000"])
async def test_a_bad_request_id_is_refused_before_anything_is_sent(bad: str) -> None:
    """Without one, a repetition would be a second mutation."""
    async with world(script(web.json_response(OPERATION))) as it:
        with pytest.raises(errors.InvalidRequestError):
            await it.client.delete_group("p", "z", "g", request_id=bad)
        assert it.requests == []


@pytest.mark.parametrize("bad", ["", "../x", "a/b", "A", "a?b", "a%2fb", "a\n"])
async def test_a_bad_name_is_refused_before_anything_is_sent(bad: str) -> None:
    """No stored or received text can choose another path."""
    async with world(script(web.json_response(OPERATION))) as it:
        one = {"request_id": REQUEST_ID}
        client, some = it.client, ["ok", bad]
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: client.delete_instance_template("p", bad, **one),
            lambda: client.delete_group("p", "z", bad, **one),
            lambda: client.delete_group("p", bad, "g", **one),
            lambda: client.delete_group(bad, "z", "g", **one),
            lambda: client.delete_instances("p", "z", "g", some, skip_invalid=True, **one),
        ]
        for call in calls:
            with pytest.raises(errors.InvalidRequestError):
                await call()
        assert it.requests == []


async def test_an_exhausted_retry_budget_ends_repetitions() -> None:
    """Fault 13: a burst of failures costs little more than the first tries."""
    async with world(script(error_answer(503, "backendError")), burst=5) as it:
        for _ in range(30):
            with pytest.raises(errors.TransientError):
                await it.client.get_group("p", "z", "g")
        assert 30 + 5 <= len(it.requests) <= 30 + 9


async def test_a_silent_server_costs_the_read_deadline_and_frees_the_slot() -> None:
    """Fault 14: half-open socket."""
    async with world(script(never), tries=1) as it:
        with pytest.raises(errors.TransientError, match="too slow"):
            await it.client.get_group("p", "z", "g")
        assert 9 <= asyncio.get_running_loop().time() <= 12
        assert it.seen[-1][2] is None


async def test_an_answer_that_drips_costs_the_total_deadline() -> None:
    """Fault 14: a byte now and then keeps the read deadline away, but not the total one."""

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b" ")
                await asyncio.sleep(3)
        return response

    async with world(drip) as it:
        with pytest.raises(errors.TransientError):
            await it.client.get_group("p", "z", "g")
        assert 39 <= asyncio.get_running_loop().time() <= 45


async def test_an_answer_cut_short_is_malformed() -> None:
    """Fewer bytes than announced."""

    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "application/json", "Content-Length": "1000"}
        )
        await response.prepare(request)
        await response.write(b'{"items": {}}')
        assert request.transport is not None
        request.transport.close()
        return response

    async with world(cut, tries=1) as it:
        with pytest.raises(errors.MalformedResponseError):
            await it.client.list_groups("p")


async def test_an_answer_too_large_is_refused_also_when_it_is_compressed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The limit counts decompressed bytes."""
    monkeypatch.setattr(gce_transport, "MAX_RESPONSE_BYTES", 10_000)

    body = gzip.compress(json.dumps({"id": "a" * 1_000_000}).encode())
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    async with world(script(web.Response(body=body, headers=headers)), tries=1) as it:
        with pytest.raises(errors.MalformedResponseError, match="more than 10000 bytes"):
            await it.client.list_groups("p")


async def test_a_redirect_is_not_followed(referee: Referee) -> None:
    """The token stays with its origin."""
    referee.expect("HTTP status 302")
    async with scripted_server(script(web.json_response(GROUP))) as other:
        answer = web.Response(status=302, headers={"Location": other.root})
        async with world(script(answer)) as it:
            with pytest.raises(errors.InvalidRequestError, match="redirects"):
                await it.client.get_group("p", "z", "g")
            assert len(it.requests) == 1
        assert other.requests == []


async def test_a_closed_port_is_transient() -> None:
    """Nobody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with world(script(web.json_response(GROUP)), tries=2) as it:
            it.client._root = f"http://127.0.0.1:{closed.getsockname()[1]}/"
            with pytest.raises(errors.TransientError, match="no connection") as caught:
                await it.client.get_group("p", "z", "g")
            assert caught.value.status is None


async def test_a_401_is_mended_by_one_refresh_for_all_callers() -> None:
    """Fault 36: every caller succeeds with the second token."""

    def answer(request: web.Request) -> web.StreamResponse:
        if request.headers["Authorization"] != f"Bearer {CANARY}-2":
            return error_answer(401, "authError")
        return web.json_response(GROUP)

    async with world(answer) as it:
        await asyncio.gather(*(it.client.get_group("p", "z", "g") for _ in range(40)))
        assert it.tokens == 2


async def test_a_lasting_401_is_repeated_once_only() -> None:
    """A token that is always refused causes no storm."""
    async with world(script(error_answer(401, "required"))) as it:
        with pytest.raises(errors.UnauthenticatedError):
            await it.client.get_group("p", "z", "g")
        assert len(it.requests) == 2


FAILURES: Sequence[Any] = [
    error_answer(401, "authError"),
    error_answer(403, "forbidden"),
    error_answer(429, "rateLimitExceeded"),
    error_answer(503, "backendError"),
    never,
]
FAILURES_ON_THE_WAY = [
    web.Response(text="<html>", content_type="text/html"),
    web.Response(status=302, headers={"Location": "/"}),
]


@pytest.mark.parametrize("answer", [*FAILURES, *FAILURES_ON_THE_WAY])
async def test_no_failure_shows_the_bearer_token(answer: Any, referee: Referee) -> None:
    """Nor anything that hangs on it: causes, contexts, their reprs and attributes."""
    if answer in FAILURES_ON_THE_WAY:
        referee.expect("response: HTTP status")
    async with world(script(answer), tries=2) as it:
        with pytest.raises(errors.RemoteError) as caught:
            await it.client.get_group("p", "z", "g")
        assert_no_canary(caught.value)


@pytest.mark.parametrize(
    "raised",
    [
        aiohttp.ClientResponseError(
            aiohttp.RequestInfo(
                url="u",  # type: ignore[arg-type]  # only its repr matters
                method="GET",
                headers={"Authorization": f"Bearer {CANARY}"},  # type: ignore[arg-type]  # likewise
            ),
            (),
            status=400,
        ),
        aiohttp.ClientPayloadError(CANARY),
        aiohttp.ServerDisconnectedError(CANARY),
        aiohttp.InvalidURL(CANARY),
        ConnectionResetError(CANARY),
        TimeoutError(CANARY),
    ],
)
async def test_no_foreign_exception_gets_through(raised: Exception) -> None:
    """Whatever aiohttp raises, with a token in it or not, becomes the project's own."""
    async with world(script(web.json_response(GROUP)), tries=1) as it:
        await it.source.get()
        with aioresponses() as mocked:
            mocked.get(re.compile(".*"), exception=raised, response_class=MockedResponse)
            with pytest.raises(errors.TransientError) as caught:
                await it.client.get_group("p", "z", "g")
        assert_no_canary(caught.value)


def assert_no_canary(error: BaseException) -> None:
    """Fails when the token, or an exception that may hold it, hangs on `error`."""
    shown = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
    assert CANARY not in shown
    linked: BaseException | None = error
    while linked is not None:
        assert isinstance(linked, errors.BackendError)
        linked = linked.__cause__ or linked.__context__


async def test_mocked_answers_are_decoded_like_real_ones() -> None:
    """The fixed mocking package works with this aiohttp."""
    async with world(script(web.json_response({}))) as it:
        await it.source.get()
        with aioresponses() as mocked:
            mocked.get(
                re.compile(".*/instanceTemplates/t"),
                payload={"name": "t", "id": "9"},
                response_class=MockedResponse,
            )
            assert (await it.client.get_instance_template("p", "t")).id == 9


async def test_an_operation_is_awaited_with_a_floor_between_calls() -> None:
    """A server that answers `wait` at once is not stormed."""
    done = web.json_response(OPERATION | {"status": "DONE"})
    async with world(script(*[web.json_response(OPERATION)] * 5, done)) as it:
        operation = await it.client.await_operation(LINK, timeout=60, floor=2)
        assert operation.done
        assert len(it.requests) == 6
        assert asyncio.get_running_loop().time() >= 10
        assert {r.path for r in it.requests} == {f"/compute/v1/{LINK.path}/wait"}


async def test_an_operation_that_ends_in_an_error_raises_it_with_its_codes() -> None:
    """Fault 16: DONE is not success."""
    error = {"errors": [{"code": "QUOTA_EXCEEDED", "message": "CPUS"}, {"code": "OTHER"}]}
    failed = OPERATION | {"status": "DONE", "error": error, "httpErrorStatusCode": 403}
    async with world(script(web.json_response(failed))) as it:
        with pytest.raises(errors.OperationFailedError) as caught:
            await it.client.await_operation(LINK, timeout=60)
        assert caught.value.codes == ("QUOTA_EXCEEDED", "OTHER")
        assert caught.value.status == 403
        assert (await it.client.get_operation(LINK)).failed


async def test_an_operation_that_runs_for_ever_is_returned_unfinished() -> None:
    """Fault 17: the wait is bounded, also while the server holds the call."""
    async with world(script(web.json_response(OPERATION), never)) as it:
        operation = await it.client.await_operation(LINK, timeout=25)
        assert not operation.done
        assert 25 <= asyncio.get_running_loop().time() <= 26


async def test_a_held_wait_is_not_taken_for_a_dead_connection() -> None:
    """Two minutes of silence are what `wait` is for."""

    async def hold(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(119)
        return web.json_response(OPERATION | {"status": "DONE"})

    async with world(hold) as it:
        assert (await it.client.wait_operation(LINK)).done
        assert len(it.requests) == 1


async def test_awaiting_survives_transient_failures_but_not_an_unknown_operation() -> None:
    """Fault 17: a 404 sends the caller to the resource itself."""
    busy = error_answer(503, "backendError")
    done = web.json_response(OPERATION | {"status": "DONE"})
    async with world(script(busy, busy, busy, done, error_answer(404, "notFound")), tries=1) as it:
        assert (await it.client.await_operation(LINK, timeout=60)).done
        with pytest.raises(errors.NotFoundError):
            await it.client.await_operation(LINK, timeout=60)


@pytest.mark.parametrize("link", ["", "https://x/y", CANONICAL_ROOT + "projects/p/global/images/i"])
async def test_an_operation_without_a_link_to_itself_is_malformed(link: str) -> None:
    """It could never be asked for again."""
    async with world(script(web.json_response(OPERATION | {"selfLink": link})), tries=1) as it:
        with pytest.raises(errors.MalformedResponseError):
            await it.client.delete_group("p", "z", "g", request_id=REQUEST_ID)


async def test_at_most_a_thousand_members_are_deleted_in_one_call() -> None:
    """Compute refuses more; nothing is sent."""
    async with world(script(web.json_response(OPERATION))) as it:
        for count in (0, 1001):
            many = [f"vm-{n}" for n in range(count)]
            with pytest.raises(errors.InvalidRequestError):
                await it.client.delete_instances(
                    "p", "z", "g", many, request_id=REQUEST_ID, skip_invalid=True
                )
        assert it.requests == []


async def test_every_method_asks_for_what_computes_description_offers() -> None:
    """Each call is the method that it says, and asks for the warnings of a list.

    The referee compares parameters, masks and bodies with the discovery document.
    """

    def answer(request: web.Request) -> web.StreamResponse:
        if "requestId" in request.query or "/operations/" in request.path:
            return web.json_response(OPERATION)
        kind = request.path.split("/")[-2]
        sizes = {
            "instanceGroupManagers": {"targetSize": 1},
            "machineTypes": {"guestCpus": 1, "memoryMb": 1},
        }
        return web.json_response({"name": "g", "id": "1", **sizes.get(kind, {})})

    once = {"request_id": str(uuid.uuid4())}
    global_link = ResourceLink("p", "global", "operations", "operation-1")
    async with world(answer) as it:
        c = it.client
        await c.insert_instance_template("p", {"name": "t"}, **once)
        await c.get_instance_template("p", "t")
        await c.delete_instance_template("p", "t", **once)
        await c.insert_group("p", "z", GROUP, **once)
        await c.get_group("p", "z", "g")
        await c.create_instances("p", "z", "g", ["vm"], **once)
        await c.delete_instances("p", "z", "g", ["vm"], skip_invalid=True, **once)
        await c.delete_group("p", "z", "g", **once)
        await c.get_instance("p", "z", "vm")
        await c.set_instance_metadata("p", "z", "vm", FINGERPRINT, {"k": "v"}, **once)
        for link in (LINK, global_link):
            await c.get_operation(link)
            await c.wait_operation(link)
        await c.get_machine_type("p", "z", "m")
        await c.get_image("p", "i")
        await c.get_snapshot("p", "s")
        await c.get_network("p", "n")
        await c.get_subnetwork("p", "r", "n")
        await c.get_disk_type("p", "z", "d")
        await c.get_accelerator_type("p", "z", "a")
        await c.get_reservation("p", "z", "r")
        await c.get_resource_policy("p", "r", "n")
        singles = len(it.requests)
    async with world(script(web.json_response({}))) as lists:
        c = lists.client
        await c.list_instance_templates("p", "x")
        await c.list_groups("p")
        await c.list_managed_instances("p", "z", "g")
        await c.list_instances("p", "x")
    seen = [*it.seen, *lists.seen]
    requests = [*it.requests, *lists.requests]
    assert (singles, len(requests)) == (23, 27)
    for (method, *_), request in zip(seen, requests, strict=True):
        meant = find(request.method, request.rel_url.raw_path)
        assert meant is not None
        assert meant.name == method
        if mask_problems(meant, "warning") == []:
            assert "warning(" in request.query["fields"]


def test_operations_are_values() -> None:
    """Frozen, comparable, and done only when Compute says so."""
    one = Operation(name="operation-1", status="PENDING", self_link=LINK.url)
    assert one == Operation(name="operation-1", status="PENDING", self_link=LINK.url)
    assert not one.done
    assert one.failure() is None
    with pytest.raises(AttributeError):
        one.status = "DONE"  # type: ignore[misc]  # that it cannot be is the point
