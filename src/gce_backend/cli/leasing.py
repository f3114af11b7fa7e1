"""The work of `lease` and `release`: calls the Machine Provider until it answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum

from gce_backend.base.errors import (
    BackendError,
    OrderError,
    RemoteError,
    TransientError,
    UnknownNameError,
)
from gce_backend.base.tasks import end
from gce_backend.cli.common import clients_of
from gce_backend.cli.lessee import lessee_of
from gce_backend.cli.output import age, console, one_line
from gce_backend.clients.json_api import Limits
from gce_backend.clients.machine_provider import (
    LeaseAnswer,
    LeaseError,
    LeaseRequest,
    MachineProviderClient,
    ReleaseError,
)
from gce_backend.configuration.parsing import examine
from gce_backend.fleet.picture import Fleet
from gce_backend.fleet.store import Store
from gce_backend.machine_provider.client import DeniedError, LeaseClient
from gce_backend.model.entities import CONFIGURATION_KEY
from gce_backend.model.machine_token import Dimension
from gce_backend.rules.catalog_entry import shared_dimensions
from gce_backend.settings.settings import Settings

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds between two checks of a request that waits, at first and at most."""
WITHDRAW_SECONDS = 5.0
"""Seconds in which a request that is interrupted is cancelled."""

_RELEASE_ERRORS = {
    ReleaseError.NOT_FOUND: "the Machine Provider knows no lease of this name and this account",
    ReleaseError.NOT_FULFILLED: "no machine was leased for it yet: there is nothing to release",
}


@asynccontextmanager
async def broker_of(settings: Settings) -> AsyncIterator[tuple[MachineProviderClient, LeaseClient]]:
    """Clients of the Machine Provider, in the original's protocol and in today's."""
    async with lessee_of(settings) as lessee:
        api = lessee.client()
        limits = Limits(total_seconds=settings.machine_provider.timeout)
        broker = MachineProviderClient(
            session=lessee.session, tokens=lessee.tokens, instance_url=lessee.url, limits=limits
        )
        yield broker, api


async def lease(
    settings: Settings,
    dimensions: Mapping[str, Dimension],
    template: str | None,
    duration: float | None,
    wait: float,
    request_id: str,
) -> LeaseAnswer:
    """Asks for one lease until there is a machine, a refusal, or no time left.

    While it waits, it shows the place in the queue and the reason, if the Machine Provider tells.
    Ctrl-C cancels the request, or gives back its machine.

    Args:
        settings: names the Machine Provider, and the daemon's store if there is a template.
        dimensions: the dimensions that the machine must have.
        template: a template whose machines' dimensions are added; None for none.
        duration: of the lease, in seconds; None for a lease without end.
        wait: seconds to wait for a machine.
        request_id: the lease's name.

    Raises:
        UnknownNameError: there is no such template.
        OrderError: no answer came in time, or the Machine Provider refused.
        BackendError: something could not be read.
    """
    shared = await template_dimensions(settings, template) if template else {}
    async with broker_of(settings) as (broker, api):
        wanted = {**shared, **dimensions}
        request = LeaseRequest(
            request_id=request_id,
            dimensions=wanted,
            duration=None if duration is None else int(duration),
            indefinite=duration is None,
        )
        asking = asyncio.create_task(_ask(broker, api, request, wait), name="lease.ask")
        try:
            found = await asyncio.shield(asking)
        except asyncio.CancelledError:
            raise InterruptedRequestError(await _withdraw(broker, api, request_id)) from None
        finally:
            await end(asking)
        if found.error is not None or found.state == "DENIED":
            raise OrderError(await _refusal(api, found))
        return found


async def _ask(
    broker: MachineProviderClient, api: LeaseClient, request: LeaseRequest, wait: float
) -> LeaseAnswer:
    """Makes a request again and again: the same request is the same lease."""
    clock, name = asyncio.get_running_loop().time, request.request_id
    until, pause, shows = clock() + wait, FIRST_PAUSE, True
    with console(stderr=True).status(f"waiting for a machine (request {name}) ...") as status:
        while True:
            left = until - clock()
            try:
                found = await broker.lease(request)
            except TransientError as error:
                if left <= 0:
                    unknown = f"The result is not known; {open_request(name)}"
                    raise OrderError(f"{error}. {unknown}") from None
            else:
                waiting = found.error == "TRANSIENT_ERROR" or (
                    found.error is None and found.state in {"UNTRIAGED", "PENDING"}
                )
                if not waiting or left <= 0:
                    return found
                if shows and (why := await _why(api, name)) is not None:
                    status.update(f"{why} (request {name}) ...")
                else:
                    shows = False
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE)


async def _refusal(api: LeaseClient, found: LeaseAnswer) -> str:
    """Why there is no lease, and the longest that the caller may have if it was too long."""
    refusal = f"the Machine Provider refused: {found.error or found.state}"
    if found.error != LeaseError.LEASE_TOO_LONG:
        return refusal
    try:
        longest = (await api.who_am_i()).limits.get("longest_lease")
    except (OrderError, RemoteError):  # the original has no such API
        return refusal
    if not isinstance(longest, int):
        return refusal
    return f"{refusal}. Your leases may last {age(longest)} at most: --duration."


async def _why(api: LeaseClient, request_id: str) -> str | None:
    """The place of a request in the queue, and why it waits; None when nobody tells."""
    try:
        waiting = [one for one in (await api.leases()).leases if one.request_id == request_id]
    except (OrderError, RemoteError):  # the original has no such API
        return None
    told = [one.waiting for one in waiting if one.waiting is not None]
    return f"place {told[0].place}: {one_line(told[0].message)}" if told else None


async def template_dimensions(settings: Settings, template: str) -> dict[str, Dimension]:
    """What all machines of a template of the configuration in force have in common.

    Raises:
        UnknownNameError: there is no such template.
        BackendError: the store could not be read.
    """
    async with clients_of(settings) as (clients, project):
        fleet = Fleet(Store(clients.datastore(project)))
        await fleet.refresh([CONFIGURATION_KEY])
    stored = fleet.configuration
    found = examine(stored.template_config, stored.manager_config, stored.files)
    known = {one.base_name: one for one in found.configuration.templates}
    if template not in known:
        names = ", ".join(sorted(known)) or "none"
        raise UnknownNameError(f"there is no template {template!r}. Known: {names}.")
    return shared_dimensions(known[template])


class InterruptedRequestError(BackendError):
    """A request was interrupted, by Ctrl-C.

    Attributes:
        done: how it ended; None when it may wait for a machine, or have one.
    """

    def __init__(self, done: Released | None) -> None:
        super().__init__("interrupted")
        self.done = done


class Released(StrEnum):
    """What a release came to."""

    RELEASED = "is released"
    ENDED_BEFORE = "had ended before"
    CANCELLED = "is cancelled: it had no machine yet"


async def release(settings: Settings, request_id: str) -> Released:
    """Releases a leased machine, or cancels a request that waits for one.

    Args:
        settings: names the Machine Provider.
        request_id: the lease's name, or its id.

    Raises:
        OrderError: the Machine Provider refused.
        BackendError: something could not be read.
    """
    async with broker_of(settings) as (broker, api):
        return await _end(broker, api, request_id)


async def _withdraw(
    broker: MachineProviderClient, api: LeaseClient, request_id: str
) -> Released | None:
    """Ends a request that was interrupted; None when that fails."""
    with contextlib.suppress(BackendError, TimeoutError):
        async with asyncio.timeout(WITHDRAW_SECONDS):
            while True:
                try:
                    return await _end(broker, api, request_id)
                except UnknownNameError:  # it may be on its way
                    await asyncio.sleep(FIRST_PAUSE)
    return None


async def _end(broker: MachineProviderClient, api: LeaseClient, request_id: str) -> Released:
    """Releases a lease, or cancels a request."""
    error = (await broker.release(request_id)).error
    if error in {ReleaseError.NOT_FULFILLED, ReleaseError.NOT_FOUND}:
        done = await _by_api(api, request_id)
        if done is not None:
            return done
    if error == ReleaseError.ALREADY_RECLAIMED:
        return Released.ENDED_BEFORE
    if error is not None:
        known = {word.value: text for word, text in _RELEASE_ERRORS.items()}
        kind = UnknownNameError if error == ReleaseError.NOT_FOUND else OrderError
        raise kind(f"{request_id}: {known.get(error, f'it was refused: {error}')}")
    return Released.RELEASED


async def _by_api(api: LeaseClient, name: str) -> Released | None:
    """Releases what the original's release does not know: requests that wait, transferred leases.

    Args:
        name: a request id, or a lease's id.

    Returns:
        None when the Machine Provider has no such lease, or has not this API.

    Raises:
        DeniedError: it is another's, and the caller is no administrator.
    """
    try:
        own = [one for one in (await api.leases()).leases if name in {one.request_id, one.id}]
        # Another's lease is known by its id alone: request ids are unique for each user.
        others = () if own else (await api.leases(everybody=True)).leases
        for lease in [*own, *(one for one in others if one.id == name)]:
            if lease.state != "ended":
                done = await api.release(lease.id)
                return Released.CANCELLED if done.ended == "CANCELLED" else Released.RELEASED
    except DeniedError:
        raise
    except (OrderError, RemoteError):  # the original has no such API
        return None
    return None


def open_request(request_id: str) -> str:
    """A sentence that says how to continue with an open request."""
    return (
        f"the request stays open: the same command with --request-id {request_id} continues it; "
        f"`gce-backend release {request_id}` cancels it, or gives its machine back"
    )
