"""The catalog: adds machines, looks them up by name, and removes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeGuard, TypeVar

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
    PollResponse,
)

R = TypeVar("R", AddRequest, DeleteRequest, CapacityRequest)


class Catalog:
    """The machines.

    All methods raise `gce_backend.base.errors.RemoteError` when Datastore fails. `backend` is the
    backend whose machines the caller manages. The caller may omit it in its requests, and cannot
    change another backend's machines.
    """

    def __init__(self, records: Records, *, new_id: Callable[[], str]) -> None:
        self._records = records
        self._new_id = new_id

    async def add(self, backend: str, requests: Sequence[AddRequest]) -> list[AddResponse]:
        """Adds machines; returns one answer for each, in the same order."""
        owned = [_owned(request, backend) for request in requests]
        answers: list[AddResponse] = []
        for start in range(0, len(owned), MAX_CHANGE):
            answers += await self._add(backend, owned[start : start + MAX_CHANGE])
        return answers

    async def _add(self, backend: str, requests: Sequence[AddRequest]) -> list[AddResponse]:
        errors = [rules.name_error(request.dimensions, backend) for request in requests]
        machines = [
            None if error else self._machine(request)
            for request, error in zip(requests, errors, strict=True)
        ]
        wanted: dict[Path, StoredMachine] = {}
        for machine in machines:
            if machine is not None:
                wanted.setdefault(machine.path, machine)  # of two with the same name, the first

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

    async def delete(self, backend: str, requests: Sequence[DeleteRequest]) -> list[DeleteResponse]:
        """Removes machines from the catalog unless they are leased; returns one answer for each."""
        owned = [_owned(request, backend) for request in requests]
        errors: list[str | None] = []
        for start in range(0, len(owned), MAX_CHANGE):
            errors += await self._delete(backend, owned[start : start + MAX_CHANGE])
        return [
            DeleteResponse(machine_deletion_request=request, error=error)
            for request, error in zip(owned, errors, strict=True)
        ]

    async def _delete(self, backend: str, requests: Sequence[DeleteRequest]) -> list[str | None]:
        errors = [rules.name_error(request.dimensions, backend) for request in requests]
        paths = [
            None if error else machine_path(backend, str(request.dimensions.hostname))
            for request, error in zip(requests, errors, strict=True)
        ]
        wanted: dict[Path, DeleteRequest] = {}
        for path, request in zip(paths, requests, strict=True):
            if path is not None:
                wanted.setdefault(path, request)
        doomed: set[str] = set()  # additions that this call deletes, also on a second try

        def decide(found: Found) -> dict[Path, Record | None]:
            changes: dict[Path, Record | None] = {}
            for path, machine in found.items():
                if not _is_cataloged(machine) or not _is_meant(machine, wanted[path]):
                    continue
                if machine.state is not MachineState.LEASED:
                    doomed.add(machine.addition_id)
                    changes[path] = machine.in_state(MachineState.DELETED)
            return changes

        found = await self._records.change(list(wanted), decide) if wanted else {}
        gone: set[Path] = set()
        for place, path in enumerate(paths):
            if path is None:
                continue
            machine = found.get(path)
            if _is_cataloged(machine) and not _is_meant(machine, requests[place]):
                errors[place] = "HOSTNAME_REUSE"
            elif isinstance(machine, StoredMachine) and machine.state is MachineState.LEASED:
                errors[place] = "LEASED"
            elif (
                path in gone
                or not isinstance(machine, StoredMachine)
                or machine.addition_id not in doomed
            ):
                errors[place] = "ENTRY_NOT_FOUND"
            gone.add(path)  # of two with the same name, the first
        return errors

    async def get(self, backend: str, hostname: str) -> EntryMessage | None:
        """The catalog entry of a machine; None when there is none."""
        machine = await self._machine_called(backend, hostname)
        if machine is None:
            return None
        awaits = self._records.agents.awaits(machine) or None
        return msgspec.structs.replace(machine.entry, awaits_agent=awaits)

    async def modify_capacity(self, backend: str, request: CapacityRequest) -> CapacityResponse:
        """Stores how many machines with these dimensions their backend could provide."""
        request = _owned(request, backend)
        error = rules.backend_error(request.dimensions, backend)
        if error is None:
            capacity = Capacity(dimensions=request.dimensions, count=request.count)
            await self._records.change([capacity.path], lambda _: {capacity.path: capacity})
        return CapacityResponse(capacity_modification_request=request, error=error)

    async def poll(self, backend: str, hostname: str, account: str) -> PollResponse | None:
        """A machine's instruction, for its backend or itself; None when it is not in the catalog.

        When the machine's own account asks, the instruction counts as received.
        """
        machine = await self._machine_called(backend, hostname)
        if _is_own(machine, account) and machine.instruction_state is InstructionState.PENDING:
            await self._advance(backend, hostname, account, InstructionState.RECEIVED)
        return None if machine is None else _instruction(machine)

    async def poll_own(self, backend: str, hostname: str, account: str) -> PollResponse | None:
        """The same for the machine itself; None also when it belongs to another account."""
        machine = await self._machine_called(backend, hostname)
        return await self.poll(backend, hostname, account) if _is_own(machine, account) else None

    async def ack(self, backend: str, hostname: str, account: str) -> bool | None:
        """Notes that a machine has carried out its instruction.

        Returns:
            Whether it had an instruction; None when it is not in the catalog or belongs to another
            account.
        """
        machine = await self._advance(backend, hostname, account, InstructionState.EXECUTED)
        return None if machine is None else machine.instruction is not None

    async def _machine_called(self, backend: str, hostname: str) -> StoredMachine | None:
        path = machine_path(backend, hostname)
        machine = (await self._records.read([path])).get(path)
        return machine if _is_cataloged(machine) else None

    async def _advance(
        self, backend: str, hostname: str, account: str, to: InstructionState
    ) -> StoredMachine | None:
        """This account's machine with its instruction moved to a later state."""
        path = machine_path(backend, hostname)

        def decide(found: Found) -> dict[Path, Record | None]:
            machine = found.get(path)
            if not _is_own(machine, account) or machine.instruction_state not in _EARLIER[to]:
                return {}
            return {path: msgspec.structs.replace(machine, instruction_state=to)}

        machine = (await self._records.change([path], decide)).get(path)
        return machine if _is_own(machine, account) else None


_EARLIER = {
    InstructionState.RECEIVED: {InstructionState.PENDING},
    InstructionState.EXECUTED: {InstructionState.PENDING, InstructionState.RECEIVED},
}


def _owned(request: R, backend: str) -> R:
    """A request whose dimensions name the caller's backend, unless they name one."""
    return msgspec.structs.replace(request, dimensions=rules.owned(request.dimensions, backend))


def _instruction(machine: StoredMachine) -> PollResponse:
    """The instruction; None once the lease has been released, even before the machine is."""
    if machine.released:
        return PollResponse()
    return PollResponse(instruction=machine.instruction, state=machine.instruction_state)


def _is_own(record: Record | None, account: str) -> TypeGuard[StoredMachine]:
    return _is_cataloged(record) and record.policies.machine_service_account == account


def _is_meant(machine: StoredMachine, request: DeleteRequest) -> bool:
    """Whether an entry has the attributes that a request names."""
    return set(request.backend_attributes) <= set(machine.policies.backend_attributes)


def _is_cataloged(record: Record | None) -> TypeGuard[StoredMachine]:
    return isinstance(record, StoredMachine) and record.state is not MachineState.DELETED


def _is_addition(record: Record | None, machine: StoredMachine) -> bool:
    """Whether the stored machine is the one that this call added, however often it was tried."""
    return isinstance(record, StoredMachine) and record.addition_id == machine.addition_id
