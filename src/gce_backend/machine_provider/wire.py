"""The values of the Machine Provider's protocol. Absent fields are None, and are not sent."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Backend = Literal["DUMMY", "GCE", "VSPHERE"]
OnReclamation = Literal["MAKE_AVAILABLE", "RECLAIM", "DELETE"]


Word = Annotated[str, Meta(max_length=1000)]
"""A text of bounded length: what waits in memory is another's."""

Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""An integer as the original's protocol has it; JSON itself has no bound."""
Number = Annotated[float, Meta(ge=-(2.0**63), le=2.0**63)]
"""A number that is one: neither infinite nor NaN."""


MAX_BATCH = 2000
"""Requests of one call about leases."""


class WireMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Any value of the protocol."""


class Dimensions(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """A machine's dimensions, or those that a request asks for."""

    backend: Backend | None = None
    hostname: Word | None = None
    os_family: Literal["LINUX", "OSX", "WINDOWS"] | None = None
    num_cpus: Int64 | None = None
    memory_gb: Number | None = None
    disk_gb: Int64 | None = None
    linux_flavor: Literal["UBUNTU", "DEBIAN"] | None = None
    os_version: Word | None = None
    project: Word | None = None
    disk_type: Literal["HDD", "SSD"] | None = None
    snapshot: Word | None = None
    snapshot_labels: Annotated[tuple[Word, ...], Meta(max_length=100)] = ()


def dimension_text(dimensions: Dimensions) -> str:
    """Dimensions for people: `os_family:LINUX num_cpus:8`; "any" when there is none."""
    texts: list[str] = []
    for key, value in msgspec.to_builtins(dimensions).items():
        if key not in {"hostname", "backend"}:
            values = value if isinstance(value, list | tuple) else (value,)
            texts += (f"{key}:{one}" for one in values)
    return " ".join(texts) or "any"


class KeyValue(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """One attribute of the messages about a machine."""

    key: str
    value: str | None = None


class Policies(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """A machine's policies. Whatever `on_reclamation` says, a lease's end deletes the entry."""

    backend_project: str | None = None
    backend_topic: str | None = None
    backend_attributes: tuple[KeyValue, ...] = ()
    machine_service_account: str | None = None
    on_reclamation: OnReclamation | None = None


class AddRequest(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """catalog.add_machine."""

    dimensions: Dimensions
    policies: Policies


class AddResponse(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to it."""

    machine_addition_request: AddRequest
    error: str | None = None


class AddBatch(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """catalog.add_machines."""

    requests: tuple[AddRequest, ...] = ()


class AddBatchResponse(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to it, in the order of the requests."""

    responses: tuple[AddResponse, ...] = ()


class DeleteRequest(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """catalog.delete_machine.

    Attributes:
        backend_attributes: what the entry's own attributes must be, which the original does not
            have: an entry with others stays, and the answer is HOSTNAME_REUSE.
    """

    dimensions: Dimensions
    backend_attributes: tuple[KeyValue, ...] = ()


class DeleteResponse(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to it."""

    machine_deletion_request: DeleteRequest
    error: str | None = None


class DeleteBatch(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """catalog.delete_machines, which the original does not have."""

    requests: tuple[DeleteRequest, ...] = ()


class DeleteBatchResponse(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to it, in the order of the requests."""

    responses: tuple[DeleteResponse, ...] = ()


class CapacityRequest(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """catalog.modify_capacity."""

    dimensions: Dimensions
    count: Int64


class CapacityResponse(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to it."""

    capacity_modification_request: CapacityRequest
    error: str | None = None


class MachineName(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """catalog.get, machine.poll, machine.ack."""

    hostname: str
    backend: Backend | None = None


class EntryMessage(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """What catalog.get answers."""

    dimensions: Dimensions
    policies: Policies
    state: str
    lease_expiration_ts: Int64 | None = None
    leased_indefinitely: bool | None = None
    awaits_agent: bool | None = None


class GetBatch(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """catalog.get_machines, which the original does not have."""

    requests: tuple[MachineName, ...] = ()


class GetResponse(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """The answer about one machine: its entry, or why there is none."""

    hostname: str
    entry: EntryMessage | None = None
    error: str | None = None


class GetBatchResponse(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to it, in the order of the requests."""

    responses: tuple[GetResponse, ...] = ()


class Instruction(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """An instruction to a leased machine: connect to a Swarming server."""

    swarming_server: Word | None = None


class LeaseRequestMessage(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """machine_provider.lease."""

    request_id: Word
    dimensions: Dimensions
    duration: Int64 | None = None
    lease_expiration_ts: Int64 | None = None
    indefinite: bool | None = None
    pubsub_topic: Word | None = None
    pubsub_project: Word | None = None
    on_lease: Instruction | None = None


class LeaseBatch(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """machine_provider.batched_lease."""

    requests: Annotated[tuple[LeaseRequestMessage, ...], Meta(max_length=MAX_BATCH)] = ()


class LeaseResponse(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """The state of a lease request, or why it was refused."""

    client_request_id: str
    request_hash: str | None = None
    error: str | None = None
    state: str | None = None
    hostname: str | None = None
    lease_expiration_ts: Int64 | None = None
    leased_indefinitely: bool | None = None


class LeaseBatchResponse(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """The answers of batched_lease, in the order of the requests."""

    responses: tuple[LeaseResponse, ...] = ()


class ReleaseRequest(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """machine_provider.release."""

    request_id: str


class ReleaseBatch(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """machine_provider.batched_release."""

    requests: Annotated[tuple[ReleaseRequest, ...], Meta(max_length=MAX_BATCH)] = ()


class ReleaseResponse(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """Whether a machine was released."""

    client_request_id: str
    request_hash: str | None = None
    error: str | None = None


class ReleaseBatchResponse(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """The answers of batched_release, in the order of the requests."""

    responses: tuple[ReleaseResponse, ...] = ()


class InstructRequest(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """machine_provider.instruct."""

    request_id: str
    instruction: Instruction | None = None


class InstructResponse(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """Whether the machine will get the instruction."""

    client_request_id: str
    error: str | None = None


class PollResponse(WireMessage, frozen=True, kw_only=True, omit_defaults=True):
    """A machine's instruction and the instruction's state."""

    instruction: Instruction | None = None
    state: str | None = None
