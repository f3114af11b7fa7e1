"""What may be deleted, when, and what an instance becomes on the way: single decisions."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gce_backend.model.entities import (
    CatalogState,
    Deletion,
    Instance,
    Lease,
    PendingDeletion,
    Permit,
)
from gce_backend.model.keys import instance_key, manager_key
from gce_backend.model.observed import Member
from gce_backend.model.orders import Drain
from gce_backend.rules.cataloging import (
    SETTLING_SECONDS,
    added,
    adding,
    found_again,
    is_catalogable,
    settles_in,
    uncataloged,
)
from gce_backend.rules.messages import Message, MessageKind, apply, is_about
from gce_backend.rules.permits import (
    deleted,
    deleting,
    is_doubtful,
    is_leaving,
    lease_runs,
    permit,
    revived,
)
from gce_backend.rules.sightings import is_lost, seen_instance, unseen_instance

NOW = 1_000_000.0
KEY = instance_key(manager_key("linux", "0" * 40, "zone"), "linux-1")
VM = Instance(gce_id=7, url="u")
CATALOGED = replace(VM, catalog=CatalogState.CATALOGED)
ABSENT = replace(VM, catalog=CatalogState.ABSENT)
LEASED = Lease(NOW - 10, NOW + 10)
RECLAIMED = replace(CATALOGED, pending_deletion=PendingDeletion("", NOW))
UNDER_WAY = Deletion(Permit.ABSENT, NOW - 500, NOW - 500, "first")
TOMBSTONE = replace(
    RECLAIMED, deletion=Deletion(Permit.RECLAIMED, NOW, NOW, "x", NOW), missing_since=NOW - 1
)
RUNNING = Member("linux-1", 7, "RUNNING", "NONE")


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


def test_a_lease_that_became_known_stops_the_repetition_of_a_deletion() -> None:
    """A not-found had permitted it; then LEASED came, and the first call may have been lost."""
    instance = replace(ABSENT, deletion=UNDER_WAY, lease=LEASED)
    assert deleting(instance, "second", NOW) is instance
    later = deleting(instance, "second", NOW + 20)
    assert later.deletion == Deletion(Permit.ABSENT, NOW - 500, NOW + 20, "second")


def test_a_deletion_is_stored_with_its_permit_and_repeated_under_another_id() -> None:
    """When it was first wanted is kept."""
    first = deleting(RECLAIMED, "a", NOW)
    assert first.deletion == Deletion(Permit.RECLAIMED, NOW, NOW, "a")
    assert deleting(first, "a", NOW + 1) is first
    again = deleting(first, "b", NOW + 130)
    assert again.deletion == Deletion(Permit.RECLAIMED, NOW, NOW + 130, "b")
    assert deleting(CATALOGED, "a", NOW) is CATALOGED
    assert deleting(TOMBSTONE, "a", NOW) is TOMBSTONE


def test_fault_33_messages_about_an_earlier_vm_are_not_about_this_one() -> None:
    """Identity is the numeric id."""
    message = Message(MessageKind.RECLAIMED, KEY, 6, {})
    assert not is_about(message, CATALOGED)
    assert is_about(message, replace(CATALOGED, gce_id=6))


def test_fault_33_a_vm_under_a_tombstone_s_name_begins_anew() -> None:
    """Nothing that was permitted for the earlier VM is permitted for it."""
    assert seen_instance(TOMBSTONE, 8, "v", NOW) == Instance(gce_id=8, url="v", rising_since=NOW)
    assert seen_instance(TOMBSTONE, 7, "v", NOW) is TOMBSTONE
    assert seen_instance(TOMBSTONE, None, "v", NOW) is TOMBSTONE


def test_fault_33_a_drain_by_hand_is_for_that_very_vm() -> None:
    """A machine that had no id yet gets its own; another VM under its name is not drained."""
    drained = replace(VM, drain=Drain("", NOW))
    assert seen_instance(replace(drained, gce_id=None), 7, "u", NOW) == drained
    assert seen_instance(drained, 8, "v", NOW).drain is None


@pytest.mark.parametrize("catalog", CatalogState)
def test_a_drain_by_hand_is_no_permit(catalog: CatalogState) -> None:
    """It says that a machine is to go, never that it may."""
    instance = replace(VM, catalog=catalog, lease=LEASED)
    drained = replace(instance, drain=Drain("", NOW))
    assert permit(drained, NOW) is permit(instance, NOW)
    assert is_leaving(drained, NOW, active=True)
    assert not is_catalogable(drained, RUNNING)
    assert adding(drained, NOW) is drained


def test_fault_33_another_vm_under_a_cataloged_name_makes_ours_missing() -> None:
    """Its entity keeps the id that the catalog's entry stands for."""
    seen = seen_instance(CATALOGED, 8, "v", NOW)
    assert (seen.gce_id, seen.missing_since) == (7, NOW)
    assert seen_instance(VM, 8, "v", NOW) == Instance(gce_id=8, url="v", rising_since=NOW)


def test_a_vm_that_is_listed_again_is_not_missing_any_more() -> None:
    """Whether it has its id yet or not."""
    creating = Instance(url="u")
    for instance, gce_id in ((CATALOGED, 7), (creating, None), (creating, 7)):
        missed = unseen_instance(instance, NOW)
        assert missed.missing_since == NOW
        assert seen_instance(missed, gce_id, "u", NOW).missing_since is None
    # A listed name without an id does not show the VM that we know.
    missed = unseen_instance(CATALOGED, NOW)
    assert seen_instance(missed, None, "u", NOW) is missed


def test_hazard_04_a_time_in_the_future_is_counted_anew_and_is_no_day() -> None:
    """The clock was set back since: neither overdue at once, nor waiting for a day."""
    missed = replace(VM, missing_since=NOW + 86_400)
    assert not is_leaving(missed, NOW, active=True)
    assert unseen_instance(missed, NOW).missing_since == NOW
    assert is_leaving(unseen_instance(missed, NOW), NOW + 11, active=True)
    assert not is_lost(replace(CATALOGED, lost_since=NOW + 5), NOW, 300)
    assert lease_runs(replace(CATALOGED, lease=Lease(NOW + 5, NOW + 60)), NOW)


def test_an_old_answer_of_the_catalog_changes_nothing() -> None:
    """It was asked when the machine was being added; since then it has been."""
    asked = CatalogState.ADDING
    for answer in (CatalogState.REMOVED, CatalogState.ABSENT):
        assert uncataloged(CATALOGED, asked, answer, NOW) is CATALOGED
        assert uncataloged(RECLAIMED, CatalogState.CATALOGED, answer, NOW) is RECLAIMED


def test_a_not_found_means_wait_while_a_known_lease_runs() -> None:
    """Fault 30: whatever a broker says, who holds the machine keeps it."""
    held = replace(CATALOGED, lease=LEASED)
    assert uncataloged(held, CatalogState.CATALOGED, CatalogState.ABSENT, NOW) is held
    free = uncataloged(held, CatalogState.CATALOGED, CatalogState.ABSENT, NOW + 11)
    assert free.catalog is CatalogState.ABSENT


def test_a_not_found_means_wait_while_an_addition_may_still_arrive() -> None:
    """It was sent a moment ago: its entry, and a lease on it, may come after that answer."""
    sent = adding(VM, NOW)
    absent = CatalogState.ABSENT
    assert uncataloged(sent, CatalogState.ADDING, absent, NOW + 200) is sent
    assert uncataloged(sent, CatalogState.ADDING, absent, NOW - 9000) is sent
    assert uncataloged(sent, CatalogState.ADDING, absent, NOW + 301).catalog is absent


def test_a_machine_that_was_added_twice_leaves_a_doubt_when_it_is_reclaimed() -> None:
    """The RECLAIMED may be the first entry's, while somebody holds the second one."""
    once = adding(VM, NOW)
    assert adding(once, NOW) is once  # applied again to its own result, it is the same addition
    twice = adding(once, NOW + 5)
    reclaimed = {"pending_deletion": PendingDeletion("", NOW), "catalog": CatalogState.CATALOGED}
    assert not is_doubtful(replace(once, **reclaimed), NOW)
    assert is_doubtful(replace(twice, **reclaimed), NOW)
    assert settles_in(replace(twice, **reclaimed), NOW + 5) == SETTLING_SECONDS
    assert is_doubtful(ABSENT, NOW)
    assert not is_doubtful(replace(VM, catalog=CatalogState.REMOVED), NOW)


def test_what_is_ending_is_not_cataloged() -> None:
    """Reclaimed, being deleted, missing, or known to be absent."""
    assert is_catalogable(VM, RUNNING)
    assert adding(VM, NOW).catalog is CatalogState.ADDING
    for instance in (
        RECLAIMED,
        replace(VM, deletion=UNDER_WAY),
        replace(VM, missing_since=0.0),
        ABSENT,
        TOMBSTONE,
    ):
        assert not is_catalogable(instance, RUNNING)
        assert adding(instance, NOW) is instance
    assert not is_catalogable(VM, None)
    assert not is_catalogable(VM, replace(RUNNING, gce_id=8))
    assert not is_catalogable(VM, replace(RUNNING, status="STAGING"))


def test_an_addition_s_answer_is_about_a_machine_that_is_being_added() -> None:
    """It was reclaimed, or taken out again, before its answer came."""
    removed = replace(VM, catalog=CatalogState.REMOVED)
    assert added(removed, CatalogState.CATALOGED) is removed
    assert added(adding(VM, NOW), CatalogState.CATALOGED).catalog is CatalogState.CATALOGED


def test_only_an_absent_machine_is_found_again() -> None:
    """By the Machine Provider that did not know it before."""
    lost = replace(ABSENT, lost_since=NOW)
    assert found_again(lost, CatalogState.CATALOGED) == CATALOGED
    assert found_again(RECLAIMED, CatalogState.REMOVED) is RECLAIMED


def test_a_tombstone_forgets_its_metadata_and_can_be_revived() -> None:
    """Its VM was not gone after all."""
    under_way = deleting(RECLAIMED, "a", NOW)
    gone = deleted(under_way, NOW + 5)
    assert gone.is_tombstone
    assert deleted(gone, NOW + 6) is gone
    assert deleted(CATALOGED, NOW) is CATALOGED
    assert revived(gone) == under_way
    assert revived(under_way) is under_way


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
