"""How a machine enters and leaves the catalog. Pure and idempotent."""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from gce_backend.base.ages import Elapsed
from gce_backend.base.dates import UnixSeconds
from gce_backend.model.entities import (
    CatalogState,
    Instance,
    Lease,
)
from gce_backend.model.observed import Member
from gce_backend.rules.messages import leased
from gce_backend.rules.permits import lease_runs

CATALOGABLE = frozenset(
    {CatalogState.NEVER, CatalogState.ADDING, CatalogState.REMOVED, CatalogState.REFUSED}
)
"""REMOVED: it drained and was reactivated before its deletion; nobody has used it since.
REFUSED: the job retries rarely, because the host name may have become free."""


def is_catalogable(instance: Instance, member: Member | None) -> bool:
    """Whether an active group's machine is to be added to the catalog now.

    Args:
        member: the VM as last listed; None when it was not.
    """
    return (
        member is not None
        and member.is_running
        and member.gce_id is not None
        and member.gce_id == instance.gce_id
        and instance.catalog in CATALOGABLE
        and instance.pending_deletion is None
        and instance.drain is None
        and instance.cordon is None
        and instance.deletion is None
        and instance.missing_since is None
        and instance.stopped_since is None
    )


def may_be_cataloged(instance: Instance) -> bool:
    """Whether a machine that nobody has reclaimed or deletes may be in the catalog."""
    return (
        instance.catalog in {CatalogState.CATALOGED, CatalogState.ADDING}
        and instance.pending_deletion is None
        and instance.deletion is None
    )


def adding(instance: Instance, now: UnixSeconds) -> Instance:
    """The change before an addition to the catalog; stored before the call."""
    ended = instance.pending_deletion or instance.deletion or instance.missing_since is not None
    ended = ended or instance.stopped_since is not None
    ordered = instance.drain or instance.cordon
    if instance.catalog not in CATALOGABLE or ended or ordered is not None:
        return instance
    unanswered = instance.catalog is CatalogState.ADDING
    if unanswered and instance.adding_since == now:
        return instance
    resent = instance.resent or unanswered
    return replace(instance, catalog=CatalogState.ADDING, adding_since=now, resent=resent)


SETTLING_SECONDS = 300.0
"""Seconds after an addition was sent in which its entry may still appear, whatever the outcome."""


PHANTOM_LOOK_SECONDS = (60.0, SETTLING_SECONDS, 660.0)
"""How long after a VM's deletion its entry is looked for: a late addition may have made it anew."""


def phantom_looks(age: float) -> int:
    """How often the entry of a deleted VM is to have been looked for.

    Args:
        age: seconds since the VM was proven gone.
    """
    return sum(age >= seconds for seconds in PHANTOM_LOOK_SECONDS)


def settles_in(instance: Instance, elapsed: Elapsed) -> float:
    """Seconds until a missing entry of a machine can no longer appear."""
    unsettled = instance.catalog is CatalogState.ADDING or instance.resent
    if not unsettled or instance.adding_since is None:
        return 0.0
    return max(0.0, SETTLING_SECONDS - elapsed(instance.adding_since))


def added(instance: Instance, state: CatalogState) -> Instance:
    """The change after the Machine Provider's answer to an addition.

    Args:
        state: CATALOGED or REFUSED.
    """
    if instance.catalog is not CatalogState.ADDING:
        return instance
    if state is CatalogState.CATALOGED:  # the catalog knows it
        return replace(instance, catalog=state, rising_since=None, lost_since=None)
    return replace(instance, catalog=state)


def uncataloged(
    instance: Instance, asked: CatalogState, state: CatalogState, now: UnixSeconds, elapsed: Elapsed
) -> Instance:
    """The change after the Machine Provider's answer to delete_machine.

    Args:
        asked: the state when the call was sent: the answer may be older than the present
            state.
        state: REMOVED, or ABSENT when there was no entry.
    """
    if not may_be_cataloged(instance) or instance.catalog is not asked:
        return instance
    unsure = lease_runs(instance, now) or settles_in(instance, elapsed) > 0
    if state is CatalogState.ABSENT and unsure:
        return instance
    # Its subscription is deleted with its entry; if it is added again, it is announced again.
    lost_since = instance.lost_since if state is CatalogState.ABSENT else None
    return replace(instance, catalog=state, subscribed=None, lost_since=lost_since)


def removal_refused(
    instance: Instance, asked: CatalogState, expiration: UnixSeconds | None, now: UnixSeconds
) -> Instance:
    """The Machine Provider does not remove it: it is in the catalog, and somebody holds it.

    Args:
        asked: the state in which it was when the question was sent.
        expiration: the lease's end in Unix seconds; None when the catalog does not say it.
    """
    if not may_be_cataloged(instance) or instance.catalog is not asked:
        return instance
    known = replace(instance, catalog=CatalogState.CATALOGED, lost_since=None)
    return leased(known, expiration, now)


def found_again(instance: Instance, state: CatalogState) -> Instance:
    """The change when the Machine Provider, asked just before a deletion, knows the machine.

    Args:
        state: CATALOGED, or REMOVED when it has just removed the machine.
    """
    if instance.is_tombstone or instance.catalog is state:
        return instance
    if state is CatalogState.CATALOGED:
        if instance.catalog in {CatalogState.CATALOGED, CatalogState.ADDING}:
            return instance
        return replace(instance, catalog=state, lost_since=None, rising_since=None)
    return replace(instance, catalog=state, lost_since=None, subscribed=None)


def without_lease(instance: Instance) -> Instance:
    """The change when the catalog has denied a machine's lease for long enough.

    One that was leased has been in the catalog: that it never was is no proof any longer.
    """
    never = instance.catalog is CatalogState.NEVER
    catalog = CatalogState.ABSENT if never else instance.catalog
    return replace(instance, lease=None, catalog=catalog)


class Contradiction(NamedTuple):
    """The catalog denies a lease known here: it has the machine as available, or not at all.

    Attributes:
        since: when this was first seen, in monotonic seconds.
        looks: how often in a row it was seen.
    """

    since: float
    looks: int


CONTRADICTED_LOOKS = 3
CONTRADICTED_SECONDS = 600.0
"""How often and how long at least the catalog must deny a lease without known end to end it."""


def contradicted_seconds(lost_seconds: float) -> float:
    """How long the catalog must deny a lease without a known end to end it."""
    return max(CONTRADICTED_SECONDS, lost_seconds)


def lease_is_over(
    lease: Lease,
    now: UnixSeconds,
    contradiction: Contradiction,
    moment: float,
    patience: float = CONTRADICTED_SECONDS,
) -> bool:
    """Whether the lease known here ends because the catalog denies it.

    The answer may come from a Machine Provider restored from a backup, so a lease with a known end
    lasts until that end.

    Args:
        contradiction: how often and since when the catalog has contradicted it.
        moment: the present time in monotonic seconds.
        patience: seconds for which the catalog must deny a lease without a known end.
    """
    if lease.expiration is not None:
        return lease.expiration <= now
    lasting = moment - contradiction.since >= patience
    return lasting and contradiction.looks >= CONTRADICTED_LOOKS
