"""Transfers of leases to another lessee: who may take which lease, and what becomes of it. Pure.

The machines stay as they are, because what runs there is often what the next lessee is to look at.
The keys of the lessee before no longer let anybody in.
"""

from __future__ import annotations

import msgspec

from gce_backend.base.dates import UnixSeconds
from gce_backend.base.plurals import plural
from gce_backend.machine_provider.access.decision import lease_refusal
from gce_backend.machine_provider.access.policy import AccessGroup, AccessPolicy
from gce_backend.machine_provider.entities import StoredLease
from gce_backend.machine_provider.queue import Held, limit_of

TRANSFERRED = "TRANSFERRED"
"""Why a lease is over for a lessee who has transferred it."""
MAX_TRANSFERS = 20
"""Most transfers of one lease: each adds a name to its record."""


def may_take(policy: AccessPolicy, lease: StoredLease, group: AccessGroup) -> bool:
    """Whether access.cfg lets the lessee transfer a lease to a member of a group."""
    if group.name == lease.group:
        return True
    own = policy.group(lease.group)
    return own is not None and group.name in own.transfer_to


def transfer_refusal(
    lease: StoredLease, group: AccessGroup, held: Held, now: UnixSeconds
) -> str | None:
    """Why the limits of a group do not let its members take a lease; None when they do.

    Args:
        lease: a lease that runs.
        group: the group of the next lessee.
        held: what is leased now.
        now: the present time.
    """
    if len(lease.former) >= MAX_TRANSFERS:
        return f"the lease has been transferred {MAX_TRANSFERS} times, which is the most"
    if group.name == lease.group:
        return None
    limits, end = group.limits, lease.lease_expiration_ts
    dimensions = msgspec.to_builtins(lease.request.dimensions)
    why = lease_refusal(limits, dimensions, without_end=end is None)
    if why is not None:
        return why
    machines = held.machines_of(group.name)
    limit = limit_of(limits, machines, held.leases[group.name], lease.count)
    if limit:
        return limit
    if lease.held:
        if held.investigated[group.name] + lease.count > limits.max_held:
            return f"its group holds at most {plural(limits.max_held, 'machine')} after failures"
        if end is not None and end - now > limits.longest_hold:
            return f"its group holds machines for {limits.longest_hold} s at most"
    elif end is not None and end - (lease.fulfilled_ts or 0) > limits.longest_lease:
        return f"a lease of its group lasts {limits.longest_lease} s at most"
    return None


def transferred(lease: StoredLease, user: str, group: AccessGroup, now: UnixSeconds) -> StoredLease:
    """A lease once it is another user's: nobody is let in before the new lessee names keys.

    It no longer ends without a keepalive: the program that sent them was the former lessee's.
    """
    return msgspec.structs.replace(
        lease,
        user=user,
        group=group.name,
        former=(*lease.former, lease.user),
        transferred_ts=int(now),
        ssh_keys=(),
        keepalive=None,
        alive_until=None,
    )
