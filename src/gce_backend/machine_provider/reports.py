"""What machines' agents say, and what they are told: each speaks for its own machine alone."""

from __future__ import annotations

import hashlib

import msgspec
import structlog

from gce_backend.base.dates import UnixSeconds
from gce_backend.clients.datastore.client import Path
from gce_backend.machine_provider.entities import (
    MachineAgent,
    MachineState,
    Record,
    SshServer,
    StoredLease,
    StoredMachine,
    machine_path,
    named_lease_path,
)
from gce_backend.machine_provider.lease_documents import (
    MachineLease,
    MachineOrders,
    MachineReport,
    TroubleReport,
)
from gce_backend.machine_provider.losses import without_lost
from gce_backend.machine_provider.records import Found, Records

GONE = "GONE"

log = structlog.stdlib.get_logger()


def has_let_in(machine: StoredMachine, lease: StoredLease) -> bool:
    """Whether a machine has let the lessee in, with the keys that the lease has now."""
    agent = machine.agent
    keys = hashlib.sha256("\n".join(lease.ssh_keys).encode()).hexdigest()
    return agent is not None and (agent.serves, agent.admits) == (lease.name, keys)


async def report(
    records: Records, account: str, vm: str, said: MachineReport, now: UnixSeconds
) -> MachineOrders | None:
    """Stores what an agent says, if it is new, and returns what its machine is to do.

    A machine whose VM Compute Engine takes back is not leased any more. A lease that it serves
    ends with the VM, which its lessee learns at once.

    Machines of a template share a service account, so the token must also name the VM.

    Args:
        records: the stored state.
        account: the address of the account that calls.
        vm: the VM that calls, `PROJECT/NAME`; "" when its token does not name it.
        said: the report.
        now: the present time.

    Returns:
        None when the catalog has no such machine, or it is another VM's.

    Raises:
        RemoteError: Datastore fails.
    """
    project, _, name = vm.partition("/")
    if name != said.name:
        return None
    path = machine_path(said.backend, said.name)
    state = next((state for state, found in records.machines.items() if path in found), None)
    machine = None if state is None else records.machines[state][path]
    if (
        machine is None
        or machine.state is MachineState.DELETED
        or machine.policies.machine_service_account != account
        or machine.dimensions.project not in {None, project}
    ):
        return await _gone(records, path, said.serves)
    agent = _agent(said)
    if machine.agent != agent or (said.preempted and machine.preempted_ts is None):
        machine = await _stored(records, machine, agent, int(now) if said.preempted else None)
    if machine.agent == agent:
        records.hear(machine)
    lease = None
    if machine.state is MachineState.LEASED:
        lease_key = named_lease_path(machine.lease)
        found = (await records.read([lease_key])).get(lease_key)
        lease = _told(found, machine) if isinstance(found, StoredLease) else None
    return MachineOrders(state=machine.state, lease=lease)


async def note_trouble(
    records: Records, backend: str, said: TroubleReport, now: UnixSeconds
) -> MachineOrders | None:
    """Stores what a backend says of a leased machine's VM, so that its lessee learns of it.

    When the VMs of all machines of a lease are gone, the lease ends as LOST, or as PREEMPTED if
    their agents or their backend said that Compute Engine takes them back. A machine that nobody
    holds has no lessee to tell: its backend takes it out of the catalog.

    Args:
        records: the stored state.
        backend: the backend that calls.
        said: the report.
        now: the present time.

    Returns:
        None when the backend has no such machine in the catalog.

    Raises:
        RemoteError: Datastore fails.
    """
    path = machine_path(backend, said.name)
    known = (await records.read([path])).get(path)
    held: list[Path] = []
    if isinstance(known, StoredMachine) and known.lease:
        lease_key = named_lease_path(known.lease)
        lease = (await records.read([lease_key])).get(lease_key)
        held = [lease_key, *lease.machines] if isinstance(lease, StoredLease) else []

    def decide(found: Found) -> dict[Path, Record | None]:
        machine = found.get(path)
        if not isinstance(machine, StoredMachine) or machine.state is not MachineState.LEASED:
            return {}
        gone = said.gone and bool(said.message)
        machine = msgspec.structs.replace(machine, trouble=said.message, gone=gone)
        if said.preempted:
            machine = _preempted(machine, int(now))
        return without_lost({**found, path: machine}, machine.lease, now) or {path: machine}

    machine = (await records.change(list(dict.fromkeys([path, *held])), decide)).get(path)
    if not isinstance(machine, StoredMachine) or machine.state is MachineState.DELETED:
        return None
    return MachineOrders(state=machine.state)


def _agent(said: MachineReport) -> MachineAgent:
    ssh = None if said.ssh is None else SshServer(**msgspec.structs.asdict(said.ssh))
    return MachineAgent(version=said.version, ssh=ssh, serves=said.serves, admits=said.admits)


def _told(lease: StoredLease, machine: StoredMachine) -> MachineLease:
    return MachineLease(
        id=lease.name,
        user=lease.user,
        label=lease.label,
        ends_at=machine.lease_expiration_ts,
        ssh_keys=lease.ssh_keys,
    )


def _preempted(machine: StoredMachine, now: int) -> StoredMachine:
    """The machine once it is known that Compute Engine takes its VM back."""
    if machine.preempted_ts is not None:
        return machine
    log.warning("machine_provider.machine_preempted", instance=machine.hostname)
    return msgspec.structs.replace(machine, preempted_ts=now)


async def _stored(
    records: Records, machine: StoredMachine, agent: MachineAgent, preempted_ts: int | None
) -> StoredMachine:
    """The machine with what its agent said, if it is still the same machine."""
    path = machine.path

    def decide(found: Found) -> dict[Path, Record | None]:
        current = found.get(path)
        if not isinstance(current, StoredMachine) or current.addition_id != machine.addition_id:
            return {}
        changed = msgspec.structs.replace(current, agent=agent)
        return {path: changed if preempted_ts is None else _preempted(changed, preempted_ts)}

    changed = (await records.change([path], decide)).get(path)
    return changed if isinstance(changed, StoredMachine) else machine


async def _gone(records: Records, path: Path, serves: str) -> MachineOrders | None:
    """Tells the VM whose machine has left the catalog that its lease has ended, once it has."""
    if not serves:
        return None
    key = named_lease_path(serves)
    lease = (await records.read([key])).get(key)
    if not isinstance(lease, StoredLease) or lease.reclaimed_ts is None:
        return None
    return MachineOrders(state=GONE) if path in lease.machines else None
