"""Changes that a lessee or an administrator makes to a lease, such as extend, hold and transfer.

Each change is one commit to the lease and its machines, and can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gce_backend.base.clock import Clock
from gce_backend.base.errors import OrderError
from gce_backend.base.plurals import plural
from gce_backend.clients.datastore.client import Path
from gce_backend.machine_provider.access.policy import AccessGroup, LeaseLimits
from gce_backend.machine_provider.entities import (
    EndReason,
    LeaseState,
    MachineState,
    Record,
    StoredLease,
    StoredMachine,
)
from gce_backend.machine_provider.records import Found, Records
from gce_backend.machine_provider.transfers import transfer_refusal, transferred

OVER = "the lease is over"

Change = Callable[[StoredLease], StoredLease]


class LeaseChanges:
    """Changes leases.

    All methods raise `OrderError` when the lease's state does not allow the change, and
    `gce_backend.base.errors.RemoteError` when Datastore fails.
    """

    def __init__(self, records: Records, clock: Clock) -> None:
        self._records = records
        self._clock = clock

    async def extend(self, lease: StoredLease, seconds: int, limits: LeaseLimits) -> StoredLease:
        """Changes the end of a lease to `seconds` from now, within the limits of its group."""
        end = int(self._clock.now()) + seconds

        def change(current: StoredLease) -> StoredLease:
            if current.held:
                raise OrderError("the machines are held for an investigation: the lease has ended")
            latest = (current.fulfilled_ts or 0) + limits.longest_lease
            if end > latest:
                raise OrderError(
                    f"a lease of this group lasts {limits.longest_lease} s at most: this one may "
                    f"last {max(latest - int(self._clock.now()), 0)} s from now"
                )
            return msgspec.structs.replace(current, lease_expiration_ts=end, indefinite_ts=None)

        return await self._change(lease, change)

    async def keep_alive(self, lease: StoredLease) -> StoredLease:
        """Stores a keepalive from the lessee or the requester."""

        def change(current: StoredLease) -> StoredLease:
            if current.keepalive is None:
                return current
            alive = int(self._clock.now()) + current.keepalive
            return msgspec.structs.replace(current, alive_until=alive)

        return await self._change(lease, change, pending=True)

    async def hold(
        self, lease: StoredLease, seconds: int | None, limits: LeaseLimits
    ) -> StoredLease:
        """Keeps the machines so that a failure can be investigated; no keepalive is needed.

        Args:
            seconds: how long from now; None for the longest hold that the group allows. Several
                holds of a lease are one, which is no longer than that in all.
            limits: the limits of the group.
        """
        now = int(self._clock.now())
        if not limits.max_held:
            raise OrderError("access.cfg does not let this group hold machines (max_held)")

        def change(current: StoredLease) -> StoredLease:
            held = self._records.held.investigated[current.group]
            since = now if current.held_ts is None else current.held_ts
            latest = since + limits.longest_hold
            end = latest if seconds is None else now + seconds
            if end > latest:
                raise OrderError(
                    f"this group holds machines for {limits.longest_hold} s at most: these may be "
                    f"held for {max(latest - now, 0)} s from now"
                )
            if not current.held and held + current.count > limits.max_held:
                raise OrderError(
                    f"this group holds {held} of at most {plural(limits.max_held, 'machine')}"
                )
            return msgspec.structs.replace(
                current,
                held=True,
                held_ts=since,
                lease_expiration_ts=end,
                indefinite_ts=None,
                alive_until=None,
                keepalive=None,
            )

        return await self._change(lease, change)

    async def transfer(self, lease: StoredLease, user: str, group: AccessGroup) -> StoredLease:
        """Makes a lease another user's, within the limits of that user's group.

        Args:
            user: the next lessee.
            group: the group that the next lessee's leases count against.
        """

        def change(current: StoredLease) -> StoredLease:
            if current.user == user:
                return current
            if current.user != lease.user:
                raise OrderError(f"it is {current.user}'s now")
            now = self._clock.now()
            why = transfer_refusal(current, group, self._records.held, now)
            if why is not None:
                raise OrderError(f"{user} cannot take this lease: {why}")
            return transferred(current, user, group, now)

        return await self._change(lease, change, announce=True)

    async def admit(self, lease: StoredLease, ssh_keys: tuple[str, ...]) -> StoredLease:
        """Changes the public keys of the lessee, and wakes the machines' agents."""

        def change(current: StoredLease) -> StoredLease:
            return msgspec.structs.replace(current, ssh_keys=ssh_keys)

        return await self._change(lease, change, announce=True)

    async def release(self, lease: StoredLease) -> StoredLease:
        """Releases the machines, or cancels a waiting request; repeating it is not an error."""

        def decide(found: Found) -> dict[Path, Record | None]:
            current = found.get(lease.path)
            changes: dict[Path, Record | None] = {}
            if not isinstance(current, StoredLease):
                return changes
            if current.state is LeaseState.UNTRIAGED:
                changes[lease.path] = msgspec.structs.replace(
                    current, state=LeaseState.CANCELLED, ended=EndReason.CANCELLED
                )
            for path, machine in found.items():
                if isinstance(machine, StoredMachine) and machine.lease == current.name:
                    changes[path] = msgspec.structs.replace(machine, released=True)
            return changes

        return await self._decided(lease, decide)

    async def _change(
        self, lease: StoredLease, change: Change, *, pending: bool = False, announce: bool = False
    ) -> StoredLease:
        """Changes a lease and its machines.

        Args:
            change: returns the changed lease.
            pending: whether a lease that waits may be changed, too.
            announce: whether its machines are sent LEASED again.
        """

        def decide(found: Found) -> dict[Path, Record | None]:
            current = found.get(lease.path)
            if not isinstance(current, StoredLease):
                raise OrderError(OVER)
            if current.state is LeaseState.UNTRIAGED and pending:
                return {lease.path: change(current)}
            if current.runs and not found.keys() & set(current.machines):
                return {}  # it has just got its machines: the next try reads them
            machines = [
                machine
                for machine in found.values()
                if isinstance(machine, StoredMachine)
                and machine.state is MachineState.LEASED
                and machine.lease == current.name
                and not machine.released
            ]
            if not current.runs or not machines:
                waits = current.state is LeaseState.UNTRIAGED
                raise OrderError("the lease has no machine yet" if waits else OVER)
            new = change(current)
            changes: dict[Path, Record | None] = {lease.path: new}
            for machine in machines:
                changes[machine.path] = msgspec.structs.replace(
                    machine,
                    lease_expiration_ts=new.lease_expiration_ts,
                    alive_until=new.alive_until,
                    announced=machine.announced and not announce,
                    user=new.user,
                    group=new.group,
                    held=new.held,
                )
            return changes

        return await self._decided(lease, decide)

    async def _decided(
        self, lease: StoredLease, decide: Callable[[Found], dict[Path, Record | None]]
    ) -> StoredLease:
        """Changes a lease and its machines, also when it gets them during the change."""
        while True:
            machines = lease.machines if lease.state is LeaseState.FULFILLED else []
            found = await self._records.change([lease.path, *machines], decide)
            stored = found.get(lease.path)
            if not isinstance(stored, StoredLease):
                raise OrderError(OVER)
            if not stored.runs or lease.state is LeaseState.FULFILLED:
                return stored
            lease = stored
