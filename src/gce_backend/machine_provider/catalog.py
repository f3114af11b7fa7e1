"""The catalog: machines are added, looked up, told apart by name, and taken out again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeGuard

import msgspec

from gce_backend.clients.datastore.client import Path
from gce_backend.machine_provider import rules
from gce_backend.machine_provider.entities import (
    Capacity,
    InstructionState,
    MachineState,
    Record,
    StoredMachine,
    machine_path,
)
from gce_backend.machine_provider.records import MAX_CHANGE, Found, Records
from gce_backend.machine_provider.wire import (
    AddRequest,
    AddResponse,
    CapacityRequest,
    CapacityResponse,
    DeleteRequest,
    DeleteResponse,
    EntryMessage,
    MachineName,
    PollResponse,
)


class Catalog:
    """The machines.

    Args:
        records: where they are kept.
        backend: whose machines the callers may manage.
        new_id: makes a unique id.

    All methods raise `gce_backend.errors.RemoteError` when Datastore fails.
    """

    def __init__(self, records: Records, *, backend: str, new_id: Callable[[], str]) -> None:
        self._records = records
        self._backend = backend
        self._new_id = new_id

    async def add(self, requests: Sequence[AddRequest]) -> list[AddResponse]:
        """Adds machines; each gets an answer of its own, in their order."""
        answers: list[AddResponse] = []
        for start in range(0, len(requests), MAX_CHANGE):
            answers += await self._add(requests[start : start + MAX_CHANGE])
        return answers

    async def _add(self, requests: Sequence[AddRequest]) -> list[AddResponse]:
        errors = [rules.addition_error(request, self._backend) for request in requests]
        machines = [
            None if error else self._machine(request)
            for request, error in zip(requests, errors, strict=True)
        ]
        wanted: dict[Path, StoredMachine] = {}
        for machine in machines:
            if machine is not None:
                wanted.setdefault(machine.path, machine)  # of two of a name, the first

        def decide(found: Found) -> dict[Path, Record | None]:
            return {path: new for path, new in wanted.items() if not _is_cataloged(found.get(path))}

        stored = await self._records.change(list(wanted), decide) if wanted else {}
        for place, machine in enumerate(machines):
            if machine is not None and not _is_addition(stored.get(machine.path), machine):
                errors[place] = "HOSTNAME_REUSE"
        return [
            AddResponse(machine_addition_request=request, error=error)
            for request, error in zip(requests, errors, strict=True)
        ]

    def _machine(self, request: AddRequest) -> StoredMachine:
        return StoredMachine(
            backend=str(request.dimensions.backend),
            hostname=str(request.dimensions.hostname),
            addition_id=self._new_id(),
            dimensions=request.dimensions,
            policies=request.policies,
        )

    async def delete(self, request: DeleteRequest) -> DeleteResponse:
        """Takes a machine out of the catalog unless it is leased."""
        backend, hostname = request.dimensions.backend, request.dimensions.hostname
        error: str | None = None
        if backend not in {None, self._backend}:
            error = "MISMATCHED_BACKEND"
        elif not hostname:
            error = "UNSPECIFIED_HOSTNAME"
        else:
            error = await self._delete(machine_path(self._backend, hostname))
        return DeleteResponse(machine_deletion_request=request, error=error)

    async def _delete(self, path: Path) -> str | None:
        doomed: set[str] = set()  # additions that this very call deletes, also when decided again

        def decide(found: Found) -> dict[Path, Record | None]:
            machine = found.get(path)
            if not _is_cataloged(machine) or machine.state is MachineState.LEASED:
                return {}
            doomed.add(machine.addition_id)
            return {path: machine.in_state(MachineState.DELETED)}

        machine = (await self._records.change([path], decide)).get(path)
        if isinstance(machine, StoredMachine) and machine.state is MachineState.LEASED:
            return "LEASED"
        return None if doomed else "ENTRY_NOT_FOUND"

    async def get(self, name: MachineName) -> EntryMessage | None:
        """What the catalog says of a machine; None when it is not in it."""
        path = machine_path(name.backend or self._backend, name.hostname)
        machine = (await self._records.read([path])).get(path)
        return machine.entry if _is_cataloged(machine) else None

    async def modify_capacity(self, request: CapacityRequest) -> CapacityResponse:
        """Notes how many machines of a sort its backend could provide."""
        error = rules.backend_error(request.dimensions, self._backend)
        if error is None:
            capacity = Capacity(dimensions=request.dimensions, count=request.count)
            await self._records.change([capacity.path], lambda _: {capacity.path: capacity})
        return CapacityResponse(capacity_modification_request=request, error=error)

    async def poll(self, name: MachineName) -> PollResponse | None:
        """Hands a leased machine its instruction; None when it is not in the catalog."""
        machine = await self._advance(name, InstructionState.PENDING, InstructionState.RECEIVED)
        if machine is None:
            return None
        return PollResponse(instruction=machine.instruction, state=machine.instruction_state)

    async def ack(self, name: MachineName) -> bool:
        """Notes that a machine has done what it was told; False when it is not in the catalog."""
        machine = await self._advance(name, InstructionState.RECEIVED, InstructionState.EXECUTED)
        return machine is not None

    async def _advance(
        self, name: MachineName, before: InstructionState, after: InstructionState
    ) -> StoredMachine | None:
        path = machine_path(name.backend or self._backend, name.hostname)

        def decide(found: Found) -> dict[Path, Record | None]:
            machine = found.get(path)
            if not isinstance(machine, StoredMachine) or machine.instruction_state is not before:
                return {}
            return {path: msgspec.structs.replace(machine, instruction_state=after)}

        machine = (await self._records.change([path], decide)).get(path)
        return machine if _is_cataloged(machine) else None


def _is_cataloged(record: Record | None) -> TypeGuard[StoredMachine]:
    return isinstance(record, StoredMachine) and record.state is not MachineState.DELETED


def _is_addition(record: Record | None, machine: StoredMachine) -> bool:
    """Whether what is stored is what this call added, however often it was tried."""
    return isinstance(record, StoredMachine) and record.addition_id == machine.addition_id
