"""What a caller may do: a pure decision, with its reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

import msgspec

from gce_backend.machine_provider.access.identity import Identity
from gce_backend.machine_provider.access.policy import AccessGroup, AccessPolicy, LeaseLimits, Role

ANYBODY: frozenset[Role] = frozenset()
"""For a method that every identified caller may call; the machine's account limits it."""
ACTORS = frozenset({Role.USER, Role.ADMINISTRATOR})
READERS = frozenset({Role.VIEWER, Role.USER, Role.ADMINISTRATOR})

NEEDED: Mapping[str, frozenset[Role]] = {
    "catalog.add_machine": frozenset({Role.BACKEND}),
    "catalog.add_machines": frozenset({Role.BACKEND}),
    "catalog.delete_machine": frozenset({Role.BACKEND}),
    "catalog.delete_machines": frozenset({Role.BACKEND}),
    "catalog.get": frozenset({Role.BACKEND}),
    "catalog.get_machines": frozenset({Role.BACKEND}),
    "catalog.modify_capacity": frozenset({Role.BACKEND}),
    "machine_provider.lease": frozenset({Role.USER}),
    "machine_provider.batched_lease": frozenset({Role.USER}),
    "machine_provider.release": frozenset({Role.USER}),
    "machine_provider.batched_release": frozenset({Role.USER}),
    "machine_provider.instruct": frozenset({Role.USER}),
    "machine.poll": ANYBODY,
    "machine.ack": ANYBODY,
    "service.metrics": READERS,
    "service.pages": frozenset({Role.VIEWER, Role.ADMINISTRATOR}),
    "service.session": READERS,
    "leases.create": frozenset({Role.USER}),
    "leases.get": READERS,
    "leases.list": READERS,
    "leases.extend": ACTORS,
    "leases.keepalive": ACTORS,
    "leases.release": ACTORS,
    "leases.hold": ACTORS,
    "leases.admit": ACTORS,
    "leases.transfer": ACTORS,
    "machines.list": READERS,
    "machines.get": READERS,
    "machines.cordon": frozenset({Role.ADMINISTRATOR}),
    "machines.uncordon": frozenset({Role.ADMINISTRATOR}),
    "demand.get": frozenset({Role.BACKEND, Role.VIEWER, Role.ADMINISTRATOR}),
    "backends.offer": frozenset({Role.BACKEND}),
    "machines.report": ANYBODY,
    "machines.trouble": frozenset({Role.BACKEND}),
    "users.list": frozenset({Role.VIEWER, Role.ADMINISTRATOR}),
    "users.whoami": ANYBODY,
}
"""Every method with the roles that may call it."""


class AccessDecision(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a caller may call a method.

    Attributes:
        allowed: whether the caller may.
        why: the reason, for logs and for the caller.
        roles: all roles of the caller.
        group: the group that its leases count against; None when it may not lease.
        backend: the backend whose machines it manages; None when it manages none.
    """

    allowed: bool
    why: str
    roles: frozenset[Role] = frozenset()
    group: AccessGroup | None = None
    backend: str | None = None


def decide(policy: AccessPolicy, identity: Identity, method: str) -> AccessDecision:
    """Decides whether a caller may call a method.

    Args:
        policy: who may do what.
        identity: the verified caller.
        method: `api.method`; an unknown one is refused.
    """
    groups = groups_of(policy, identity)
    roles = frozenset(role for group in groups for role in group.roles)
    lessee = next((group for group in groups if Role.USER in group.roles), None)
    backend = next((group.backend for group in groups if Role.BACKEND in group.roles), None)
    needed = NEEDED.get(method)
    given = sorted(roles & needed) if needed is not None else []
    if needed is None:
        allowed, why = False, f"there is no method {method}"
    elif needed is ANYBODY:
        allowed, why = True, "the machine says whose it is"
    elif given:
        granting = next(group.name for group in groups if group.roles & needed)
        allowed, why = True, f"{given[0]} by the group {granting}"
    else:
        member = ", ".join(group.name for group in groups) or "no group"
        wanted = " or ".join(sorted(needed))
        allowed, why = False, f"{method} needs the role {wanted}; the caller is in {member}"
    return AccessDecision(allowed=allowed, why=why, roles=roles, group=lessee, backend=backend)


def group_of_lessee(policy: AccessPolicy, user: str) -> AccessGroup | None:
    """The group that the leases of an e-mail address count against; None when it may not lease."""
    return next(
        (
            group
            for group in policy.groups
            if Role.USER in group.roles and any(_is_address(one, user) for one in group.members)
        ),
        None,
    )


def groups_of(policy: AccessPolicy, identity: Identity) -> list[AccessGroup]:
    """The groups that a caller belongs to, in the order of the file."""
    return [group for group in policy.groups if _is_member(group, identity)]


def _is_member(group: AccessGroup, identity: Identity) -> bool:
    if any(_is_address(member, identity.email) for member in group.members):
        return True
    return any(
        workload.issuer == identity.issuer
        and all(fits(pattern, identity.claims.get(claim)) for claim, pattern in workload.claims)
        for workload in group.workloads
    )


def _is_address(member: str, email: str) -> bool:
    if not email:
        return False
    if member.startswith("*@"):
        return email.endswith(member[1:])
    return member in {"*", email}


def lease_refusal(
    limits: LeaseLimits, dimensions: Mapping[str, object], *, without_end: bool
) -> str | None:
    """Why a group may not have a lease, however long it waits; None when it may.

    Args:
        limits: the limits of the group.
        dimensions: the requested dimensions.
        without_end: whether the lease has no end. `rules` checks the length of a lease with an
            end.
    """
    if without_end and not limits.without_end:
        return "a lease must have an end: name a duration"
    allowed: dict[str, list[str]] = {}
    for key, pattern in limits.dimensions:
        allowed.setdefault(key, []).append(pattern)
    for key, patterns in allowed.items():
        value = dimensions.get(key)
        texts = [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]
        if value is None or not texts:
            return f"the request must name {key}: {' or '.join(patterns)}"
        if not all(any(fits(pattern, text) for pattern in patterns) for text in texts):
            return f"{key} must be {' or '.join(patterns)}"
    return None


def fits(pattern: str, text: str | None) -> bool:
    """Whether a text fits a pattern: `*` is any characters but `/`, `**` any characters."""
    return text is not None and _compiled(pattern).fullmatch(text) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*|\*)", pattern)
    words = {"*": "[^/]*", "**": ".*"}
    return re.compile("".join(words.get(part, re.escape(part)) for part in parts), re.DOTALL)
