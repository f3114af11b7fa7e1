"""The API for people and jobs: leases with place and reason, machines, and the caller.

Like `api`, it holds methods as data, but it does not follow the original's protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import structlog

from gce_backend.base.errors import OrderError
from gce_backend.base.plurals import plural
from gce_backend.clients.datastore.client import Path
from gce_backend.machine_provider.access.decision import group_of_lessee, lease_refusal
from gce_backend.machine_provider.access.identity import email_of
from gce_backend.machine_provider.access.policy import LeaseLimits, Role
from gce_backend.machine_provider.api import Caller, Method, Refusal
from gce_backend.machine_provider.broker import MachineProvider
from gce_backend.machine_provider.demand import DemandDocument, DemandQuery, read_demand
from gce_backend.machine_provider.entities import (
    LeaseState,
    MachineState,
    Record,
    StoredLease,
    StoredMachine,
    digest,
    lease_path,
    named_lease_path,
)
from gce_backend.machine_provider.holdings import holdings_of
from gce_backend.machine_provider.lease_documents import (
    Extension,
    Hold,
    Holdings,
    LeaseDocument,
    LeaseList,
    LeaseLook,
    LeaseName,
    LeaseQuery,
    LeaseStage,
    MachineDocument,
    MachineList,
    MachineName,
    MachineOrders,
    MachineReport,
    MachineTrouble,
    NewKeys,
    NewLease,
    Nothing,
    Release,
    SshAccess,
    Transfer,
    TroubleReport,
    WhoAmI,
)
from gce_backend.machine_provider.leases import TOO_MANY, LeaseTerms
from gce_backend.machine_provider.losses import trouble_of
from gce_backend.machine_provider.offers import Offer, take
from gce_backend.machine_provider.records import Found, Records
from gce_backend.machine_provider.reports import has_let_in, note_trouble, report
from gce_backend.machine_provider.transfers import TRANSFERRED, may_take
from gce_backend.machine_provider.wire import LeaseRequestMessage

log = structlog.stdlib.get_logger()

_ERRORS: Mapping[str, tuple[int, str]] = {
    "REQUEST_ID_REUSE": (409, "another request has this request_id: choose another one"),
    "MUTUAL_EXCLUSION_ERROR": (400, "set one of duration, ends_at and without_end"),
    "LEASE_LENGTH_UNSPECIFIED": (400, "set one of duration, ends_at and without_end"),
    "LEASE_EXPIRATION_TS_ERROR": (400, "ends_at is in the past"),
}
"""HTTP status and message for each of the original's error words."""


AT_ONCE = 1000
"""Machines that are described before the event loop runs other tasks."""
LOST_SECONDS = 24 * 3600
"""How long a lease that was lost stays in its lessee's list."""


async def _create(broker: MachineProvider, caller: Caller, new: NewLease) -> LeaseDocument:
    if caller.group is None:
        raise Refusal(403, "Leasing machines needs the role USER.")
    limits = caller.group.limits
    dimensions = msgspec.to_builtins(new.dimensions)
    why = lease_refusal(limits, dimensions, without_end=new.without_end)
    if limits.max_machines is not None and new.count > limits.max_machines:
        why = f"its group holds at most {plural(limits.max_machines, 'machine')}"
    if why is not None:
        raise Refusal(403, f"This lease is refused: {why}.")
    request = LeaseRequestMessage(
        request_id=new.request_id,
        dimensions=new.dimensions,
        duration=new.duration,
        lease_expiration_ts=new.ends_at,
        indefinite=new.without_end or None,
    )
    terms = LeaseTerms(
        group=caller.group.name,
        count=new.count,
        label=new.label,
        tags=new.tags or msgspec.UNSET,
        wait_seconds=new.wait,
        keepalive=new.keepalive,
        ssh_keys=new.ssh_keys,
    )
    longest = limits.longest_lease
    answers = await broker.leases.lease(
        caller.user, [request], longest=longest, terms=terms, most_waiting=limits.max_waiting
    )
    error = answers[0].error
    if error == TOO_MANY and broker.records.waiting[caller.user] >= limits.max_waiting:
        raise Refusal(
            409,
            f"{plural(limits.max_waiting, 'request')} of yours wait, which is the most: cancel "
            "some, or ask again later.",
        )
    if error == "LEASE_TOO_LONG":
        raise Refusal(403, f"This lease is refused: it may last {longest} s at most.")
    if error is not None:
        status, message = _ERRORS.get(error, (503, error))
        raise Refusal(status, message)
    stored = await _stored(broker, lease_path(caller.user, new.request_id)[0][1])
    return _as_seen(broker, caller, stored)


async def _get(broker: MachineProvider, caller: Caller, look: LeaseLook) -> LeaseDocument:
    """A lease, once it differs from what the caller knows."""
    clock = broker.clock
    deadline = clock.monotonic() + look.wait
    while True:
        news = broker.records.watch(look.id)
        found = _as_seen(broker, caller, await _seen(broker, caller, look.id))
        left = deadline - clock.monotonic()
        if found.version != look.after or left <= 0 or broker.ending:
            return found
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await news.wait()


async def _list(broker: MachineProvider, caller: Caller, query: LeaseQuery) -> LeaseList:
    """The leases that wait or run, and those lost within a day; `leases.get` shows any other."""
    all_users = query.everybody and caller.roles & {Role.VIEWER, Role.ADMINISTRATOR}
    leases = await every_lease(broker, None if all_users else caller.user)
    return LeaseList(leases=tuple(one for one in leases if query.tag in {"", *one.tags}))


def waiting_leases(broker: MachineProvider) -> list[LeaseDocument]:
    """The requests of all users that wait."""
    return [_document(broker, lease) for lease in broker.records.untriaged.values()]


async def every_lease(broker: MachineProvider, user: str | None = None) -> list[LeaseDocument]:
    """The leases that wait or run, and those lost within a day; newest first.

    Args:
        user: whose; None for all users'.

    Raises:
        RemoteError: Datastore fails.
    """
    records = broker.records
    users = records.users if user is None else (user,)
    names = {name for one in users for name in records.users.get(one, ())}
    paths = [named_lease_path(name) for name in sorted(names)]
    waiting = dict(records.untriaged)  # those that get machines during the reads are listed, too
    found = await records.read(paths) if paths else {}
    found = {**waiting, **await records.lost(int(broker.clock.now()) - LOST_SECONDS), **found}
    leases = [
        lease
        for lease in found.values()
        if isinstance(lease, StoredLease) and user in {None, lease.user}
    ]
    leases.sort(key=lambda lease: (-lease.created, lease.name))
    return [_document(broker, lease) for lease in leases]


async def _extend(broker: MachineProvider, caller: Caller, wanted: Extension) -> LeaseDocument:
    lease = await _own(broker, caller, wanted.id)
    limits = broker.leases.limits_of(lease.group)
    return _document(broker, await broker.changes.extend(lease, wanted.duration, limits))


async def _keep_alive(broker: MachineProvider, caller: Caller, name: LeaseName) -> LeaseDocument:
    lease = await _own(broker, caller, name.id)
    return _document(broker, await broker.changes.keep_alive(lease))


async def _release(broker: MachineProvider, caller: Caller, wanted: Release) -> LeaseDocument:
    """Releases the machines; or holds them if their work failed and access.cfg says so."""
    lease = await _own(broker, caller, wanted.id)
    limits = broker.leases.limits_of(lease.group)
    if wanted.failed and lease.held and lease.runs:
        return _document(broker, lease)
    if wanted.failed and limits.hold_failed is not None:
        try:
            held = await broker.changes.hold(lease, limits.hold_failed, limits)
        except OrderError as error:
            log.info("machine_provider.not_held", lease=lease.name, reason=str(error))
        else:
            return _document(broker, held)
    return _document(broker, await broker.changes.release(lease))


async def _hold(broker: MachineProvider, caller: Caller, wanted: Hold) -> LeaseDocument:
    lease = await _own(broker, caller, wanted.id)
    limits = broker.leases.limits_of(lease.group)
    return _document(broker, await broker.changes.hold(lease, wanted.duration, limits))


async def _transfer(broker: MachineProvider, caller: Caller, wanted: Transfer) -> LeaseDocument:
    """Makes a lease another user's, as far as access.cfg lets the lessee and the next one."""
    lease, policy = await _own(broker, caller, wanted.id), broker.policy()
    user = email_of(wanted.user)
    group = group_of_lessee(policy, user) if user else None
    if group is None:
        message = "is not the e-mail address of somebody who may lease machines here."
        raise Refusal(403, f"{wanted.user} {message}")
    if Role.ADMINISTRATOR not in caller.roles and not may_take(policy, lease, group):
        raise Refusal(
            403,
            f"The group {lease.group} may not transfer leases to the group {group.name}: an "
            "administrator may, and access.cfg may allow it (transfer_to).",
        )
    found = await broker.changes.transfer(lease, user, group)
    if found.former != lease.former:
        log.info(
            "machine_provider.lease_transferred",
            lease=found.name,
            user=found.former[-1],
            to=user,
            by=caller.user,
            group=group.name,
        )
    return _document(broker, found)


async def _admit(broker: MachineProvider, caller: Caller, wanted: NewKeys) -> LeaseDocument:
    lease = await _own(broker, caller, wanted.id)
    return _document(broker, await broker.changes.admit(lease, wanted.ssh_keys))


async def _machines(broker: MachineProvider, caller: Caller, _: Nothing) -> MachineList:
    """Every machine, with its lessee if the caller may see it."""
    sees_all = bool(caller.roles & {Role.VIEWER, Role.ADMINISTRATOR})
    present = [
        machine
        for state in MachineState
        if state is not MachineState.DELETED
        for machine in broker.records.machines[state].values()
    ]
    machines = []
    for number, machine in enumerate(present, 1):
        names_user = sees_all or machine.user == caller.user
        machines.append(machine_document(broker.records, machine, names_user=names_user))
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)  # a large catalog must not keep other calls waiting
    machines.sort(key=lambda machine: (machine.backend, machine.name))
    return MachineList(machines=tuple(machines))


async def _machine(broker: MachineProvider, caller: Caller, named: MachineName) -> MachineDocument:
    machine = _cataloged(broker, named)
    names_user = machine.user == caller.user or caller.roles & {Role.VIEWER, Role.ADMINISTRATOR}
    return machine_document(broker.records, machine, names_user=bool(names_user))


def machine_document(
    records: Records, machine: StoredMachine, *, names_user: bool
) -> MachineDocument:
    """A machine of the catalog.

    Args:
        records: the picture.
        machine: the machine.
        names_user: whether to name its lessee.
    """
    available = machine.state is MachineState.AVAILABLE
    return MachineDocument(
        name=machine.hostname,
        backend=machine.backend,
        state=machine.state,
        dimensions=machine.dimensions,
        user=machine.user if names_user else "",
        ends_at=machine.lease_expiration_ts,
        agent=records.agents.voice(machine),
        leasable=available and records.is_leasable(machine),
        cordoned=machine.cordoned,
    )


async def _cordon(broker: MachineProvider, _: Caller, named: MachineName) -> MachineDocument:
    return await _cordoned(broker, named, cordoned=True)


async def _uncordon(broker: MachineProvider, _: Caller, named: MachineName) -> MachineDocument:
    return await _cordoned(broker, named, cordoned=False)


def _cataloged(broker: MachineProvider, named: MachineName) -> StoredMachine:
    """The machine of this name.

    Raises:
        Refusal: 404: there is none. 409: there are several.
    """
    found = [
        machine
        for state, machines in broker.records.machines.items()
        if state is not MachineState.DELETED
        for machine in machines.values()
        if machine.hostname == named.name and named.backend in {"", machine.backend}
    ]
    if not found:
        raise Refusal(404, "The catalog has no such machine.")
    if len(found) > 1:
        backends = ", ".join(sorted(machine.backend for machine in found))
        raise Refusal(409, f"Several backends have a machine of that name: name one of {backends}.")
    return found[0]


async def _cordoned(
    broker: MachineProvider, named: MachineName, *, cordoned: bool
) -> MachineDocument:
    """Keeps a machine from being leased, or ends that; repeating it is not an error."""
    known = _cataloged(broker, named)
    path, addition = known.path, known.addition_id

    def decide(stored: Found) -> dict[Path, Record | None]:
        machine = stored.get(path)
        if not isinstance(machine, StoredMachine) or machine.addition_id != addition:
            return {}
        return {path: msgspec.structs.replace(machine, cordoned=cordoned)}

    machine = (await broker.records.change([path], decide)).get(path)
    if not isinstance(machine, StoredMachine) or machine.addition_id != addition:
        raise Refusal(404, "The catalog has no such machine.")
    return machine_document(broker.records, machine, names_user=True)


async def _demand(broker: MachineProvider, caller: Caller, query: DemandQuery) -> DemandDocument:
    return await read_demand(broker, caller.backend, query)


async def _offer(broker: MachineProvider, caller: Caller, offer: Offer) -> Nothing:
    if not await take(broker.records, caller.backend or "", offer, broker.clock.now()):
        raise Refusal(400, "These are too many kinds of machines with too many dimensions.")
    return Nothing()


async def _trouble(broker: MachineProvider, caller: Caller, said: TroubleReport) -> MachineOrders:
    orders = await note_trouble(broker.records, caller.backend or "", said, broker.clock.now())
    if orders is None:
        raise Refusal(404, "The catalog has no such machine.")
    return orders


async def _report(broker: MachineProvider, caller: Caller, said: MachineReport) -> MachineOrders:
    now = broker.clock.now()
    orders = await report(broker.records, caller.account, caller.vm, said, now)
    if orders is None:
        raise Refusal(404, "The catalog has no such machine, or the token is not of its VM.")
    return orders


async def _users(broker: MachineProvider, _: Caller, __: Nothing) -> Holdings:
    return holdings_of(broker.records, broker.policy())


async def _who_am_i(_: MachineProvider, caller: Caller, __: Nothing) -> WhoAmI:
    limits = caller.group.limits if caller.group is not None else LeaseLimits()
    return WhoAmI(
        user=caller.user,
        roles=sorted(caller.roles),
        group=caller.group.name if caller.group is not None else "",
        limits=msgspec.to_builtins(limits) if caller.group is not None else {},
    )


METHODS: Mapping[str, Method] = {
    "leases.create": Method(NewLease, _create),
    "leases.get": Method(LeaseLook, _get),
    "leases.list": Method(LeaseQuery, _list),
    "leases.extend": Method(Extension, _extend),
    "leases.keepalive": Method(LeaseName, _keep_alive),
    "leases.release": Method(Release, _release),
    "leases.hold": Method(Hold, _hold),
    "leases.transfer": Method(Transfer, _transfer),
    "leases.admit": Method(NewKeys, _admit),
    "machines.list": Method(Nothing, _machines),
    "machines.get": Method(MachineName, _machine),
    "machines.cordon": Method(MachineName, _cordon),
    "machines.uncordon": Method(MachineName, _uncordon),
    "demand.get": Method(DemandQuery, _demand),
    "backends.offer": Method(Offer, _offer),
    "machines.report": Method(MachineReport, _report),
    "machines.trouble": Method(TroubleReport, _trouble),
    "users.list": Method(Nothing, _users),
    "users.whoami": Method(Nothing, _who_am_i),
}
"""Every method of this API, by name."""


class ApiRoute(NamedTuple):
    """The HTTP address of a method.

    Attributes:
        verb: the HTTP verb.
        path: an aiohttp resource pattern; its variables are members of the request.
        name: the method's name.
    """

    verb: str
    path: str
    name: str


_LEASE = "/api/v1/leases/{id:[^/:]+}"
ROUTES = (
    ApiRoute("POST", "/api/v1/leases", "leases.create"),
    ApiRoute("GET", "/api/v1/leases", "leases.list"),
    ApiRoute("GET", _LEASE, "leases.get"),
    ApiRoute("POST", _LEASE + ":extend", "leases.extend"),
    ApiRoute("POST", _LEASE + ":keepalive", "leases.keepalive"),
    ApiRoute("POST", _LEASE + ":release", "leases.release"),
    ApiRoute("POST", _LEASE + ":hold", "leases.hold"),
    ApiRoute("POST", _LEASE + ":transfer", "leases.transfer"),
    ApiRoute("POST", _LEASE + ":admit", "leases.admit"),
    ApiRoute("GET", "/api/v1/machines", "machines.list"),
    ApiRoute("GET", "/api/v1/machines/{name:[^/:]+}", "machines.get"),
    ApiRoute("GET", "/api/v1/users", "users.list"),
    ApiRoute("GET", "/api/v1/demand", "demand.get"),
    ApiRoute("PUT", "/api/v1/offer", "backends.offer"),
    ApiRoute("POST", "/api/v1/machines/{name:[^/:]+}:report", "machines.report"),
    ApiRoute("POST", "/api/v1/machines/{name:[^/:]+}:trouble", "machines.trouble"),
    ApiRoute("POST", "/api/v1/machines/{name:[^/:]+}:cordon", "machines.cordon"),
    ApiRoute("POST", "/api/v1/machines/{name:[^/:]+}:uncordon", "machines.uncordon"),
    ApiRoute("GET", "/api/v1/whoami", "users.whoami"),
)


def request_of(name: str, body: Any) -> Any:  # unchecked JSON
    """A method's request.

    Raises:
        Refusal: 400: the body is not a valid request.
    """
    try:
        return msgspec.convert(body, METHODS[name].request, strict=False)
    except (msgspec.ValidationError, RecursionError) as error:
        raise Refusal(400, str(error)) from error


async def call(broker: MachineProvider, caller: Caller, name: str, body: Any) -> Any:
    """Carries a method out.

    Returns:
        The answer as plain JSON values.

    Raises:
        Refusal: the answer is an HTTP error.
        RemoteError: Datastore fails; the outcome is unknown.
    """
    request = request_of(name, body)
    try:
        answer = await METHODS[name].act(broker, caller, request)
    except OrderError as error:
        raise Refusal(409, f"{error}.") from error
    return msgspec.to_builtins(answer)


async def _stored(broker: MachineProvider, name: str) -> StoredLease:
    path = named_lease_path(name)
    lease = (await broker.records.read([path])).get(path)
    if not isinstance(lease, StoredLease):
        raise Refusal(404, "There is no such lease.")
    return lease


async def _seen(broker: MachineProvider, caller: Caller, name: str) -> StoredLease:
    """A lease that the caller may see; any other lease counts as not found."""
    lease = await _stored(broker, name)
    known = caller.user in {lease.user, *lease.former}
    if not known and not caller.roles & {Role.VIEWER, Role.ADMINISTRATOR}:
        raise Refusal(404, "There is no such lease.")
    return lease


async def _own(broker: MachineProvider, caller: Caller, name: str) -> StoredLease:
    """A lease that the caller may change."""
    lease = await _seen(broker, caller, name)
    if lease.user != caller.user and Role.ADMINISTRATOR not in caller.roles:
        raise Refusal(403, f"The lease is {lease.user}'s.")
    return lease


def _as_seen(broker: MachineProvider, caller: Caller, lease: StoredLease) -> LeaseDocument:
    """A lease as the caller may see it: it is over for one who has transferred it."""
    found = _document(broker, lease)
    may_see = caller.user == lease.user or caller.roles & {Role.VIEWER, Role.ADMINISTRATOR}
    if may_see:
        return found
    return LeaseDocument(
        id=found.id,
        request_id=found.request_id,
        user=found.user,
        group=found.group,
        label=found.label,
        tags=found.tags,
        state="ended",
        ended=TRANSFERRED,
        message=f"it is {found.user}'s now",
        dimensions=found.dimensions,
        count=found.count,
        created=found.created,
        began=found.began,
        version=digest((TRANSFERRED, found.user))[:16],
    )


def _document(broker: MachineProvider, lease: StoredLease) -> LeaseDocument:
    if lease.state is not LeaseState.UNTRIAGED:
        return _shown(broker.records, lease, None)
    return _shown(broker.records, lease, broker.waits.of(lease.name))


def _shown(records: Records, lease: StoredLease, waiting: Any) -> LeaseDocument:
    state: LeaseStage
    if lease.state is LeaseState.UNTRIAGED:
        state = "pending"
    elif lease.runs:
        state = "held" if lease.held else "active"
    else:
        state = "ended"
    machines = _machines_of(records, lease)
    reported = [machine for machine in machines if machine.agent is not None]
    troubles = tuple(
        MachineTrouble(
            machine=machine.hostname,
            message=trouble_of(machine),
            gone=machine.gone,
            preempted=machine.preempted_ts is not None,
        )
        for machine in machines
        if trouble_of(machine)
    )
    return LeaseDocument(
        id=lease.name,
        request_id=lease.request.request_id,
        user=lease.user,
        requester=lease.requester if lease.former else "",
        group=lease.group,
        label=lease.label,
        tags=lease.tags,
        state=state,
        ended=lease.ended if state == "ended" else None,
        message=lease.message,
        dimensions=lease.request.dimensions,
        count=lease.count,
        machines=tuple(path[0][1].partition(":")[2] for path in lease.machines)
        if lease.runs
        else (),
        created=lease.created,
        began=lease.fulfilled_ts,
        ends_at=lease.lease_expiration_ts,
        alive_until=lease.alive_until if state in {"pending", "active"} else None,
        waiting=waiting,
        agents=tuple(machine.hostname for machine in reported),
        ssh=_ssh(reported, lease),
        troubles=troubles,
        version=digest((state, lease.user, lease.backend, lease.machines, troubles))[:16],
    )


def _machines_of(records: Records, lease: StoredLease) -> list[StoredMachine]:
    """The machines that a lease holds now."""
    leased = records.machines[MachineState.LEASED]
    machines = [leased[path] for path in lease.machines if path in leased] if lease.runs else []
    return [machine for machine in machines if machine.lease == lease.name]


def _ssh(machines: Sequence[StoredMachine], lease: StoredLease) -> tuple[SshAccess, ...]:
    """How the lessee reaches the machines of a lease."""
    return tuple(
        SshAccess(
            machine=machine.hostname,
            **msgspec.structs.asdict(machine.agent.ssh),
            ready=has_let_in(machine, lease),
        )
        for machine in machines
        if machine.agent is not None and machine.agent.ssh is not None
    )
