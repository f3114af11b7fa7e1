"""The Machine Provider's client against servers that behave, and that do not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gce_backend.base.errors import (
    InvalidRequestError,
    MalformedResponseError,
    PermissionDeniedError,
    RateLimitedError,
    RemoteError,
    SettingsError,
    TransientError,
    UnauthenticatedError,
)
from gce_backend.clients.json_api import Limits
from gce_backend.clients.machine_provider import (
    CatalogEntry,
    CatalogError,
    CatalogMachine,
    LeaseError,
    LeaseRequest,
    MachineProviderClient,
    MethodNotOffered,
    NotCataloged,
    ReleaseError,
)
from support.responses import ScriptedServer, never, scripted_server

CANARY = "canary-token-1"


class CountedTokens:
    """Gives numbered tokens; a new one after each that was refused."""

    def __init__(self) -> None:
        self.number = 1

    async def get(self) -> str:
        """The present token."""
        return f"canary-token-{self.number}"

    def invalidate(self, token: str) -> None:
        """Makes the next token another one."""
        if token == f"canary-token-{self.number}":
            self.number += 1


Answer = Callable[[web.Request], web.StreamResponse | Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def client_of(
    answer: Answer, **options: Any
) -> AsyncIterator[tuple[MachineProviderClient, ScriptedServer]]:
    """A client of a server that gives this answer."""
    async with scripted_server(answer) as server, aiohttp.ClientSession() as session:
        client = MachineProviderClient(
            session=session,
            tokens=CountedTokens(),
            instance_url=server.root,
            **options,
        )
        yield client, server


def always(body: object, status: int = 200) -> Answer:
    """The same JSON answer to everything."""
    return lambda _: web.json_response(body, status=status)


def machine(hostname: str) -> CatalogMachine:
    """A machine to be added."""
    return CatalogMachine(
        {"backend": "GCE", "hostname": hostname, "num_cpus": 2}, {"on_reclamation": "DELETE"}
    )


async def echo(request: web.Request) -> web.Response:
    """A catalog that takes every machine but `taken` and `odd`."""
    errors = {"taken": "HOSTNAME_REUSE", "odd": "A_WORD_OF_TOMORROW"}
    responses = []
    for one in (await request.json())["requests"]:
        response: dict[str, Any] = {"machine_addition_request": one}
        error = errors.get(one["dimensions"]["hostname"])
        responses.append({**response, "error": error} if error else response)
    return web.json_response({"responses": responses})


async def test_machines_are_added_in_batches_with_results_in_order() -> None:
    """Each batch is one call; known errors are members of the enum, unknown ones are kept."""
    async with client_of(echo, batch_size=2) as (client, server):
        names = ["a", "taken", "odd", "b", "c"]
        results = await client.add_machines([machine(name) for name in names])
        assert [result.hostname for result in results] == names
        assert [result.error for result in results] == [
            None,
            CatalogError.HOSTNAME_REUSE,
            "A_WORD_OF_TOMORROW",
            None,
            None,
        ]
        assert isinstance(results[1].error, CatalogError)
        assert [result.added for result in results] == [True, False, False, True, True]
        assert [len(json.loads(body)["requests"]) for body in server.bodies] == [2, 2, 1]
        assert server.requests[0].path == "/_ah/api/catalog/v1/add_machines"
        sent = json.loads(server.bodies[0])["requests"][0]
        assert sent["dimensions"] == {"backend": "GCE", "hostname": "a", "num_cpus": 2}
        assert sent["policies"] == {"on_reclamation": "DELETE"}


async def test_a_failing_batch_keeps_the_results_before_it_and_is_not_repeated() -> None:
    """After a 503 on a mutation its outcome is unknown: that is told, per machine."""

    async def second_fails(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body["requests"][0]["dimensions"]["hostname"] == "b":
            return web.Response(status=503)
        return await echo(request)

    async with client_of(second_fails, batch_size=1) as (client, server):
        results = await client.add_machines([machine(name) for name in "abc"])
        assert results[0].added
        assert isinstance(results[1].failure, TransientError)
        assert results[2].failure is results[1].failure
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    "body",
    [
        {"responses": []},
        {"responses": [{"machine_addition_request": {"dimensions": {"hostname": "other"}}}]},
        {},
        {"responses": "none"},
    ],
)
async def test_answers_that_do_not_fit_the_requests_are_malformed(body: object) -> None:
    """Too few answers, or answers about other machines, are never taken for success."""
    async with client_of(always(body)) as (client, _):
        (result,) = await client.add_machines([machine("a")])
        assert isinstance(result.failure, MalformedResponseError)


async def test_delete_tells_success_from_every_refusal() -> None:
    """A deletion without error is a permit; a refusal is its word."""
    name = {"dimensions": {"hostname": "a", "backend": "GCE"}}
    async with client_of(always({"machine_deletion_request": name})) as (client, server):
        assert (await client.delete_machine("a")).error is None
        assert json.loads(server.bodies[0]) == name
    answer = {"machine_deletion_request": name, "error": "LEASED"}
    async with client_of(always(answer)) as (client, _):
        assert (await client.delete_machine("a")).error is CatalogError.LEASED


async def _removals(request: web.Request) -> web.Response:
    """A catalog in which `held` is leased, and that answers about `odd` with another name."""
    body = await request.json()

    def answer(one: dict[str, Any]) -> dict[str, Any]:
        name = one["dimensions"]["hostname"]
        if name == "odd":
            one = {"dimensions": {"hostname": "other"}}
        error = {"error": "LEASED"} if name == "held" else {}
        return {"machine_deletion_request": one, **error}

    if request.path.endswith("delete_machines"):
        return web.json_response({"responses": [answer(one) for one in body["requests"]]})
    return web.json_response(answer(body))


async def test_removals_of_one_moment_are_one_call_with_an_answer_for_each() -> None:
    """LEASED is that machine's; an answer about another machine spoils itself alone."""
    async with client_of(_removals) as (client, server):
        for _ in range(3):
            await asyncio.gather(*(client.delete_machine(name) for name in "abcd"))
        before = len(server.requests)
        found = await asyncio.gather(
            *(client.delete_machine(name) for name in ("a", "held", "odd", "b")),
            return_exceptions=True,
        )
        [path] = [request.path for request in server.requests[before:]]
        assert path == "/_ah/api/catalog/v1/delete_machines"
        errors = [getattr(one, "error", "raised") for one in found]
        assert errors == [None, CatalogError.LEASED, "raised", None]
        assert isinstance(found[2], MalformedResponseError)


async def test_fewer_answers_than_removals_are_no_answer_to_any() -> None:
    """Which one is missing is not known: each is asked about alone."""

    async def short(request: web.Request) -> web.Response:
        if request.path.endswith("delete_machines"):
            one = (await request.json())["requests"][0]
            return web.json_response({"responses": [{"machine_deletion_request": one}]})
        return await _removals(request)

    async with client_of(short) as (client, server):
        await client.delete_machine("a")
        found = await asyncio.gather(*(client.delete_machine(name) for name in ("b", "held")))
        assert [one.error for one in found] == [None, CatalogError.LEASED]
        assert len(server.requests) == 4


async def _looks(request: web.Request) -> web.Response:
    """Knows the machines of one letter; answers one question about another machine."""
    body = await request.json()

    def answer(name: str) -> dict[str, Any]:
        if name == "odd":
            return {"hostname": "other", "error": "ENTRY_NOT_FOUND"}
        if name == "mixed":
            return {"hostname": name, "entry": {"dimensions": {"hostname": "a"}}}
        if len(name) > 1:
            return {"hostname": name, **({} if name == "mute" else {"error": "ENTRY_NOT_FOUND"})}
        return {"hostname": name, "entry": {"dimensions": {"hostname": name}, "state": "AVAILABLE"}}

    if request.path.endswith("get_machines"):
        names = [one["hostname"] for one in body["requests"]]
        return web.json_response({"responses": [answer(name) for name in names]})
    return web.json_response(answer(body["hostname"])["entry"])


async def test_looks_of_one_moment_are_one_call_with_an_answer_for_each() -> None:
    """Only a machine that the answer names, and says that it lacks, is not cataloged."""
    async with client_of(_looks) as (client, server):
        for _ in range(4):
            await asyncio.gather(*(client.get_with_others(name) for name in "abcdef"))
        before = len(server.requests)
        names = ("a", "gone", "odd", "mixed", "mute", "b")
        found = await asyncio.gather(
            *(client.get_with_others(name) for name in names), return_exceptions=True
        )
        [path] = [request.path for request in server.requests[before:]]
        assert path == "/_ah/api/catalog/v1/get_machines"
        kinds = [type(one) for one in found]
        bad = MalformedResponseError
        assert kinds == [CatalogEntry, NotCataloged, bad, bad, bad, CatalogEntry]


@pytest.mark.parametrize(
    "body", [{}, {"machine_deletion_request": {"dimensions": {"hostname": "b"}}}, []]
)
async def test_delete_answered_with_nothing_is_no_permit(body: object) -> None:
    """An empty answer, or one about another machine, is malformed."""
    async with client_of(always(body)) as (client, _):
        with pytest.raises(MalformedResponseError):
            await client.delete_machine("a")


async def test_entry_with_strings_for_numbers_and_a_lone_attribute_is_read() -> None:
    """int64 comes as string or number, backend_attributes as list or object."""
    entry: dict[str, Any] = {
        "dimensions": {"hostname": "a", "backend": "GCE", "num_cpus": "8"},
        "policies": {"backend_attributes": {"key": "key", "value": "k"}},
        "state": "LEASED",
        "lease_expiration_ts": "1700000000",
    }
    expected = CatalogEntry(
        hostname="a",
        backend="GCE",
        attributes={"key": "k"},
        state="LEASED",
        lease_expiration_ts=1_700_000_000,
    )
    async with client_of(always(entry)) as (client, _):
        assert await client.get("a") == expected
    entry["policies"]["backend_attributes"] = [{"key": "key", "value": "k"}]
    entry["lease_expiration_ts"] = 1_700_000_000
    async with client_of(always(entry)) as (client, _):
        assert await client.get("a") == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (always({"error": {"message": "CatalogMachineEntry not found"}}, 404), NotCataloged()),
        (always({"error": {"message": "Not Found"}}, 404), MethodNotOffered()),
        (always({}, 404), MethodNotOffered()),
        (lambda _: web.Response(status=404, text="404 Not Found"), MethodNotOffered()),
    ],
)
async def test_get_tells_no_entry_from_no_such_method(answer: Answer, expected: object) -> None:
    """A 404 that explains nothing does not say that the machine is absent."""
    async with client_of(answer) as (client, _):
        assert await client.get("a") == expected


async def test_get_of_another_machine_is_malformed() -> None:
    """The entry must be of the machine that was asked for."""
    async with client_of(always({"dimensions": {"hostname": "b"}})) as (client, _):
        with pytest.raises(MalformedResponseError):
            await client.get("a")


async def test_lease_without_end_has_none() -> None:
    """The original says that it ends decades later."""
    fulfilled = {"state": "FULFILLED", "hostname": "a", "lease_expiration_ts": "2660005668"}
    answer = {"client_request_id": "r", **fulfilled, "leased_indefinitely": True}
    async with client_of(always(answer)) as (client, _):
        request = LeaseRequest(request_id="r", dimensions={"os_family": "LINUX"}, indefinite=True)
        lease = await client.lease(request)
        assert (lease.leased_indefinitely, lease.lease_expiration_ts) == (True, None)


async def test_lease_and_release() -> None:
    """Requests and answers of both, with errors as enum members."""

    def answer(request: web.Request) -> web.Response:
        if request.path.endswith("/lease"):
            fulfilled = {"state": "FULFILLED", "hostname": "a", "lease_expiration_ts": "9"}
            return web.json_response({"client_request_id": "r", "request_hash": "h", **fulfilled})
        return web.json_response({"client_request_id": "r", "error": "ALREADY_RECLAIMED"})

    async with client_of(answer) as (client, server):
        request = LeaseRequest(request_id="r", dimensions={"os_family": "LINUX"}, duration=60)
        lease = await client.lease(request)
        assert (lease.state, lease.hostname, lease.lease_expiration_ts) == ("FULFILLED", "a", 9)
        assert lease.error is None
        assert json.loads(server.bodies[0]) == {
            "request_id": "r",
            "dimensions": {"os_family": "LINUX"},
            "duration": 60,
        }
        assert (await client.release("r")).error is ReleaseError.ALREADY_RECLAIMED
    async with client_of(always({"error": "LEASE_TOO_LONG"})) as (client, _):
        assert (await client.lease(request)).error is LeaseError.LEASE_TOO_LONG


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda _: web.Response(status=500), TransientError),
        (lambda _: web.Response(status=429, headers={"Retry-After": "7"}), RateLimitedError),
        (lambda _: web.Response(status=401), UnauthenticatedError),
        (always({"error": {"message": "no"}}, 403), PermissionDeniedError),
        (always({"error": {"message": "bad"}}, 400), InvalidRequestError),
        (lambda _: web.Response(status=302, headers={"Location": "/x"}), InvalidRequestError),
        (lambda _: web.Response(text="<html>Sign in</html>"), MalformedResponseError),
        (lambda _: web.Response(body=b'{"dimensions": {"hos'), MalformedResponseError),
        (lambda _: web.Response(body=b"x" * 5000), MalformedResponseError),
        (lambda _: never(), TransientError),
    ],
)
async def test_every_bad_answer_has_its_type_and_none_tells_the_token(
    answer: Answer, kind: type[RemoteError]
) -> None:
    """Statuses, pages, truncation, size and silence; the canary is in no part of the error."""
    async with client_of(answer, limits=Limits(body_bytes=4096)) as (client, server):
        with pytest.raises(RemoteError) as caught:
            await client.delete_machine("a")
        assert type(caught.value) is kind
        error: BaseException | None = caught.value
        while error is not None:
            assert "canary" not in repr(error)
            assert "canary" not in "".join(traceback.format_exception(error))
            assert not type(error).__module__.startswith("aiohttp")
            error = error.__cause__ or error.__context__
        paths = {request.path for request in server.requests}
        assert paths == {"/_ah/api/catalog/v1/delete_machine"}


async def test_refused_connection_is_transient() -> None:
    """Nobody listens there."""
    async with client_of(always({})) as (client, server):
        pass
    async with aiohttp.ClientSession() as session:
        client = MachineProviderClient(
            session=session, tokens=CountedTokens(), instance_url=server.root
        )
        with pytest.raises(TransientError):
            await client.delete_machine("a")


async def test_refused_token_is_replaced_once() -> None:
    """401 -> one new token -> success."""

    def answer(request: web.Request) -> web.Response:
        if request.headers["Authorization"] == f"Bearer {CANARY}":
            return web.Response(status=401)
        name = {"dimensions": {"hostname": "a"}}
        return web.json_response({"machine_deletion_request": name})

    async with client_of(answer) as (client, server):
        assert (await client.delete_machine("a")).error is None
        assert len(server.requests) == 2


async def test_reads_are_repeated_and_mutations_are_not() -> None:
    """A 503 burst: get survives it, delete_machine tells of it after one try."""
    left = 3

    def flaky(request: web.Request) -> web.Response:
        nonlocal left
        if request.path.endswith("/get") and left:
            left -= 1
            return web.Response(status=503)
        if request.path.endswith("/get"):
            return web.json_response({"dimensions": {"hostname": "a"}})
        return web.Response(status=503)

    async with client_of(flaky) as (client, server):
        assert isinstance(await client.get("a"), CatalogEntry)
        assert len(server.requests) == 4
        with pytest.raises(TransientError):
            await client.delete_machine("a")
        assert len(server.requests) == 5


async def test_dripping_answer_ends_at_the_total_deadline() -> None:
    """Bytes that come one by one keep the read deadline happy, but not the total one."""

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                await response.write(b" ")
                await asyncio.sleep(1)
        return response

    async with client_of(drip, limits=Limits(total_seconds=30.0)) as (client, _):
        before = asyncio.get_running_loop().time()
        with pytest.raises(TransientError):
            await client.delete_machine("a")
        assert asyncio.get_running_loop().time() - before < 35


@pytest.mark.parametrize("url", ["ftp://mp", "http://user:pw@mp", "https://mp?x=1", "https://", ""])
async def test_unusable_address_is_a_settings_error_that_does_not_repeat_it(url: str) -> None:
    """Addresses are judged before any token goes there."""
    async with aiohttp.ClientSession() as session:
        with pytest.raises(SettingsError) as caught:
            MachineProviderClient(session=session, tokens=CountedTokens(), instance_url=url)
        assert "user:pw" not in str(caught.value)
