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
    ask_sync("https://machines.example.com", tokens, lambda client: client.leases())

When the block ends, by itself, by an exception or by Ctrl-C, the machines are given back; after an
exception, access.cfg may say that they are held for a while to investigate it. While the block
runs, the lease is kept alive: a program that is killed, or loses its network, holds nothing for
longer than `NewLease.keepalive`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import TypeVar
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
import msgspec

from gce_backend.base.errors import (
    BackendError,
    OrderError,
    RemoteError,
    TransientError,
)
from gce_backend.base.tasks import end
from gce_backend.clients.addresses import trusted_origin
from gce_backend.clients.error_table import said_in
from gce_backend.clients.exchange import Tokens, decode
from gce_backend.clients.json_api import JsonApi, Limits
from gce_backend.machine_provider.credentials import FixedToken, GitHubTokens, own_tokens
from gce_backend.machine_provider.lease_documents import (
    MAX_WAIT_SECONDS,
    Holdings,
    LeaseDocument,
    LeaseList,
    MachineDocument,
    MachineList,
    MachineTrouble,
    NewLease,
    WaitDocument,
    WhoAmI,
)
from gce_backend.machine_provider.wire import Dimensions, WireMessage

__all__ = [
    "DeniedError",
    "Dimensions",
    "FixedToken",
    "GitHubTokens",
    "LeaseClient",
    "LeaseDocument",
    "LeaseLostError",
    "LeasePreemptedError",
    "NewLease",
    "ask_sync",
    "connected",
    "leased",
    "leased_sync",
    "new_id",
]

KEEPALIVE_SECONDS = 60
"""Seconds that a lease outlives a killed program, unless its request says otherwise."""
POLL_SECONDS = 1.0
NEWS_SECONDS = MAX_WAIT_SECONDS + 15.0
"""Seconds after which a call for news has failed."""
RELEASE_SECONDS = 10.0
"""Seconds in which the release is tried at the end of a block."""

A = TypeVar("A", bound=WireMessage)
T = TypeVar("T")


class DeniedError(OrderError):
    """The caller may not do that."""


class LeaseLostError(OrderError):
    """The lease ended before its block did; somebody else may already have the machines."""


class LeasePreemptedError(LeaseLostError):
    """The lease ended because Compute Engine took its machines' VMs back: try again."""


def new_id() -> str:
    """A unique id for a request."""
    return str(uuid.uuid4())


class LeaseClient:
    """The API for people and jobs.

    Args:
        session: the HTTP session; the caller closes it.
        url: the Machine Provider's URL: https, or http on loopback.
        tokens: gives the caller's tokens.

    All methods raise `OrderError` when the Machine Provider refuses the request, and
    `RemoteError` when it cannot be reached. Every method can be repeated.

    Raises:
        SettingsError: the URL is no address that a token may be sent to.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, tokens: Tokens) -> None:
        host = (urlsplit(url if "//" in url else f"//{url}").hostname or "").removesuffix(".")
        root = trusted_origin(url, [host], what="the Machine Provider's address", setting="")
        patient = Limits(read_seconds=NEWS_SECONDS, total_seconds=NEWS_SECONDS)
        self._api, self._patient_api = (
            JsonApi(session=session, tokens=tokens, root=root, limits=limits, retrier=None)
            for limits in (Limits(total_seconds=20.0), patient)
        )

    async def create(self, wanted: NewLease) -> LeaseDocument:
        """Requests machines; repeating the request returns the same lease."""
        return await self._call(LeaseDocument, "POST", "/leases", wanted)

    async def get(self, lease: str) -> LeaseDocument:
        """A lease as it is now."""
        return await self._call(LeaseDocument, "GET", f"/leases/{lease}")

    async def news(self, known: LeaseDocument, seconds: float) -> LeaseDocument:
        """A lease, once its state, machines or troubles have changed.

        Args:
            known: the lease as it was last seen.
            seconds: the longest wait, of which the Machine Provider grants 55 s at most.
        """
        wait = max(min(int(seconds), MAX_WAIT_SECONDS), 0)
        query = f"?after={quote(known.version)}&wait={wait}"
        path = f"/leases/{known.id}{query}"
        return await self._call(LeaseDocument, "GET", path, api=self._patient_api)

    async def leases(self, *, everybody: bool = False, tag: str = "") -> LeaseList:
        """Leases that wait or run.

        Args:
            everybody: all that the caller may see, not only the caller's.
            tag: those with this tag alone, `KEY:VALUE`; "" for all.
        """
        asked = ({"everybody": "true"} if everybody else {}) | ({"tag": tag} if tag else {})
        query = f"?{urlencode(asked)}" if asked else ""
        return await self._call(LeaseList, "GET", f"/leases{query}")

    async def extend(self, lease: str, seconds: int) -> LeaseDocument:
        """Changes the end of a lease to `seconds` from now."""
        return await self._post(lease, "extend", {"duration": seconds})

    async def keep_alive(self, lease: str) -> LeaseDocument:
        """Keeps a lease alive."""
        return await self._post(lease, "keepalive", {})

    async def release(self, lease: str, *, failed: bool = False) -> LeaseDocument:
        """Releases the machines, or cancels a waiting request; repeating it is not an error.

        Args:
            lease: its id.
            failed: whether the work on the machines failed. If access.cfg says so, they are then
                held for a while, and the lease is `held`.
        """
        return await self._post(lease, "release", {"failed": True} if failed else {})

    async def hold(self, lease: str, seconds: int | None = None) -> LeaseDocument:
        """Keeps the machines so that a failure can be investigated."""
        return await self._post(lease, "hold", {} if seconds is None else {"duration": seconds})

    async def transfer(self, lease: str, user: str) -> LeaseDocument:
        """Makes a lease another user's; no key of the former lessee's is let in from then on.

        Args:
            lease: its id.
            user: the e-mail address of the next lessee.
        """
        return await self._post(lease, "transfer", {"user": user})

    async def admit(self, lease: str, *ssh_keys: str) -> LeaseDocument:
        """Lets these public keys in on the machines of a lease, and no others."""
        return await self._post(lease, "admit", {"ssh_keys": ssh_keys})

    async def machines(self) -> MachineList:
        """The catalog."""
        return await self._call(MachineList, "GET", "/machines")

    async def machine(self, name: str, backend: str = "") -> MachineDocument:
        """A machine of the catalog; `backend` is needed where several have one of that name."""
        query = f"?backend={quote(backend)}" if backend else ""
        return await self._call(MachineDocument, "GET", f"/machines/{quote(name, safe='')}{query}")

    async def cordon(self, name: str, backend: str = "") -> MachineDocument:
        """Keeps a machine in the catalog and does not lease it; a lease that runs goes on."""
        return await self._of_machine(name, "cordon", backend)

    async def uncordon(self, name: str, backend: str = "") -> MachineDocument:
        """Lets a machine be leased again."""
        return await self._of_machine(name, "uncordon", backend)

    async def _of_machine(self, name: str, verb: str, backend: str) -> MachineDocument:
        path = f"/machines/{quote(name, safe='')}:{verb}"
        body = {"backend": backend} if backend else {}
        return await self._call(MachineDocument, "POST", path, body)

    async def users(self) -> Holdings:
        """Who holds how many machines, by user and by group."""
        return await self._call(Holdings, "GET", "/users")

    async def who_am_i(self) -> WhoAmI:
        """The caller, as the Machine Provider sees it."""
        return await self._call(WhoAmI, "GET", "/whoami")

    async def _post(self, lease: str, verb: str, body: Mapping[str, object]) -> LeaseDocument:
        return await self._call(LeaseDocument, "POST", f"/leases/{lease}:{verb}", body)

    async def _call(
        self,
        kind: type[A],
        verb: str,
        path: str,
        body: object = None,
        api: JsonApi | None = None,
    ) -> A:
        method = f"machine_provider.api{path.partition('?')[0].replace('/', '.', 1)}"
        used = api or self._api
        answer = await used.call(method, verb, f"/api/v1{path}", body=body, repeat=api is None)
        if answer.status != 200:
            said = said_in(answer.body)
            refused = DeniedError if answer.status == 403 else OrderError
            raise refused(said.message if said and said.message else f"HTTP {answer.status}")
        return decode(method, answer.body, msgspec.json.Decoder(kind))


@contextlib.asynccontextmanager
async def connected(url: str, tokens: Tokens | None = None) -> AsyncIterator[LeaseClient]:
    """A client with its own HTTP session.

    Args:
        url: the Machine Provider's URL.
        tokens: gives the caller's tokens; None for those of the environment (`own_tokens`).
    """
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        if tokens is None:
            tokens = await stack.enter_async_context(own_tokens(session, url))
        yield LeaseClient(session, url, tokens)


def ask_sync(url: str, tokens: Tokens | None, ask: Callable[[LeaseClient], Awaitable[T]]) -> T:
    """Calls the API from a program without asyncio, e.g. `lambda client: client.leases()`.

    Args:
        url: the Machine Provider's URL.
        tokens: gives the caller's tokens; None for those of the environment (`own_tokens`).
        ask: makes the calls.

    Raises:
        OrderError: the request is refused.
        RemoteError: the Machine Provider cannot be reached.
        SettingsError: the URL is no address that a token may be sent to.
    """

    async def act() -> T:
        async with connected(url, tokens) as client:
            return await ask(client)

    return asyncio.run(act())


class Leased:
    """A lease that is kept alive.

    Attributes:
        document: the lease as it was last seen; after the block, as it was left: `held` if
            access.cfg says that machines are held after a failure.
        failed: whether its work failed, which an exception in the block means, too.
        lost: why it ended while its block was running; None if it did not.
    """

    def __init__(self, document: LeaseDocument) -> None:
        self.document = document
        self.failed = False
        self.lost: LeaseLostError | None = None


@contextlib.asynccontextmanager
async def leased(
    client: LeaseClient,
    wanted: NewLease,
    *,
    told: Callable[[WaitDocument], None] = lambda _: None,
    kept: Callable[[], bool] = lambda: False,
    troubled: Callable[[MachineTrouble], None] = lambda _: None,
) -> AsyncIterator[Leased]:
    """Machines for the length of a block.

    Args:
        client: the API.
        wanted: the request. Its keepalive is `KEEPALIVE_SECONDS` unless it says otherwise.
        told: called with the reason why the request waits, at each check.
        kept: whether to keep the machines at the end, e.g. because they are held.
        troubled: called when something is wrong with a machine, e.g. its VM has stopped, or
            Compute Engine takes it back: then 30 s are left to save what matters.

    Raises:
        OrderError: the request is refused, or its wait is over.
        LeaseLostError: the lease ended before the block did, or the VM of a machine no longer
            exists; the block is cancelled. LeasePreemptedError: Compute Engine took them back.
        RemoteError: the Machine Provider cannot be reached.
    """
    wanted = msgspec.structs.replace(wanted, keepalive=wanted.keepalive or KEEPALIVE_SECONDS)
    lease: Leased | None = None
    why = "its wait was over at once"
    try:
        document = await client.create(wanted)
        while document.state == "pending":
            if document.waiting is not None:
                why = document.waiting.message
                told(document.waiting)
            await asyncio.sleep(POLL_SECONDS)
            try:
                document = await client.keep_alive(document.id)
            except OrderError:  # its wait is over: the lease itself says why
                document = await client.get(document.id)
        if document.state == "ended":
            if document.ended == "WAITED_TOO_LONG":
                raise OrderError(f"there was no machine in time: {why}")
            raise OrderError(f"the request ended before it got a machine: {document.ended}")
        lease = Leased(document)
        seconds = wanted.keepalive or KEEPALIVE_SECONDS
        async with _kept_alive(client, lease, seconds, troubled):
            try:
                yield lease
            except Exception:
                lease.failed = True
                raise
    finally:
        if not (lease is not None and kept()):
            await asyncio.shield(_give_back(client, wanted, lease))


@contextlib.asynccontextmanager
async def _kept_alive(
    client: LeaseClient, lease: Leased, seconds: int, troubled: Callable[[MachineTrouble], None]
) -> AsyncIterator[None]:
    """Keeps a lease alive beside a block, and ends the block when that fails for good."""
    block = asyncio.current_task()
    assert block is not None  # noqa: S101 -- a coroutine always runs in a task
    clock = asyncio.get_running_loop().time

    async def keep() -> None:
        kept_at = shown_at = clock()
        lessee = lease.document.user
        while lease.lost is None:
            known, left = lease.document.troubles, kept_at + seconds / 4 - clock()
            try:
                if left > 0:
                    lease.document = await _news(client, lease.document, left)
                else:
                    lease.document = await client.keep_alive(lease.document.id)
                    kept_at = clock()
                shown_at = clock()
                lease.lost = _loss_of(lease.document, lessee)
                for trouble in lease.document.troubles:
                    if trouble not in known and not trouble.gone:
                        troubled(trouble)
            except TransientError as error:
                if clock() - shown_at > seconds:
                    lease.lost = _lost(str(error))
                await asyncio.sleep(POLL_SECONDS)
            except BackendError as error:
                lease.lost = await _why_lost(client, lease.document.id, lessee, error)
        block.cancel()

    keeping = asyncio.create_task(keep(), name="lease.keepalive")
    try:
        yield
    except asyncio.CancelledError:
        if lease.lost and block.uncancel() == 0:
            raise lease.lost from None
        raise
    finally:
        await end(keeping)


async def _news(client: LeaseClient, known: LeaseDocument, seconds: float) -> LeaseDocument:
    """A lease, when it has changed or the seconds are over."""
    begun = asyncio.get_running_loop().time()
    if seconds < POLL_SECONDS or not known.version:  # this Machine Provider lets nobody wait
        await asyncio.sleep(seconds)
        return known
    found = await client.news(known, seconds)
    passed = asyncio.get_running_loop().time() - begun
    if found.version == known.version and passed < POLL_SECONDS:  # it is about to stop
        await asyncio.sleep(POLL_SECONDS - passed)
    return found


async def _why_lost(
    client: LeaseClient, name: str, lessee: str, error: BackendError
) -> LeaseLostError:
    """Why a lease that cannot be kept alive ended, as far as the Machine Provider says."""
    with contextlib.suppress(BackendError):
        if (loss := _loss_of(await client.get(name), lessee)) is not None:
            return loss
    return _lost(str(error))


def _loss_of(document: LeaseDocument, lessee: str) -> LeaseLostError | None:
    """Why a lease is lost for a lessee; None while it is not."""
    if document.state not in {"active", "held"}:
        preempted = document.ended == "PREEMPTED"
        kind = LeasePreemptedError if preempted else LeaseLostError
        return _lost(document.message or f"it has ended: {document.ended}", kind)
    if document.user != lessee:  # it was transferred, and the caller may see everybody's leases
        return _lost(f"it is {document.user}'s now")
    gone = [f"{one.machine}: {one.message}" for one in document.troubles if one.gone]
    return _lost(gone[0]) if gone else None


def _lost(why: str, kind: type[LeaseLostError] = LeaseLostError) -> LeaseLostError:
    return kind(f"the lease is lost: {why}")


async def _give_back(client: LeaseClient, wanted: NewLease, lease: Leased | None) -> None:
    """Releases or cancels a lease, also one whose creation got no answer; best effort.

    A lease that cannot be released ends by itself, because nothing keeps it alive.
    """
    with contextlib.suppress(BackendError, TimeoutError):
        async with asyncio.timeout(RELEASE_SECONDS):
            while True:
                try:
                    for one in (await client.leases()).leases:
                        own = one.requester in {"", one.user}
                        if own and one.request_id == wanted.request_id:
                            failed = lease is not None and lease.failed
                            left = await client.release(one.id, failed=failed)
                            if lease is not None:
                                lease.document = left
                except RemoteError as error:
                    if not isinstance(error, TransientError):
                        raise
                    await asyncio.sleep(POLL_SECONDS)
                else:
                    return


@contextlib.contextmanager
def leased_sync(
    url: str,
    tokens: Tokens | None,
    wanted: NewLease,
    *,
    wait: float = 4 * 3600.0,
    failed: Callable[[], bool] = lambda: False,
) -> Iterator[LeaseDocument]:
    """The same as `leased` for programs without asyncio: a thread does its work.

    Args:
        url: the Machine Provider's URL.
        tokens: gives the caller's tokens; None for those of the environment (`own_tokens`).
        wanted: the request.
        wait: seconds to wait for the machines.
        failed: asked at the end whether the work failed; an exception in the block means it, too.

    Raises:
        OrderError: the request is refused, or its wait is over.
        LeaseLostError: raised at the end of the block: the lease ended before it.
        RemoteError: the Machine Provider cannot be reached.
        SettingsError: the URL is no address that a token may be sent to.
    """
    found: Future[LeaseDocument] = Future()
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
    errors: list[BaseException] = []
    wrong = threading.Event()

    async def work() -> None:
        over = asyncio.Event()
        begun.set_result((asyncio.get_running_loop(), over))
        bounded = wanted if wanted.wait else msgspec.structs.replace(wanted, wait=int(wait))
        async with connected(url, tokens) as client:
            asking = asyncio.create_task(_hold_until(client, bounded, found, over, wrong))
            stopped = asyncio.create_task(over.wait())
            await asyncio.wait({asking, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not found.done():
                asking.cancel()
            stopped.cancel()
            await asking

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:  # noqa: BLE001  (reported to the other thread)
            errors.append(error)
            if not found.done():
                found.set_exception(error)

    thread = threading.Thread(target=run, name="lease")
    thread.start()
    loop, over = begun.result()
    try:
        yield found.result()
        if failed():
            wrong.set()
    except Exception:
        wrong.set()
        raise
    finally:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(over.set)
        thread.join()
    if errors:
        raise errors[0]


async def _hold_until(
    client: LeaseClient,
    wanted: NewLease,
    found: Future[LeaseDocument],
    over: asyncio.Event,
    wrong: threading.Event,
) -> None:
    async with leased(client, wanted) as lease:
        found.set_result(lease.document)
        await over.wait()
        lease.failed = wrong.is_set()
