"""Machines for Python programs: lease them for the length of a block, however it ends.

::

    async with connected("https://machines.example.com", tokens) as client:
        linux = Dimensions(os_family="LINUX")
        wanted = NewLease(request_id=new_id(), dimensions=linux, duration=3600)
        async with leased(client, wanted) as lease:
            print(lease.document.machines)

and without asyncio::

    with leased_sync("https://machines.example.com", tokens, wanted) as document:
        print(document.machines)

When the block ends, by itself, by an exception or by Ctrl-C, the machines are given back. While it
runs, the lease is kept alive: a program that is killed, or loses its network, holds nothing for
longer than `NewLease.keepalive`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import aiohttp
import msgspec
from yarl import URL

from gce_backend.base.errors import (
    BackendError,
    OrderError,
    RemoteError,
    TransientError,
    UnauthenticatedError,
)
from gce_backend.clients.addresses import trusted_origin
from gce_backend.clients.error_table import said_in
from gce_backend.clients.exchange import Deadlines, Exchange, HttpRequest, Tokens, decode
from gce_backend.clients.json_api import JsonApi, Limits
from gce_backend.machine_provider.lease_documents import (
    LeaseDocument,
    LeaseList,
    MachineList,
    NewLease,
    WaitDocument,
    WhoAmI,
)
from gce_backend.machine_provider.wire import Dimensions, WireMessage

__all__ = [
    "Dimensions",
    "FixedToken",
    "GitHubTokens",
    "LeaseClient",
    "LeaseDocument",
    "LeaseLostError",
    "NewLease",
    "connected",
    "leased",
    "leased_sync",
    "new_id",
]

KEEPALIVE_SECONDS = 60
"""How long a lease outlives a program that is killed, unless its request says otherwise."""
POLL_SECONDS = 1.0
RELEASE_SECONDS = 10.0
"""How long giving back is tried at the end of a block."""
TIMEOUT = Deadlines(total=10.0)
_MAX_TOKEN_BYTES = 2**16

A = TypeVar("A", bound=WireMessage)


class LeaseLostError(OrderError):
    """The lease ended before its block did; the machines may be somebody else's by now."""


def new_id() -> str:
    """A name for a request that no other has."""
    return str(uuid.uuid4())


class FixedToken:
    """A token that somebody else has got, e.g. GitLab CI, or `gcloud auth print-identity-token`.

    Args:
        token: the token.
    """

    def __init__(self, token: str) -> None:
        self._token = token

    async def get(self) -> str:
        """The token."""
        return self._token

    def invalidate(self, token: str) -> None:
        """Nothing: there is no other one."""


class GitHubTokens:
    """Identity tokens of a job of GitHub Actions, which needs the permission `id-token: write`.

    Args:
        session: the connections.
        url: ACTIONS_ID_TOKEN_REQUEST_URL.
        token: ACTIONS_ID_TOKEN_REQUEST_TOKEN.
        audience: one of the audiences that access.cfg names.
    """

    def __init__(
        self, session: aiohttp.ClientSession, *, url: str, token: str, audience: str
    ) -> None:
        self._exchange = Exchange(session, None, None)
        separator = "&" if "?" in url else "?"
        self._url = URL(f"{url}{separator}{urlencode({'audience': audience})}", encoded=True)
        self._request_token = token
        self._found = ""

    async def get(self) -> str:
        """A token; the same one until it is refused.

        Raises:
            UnauthenticatedError: GitHub gives none.
        """
        if not self._found:
            method = "github.id_token"
            request = HttpRequest(method, "GET", self._url, TIMEOUT, _MAX_TOKEN_BYTES)
            answer = await self._exchange.send(request, self._request_token)
            decoder: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])
            found = decode(method, answer.body, decoder) if answer.status == 200 else {}
            if not isinstance(found.get("value"), str):
                remedy = "give the job the permission `id-token: write`"
                raise UnauthenticatedError(method, remedy, status=answer.status)
            self._found = str(found["value"])
        return self._found

    def invalidate(self, token: str) -> None:
        """Asks for another one next time."""
        if token == self._found:
            self._found = ""


class LeaseClient:
    """The API for people and jobs.

    Args:
        session: the connections; stays the caller's.
        url: of the Machine Provider: https, or http on loopback.
        tokens: gives the caller's tokens.

    All methods raise `OrderError` when the Machine Provider refuses what is asked, and
    `RemoteError` when it cannot be asked. Each can be repeated.

    Raises:
        SettingsError: the URL is no address that a token may be sent to.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, tokens: Tokens) -> None:
        host = (urlsplit(url if "//" in url else f"//{url}").hostname or "").removesuffix(".")
        root = trusted_origin(url, [host], what="the Machine Provider's address", setting="")
        limits = Limits(total_seconds=20.0)
        self._api = JsonApi(session=session, tokens=tokens, root=root, limits=limits, retrier=None)

    async def create(self, wanted: NewLease) -> LeaseDocument:
        """Asks for machines; the same request again is the same lease."""
        return await self._call(LeaseDocument, "POST", "/leases", wanted)

    async def get(self, lease: str) -> LeaseDocument:
        """A lease as it is now."""
        return await self._call(LeaseDocument, "GET", f"/leases/{lease}")

    async def leases(self, *, everybody: bool = False) -> LeaseList:
        """Leases that wait or run: the caller's, or all that the caller may see."""
        query = "?everybody=true" if everybody else ""
        return await self._call(LeaseList, "GET", f"/leases{query}")

    async def extend(self, lease: str, seconds: int) -> LeaseDocument:
        """Lets a lease end so many seconds from now."""
        return await self._post(lease, "extend", {"duration": seconds})

    async def keep_alive(self, lease: str) -> LeaseDocument:
        """Shows that its lessee lives."""
        return await self._post(lease, "keepalive", {})

    async def release(self, lease: str) -> LeaseDocument:
        """Gives the machines back, or cancels a request that waits; again is no error."""
        return await self._post(lease, "release", {})

    async def hold(self, lease: str, seconds: int | None = None) -> LeaseDocument:
        """Keeps the machines for a look after a failure."""
        return await self._post(lease, "hold", {} if seconds is None else {"duration": seconds})

    async def machines(self) -> MachineList:
        """The catalog."""
        return await self._call(MachineList, "GET", "/machines")

    async def who_am_i(self) -> WhoAmI:
        """The caller, as the Machine Provider sees it."""
        return await self._call(WhoAmI, "GET", "/whoami")

    async def _post(self, lease: str, verb: str, body: Mapping[str, object]) -> LeaseDocument:
        return await self._call(LeaseDocument, "POST", f"/leases/{lease}:{verb}", body)

    async def _call(self, kind: type[A], verb: str, path: str, body: object = None) -> A:
        method = f"machine_provider.api{path.partition('?')[0].replace('/', '.', 1)}"
        answer = await self._api.call(method, verb, f"/api/v1{path}", body=body, repeat=True)
        if answer.status != 200:
            said = said_in(answer.body)
            raise OrderError(said.message if said and said.message else f"HTTP {answer.status}")
        return decode(method, answer.body, msgspec.json.Decoder(kind))


@contextlib.asynccontextmanager
async def connected(url: str, tokens: Tokens) -> AsyncIterator[LeaseClient]:
    """A client with connections of its own.

    Args:
        url: of the Machine Provider.
        tokens: gives the caller's tokens.
    """
    async with aiohttp.ClientSession() as session:
        yield LeaseClient(session, url, tokens)


class Leased:
    """A lease that is kept alive.

    Attributes:
        document: the lease as it was last seen.
        lost: why it is over although its block runs; "" while it is not.
    """

    def __init__(self, document: LeaseDocument) -> None:
        self.document = document
        self.lost = ""


@contextlib.asynccontextmanager
async def leased(
    client: LeaseClient,
    wanted: NewLease,
    *,
    told: Callable[[WaitDocument], None] = lambda _: None,
    kept: Callable[[], bool] = lambda: False,
) -> AsyncIterator[Leased]:
    """Machines for the length of a block.

    Args:
        client: the API.
        wanted: what is asked for; kept alive within `KEEPALIVE_SECONDS` unless it says otherwise.
        told: is told why the request waits, at each look at it.
        kept: whether the machines are not given back at the end, e.g. because they are held.

    Raises:
        OrderError: the request is refused, or its wait is over.
        LeaseLostError: the lease ended before the block did, which is cancelled then.
        RemoteError: the Machine Provider cannot be asked.
    """
    wanted = msgspec.structs.replace(wanted, keepalive=wanted.keepalive or KEEPALIVE_SECONDS)
    lease: Leased | None = None
    try:
        document = await client.create(wanted)
        while document.state == "pending":
            if document.waiting is not None:
                told(document.waiting)
            await asyncio.sleep(POLL_SECONDS)
            try:
                document = await client.keep_alive(document.id)
            except OrderError:  # its wait is over: the lease itself says why
                document = await client.get(document.id)
        if document.state == "ended":
            raise OrderError(f"there was no machine in time: {document.ended}")
        lease = Leased(document)
        async with _kept_alive(client, lease, wanted.keepalive or KEEPALIVE_SECONDS):
            yield lease
    finally:
        if not (lease is not None and kept()):
            await asyncio.shield(_give_back(client, wanted))


@contextlib.asynccontextmanager
async def _kept_alive(client: LeaseClient, lease: Leased, seconds: int) -> AsyncIterator[None]:
    """Keeps a lease alive beside a block, and ends the block when that fails for good."""
    block = asyncio.current_task()
    assert block is not None  # noqa: S101 -- a coroutine always runs in a task
    clock = asyncio.get_running_loop().time

    async def keep() -> None:
        shown_at = clock()
        while True:
            await asyncio.sleep(seconds / 4)
            try:
                lease.document = await client.keep_alive(lease.document.id)
                shown_at = clock()
                lost = "" if lease.document.state in {"active", "held"} else "it has ended"
            except TransientError as error:
                lost = str(error) if clock() - shown_at > seconds else ""
            except BackendError as error:
                lost = str(error)
            if lost:
                lease.lost = lost
                block.cancel()
                return

    keeping = asyncio.create_task(keep(), name="lease.keepalive")
    try:
        yield
    except asyncio.CancelledError:
        if lease.lost and block.uncancel() == 0:
            raise LeaseLostError(f"the lease is lost: {lease.lost}") from None
        raise
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})


async def _give_back(client: LeaseClient, wanted: NewLease) -> None:
    """Releases or cancels a lease, also one whose creation got no answer; best effort in the end.

    What cannot be given back ends by itself, since nobody keeps it alive.
    """
    with contextlib.suppress(BackendError, TimeoutError):
        async with asyncio.timeout(RELEASE_SECONDS):
            while True:
                try:
                    for lease in (await client.leases()).leases:
                        if lease.request_id == wanted.request_id:
                            await client.release(lease.id)
                except RemoteError as error:
                    if not isinstance(error, TransientError):
                        raise
                    await asyncio.sleep(POLL_SECONDS)
                else:
                    return


@contextlib.contextmanager
def leased_sync(
    url: str, tokens: Tokens, wanted: NewLease, *, wait: float = 4 * 3600.0
) -> Iterator[LeaseDocument]:
    """The same as `leased` for programs without asyncio: its work is done by a thread.

    Args:
        url: of the Machine Provider.
        tokens: gives the caller's tokens.
        wanted: what is asked for.
        wait: seconds after which no machine is waited for.

    Raises:
        OrderError: the request is refused, or its wait is over.
        LeaseLostError: at the end of the block: the lease ended before it.
        RemoteError: the Machine Provider cannot be asked.
        SettingsError: the URL is no address that a token may be sent to.
    """
    found: Future[LeaseDocument] = Future()
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
    failed: list[BaseException] = []

    async def work() -> None:
        over = asyncio.Event()
        begun.set_result((asyncio.get_running_loop(), over))
        bounded = wanted if wanted.wait else msgspec.structs.replace(wanted, wait=int(wait))
        async with connected(url, tokens) as client:
            asking = asyncio.create_task(_hold_until(client, bounded, found, over))
            stopped = asyncio.create_task(over.wait())
            await asyncio.wait({asking, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not found.done():
                asking.cancel()
            stopped.cancel()
            await asking

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:  # noqa: BLE001  (told to the other thread)
            failed.append(error)
            if not found.done():
                found.set_exception(error)

    thread = threading.Thread(target=run, name="lease")
    thread.start()
    loop, over = begun.result()
    try:
        yield found.result()
    finally:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(over.set)
        thread.join()
    if failed:
        raise failed[0]


async def _hold_until(
    client: LeaseClient, wanted: NewLease, found: Future[LeaseDocument], over: asyncio.Event
) -> None:
    async with leased(client, wanted) as lease:
        found.set_result(lease.document)
        await over.wait()
