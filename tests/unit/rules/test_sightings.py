"""rules.sightings: what a list that shows a VM, or does not, makes of its entity."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gce_backend.base.ages import Ages
from gce_backend.model.entities import (
    CatalogState,
    Deletion,
    Instance,
    Lease,
    Permit,
)
from gce_backend.model.observed import Member
from gce_backend.model.orders import Cordon, Drain
from gce_backend.rules.permits import (
    is_leaving,
    lease_runs,
    permit,
)
from gce_backend.rules.sightings import (
    MISSING_SECONDS,
    LesseeNews,
    abandoned_instance,
    emptied_instance,
    has_left_its_group,
    is_empty,
    is_lost,
    is_stopped_for_good,
    news_for_lessee,
    not_running_message,
    preempted_instance,
    seen_instance,
    trouble_of,
    unseen_instance,
    without_vm_message,
)
from support.machines import (
    CATALOGED,
    NOW,
    TOMBSTONE,
    UNDER_WAY,
    VM,
    at,
)


def test_fault_33_a_vm_under_a_tombstone_s_name_begins_anew() -> None:
    """Nothing that was permitted for the earlier VM is permitted for it."""
    assert TOMBSTONE.deletion is not None
    unsent = replace(TOMBSTONE, deletion=replace(TOMBSTONE.deletion, unsent=True))
    new = Instance(gce_id=8, url="v", rising_since=NOW, listed_since=NOW)
    assert seen_instance(unsent, 8, "v", NOW) == new
    assert seen_instance(TOMBSTONE, 7, "v", NOW) is TOMBSTONE
    assert seen_instance(TOMBSTONE, None, "v", NOW) is TOMBSTONE


def test_a_vm_has_left_its_group_when_no_outdated_list_can_show_it() -> None:
    """Until then its group may still delete it."""
    assert not has_left_its_group(CATALOGED, at(NOW))
    abandoned = replace(CATALOGED, missing_since=NOW, abandoned_since=NOW)
    assert not has_left_its_group(abandoned, at(NOW + 119))
    assert has_left_its_group(abandoned, at(NOW + 120))


def test_fault_43_a_vm_that_a_late_deletion_may_hit_is_replaced() -> None:
    """A call that named the earlier VM may take effect yet: nobody must hold what has its name."""
    new = seen_instance(TOMBSTONE, 8, "v", NOW)
    assert new.drain is not None
    assert (new.gce_id, new.drain.endangered, new.drain.since) == (8, True, NOW)
    assert str(new.drain) == (
        "It is replaced: A deletion that was sent for the earlier VM of its name may still take "
        "effect. Machines that are deleted here need not be recreated: their groups are refilled."
    )
    assert is_leaving(new, at(NOW), 60, active=True)
    assert permit(new, NOW) is Permit.NEVER_CATALOGED


def test_a_vm_that_is_listed_for_the_first_time_begins_to_rise() -> None:
    """Whether it has its id yet or not; listed again, nothing changes."""
    for gce_id in (None, 8):
        new = Instance(gce_id=gce_id, url="v", rising_since=NOW, listed_since=NOW)
        assert seen_instance(None, gce_id, "v", NOW) == new
        assert seen_instance(new, gce_id, "v", NOW + 9) is new
    creating = Instance(url="u", rising_since=NOW, listed_since=NOW)
    made = seen_instance(creating, 8, "v", NOW + 9)
    assert made == Instance(gce_id=8, url="v", rising_since=NOW, listed_since=NOW)


def test_fault_33_a_drain_by_hand_is_for_that_very_vm() -> None:
    """A machine that had no id yet gets its own; another VM under its name is not drained.

    Neither is it cordoned.
    """
    drained = replace(VM, drain=Drain("", NOW), cordon=Cordon("", NOW))
    assert seen_instance(replace(drained, gce_id=None), 7, "u", NOW) == drained
    another = seen_instance(drained, 8, "v", NOW)
    assert (another.drain, another.cordon) == (None, None)


def test_fault_33_another_vm_under_a_cataloged_name_makes_ours_missing() -> None:
    """Its entity keeps the id that the catalog's entry stands for."""
    seen = seen_instance(CATALOGED, 8, "v", NOW)
    assert (seen.gce_id, seen.missing_since) == (7, NOW)
    assert seen_instance(seen, 8, "v", NOW + 9) is seen
    another = Instance(gce_id=8, url="v", rising_since=NOW, listed_since=NOW)
    assert seen_instance(VM, 8, "v", NOW) == another
    assert seen_instance(unseen_instance(VM, NOW - 9), 8, "v", NOW) == another


def test_the_vm_of_a_member_that_had_none_is_the_member_s_own() -> None:
    """Also when its deletion has begun before: it would not be found, nor ever be deleted."""
    deletion = Deletion(Permit.NEVER_CATALOGED, NOW, NOW, "r")
    for one in (Instance(), Instance(deletion=deletion, missing_since=NOW)):
        found = seen_instance(one, 7, "u", NOW)
        assert found == replace(one, gce_id=7, url="u", missing_since=None)
        assert seen_instance(found, 7, "u", NOW) is found


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
    missed, ages = replace(VM, missing_since=NOW + 86_400), Ages()
    for moment, leaves in ((0.0, False), (9.0, False), (10.0, True)):

        def elapsed(since: float, moment: float = moment) -> float:
            return ages.elapsed(since, NOW + moment, moment)

        assert is_leaving(missed, elapsed, 60, active=True) is leaves
    assert unseen_instance(missed, NOW) is missed
    assert not is_lost(replace(CATALOGED, lost_since=NOW + 5), at(NOW), 300)
    assert lease_runs(replace(CATALOGED, lease=Lease(NOW + 5, NOW + 60)), NOW)


def test_a_machine_that_the_catalog_lacks_for_the_patience_is_lost() -> None:
    """Not before, and not one that the catalog knows."""
    lost = replace(CATALOGED, lost_since=NOW)
    assert not is_lost(CATALOGED, at(NOW), 300)
    assert not is_lost(lost, at(NOW + 299), 300)
    assert is_lost(lost, at(NOW + 300), 300)


def test_hole_09_a_vm_that_stops_is_lost_at_once_and_leaves_after_the_patience() -> None:
    """It must not be offered; it is only destroyed when it does not come back."""
    stopped = seen_instance(CATALOGED, 7, "u", NOW, stopped=True)
    assert stopped == replace(CATALOGED, stopped_since=NOW)
    assert seen_instance(stopped, 7, "u", NOW + 9, stopped=True) is stopped
    assert is_lost(stopped, at(NOW), 300)
    for age, leaves in ((0, False), (59, False), (60, True)):
        assert is_stopped_for_good(stopped, at(NOW + age), 60) is leaves
        assert is_leaving(stopped, at(NOW + age), 60, active=True) is leaves
    assert seen_instance(stopped, 7, "u", NOW + 9) == CATALOGED


def test_hole_09_only_a_vm_that_is_ours_and_there_can_have_stopped() -> None:
    """Neither another VM of its name, nor one that is missing or gone, says anything of it."""
    assert seen_instance(CATALOGED, 8, "v", NOW, stopped=True).stopped_since is None
    assert seen_instance(TOMBSTONE, 7, "v", NOW, stopped=True) is TOMBSTONE
    assert seen_instance(None, 7, "v", NOW, stopped=True).stopped_since == NOW


def test_hole_10_only_a_missing_vm_can_have_been_abandoned() -> None:
    """Since the first look that found it; never once it is listed again or gone."""
    missed = replace(CATALOGED, missing_since=NOW)
    left = abandoned_instance(missed, NOW + 10, exists=True)
    assert left == replace(missed, abandoned_since=NOW + 10)
    assert is_lost(left, at(NOW + 10), 300)
    assert is_leaving(left, at(NOW + 10), 60, active=True)
    assert is_leaving(missed, at(NOW + 10), 60, active=True)
    assert abandoned_instance(left, NOW + 20, exists=True) is left
    assert abandoned_instance(left, NOW + 20, exists=False) == missed
    assert abandoned_instance(missed, NOW, exists=False) is missed
    assert seen_instance(left, 7, "u", NOW + 30) == CATALOGED
    assert abandoned_instance(CATALOGED, NOW, exists=True) is CATALOGED
    assert abandoned_instance(TOMBSTONE, NOW, exists=True) is TOMBSTONE


@pytest.mark.parametrize(
    ("instance", "member", "empty"),
    [
        (CATALOGED, Member("a", None, "", "NONE"), True),
        (CATALOGED, Member("a", 7, "", "NONE"), True),
        (CATALOGED, Member("a", 8, "", "NONE"), False),
        (CATALOGED, Member("a", None, "", "DELETING"), True),
        (CATALOGED, Member("a", None, "", "ABANDONING"), True),
        (CATALOGED, Member("a", None, "", "RECREATING"), True),
        (CATALOGED, Member("a", None, "", "CREATING"), False),
        (CATALOGED, Member("a", None, "", "CREATING_WITHOUT_RETRIES"), False),
        (CATALOGED, Member("a", 7, "STOPPING", "DELETING"), False),
        (replace(CATALOGED, catalog=CatalogState.NEVER), Member("a", None, "", "NONE"), True),
        (
            replace(CATALOGED, catalog=CatalogState.NEVER),
            Member("a", None, "", "RECREATING"),
            False,
        ),
        (Instance(url="u"), Member("a", None, "", "NONE"), True),
        (Instance(url="u"), Member("a", None, "", "DELETING"), False),
        (Instance(url="u"), Member("a", None, "", "RECREATING"), False),
        (None, Member("a", None, "", "VERIFYING"), True),
        (None, Member("a", None, "", "CREATING"), False),
        (None, Member("a", None, "", "ABANDONING"), False),
        (None, Member("a", None, "", "RECREATING"), False),
        (None, Member("a", 7, "RUNNING", "NONE"), False),
    ],
)
def test_hole_10_a_member_is_empty_when_its_vm_is_gone_and_is_not_made(
    instance: Instance | None, member: Member, empty: bool
) -> None:
    """Compute lists it without id and status; one that waits for its first VM is not empty."""
    assert is_empty(member, instance) is empty


def test_hole_10_an_empty_member_is_missing_and_not_abandoned() -> None:
    """It gets an entity, by which it can be deleted; what is deleted already stays as it is."""
    assert emptied_instance(None, "u", NOW) == Instance(url="u", missing_since=NOW)
    missing = replace(CATALOGED, missing_since=NOW)
    assert emptied_instance(CATALOGED, "u", NOW) == missing
    assert emptied_instance(missing, "u", NOW + 10) is missing
    assert emptied_instance(replace(missing, abandoned_since=NOW), "u", NOW + 10) == missing
    assert emptied_instance(TOMBSTONE, "u", NOW) is TOMBSTONE
    left = replace(TOMBSTONE, abandoned_since=NOW)
    assert emptied_instance(left, "u", NOW) is left


def test_group_that_cannot_delete_is_not_said_to_be_unable_to_create() -> None:
    """What fails is the action of the members, as their group lists it."""
    why = "in use"
    deleting = [Member(name, 1, "RUNNING", "DELETING", why, "IN_USE") for name in "ab"]
    assert trouble_of(deleting) == "2 VMs cannot be deleted: IN_USE: in use"
    creating = Member("c", None, "", "CREATING", why, "IN_USE")
    assert trouble_of([creating, *deleting]) == "1 VM cannot be created: IN_USE: in use"


@pytest.mark.parametrize(
    ("error", "code", "why"),
    [
        ("in use", "IN_USE", "IN_USE: in use"),
        ("IN_USE by another", "IN_USE", "IN_USE by another"),
        ("", "IN_USE", "IN_USE"),
        ("", "", ""),
    ],
)
def test_a_trouble_names_its_code_once_and_is_that_of_the_first(
    error: str, code: str, why: str
) -> None:
    """Some errors of Compute repeat their code in their text, others have no text."""
    first = Member("a", 1, "RUNNING", "JUGGLING", error, code)
    second = Member("b", 2, "RUNNING", "JUGGLING", "another", "OTHER")
    assert trouble_of([first, second]) == f"2 VMs fail in JUGGLING: {why}"


def test_vms_that_do_not_come_to_run_are_told_of_with_their_statuses() -> None:
    """Each status once; a member without a VM has none, and its group's action tells."""
    creating = Member("a", None, "", "CREATING")
    advice = (
        "Look at its serial console and its operations. `gce-backend drain NAME` has one replaced."
    )
    assert not_running_message([creating]) == (
        "1 VM of the group did not start within 15 minutes, for example a (CREATING). " + advice
    )
    staging = [Member(name, 1, "STAGING", "CREATING") for name in "bc"]
    assert not_running_message([*staging, creating]) == (
        "3 VMs of the group did not start within 15 minutes, for example b "
        "(CREATING, STAGING). " + advice
    )


@pytest.mark.parametrize(
    ("fields", "news"),
    [
        ({}, None),
        ({"missing_since": NOW - MISSING_SECONDS}, LesseeNews.GONE),
        ({"missing_since": NOW - MISSING_SECONDS + 1}, None),
        ({"missing_since": NOW - 60, "abandoned_since": NOW}, None),
        ({"missing_since": NOW - 60, "stopped_since": NOW}, LesseeNews.GONE),
        ({"stopped_since": NOW}, LesseeNews.STOPPED),
        ({"stopped_since": NOW, "preempted_since": NOW}, LesseeNews.PREEMPTED),
        ({"missing_since": NOW - 9, "preempted_since": NOW}, None),
        ({"missing_since": NOW - 60, "preempted_since": NOW}, LesseeNews.PREEMPTED_AND_GONE),
        (
            {"missing_since": NOW - 60, "abandoned_since": NOW, "preempted_since": NOW},
            None,
        ),
    ],
)
def test_a_lessee_hears_of_a_vm_that_is_gone_or_stopped(
    fields: dict[str, float], news: LesseeNews | None
) -> None:
    """An abandoned VM is still there for its lessee."""
    assert news_for_lessee(replace(CATALOGED, **fields), at(NOW)) is news


@pytest.mark.parametrize(
    ("instance", "gce_id", "is_taken"),
    [
        (replace(CATALOGED, stopped_since=NOW), 7, True),
        (replace(CATALOGED, missing_since=NOW), 7, True),
        (replace(CATALOGED, missing_since=NOW), 8, False),
        (CATALOGED, 7, False),
        (replace(CATALOGED, missing_since=NOW, abandoned_since=NOW), 7, False),
        (replace(CATALOGED, missing_since=NOW, deletion=UNDER_WAY), 7, False),
        (replace(CATALOGED, gce_id=None, missing_since=NOW), None, False),
    ],
)
def test_only_a_vm_that_went_unasked_was_preempted(
    instance: Instance, gce_id: int | None, is_taken: bool
) -> None:
    """Of that very id; it is no longer said of one that runs again."""
    taken = preempted_instance(instance, gce_id, NOW)
    assert taken == (replace(instance, preempted_since=NOW) if is_taken else instance)
    assert preempted_instance(taken, gce_id, NOW + 9) is taken
    again = seen_instance(taken, 7, "v", NOW)
    assert again.gce_id != 7 or again.deletion or again.preempted_since is None


def test_a_new_vm_of_a_name_has_neither_stopped_nor_been_preempted() -> None:
    """What befell the one before is not its own."""
    before = replace(VM, stopped_since=NOW - 9, preempted_since=NOW - 9)
    after = seen_instance(before, 8, "v", NOW, stopped=True)
    assert (after.gce_id, after.stopped_since, after.preempted_since) == (8, NOW, None)


def test_members_without_vm_are_told_with_their_number_and_an_example() -> None:
    """And with what Compute was asked for."""
    assert without_vm_message(["a", "b"]) == (
        "The group keeps 2 members without a VM, for example a. Compute has been asked to "
        "delete them again and again. Until it does, the group has fewer machines."
    )
