"""What may be deleted, when, and what an instance becomes on the way: single decisions."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gce_backend.model.entities import (
    CatalogState,
    Deletion,
    Instance,
    Lease,
    MetadataUpdate,
    PendingDeletion,
    Permit,
)
from gce_backend.model.orders import Cordon, Drain
from gce_backend.rules.cataloging import (
    SETTLING_SECONDS,
    adding,
    is_catalogable,
    settles_in,
)
from gce_backend.rules.messages import Message, MessageKind, apply, is_about
from gce_backend.rules.permits import (
    awaits_drain,
    deleted,
    deleting,
    held,
    is_due_again,
    is_leaving,
    is_unknown,
    lease_runs,
    permit,
    revived,
)
from support.machines import (
    ABSENT,
    CATALOGED,
    KEY,
    LEASED,
    NOW,
    RECLAIMED,
    RUNNING,
    TOMBSTONE,
    UNDER_WAY,
    VM,
    at,
)


@pytest.mark.parametrize(
    ("instance", "granted"),
    [
        (VM, Permit.NEVER_CATALOGED),
        (replace(VM, lease=LEASED), None),
        (replace(VM, catalog=CatalogState.ADDING), None),
        (CATALOGED, None),
        (replace(CATALOGED, missing_since=1.0), None),
        (replace(CATALOGED, lost_since=1.0), None),
        (replace(CATALOGED, lease=Lease(0.0, NOW - 1)), None),
        (replace(VM, catalog=CatalogState.REFUSED), Permit.ABSENT),
        (replace(VM, catalog=CatalogState.REMOVED), Permit.REMOVED),
        (ABSENT, Permit.ABSENT),
        (replace(ABSENT, lease=LEASED), None),
        (replace(ABSENT, lease=Lease(NOW)), None),
        (replace(ABSENT, lease=Lease(0.0, NOW - 1)), Permit.ABSENT),
        (RECLAIMED, Permit.RECLAIMED),
        (TOMBSTONE, None),
    ],
)
def test_what_permits_a_deletion(instance: Instance, granted: Permit | None) -> None:
    """S1: a message, a granted delete_machine, a proof; never an absence with a lease."""
    assert permit(instance, NOW) is granted


UNKNOWN = replace(CATALOGED, lost_since=NOW - 10)


@pytest.mark.parametrize(
    ("instance", "active", "awaits"),
    [
        (CATALOGED, True, False),
        (UNKNOWN, True, True),
        (UNKNOWN, False, True),
        (replace(UNKNOWN, catalog=CatalogState.ADDING), True, True),
        (replace(UNKNOWN, lost_since=NOW - 9), True, False),
        (replace(UNKNOWN, drain=Drain("", NOW)), True, False),
        (replace(UNKNOWN, missing_since=NOW), True, False),
        (replace(UNKNOWN, missing_since=NOW, abandoned_since=NOW), True, True),
        (replace(UNKNOWN, pending_deletion=PendingDeletion("", NOW)), True, False),
        (replace(UNKNOWN, catalog=CatalogState.REMOVED), False, False),
        (ABSENT, True, True),
        (replace(ABSENT, deletion=TOMBSTONE.deletion), True, False),
        (replace(CATALOGED, catalog=CatalogState.REFUSED), True, False),
        (replace(CATALOGED, catalog=CatalogState.REFUSED), False, True),
        (VM, False, False),
    ],
)
def test_hole_11_what_waits_for_an_operator_s_drain(
    instance: Instance, active: bool, awaits: bool
) -> None:
    """What the catalog does not know and might be held; nobody holds a VM that is gone."""
    assert awaits_drain(instance, at(NOW), 10, active=active) is awaits


def test_a_lease_that_became_known_stops_the_repetition_of_a_deletion() -> None:
    """A not-found had permitted it; then LEASED came, and the first call may have been lost."""
    instance = replace(ABSENT, deletion=UNDER_WAY, lease=LEASED)
    assert deleting(instance, "second", NOW, NOW) is instance
    later = deleting(instance, "second", NOW + 20, NOW + 20)
    assert later.deletion == Deletion(Permit.ABSENT, NOW - 500, NOW + 20, "second")


def test_a_deletion_is_stored_with_its_permit_and_repeated_under_another_id() -> None:
    """When it was first wanted is kept."""
    first = deleting(RECLAIMED, "a", NOW, NOW)
    assert first.deletion == Deletion(Permit.RECLAIMED, NOW, NOW, "a")
    assert deleting(first, "a", NOW + 1, NOW + 1) is first
    again = deleting(first, "b", NOW + 130, NOW + 130)
    assert again.deletion == Deletion(Permit.RECLAIMED, NOW, NOW + 130, "b")
    assert deleting(CATALOGED, "a", NOW, NOW) is CATALOGED
    assert deleting(TOMBSTONE, "a", NOW, NOW) is TOMBSTONE


def test_row_42_no_deletion_begins_because_a_clock_was_set_ahead_past_a_lease_s_end() -> None:
    """What is stored is the clock's time; whether a lease runs is judged by the earliest."""
    absent = replace(CATALOGED, catalog=CatalogState.ABSENT, lease=Lease(NOW, NOW + 60))
    ahead = NOW + 86400
    assert deleting(absent, "a", NOW, ahead) is absent
    begun = deleting(absent, "a", NOW + 60, ahead).deletion
    assert begun == Deletion(Permit.ABSENT, ahead, ahead, "a")


def test_a_deletion_that_has_not_ended_is_due_again_after_the_pause() -> None:
    """Counted from the last request, not from the first."""
    again = Deletion(Permit.REMOVED, NOW - 500, NOW, "b")
    assert not is_due_again(again, at(NOW + 119), 120)
    assert is_due_again(again, at(NOW + 120), 120)


def test_fault_43_a_deletion_that_was_sent_once_is_sent_for_ever() -> None:
    """Whether a call has named the VM is stored before the call, and never forgotten."""
    first = deleting(RECLAIMED, "a", NOW, NOW, unsent=True)
    assert first.deletion == Deletion(Permit.RECLAIMED, NOW, NOW, "a", unsent=True)
    assert deleting(first, "b", NOW + 1, NOW + 1, unsent=True).deletion == Deletion(
        Permit.RECLAIMED, NOW, NOW + 1, "b", unsent=True
    )
    sent = deleting(first, "b", NOW + 1, NOW + 1)
    assert sent.deletion == Deletion(Permit.RECLAIMED, NOW, NOW + 1, "b")
    again = deleting(sent, "c", NOW + 2, NOW + 2, unsent=True)
    assert again.deletion == Deletion(Permit.RECLAIMED, NOW, NOW + 2, "c")


def test_fault_33_messages_about_an_earlier_vm_are_not_about_this_one() -> None:
    """Identity is the numeric id."""
    message = Message(MessageKind.RECLAIMED, KEY, 6, {})
    assert not is_about(message, CATALOGED)
    assert is_about(message, replace(CATALOGED, gce_id=6))


@pytest.mark.parametrize("catalog", CatalogState)
def test_a_cordoned_machine_has_no_permit_and_is_not_offered(catalog: CatalogState) -> None:
    """Whoever has reclaimed it, and whoever drained it."""
    going = replace(VM, catalog=catalog, pending_deletion=PendingDeletion("reclaimed", NOW))
    for instance in (replace(VM, catalog=catalog), going):
        kept = replace(instance, cordon=Cordon("a look", NOW), drain=Drain("", NOW))
        assert permit(kept, NOW) is None
        assert deleting(kept, "x", NOW, NOW) is kept
        assert not is_catalogable(kept, RUNNING)
        assert adding(kept, NOW) is kept


@pytest.mark.parametrize("catalog", CatalogState)
def test_a_drain_by_hand_is_no_permit(catalog: CatalogState) -> None:
    """It says that a machine is to go, never that it may."""
    instance = replace(VM, catalog=catalog, lease=LEASED)
    drained = replace(instance, drain=Drain("", NOW))
    assert permit(drained, NOW) is permit(instance, NOW)
    assert is_leaving(drained, at(NOW), 60, active=True)
    assert not is_catalogable(drained, RUNNING)
    assert adding(drained, NOW) is drained


@pytest.mark.parametrize(
    ("instance", "unknown"),
    [
        (VM, True),
        (ABSENT, True),
        (replace(VM, catalog=CatalogState.REFUSED), True),
        (replace(VM, catalog=CatalogState.REMOVED), False),
        (replace(VM, catalog=CatalogState.ADDING), False),
        (CATALOGED, False),
        (RECLAIMED, False),
        (replace(RECLAIMED, catalog=CatalogState.NEVER), False),
    ],
)
def test_whose_entry_may_be_another_s(instance: Instance, unknown: bool) -> None:
    """Where nothing says that the entry under a host name is this machine's own."""
    assert is_unknown(instance) is unknown


def test_an_addition_sent_twice_settles() -> None:
    """The RECLAIMED may be the first entry's, while somebody holds the second one."""
    once = adding(VM, NOW)
    assert adding(once, NOW) is once  # applied again to its own result, it is the same addition
    twice = adding(once, NOW + 5)
    reclaimed = {"pending_deletion": PendingDeletion("", NOW), "catalog": CatalogState.CATALOGED}
    assert settles_in(replace(twice, **reclaimed), at(NOW + 5)) == SETTLING_SECONDS


@pytest.mark.parametrize(
    "instance",
    [
        VM,
        ABSENT,
        RECLAIMED,
        replace(VM, catalog=CatalogState.REMOVED),
        replace(VM, catalog=CatalogState.REFUSED),
        replace(RECLAIMED, deletion=UNDER_WAY),
    ],
)
def test_what_the_catalog_calls_leased_has_no_permit_any_longer(instance: Instance) -> None:
    """Whatever allowed its deletion was wrong; the lease and its end are known now."""
    kept = held(instance, Lease(NOW, NOW + 60))
    assert kept == replace(CATALOGED, lease=Lease(NOW, NOW + 60))
    assert permit(kept, NOW + 10_000) is None
    assert held(TOMBSTONE, LEASED) is TOMBSTONE
    again = held(replace(instance, lease=Lease(1.0), lost_since=NOW), Lease(NOW, NOW + 60))
    assert again == replace(CATALOGED, lease=Lease(1.0, NOW + 60))


def test_a_tombstone_forgets_its_metadata_and_can_be_revived() -> None:
    """Its VM was not gone after all."""
    under_way = deleting(RECLAIMED, "a", NOW, NOW)
    update = MetadataUpdate({"key": "value"})
    queued = replace(under_way, pending_metadata_updates=(update,), active_metadata_update=update)
    gone = deleted(queued, NOW + 5)
    assert gone == deleted(under_way, NOW + 5)
    assert gone.is_tombstone
    assert deleted(gone, NOW + 6) is gone
    assert deleted(CATALOGED, NOW) is CATALOGED
    assert revived(gone) == under_way
    assert revived(replace(gone, missing_since=NOW)) == under_way
    assert revived(under_way) is under_way


def test_a_lease_ends_at_its_end() -> None:
    """At that very second nobody holds the machine by it any longer."""
    leased = replace(ABSENT, lease=Lease(NOW - 60, NOW))
    assert lease_runs(leased, NOW - 0.5)
    assert not lease_runs(leased, NOW)
    assert permit(leased, NOW) is Permit.ABSENT


@pytest.mark.parametrize("active", [True, False])
def test_a_reclaimed_machine_is_left_to_the_job_of_reclaimed_machines(*, active: bool) -> None:
    """Whatever else is the matter with it: one job deletes it."""
    drained = replace(RECLAIMED, drain=Drain("", NOW), deletion=UNDER_WAY, missing_since=0.0)
    for instance in (RECLAIMED, drained):
        assert not is_leaving(instance, at(NOW), 60, active=active)


def test_late_messages_revive_nobody_s_lease() -> None:
    """LEASED after RECLAIMED, RECLAIMED again, and both about a tombstone."""
    leased = Message(MessageKind.LEASED, KEY, 7, {"lease_expiration_ts": str(NOW + 50)})
    reclaimed = Message(MessageKind.RECLAIMED, KEY, 7, {})
    held = apply(leased, CATALOGED, "", NOW)
    assert lease_runs(held, NOW)
    over = apply(reclaimed, held, "", NOW)
    assert (over.lease, permit(over, NOW)) == (None, Permit.RECLAIMED)
    for message in (leased, reclaimed):
        assert apply(message, over, "", NOW + 1) is over
        assert apply(message, TOMBSTONE, "", NOW + 1) is TOMBSTONE
