"""Leases: a request waits for a machine that fits, holds it, and gives it back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from gce_backend.base.clock import Clock
from gce_backend.base.dates import UnixSeconds
from gce_backend.clients.datastore.client import Path
from gce_backend.machine_provider import rules
from gce_backend.machine_provider.entities import (
    LeaseState,
    MachineState,
    Record,
    StoredLease,
    StoredMachine,
    digest,
    lease_path,
)
from gce_backend.machine_provider.records import MAX_CHANGE, Found, Records
from gce_backend.machine_provider.wire import (
    Instruction,
    InstructRequest,
    InstructResponse,
    LeaseRequestMessage,
    LeaseResponse,
    ReleaseRequest,
    ReleaseResponse,
)


class Leases:
    """The lease requests.

    Args:
        records: where they are kept.
        project: whose a lessee's topic is when its request does not say.
        waited: is told how many seconds a request has waited for its machine.

    All methods raise `gce_backend.base.errors.RemoteError` when Datastore fails.
    """

    def __init__(
        self,
        records: Records,
        clock: Clock,
        *,
        project: str,
        waited: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._records = records
        self._clock = clock
        self._project = project
        self._waited = waited

    async def lease(
        self,
        user: str,
        requests: Sequence[LeaseRequestMessage],
        *,
        longest: float = rules.MAX_LEASE_SECONDS,
    ) -> list[LeaseResponse]:
        """Takes requests, and tries at once to fulfil them.

        Args:
            user: who asks.
            requests: what is asked for.
            longest: seconds that the user's leases last at most.

        Returns:
            The answers, in the order of the requests.
        """
        now = self._clock.now()
        asked: dict[Path, StoredLease] = {}
        refused: dict[int, LeaseResponse] = {}
        paths = [lease_path(user, request.request_id) for request in requests]
        known = await self._records.read(list(dict.fromkeys(paths)))
        for place, (path, request) in enumerate(zip(paths, requests, strict=True)):
            checksum = digest((user, request))
            new = StoredLease(user=user, request=request, checksum=checksum, created=now)
            first = known.get(path) or asked.get(path)
            if isinstance(first, StoredLease):
                error = None if first.checksum == checksum else "REQUEST_ID_REUSE"
            else:
                error = rules.lease_error(request, now, longest)
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
        """Gives waiting requests the machines that fit, and denies those that are too late."""
        now = self._clock.now()
        late: list[StoredLease] = []
        waiting: list[StoredLease] = []
        for lease in self._records.untriaged.values():
            (late if rules.valid_until(lease) <= now else waiting).append(lease)
        available = self._records.machines[MachineState.AVAILABLE].values()
        pairs = list(rules.pair(waiting, available))
        for start in range(0, len(late), MAX_CHANGE):
            await self._deny([lease.path for lease in late[start : start + MAX_CHANGE]])
        for start in range(0, len(pairs), MAX_CHANGE // 2):
            await self._fulfil(pairs[start : start + MAX_CHANGE // 2], now)

    async def _deny(self, paths: Sequence[Path]) -> None:
        def decide(found: Found) -> dict[Path, Record | None]:
            return {
                path: msgspec.structs.replace(lease, state=LeaseState.DENIED)
                for path, lease in found.items()
                if isinstance(lease, StoredLease) and lease.state is LeaseState.UNTRIAGED
            }

        await self._records.change(paths, decide)

    async def _fulfil(
        self, pairs: Sequence[tuple[StoredLease, StoredMachine]], now: UnixSeconds
    ) -> None:
        couples = [(lease.path, machine.path) for lease, machine in pairs]

        def decide(found: Found) -> dict[Path, Record | None]:
            changes: dict[Path, Record | None] = {}
            for lease_key, machine_key in couples:
                lease, machine = found.get(lease_key), found.get(machine_key)
                if not isinstance(lease, StoredLease) or not isinstance(machine, StoredMachine):
                    continue
                free = machine.state is MachineState.AVAILABLE
                if free and lease.state is LeaseState.UNTRIAGED:
                    changes[lease_key], changes[machine_key] = rules.fulfilled(
                        lease, machine, now, self._project
                    )
            return changes

        paths = [path for couple in couples for path in couple]
        stored = await self._records.change(paths, decide)
        for path, _ in couples:
            lease = stored.get(path)
            if isinstance(lease, StoredLease) and lease.state is LeaseState.FULFILLED:
                self._waited(max(now - lease.created, 0.0))

    async def release(self, user: str, requests: Sequence[ReleaseRequest]) -> list[ReleaseResponse]:
        """Gives machines back before their time; the leases end with the next round of work."""
        answers: list[ReleaseResponse] = []
        for start in range(0, len(requests), MAX_CHANGE):
            answers += await self._release(user, requests[start : start + MAX_CHANGE])
        return answers

    async def _release(
        self, user: str, requests: Sequence[ReleaseRequest]
    ) -> list[ReleaseResponse]:
        paths = [lease_path(user, request.request_id) for request in requests]
        leases = await self._records.read(list(dict.fromkeys(paths)))
        held = {
            lease.machine: lease
            for lease in leases.values()
            if isinstance(lease, StoredLease) and lease.state is LeaseState.FULFILLED
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
            if not isinstance(lease, StoredLease):
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
        """Tells the machine of a lease what to do; None when there is no such lease."""
        error: str | None = None
        if request.instruction is None or not request.instruction.swarming_server:
            error = "INVALID_INSTRUCTION"
        else:
            path = lease_path(user, request.request_id)
            lease = (await self._records.read([path])).get(path)
            if not isinstance(lease, StoredLease):
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
