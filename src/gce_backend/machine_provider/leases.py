"""Leases: a request waits for a machine that fits, holds it, and releases it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import msgspec

from gce_backend.base.clock import Clock
from gce_backend.base.dates import UnixSeconds
from gce_backend.clients.datastore.client import Path
from gce_backend.machine_provider import rules
from gce_backend.machine_provider.access.policy import DEFAULT_WAITING, LeaseLimits
from gce_backend.machine_provider.entities import (
    MACHINE_KIND,
    EndReason,
    LeaseState,
    MachineState,
    Record,
    StoredLease,
    StoredMachine,
    digest,
    lease_path,
    named_lease_path,
)
from gce_backend.machine_provider.queue import Allotment, Asked, allot, limit_of
from gce_backend.machine_provider.records import MAX_CHANGE, Found, Records
from gce_backend.machine_provider.wire import (
    Dimensions,
    Instruction,
    InstructRequest,
    InstructResponse,
    LeaseRequestMessage,
    LeaseResponse,
    ReleaseRequest,
    ReleaseResponse,
)

PRESENT = (MachineState.NEW, MachineState.AVAILABLE, MachineState.LEASED)
"""The states of machines that are leased, or can be."""
TOO_MANY = "TRANSIENT_ERROR"
"""The original's word for a request beyond those that may wait: its client asks again later."""


class LeaseTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks for beyond the original's protocol.

    Attributes:
        group: the group whose limits count; the gatekeeper sets it, not the requester.
        count: how many machines, all or none.
        label: the requester's label for it.
        tags: its tags; unset for none, so that a request has the checksum of an earlier release.
        wait_seconds: the longest wait in seconds; None for the longest that is allowed.
        keepalive: the longest time between two keepalives, in seconds; None without limit.
        ssh_keys: the lessee's public keys, in OpenSSH's form.
    """

    group: str = ""
    count: int = 1
    label: str = ""
    tags: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    wait_seconds: int | None = None
    keepalive: int | None = None
    ssh_keys: tuple[str, ...] = ()


class Leases:
    """The lease requests.

    Args:
        project: the project of a lessee's topic when the request does not name one.
        waited: called with the seconds that a request waited for its machine.
        limits_of: returns the limits of a group.

    Attributes:
        limits_of: as in the arguments.

    All methods raise `gce_backend.base.errors.RemoteError` when Datastore fails.
    """

    def __init__(
        self,
        records: Records,
        clock: Clock,
        *,
        project: str,
        waited: Callable[[float], None],
        limits_of: Callable[[str], LeaseLimits],
    ) -> None:
        self._records = records
        self._clock = clock
        self._project = project
        self._waited = waited
        self.limits_of = limits_of

    async def lease(
        self,
        user: str,
        requests: Sequence[LeaseRequestMessage],
        *,
        longest: float = rules.MAX_LEASE_SECONDS,
        terms: LeaseTerms | None = None,
        most_waiting: int = DEFAULT_WAITING,
    ) -> list[LeaseResponse]:
        """Stores requests, and tries at once to fulfill them.

        Args:
            user: the requester.
            longest: the longest lease that the user may have, in seconds.
            terms: what the original's requests cannot express.
            most_waiting: how many requests of the user may wait.

        Returns:
            The answers, in the order of the requests.
        """
        now = self._clock.now()
        asked: dict[Path, StoredLease] = {}
        refused: dict[int, LeaseResponse] = {}
        paths = [lease_path(user, request.request_id) for request in requests]
        known = await self._records.read(list(dict.fromkeys(paths)))
        waiting = self._records.waiting[user]
        for place, (path, request) in enumerate(zip(paths, requests, strict=True)):
            new = _new(user, request, terms or LeaseTerms(), now)
            first = known.get(path) or asked.get(path)
            if isinstance(first, StoredLease):
                error = None if first.checksum == new.checksum else "REQUEST_ID_REUSE"
            else:
                error = rules.lease_error(request, now, longest)
                if error is None and first is None and waiting + len(asked) >= most_waiting:
                    error = TOO_MANY
            if error is not None:
                refused[place] = LeaseResponse(client_request_id=request.request_id, error=error)
            elif first is None:
                asked[path] = new
        await self._store(asked)
        if asked:
            await self.triage()
        present = await self._records.read(list(dict.fromkeys(paths)))
        return [
            refused.get(place) or _response(present.get(path), request)
            for place, (path, request) in enumerate(zip(paths, requests, strict=True))
        ]

    async def _store(self, leases: Mapping[Path, StoredLease]) -> None:
        paths = list(leases)
        for start in range(0, len(paths), MAX_CHANGE):
            part = paths[start : start + MAX_CHANGE]

            def decide(found: Found, part: Sequence[Path] = part) -> dict[Path, Record | None]:
                return {path: leases[path] for path in part if path not in found}

            await self._records.change(part, decide)

    async def triage(self) -> None:
        """Grants machines to waiting requests, and ends the wait of requests that are too late."""
        now = self._clock.now()
        untriaged = list(self._records.untriaged.values())
        late = [lease for lease in untriaged if rules.valid_until(lease) <= now]
        for start in range(0, len(late), MAX_CHANGE):
            await self._deny([lease.path for lease in late[start : start + MAX_CHANGE]], now)
        if not self._records.may_grant():
            return
        grants = self.allotment(now).grants
        batch: list[tuple[Path, list[Path]]] = []
        for name, machines in grants.items():
            granted: list[Path] = [((MACHINE_KIND, machine),) for machine in machines]
            if batch and sum(len(paths) + 1 for _, paths in batch) + len(granted) >= MAX_CHANGE:
                await self._fulfil(batch, now)
                batch = []
            batch.append((named_lease_path(name), granted))
        if batch:
            await self._fulfil(batch, now)

    def allotment(self, now: UnixSeconds) -> Allotment:
        """Which requests get which machines now, and why the others wait."""
        asked = [
            Asked(
                lease.name,
                lease.user,
                lease.group,
                lease.created,
                lease.request.dimensions,
                lease.count,
            )
            for lease in self._records.untriaged.values()
        ]
        return allot(
            asked,
            self._records.free,
            self._records.held,
            limits_of=self.limits_of,
            total=self.total,
            now=now,
        )

    def total(self, dimensions: Dimensions) -> int:
        """How many machines in the catalog fit, leased or not."""
        return sum(map(len, self._records.fitting(dimensions, *PRESENT)))

    async def _deny(self, paths: Sequence[Path], now: UnixSeconds) -> None:
        def decide(found: Found) -> dict[Path, Record | None]:
            return {
                path: msgspec.structs.replace(
                    lease,
                    state=LeaseState.DENIED,
                    ended=EndReason.NOT_KEPT_ALIVE
                    if lease.alive_until is not None and lease.alive_until <= now
                    else EndReason.WAITED_TOO_LONG,
                )
                for path, lease in found.items()
                if isinstance(lease, StoredLease)
                and lease.state is LeaseState.UNTRIAGED
                and rules.valid_until(lease) <= now
            }

        await self._records.change(paths, decide)

    async def _fulfil(
        self, grants: Sequence[tuple[Path, Sequence[Path]]], now: UnixSeconds
    ) -> None:
        def decide(found: Found) -> dict[Path, Record | None]:
            """Other changes since the allotment count for the limits, too."""
            changes: dict[Path, Record | None] = {}
            present = self._records.held
            machines_of, leases_of = Counter[str](), Counter[str](present.leases)
            for lease_key, machine_keys in grants:
                lease = found.get(lease_key)
                machines = [
                    machine
                    for key in machine_keys
                    if isinstance(machine := found.get(key), StoredMachine)
                    and machine.state is MachineState.AVAILABLE
                ]
                if (
                    isinstance(lease, StoredLease)
                    and lease.state is LeaseState.UNTRIAGED
                    and len(machines) == len(machine_keys)
                ):
                    group = lease.group
                    if group not in machines_of:
                        machines_of[group] = present.machines_of(group)
                    limits = self.limits_of(group)
                    if limit_of(limits, machines_of[group], leases_of[group], lease.count):
                        continue
                    machines_of[group] += lease.count
                    leases_of[group] += 1
                    changed, held = rules.fulfilled(lease, machines, now, self._project)
                    changes[lease_key] = changed
                    changes.update({machine.path: machine for machine in held})
            return changes

        paths = [path for lease, machines in grants for path in (lease, *machines)]
        stored = await self._records.change(paths, decide)
        for path, _ in grants:
            lease = stored.get(path)
            if isinstance(lease, StoredLease) and lease.state is LeaseState.FULFILLED:
                self._waited(max(now - lease.created, 0.0))

    async def release(self, user: str, requests: Sequence[ReleaseRequest]) -> list[ReleaseResponse]:
        """Releases machines before their leases end; the next round of work ends the leases."""
        answers: list[ReleaseResponse] = []
        for start in range(0, len(requests), MAX_CHANGE):
            answers += await self._release(user, requests[start : start + MAX_CHANGE])
        return answers

    async def _release(
        self, user: str, requests: Sequence[ReleaseRequest]
    ) -> list[ReleaseResponse]:
        paths = [lease_path(user, request.request_id) for request in requests]
        leases = {
            path: lease
            for path, lease in (await self._records.read(list(dict.fromkeys(paths)))).items()
            if isinstance(lease, StoredLease) and lease.user == user
        }
        held = {
            path: lease
            for lease in leases.values()
            if lease.state is LeaseState.FULFILLED
            for path in lease.machines
        }

        def decide(found: Found) -> dict[Path, Record | None]:
            return {
                path: msgspec.structs.replace(machine, released=True)
                for path, machine in found.items()
                if isinstance(machine, StoredMachine) and machine.lease == held[path].name
            }

        changed = await self._records.change(list(held), decide) if held else {}
        released = {
            machine.lease for machine in changed.values() if isinstance(machine, StoredMachine)
        }
        answers = []
        for path, request in zip(paths, requests, strict=True):
            lease = leases.get(path)
            error: str | None = None
            if lease is None:
                error = "NOT_FOUND"
            elif lease.state is not LeaseState.FULFILLED:
                error = "NOT_FULFILLED"
            elif lease.name not in released:
                error = "ALREADY_RECLAIMED"
            answers.append(
                ReleaseResponse(
                    client_request_id=request.request_id,
                    request_hash=path[0][1],
                    error=error,
                )
            )
        return answers

    async def instruct(self, user: str, request: InstructRequest) -> InstructResponse | None:
        """Stores an instruction for the machine of a lease; None when there is no such lease."""
        error: str | None = None
        if request.instruction is None or not request.instruction.swarming_server:
            error = "INVALID_INSTRUCTION"
        else:
            path = lease_path(user, request.request_id)
            lease = (await self._records.read([path])).get(path)
            if not isinstance(lease, StoredLease) or lease.user != user:
                return None
            if lease.state is not LeaseState.FULFILLED:
                error = "NOT_FULFILLED"
            elif not await self._tell(lease, request.instruction):
                error = "ALREADY_RECLAIMED"
        return InstructResponse(client_request_id=request.request_id, error=error)

    async def _tell(self, lease: StoredLease, instruction: Instruction) -> bool:
        def decide(found: Found) -> dict[Path, Record | None]:
            return {
                path: machine.told(instruction)
                for path, machine in found.items()
                if isinstance(machine, StoredMachine) and machine.lease == lease.name
            }

        machine = (await self._records.change([lease.machine], decide)).get(lease.machine)
        return isinstance(machine, StoredMachine) and machine.lease == lease.name


def _response(lease: Record | None, request: LeaseRequestMessage) -> LeaseResponse:
    if isinstance(lease, StoredLease):
        return lease.response
    return LeaseResponse(client_request_id=request.request_id, error="TRANSIENT_ERROR")


def _new(
    user: str, request: LeaseRequestMessage, terms: LeaseTerms, now: UnixSeconds
) -> StoredLease:
    """A request as it is first stored. Its checksum tells whether a repeat is the same."""
    asked = msgspec.structs.replace(terms, group="")
    plain = asked == LeaseTerms()
    return StoredLease(
        user=user,
        request=request,
        checksum=digest((user, request) if plain else (user, request, asked)),
        created=now,
        group=terms.group,
        count=terms.count,
        label=terms.label,
        tags=terms.tags or (),
        wait_until=None if terms.wait_seconds is None else now + terms.wait_seconds,
        keepalive=terms.keepalive,
        ssh_keys=terms.ssh_keys,
        alive_until=None if terms.keepalive is None else int(now) + terms.keepalive,
    )
