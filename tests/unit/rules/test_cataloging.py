"""rules.cataloging: a machine's way into the catalog and out of it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gce_backend.model.entities import (
    CatalogState,
    Lease,
)
from gce_backend.rules.cataloging import (
    SETTLING_SECONDS,
    Contradiction,
    added,
    adding,
    contradicted_seconds,
    found_again,
    is_catalogable,
    lease_is_over,
    phantom_looks,
    removal_refused,
    settles_in,
    uncataloged,
    without_lease,
)
from support.machines import (
    ABSENT,
    CATALOGED,
    LEASED,
    NOW,
    RECLAIMED,
    RUNNING,
    TOMBSTONE,
    UNDER_WAY,
    VM,
    at,
)


def test_an_old_answer_of_the_catalog_changes_nothing() -> None:
    """It was asked when the machine was being added; since then it has been."""
    asked = CatalogState.ADDING
    for answer in (CatalogState.REMOVED, CatalogState.ABSENT):
        assert uncataloged(CATALOGED, asked, answer, NOW, at(NOW)) is CATALOGED
        assert uncataloged(RECLAIMED, CatalogState.CATALOGED, answer, NOW, at(NOW)) is RECLAIMED


def test_a_not_found_means_wait_while_a_known_lease_runs() -> None:
    """Fault 30: whatever a broker says, who holds the machine keeps it."""
    held = replace(CATALOGED, lease=LEASED)
    assert uncataloged(held, CatalogState.CATALOGED, CatalogState.ABSENT, NOW, at(NOW)) is held
    free = uncataloged(held, CatalogState.CATALOGED, CatalogState.ABSENT, NOW + 11, at(NOW + 11))
    assert free.catalog is CatalogState.ABSENT


def test_a_not_found_means_wait_while_an_addition_may_still_arrive() -> None:
    """It was sent a moment ago: its entry, and a lease on it, may come after that answer."""
    sent = adding(VM, NOW)
    absent = CatalogState.ABSENT
    assert uncataloged(sent, CatalogState.ADDING, absent, NOW + 200, at(NOW + 200)) is sent
    assert uncataloged(sent, CatalogState.ADDING, absent, NOW - 9000, at(NOW - 9000)) is sent
    end = NOW + SETTLING_SECONDS
    assert uncataloged(sent, CatalogState.ADDING, absent, end - 0.5, at(end - 0.5)) is sent
    assert uncataloged(sent, CatalogState.ADDING, absent, end, at(end)).catalog is absent


def test_only_an_addition_without_an_answer_settles() -> None:
    """When it was sent is kept after its answer; one that an old store calls sent has no time."""
    sent = adding(VM, NOW)
    assert settles_in(sent, at(NOW + 100)) == SETTLING_SECONDS - 100
    assert settles_in(added(sent, CatalogState.CATALOGED), at(NOW)) == 0
    assert settles_in(replace(sent, adding_since=None), at(NOW)) == 0


@pytest.mark.parametrize(
    ("age", "looks"),
    [(0.0, 0), (59.9, 0), (60.0, 1), (299.9, 1), (300.0, 2), (659.9, 2), (660.0, 3), (9000.0, 3)],
)
def test_an_entry_of_a_deleted_vm_is_looked_for_after_one_minute_five_and_eleven(
    age: float, looks: int
) -> None:
    """A late addition may have made it anew."""
    assert phantom_looks(age) == looks


def test_a_machine_that_left_the_catalog_is_announced_again_when_it_comes_back() -> None:
    """Its subscription goes with its entry."""
    subscribed = replace(CATALOGED, subscribed="a")
    for state in (CatalogState.REMOVED, CatalogState.ABSENT):
        out = uncataloged(subscribed, CatalogState.CATALOGED, state, NOW, at(NOW))
        assert out == replace(VM, catalog=state)


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
    rising = adding(replace(VM, rising_since=NOW - 60), NOW)
    known = added(rising, CatalogState.CATALOGED)
    assert known == replace(CATALOGED, adding_since=NOW)
    refused = added(rising, CatalogState.REFUSED)
    assert refused == replace(rising, catalog=CatalogState.REFUSED)


def test_a_machine_is_found_again_whatever_was_known_of_its_entry() -> None:
    """By the Machine Provider that is asked just before its deletion."""
    lost = replace(ABSENT, lost_since=NOW)
    assert found_again(lost, CatalogState.CATALOGED) == CATALOGED
    assert found_again(replace(VM, rising_since=1.0), CatalogState.CATALOGED) == CATALOGED
    for state in (CatalogState.REMOVED, CatalogState.REFUSED):
        assert found_again(replace(VM, catalog=state), CatalogState.CATALOGED) == CATALOGED
    unanswered = adding(VM, NOW)
    assert found_again(unanswered, CatalogState.CATALOGED) is unanswered
    out = found_again(replace(RECLAIMED, subscribed="a", lost_since=1.0), CatalogState.REMOVED)
    assert out == replace(RECLAIMED, catalog=CatalogState.REMOVED)
    assert found_again(out, CatalogState.REMOVED) is out
    assert found_again(TOMBSTONE, CatalogState.REMOVED) is TOMBSTONE


def test_a_machine_that_is_added_again_is_not_lost_any_more() -> None:
    """Else it would be taken out and added again for ever."""
    lost = replace(CATALOGED, lost_since=NOW - 900)
    out = uncataloged(lost, CatalogState.CATALOGED, CatalogState.REMOVED, NOW, at(NOW))
    assert out.lost_since is None
    denied = uncataloged(lost, CatalogState.CATALOGED, CatalogState.ABSENT, NOW, at(NOW))
    assert denied.lost_since == NOW - 900
    unanswered = replace(VM, catalog=CatalogState.ADDING, lost_since=NOW - 900)
    assert added(unanswered, CatalogState.CATALOGED).lost_since is None
    assert added(unanswered, CatalogState.REFUSED).lost_since == NOW - 900


@pytest.mark.parametrize(
    ("expiration", "looks", "seconds", "over"),
    [
        (None, 3, 600.0, True),
        (None, 2, 9999.0, False),
        (None, 99, 599.9, False),
        (1000.0, 1, 0.0, True),
        (1000.1, 99, 9999.0, False),
    ],
)
def test_hole_05_a_contradicted_lease_lasts_to_its_end_or_for_three_looks_over_ten_minutes(
    expiration: float | None, looks: int, seconds: float, *, over: bool
) -> None:
    """The catalog's word may be that of a backup."""
    contradiction = Contradiction(50.0, looks)
    lease = Lease(1.0, expiration)
    assert lease_is_over(lease, 1000.0, contradiction, 50.0 + seconds) is over


@pytest.mark.parametrize(("lost_seconds", "seconds"), [(10.0, 600.0), (1800.0, 1800.0)])
def test_hole_11_a_lease_without_an_end_is_denied_for_ten_minutes_at_least(
    lost_seconds: float, seconds: float
) -> None:
    """Or for as long as the settings say a machine must be lacking."""
    patience = contradicted_seconds(lost_seconds)
    assert patience == seconds
    contradiction, lease = Contradiction(50.0, 3), Lease(1.0, None)
    assert lease_is_over(lease, 1000.0, contradiction, 50.0 + seconds, patience)
    assert not lease_is_over(lease, 1000.0, contradiction, 49.0 + seconds, patience)


@pytest.mark.parametrize("state", CatalogState)
def test_hole_11_a_denied_lease_leaves_no_proof_that_the_machine_was_never_cataloged(
    state: CatalogState,
) -> None:
    """Its deletion then rests on the catalog not knowing it, under the narrow cap."""
    held = replace(CATALOGED, catalog=state, lease=Lease(NOW))
    found = without_lease(held)
    assert found.lease is None
    assert found.catalog is (CatalogState.ABSENT if state is CatalogState.NEVER else state)


def test_a_refused_removal_tells_of_the_entry_and_of_the_lease() -> None:
    """Also of one that was only being added; what has changed since the question stays as it is."""
    sent = adding(VM, NOW)
    asked = CatalogState.ADDING
    told = removal_refused(sent, asked, NOW + 60, NOW)
    assert (told.catalog, told.lease) == (CatalogState.CATALOGED, Lease(NOW, NOW + 60))
    assert removal_refused(told, asked, NOW + 60, NOW) is told
    lost = replace(CATALOGED, lost_since=NOW, lease=Lease(NOW - 9, NOW + 90))
    known = removal_refused(lost, CatalogState.CATALOGED, NOW + 60, NOW)
    assert (known.lost_since, known.lease) == (None, lost.lease)
    for gone in (RECLAIMED, ABSENT, TOMBSTONE):
        assert removal_refused(gone, gone.catalog, NOW + 60, NOW) is gone
