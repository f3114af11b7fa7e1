"""The methods of the Machine Provider as data: what each takes, and what it does.

A server passes in the caller and a JSON body, and gets a JSON body back; nothing here knows HTTP.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from gce_backend.base.errors import BackendError
from gce_backend.machine_provider import wire
from gce_backend.machine_provider.access.decision import lease_refusal
from gce_backend.machine_provider.access.policy import AccessGroup, Role
from gce_backend.machine_provider.broker import MachineProvider
from gce_backend.machine_provider.leases import LeaseTerms

_ENUMS: Mapping[str, tuple[str, ...]] = {
    "backend": ("DUMMY", "GCE", "VSPHERE"),
    "os_family": ("", "LINUX", "OSX", "WINDOWS"),
    "linux_flavor": ("", "UBUNTU", "DEBIAN"),
    "disk_type": ("", "HDD", "SSD"),
    "on_reclamation": ("", "MAKE_AVAILABLE", "RECLAIM", "DELETE"),
}
"""Enum names by number; clients may send the number instead of the name."""

_LISTS = frozenset({"snapshot_labels", "backend_attributes"})
"""Repeated fields that some clients send as a single value."""

_INT64 = frozenset({"num_cpus", "disk_gb", "lease_expiration_ts", "count"})
"""Fields that are strings in answers."""


class Caller(NamedTuple):
    """The caller of a method.

    Attributes:
        user: the user whose lease requests the caller makes and sees.
        account: the e-mail address in the caller's token.
        vm: the VM that the caller's token names, `PROJECT/NAME`; "" when it names none.
        backend: the backend whose machines the caller manages; None when it manages none.
        roles: what the caller may do.
        group: the group that its leases count against; None when it may not lease.
    """

    user: str
    account: str
    backend: str | None
    roles: frozenset[Role] = frozenset()
    group: AccessGroup | None = None
    vm: str = ""


class Refusal(BackendError):  # noqa: N818 (an answer, not a failure)
    """An answer that is an HTTP error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


_Act = Callable[[MachineProvider, Caller, Any], Awaitable[Any]]
"""Carries a method out for a caller; the last argument is a checked request."""


class Method(NamedTuple):
    """One method.

    Attributes:
        request: what its body must be.
        act: what it does; returns None where the answer has no body.
    """

    request: type[wire.WireMessage]
    act: _Act


def request_of(name: str, body: Any) -> wire.WireMessage:  # unchecked JSON
    """A method's request.

    Args:
        name: the method, `api.method`.
        body: unchecked JSON. Numbers may be strings, enums numbers; unknown members are ignored.

    Raises:
        Refusal: 400: the body is not a valid request. One unknown enum refuses a whole batch.
    """
    try:
        return msgspec.convert(_plain(body), METHODS[name].request, strict=False)
    except (msgspec.ValidationError, RecursionError) as error:
        raise Refusal(400, str(error)) from error


async def call(broker: MachineProvider, caller: Caller, name: str, body: Any) -> Any:
    """Carries a method out.

    Args:
        caller: the caller, verified by the server.
        name: the method, `api.method`.
        body: unchecked JSON.

    Returns:
        The answer as plain JSON values; None when it has no body.

    Raises:
        Refusal: the answer is an HTTP error.
        RemoteError: Datastore fails; the outcome is unknown.
    """
    request = request_of(name, body)
    answer = await METHODS[name].act(broker, caller, request)
    return None if answer is None else wire_form(answer)


def wire_form(answer: wire.WireMessage) -> Any:
    """An answer as plain JSON values: unset fields are absent, and int64 values are strings."""
    return _shown(msgspec.to_builtins(answer))


def _plain(value: Any, field: str = "") -> Any:
    """Converts what a client sent to the one form that the messages use."""
    if isinstance(value, dict):
        found = {k: _plain(inner, k) for k, inner in value.items() if inner is not None}
        return [found] if field in _LISTS else found
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if field in _LISTS:
        return [value]
    names = _ENUMS.get(field)
    if names is not None and type(value) is int and 0 <= value < len(names):
        return names[value]
    return value


def _shown(value: Any, field: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _shown(inner, key) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(inner) for inner in value]
    return str(value) if field in _INT64 else value


# The methods


def _backend_of(caller: Caller) -> str:
    if caller.backend is None:
        raise Refusal(403, "Access is denied.")
    return caller.backend


async def _add(
    broker: MachineProvider, caller: Caller, requests: Sequence[wire.AddRequest]
) -> list[wire.AddResponse]:
    return await broker.catalog.add(_backend_of(caller), requests)


async def _delete(
    broker: MachineProvider, caller: Caller, requests: Sequence[wire.DeleteRequest]
) -> list[wire.DeleteResponse]:
    return await broker.catalog.delete(_backend_of(caller), requests)


async def _get(
    broker: MachineProvider, caller: Caller, name: wire.MachineName
) -> wire.EntryMessage:
    backend = _backend_of(caller)
    if name.backend not in {None, backend}:
        raise Refusal(403, "Mismatched backend")
    entry = await broker.catalog.get(backend, name.hostname)
    if entry is None:
        raise _not_cataloged()
    return entry


async def _get_all(
    broker: MachineProvider, caller: Caller, names: Sequence[wire.MachineName]
) -> list[wire.GetResponse]:
    backend = _backend_of(caller)
    answers = []
    for name in names:
        entry, error = None, None
        if name.backend not in {None, backend}:
            error = "MISMATCHED_BACKEND"
        else:
            entry = await broker.catalog.get(backend, name.hostname)
            error = None if entry is not None else "ENTRY_NOT_FOUND"
        answers.append(wire.GetResponse(hostname=name.hostname, entry=entry, error=error))
    return answers


async def _modify_capacity(
    broker: MachineProvider, caller: Caller, request: wire.CapacityRequest
) -> wire.CapacityResponse:
    return await broker.catalog.modify_capacity(_backend_of(caller), request)


async def _lease(
    broker: MachineProvider, caller: Caller, requests: Sequence[wire.LeaseRequestMessage]
) -> list[wire.LeaseResponse]:
    """Takes requests after checking the limits of the caller's group.

    A request for too long is refused with the original's own word; what the original has no word
    for refuses the call.
    """
    if caller.group is None:
        raise Refusal(403, "Access is denied.")
    limits = caller.group.limits
    for request in requests:
        dimensions = msgspec.to_builtins(request.dimensions)
        why = lease_refusal(limits, dimensions, without_end=bool(request.indefinite))
        if why is not None:
            raise Refusal(403, f"Access is denied: request {request.request_id}: {why}.")
    terms = LeaseTerms(group=caller.group.name)
    return await broker.leases.lease(
        caller.user,
        requests,
        longest=limits.longest_lease,
        terms=terms,
        most_waiting=limits.max_waiting,
    )


async def _release(
    broker: MachineProvider, caller: Caller, requests: Sequence[wire.ReleaseRequest]
) -> list[wire.ReleaseResponse]:
    return await broker.leases.release(caller.user, requests)


async def _instruct(
    broker: MachineProvider, caller: Caller, request: wire.InstructRequest
) -> wire.InstructResponse:
    answer = await broker.leases.instruct(caller.user, request)
    if answer is None:
        raise Refusal(404, "LeaseRequest not found")
    return answer


async def _poll(
    broker: MachineProvider, caller: Caller, name: wire.MachineName
) -> wire.PollResponse:
    backend = name.backend or caller.backend
    if backend is None:
        raise Refusal(400, "Backend unspecified")
    if caller.backend == backend:
        answer = await broker.catalog.poll(backend, name.hostname, caller.account)
    else:
        answer = await broker.catalog.poll_own(backend, name.hostname, caller.account)
    if answer is None:
        raise _not_cataloged()
    return answer


async def _ack(broker: MachineProvider, caller: Caller, name: wire.MachineName) -> None:
    backend = name.backend or caller.backend or ""
    has_instruction = await broker.catalog.ack(backend, name.hostname, caller.account)
    if has_instruction is None:
        raise _not_cataloged()
    if not has_instruction:
        raise Refusal(400, "Machine has no instruction")


def _not_cataloged() -> Refusal:
    return Refusal(404, "CatalogMachineEntry not found")


def _single(act: _Act) -> _Act:
    """The act of a method that takes one request."""

    async def single(broker: MachineProvider, caller: Caller, request: Any) -> Any:
        return (await act(broker, caller, [request]))[0]

    return single


def _batch(act: _Act, response: Callable[..., wire.WireMessage]) -> _Act:
    """The act of a method that takes a batch of requests."""

    async def batched(broker: MachineProvider, caller: Caller, batch: Any) -> Any:
        return response(responses=tuple(await act(broker, caller, batch.requests)))

    return batched


METHODS: Mapping[str, Method] = {
    "catalog.add_machine": Method(wire.AddRequest, _single(_add)),
    "catalog.add_machines": Method(wire.AddBatch, _batch(_add, wire.AddBatchResponse)),
    "catalog.delete_machine": Method(wire.DeleteRequest, _single(_delete)),
    "catalog.delete_machines": Method(wire.DeleteBatch, _batch(_delete, wire.DeleteBatchResponse)),
    "catalog.get": Method(wire.MachineName, _get),
    "catalog.get_machines": Method(wire.GetBatch, _batch(_get_all, wire.GetBatchResponse)),
    "catalog.modify_capacity": Method(wire.CapacityRequest, _modify_capacity),
    "machine_provider.lease": Method(wire.LeaseRequestMessage, _single(_lease)),
    "machine_provider.batched_lease": Method(
        wire.LeaseBatch, _batch(_lease, wire.LeaseBatchResponse)
    ),
    "machine_provider.release": Method(wire.ReleaseRequest, _single(_release)),
    "machine_provider.batched_release": Method(
        wire.ReleaseBatch, _batch(_release, wire.ReleaseBatchResponse)
    ),
    "machine_provider.instruct": Method(wire.InstructRequest, _instruct),
    "machine.poll": Method(wire.MachineName, _poll),
    "machine.ack": Method(wire.MachineName, _ack),
}
"""Every method, by `api.method`."""
