"""rules.surplus: what is too many for long enough, and which machines leave."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gce_backend.configuration.values import KEEP_SURPLUS
from gce_backend.model.entities import (
    CatalogState,
    Instance,
    InstanceGroupManager,
    Lease,
    PendingDeletion,
)
from gce_backend.model.orders import Cordon, Drain
from gce_backend.rules.group_sizes import UNUSED, Use, growth, needed_size
from gce_backend.rules.surplus import (
    Now,
    SizeHistory,
    excess_of,
    first_to_leave,
    is_idle,
    is_on_its_way_out,
    is_worth_storing,
    marked,
    noted,
    remembered,
    surplus,
    to_keep,
    unmarked,
)

NOW = 1_000_000.0
WINDOW = 900
FREE = Instance(gce_id=1, catalog=CatalogState.CATALOGED, adding_since=1.0)
HELD = Instance(gce_id=1, catalog=CatalogState.CATALOGED, lease=Lease(NOW, NOW + 60))


def watched(
    manager: InstanceGroupManager, steps: list[tuple[float, int, Use]]
) -> tuple[SizeHistory, int]:
    """The history of these sizes, and the surplus at the end."""
    history, count = None, 0
    for moment, size, use in steps:
        history = noted(history, manager, size, use, moment)
        count = surplus(history, manager, size, use, moment)
    assert history is not None
    return history, count


def test_what_was_too_many_for_the_whole_time_leaves_and_nothing_before() -> None:
    """Ten machines, three wanted, each minute."""
    manager = InstanceGroupManager(3, 20, url="u")
    seen = [(60.0 * minute, 10, UNUSED) for minute in range(16)]
    assert watched(manager, seen[:-1])[1] == 0
    assert watched(manager, seen)[1] == 7


def test_only_what_was_never_needed_within_the_time_leaves() -> None:
    """A demand of eight in between keeps eight for as long again."""
    manager = InstanceGroupManager(3, 20, url="u", spare_size=0)
    seen = [(60.0 * minute, 10, Use(8) if minute == 10 else UNUSED) for minute in range(27)]
    assert watched(manager, seen[:16])[1] == 2
    assert watched(manager, seen[:26])[1] == 2
    assert watched(manager, seen)[1] == 7


def test_what_a_lower_limit_makes_too_many_leaves_at_once() -> None:
    """Also when the daemon has just started; the demand that it saw still keeps machines."""
    before = InstanceGroupManager(10, 20, url="u", spare_size=0)
    history = noted(None, before, 10, Use(5), 0.0)
    after = InstanceGroupManager(3, 20, url="u", spare_size=0)
    history = noted(history, after, 10, UNUSED, 60.0)
    assert surplus(history, after, 10, UNUSED, 60.0) == 5


def test_machines_that_somebody_adds_by_hand_stay_for_the_time() -> None:
    """They are surplus like others."""
    manager = InstanceGroupManager(3, url="u")
    seen = [(60.0 * minute, 3 if minute < 20 else 5, UNUSED) for minute in range(36)]
    assert watched(manager, seen[:35])[1] == 0
    assert watched(manager, seen)[1] == 2


@pytest.mark.parametrize(("seconds", "count"), [(KEEP_SURPLUS, 0), (0, 7), (900, 0)])
def test_the_manager_says_how_long(seconds: int, count: int) -> None:
    """-1 keeps all machines, 0 none."""
    manager = InstanceGroupManager(3, 20, url="u", surplus_seconds=seconds)
    assert watched(manager, [(0.0, 10, UNUSED)])[1] == count


@given(
    minimum=st.integers(0, 10),
    room=st.integers(0, 40),
    spare=st.none() | st.integers(0, 5),
    steps=st.lists(
        st.tuples(st.floats(1, 400), st.integers(0, 50), st.integers(0, 20), st.integers(0, 20)),
        min_size=1,
        max_size=40,
    ),
)
def test_a_group_keeps_what_it_needed_within_the_time(
    minimum: int, room: int, spare: int | None, steps: list[tuple[float, int, int, int]]
) -> None:
    """Removing the surplus never leaves less than any need of the last `surplus_seconds`."""
    manager = InstanceGroupManager(minimum, minimum + room, url="u", spare_size=spare)
    history, moment, seen = None, 0.0, []
    for pause, size, leased, waiting in steps:
        moment += pause
        use = Use(leased, waiting)
        history = noted(history, manager, size, use, moment)
        seen.append((moment, size, use))
        count = surplus(history, manager, size, use, moment)
        assert len(history.samples) <= 32
        if count:
            assert seen[0][0] <= moment - WINDOW
            recent = [one for at, _, one in seen if at > moment - WINDOW]
            assert all(size - count >= needed_size(manager, one) for one in [use, *recent])


@given(
    minimum=st.integers(0, 10),
    spare=st.none() | st.integers(0, 5),
    demand=st.integers(1, 60),
    began=st.integers(0, 20),
    lasted=st.integers(1, 60),
)
def test_a_step_of_demand_causes_one_growth_and_one_shrink(
    minimum: int, spare: int | None, demand: int, began: int, lasted: int
) -> None:
    """However long it lasts: the size rises once, and falls once, `surplus_seconds` later."""
    manager = InstanceGroupManager(minimum, 100, url="u", spare_size=spare)
    size, sizes, history = needed_size(manager, UNUSED), [], None
    for minute in range(began + lasted + 40):
        use = Use(waiting=demand) if began <= minute < began + lasted else UNUSED
        history = noted(history, manager, size, use, 60.0 * minute)
        size += growth(manager, size, 0, use)
        size -= surplus(history, manager, size, use, 60.0 * minute)
        sizes.append(size)
    steps = list(pairwise(sizes))
    assert sum(after > before for before, after in steps) <= 1
    assert sum(after < before for before, after in steps) <= 1
    assert sizes[-1] == needed_size(manager, UNUSED)
    needed = needed_size(manager, Use(waiting=demand))
    assert sizes[began : began + lasted] == [needed] * lasted


@pytest.mark.parametrize(
    "instance",
    [
        HELD,
        Instance(catalog=CatalogState.ADDING),
        Instance(catalog=CatalogState.ABSENT),
        Instance(catalog=CatalogState.CATALOGED, drain=Drain("why", NOW)),
        Instance(catalog=CatalogState.CATALOGED, missing_since=NOW),
        Instance(catalog=CatalogState.CATALOGED, stopped_since=NOW),
        Instance(catalog=CatalogState.CATALOGED, lost_since=NOW),
        Instance(pending_deletion=PendingDeletion("reclaimed", NOW)),
    ],
)
def test_a_machine_that_is_held_or_in_trouble_is_not_marked(instance: Instance) -> None:
    """A lease that came between the decision and the commit keeps the machine."""
    assert not is_idle(instance, NOW)
    assert marked(instance, NOW) is instance


def test_a_cordoned_machine_is_not_marked_and_counts() -> None:
    """An operator keeps it: its group has it, also while it is stopped for a repair."""
    kept = replace(FREE, cordon=Cordon("a look", NOW), stopped_since=NOW)
    assert not is_idle(kept, NOW)
    assert not is_on_its_way_out(kept)
    assert is_on_its_way_out(replace(kept, cordon=None))


def test_a_mark_is_taken_back_unless_an_operator_made_it_or_the_deletion_began() -> None:
    """The daemon takes back its own decision only."""
    gone = marked(FREE, NOW)
    assert gone.drain == Drain("its group has more machines than it needs.", NOW, surplus=True)
    assert str(gone.drain).startswith("Surplus: ")
    assert unmarked(gone) == FREE
    by_hand = Instance(catalog=CatalogState.CATALOGED, drain=Drain("it rattles", NOW))
    assert unmarked(by_hand) is by_hand


def test_machines_of_least_use_leave_first_and_the_oldest_of_the_others() -> None:
    """One that is not made yet, one that was never offered, then the oldest."""
    idle = [
        ("young", Instance(gce_id=1, catalog=CatalogState.CATALOGED, adding_since=9.0)),
        ("old", Instance(gce_id=1, catalog=CatalogState.CATALOGED, adding_since=3.0)),
        ("boots", Instance(gce_id=1)),
        ("unmade", Instance()),
    ]
    assert first_to_leave(idle, 3) == ("unmade", "boots", "old")


def test_leased_machines_are_kept_and_offered_ones_before_removed_ones() -> None:
    """A leased one does not count for what the group needs: it has counted already."""
    removed = Instance(gce_id=1, catalog=CatalogState.REMOVED)
    ones = [("a", removed), ("b", FREE), ("c", HELD)]
    assert to_keep(ones, 1, NOW) == ("c", "b")
    assert to_keep(ones, -2, NOW) == ("c",)


@given(
    looks=st.lists(
        st.tuples(st.floats(0, 200), st.integers(0, 12), st.integers(0, 12)),
        min_size=1,
        max_size=20,
    )
)
def test_what_is_stored_of_an_excess_lets_no_more_go_than_was_seen(
    looks: list[tuple[float, int, int]],
) -> None:
    """It is true of all that was seen since then, so a process that takes over may go by it."""
    limited = InstanceGroupManager(2, 12, spare_size=0, surplus_seconds=300)
    history, stored, moment = None, None, 0.0
    seen: list[tuple[float, int, int]] = []
    for seconds, size, leased in looks:
        moment += seconds
        use = Use(leased)
        seen.append((moment, size, needed_size(limited, use)))
        history = noted(history, limited, size, use, moment)
        new = excess_of(history, limited, size, use, Now(moment, moment))
        age = moment - stored.since if stored is not None else 0.0
        if is_worth_storing(stored, new, age, 300):
            stored = new
        assert (stored is None) == (size <= needed_size(limited, use))
    if stored is None:
        return
    since, least, most = stored.since, stored.size, stored.needed
    assert all(size >= least > most >= needed for at, size, needed in seen if at > since)
    again, last = remembered(stored, limited, moment, lambda at: moment - at), looks[-1]
    again = noted(again, limited, last[1], Use(last[2]), moment)
    left = surplus(again, limited, last[1], Use(last[2]), moment)
    assert left <= least - most
    assert left == 0 or moment - since >= 300
