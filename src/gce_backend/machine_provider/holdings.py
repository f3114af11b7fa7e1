"""Who holds and waits for how many machines, by user and by group, and what the groups may hold."""

from __future__ import annotations

from collections import Counter

import msgspec

from gce_backend.machine_provider.access.policy import AccessPolicy, Role
from gce_backend.machine_provider.lease_documents import GroupHoldings, Holdings, UserHoldings
from gce_backend.machine_provider.records import Records


def holdings_of(records: Records, policy: AccessPolicy) -> Holdings:
    """The users who hold or want machines, and the groups that may, those with most machines first.

    Args:
        records: the picture.
        policy: the groups, with their limits.
    """
    held = records.held
    waits = Counter((lease.group, lease.user) for lease in records.untriaged.values())
    machines, waiting = Counter[str](), Counter[str]()
    for (group, _), count in held.machines.items():
        machines[group] += count
    for (group, _), count in waits.items():
        waiting[group] += count
    known = {group.name: group.limits for group in policy.groups if Role.USER in group.roles}
    groups = [
        GroupHoldings(
            name=name,
            machines=machines[name],
            leases=held.leases[name],
            held=held.investigated[name],
            waiting=waiting[name],
            limits=msgspec.to_builtins(known[name]) if name in known else {},
        )
        for name in {*known, *machines, *waiting}
    ]
    users = [
        UserHoldings(
            user=user, group=group, machines=held.machines[group, user], waiting=waits[group, user]
        )
        for group, user in {*held.machines, *waits}
    ]
    return Holdings(
        groups=tuple(sorted(groups, key=lambda one: (-one.machines, -one.waiting, one.name))),
        users=tuple(sorted(users, key=lambda one: (-one.machines, -one.waiting, one.user))),
    )
