"""Made before broken, as rules: how many old machines may leave, in any situation."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.model.entities import (
    CatalogState,
    Deletion,
    Instance,
    InstanceGroupManager,
    Lease,
    Permit,
    Pool,
)
from gce_backend.model.orders import Cordon, Drain
from gce_backend.rules.group_sizes import UNUSED, growth, pool_size
from gce_backend.rules.rollout import (
    PAUSED,
    SURGE,
    PlaceRollout,
    drainable,
    in_turn,
    removable,
    rollout_limit,
    share_out,
    stays_apart,
)
from gce_backend.rules.zones import ZoneState, split, spread

COUNTS = st.integers(0, 30)
ZONES = st.builds(
    PlaceRollout,
    minimum_size=COUNTS,
    maximum_size=COUNTS,
    active_target=COUNTS,
    coming=COUNTS,
    staying=COUNTS,
    available=COUNTS,
    leased=COUNTS,
    old=COUNTS,
)
SHARES = st.floats(0, 1)


def zone(**fields: int) -> PlaceRollout:
    """A zone of three old machines, all of which can be leased; no limit, nothing new yet."""
    usual = PlaceRollout(
        minimum_size=3,
        maximum_size=0,
        active_target=0,
        coming=0,
        staying=3,
        available=3,
        leased=0,
        old=3,
    )
    return msgspec.structs.replace(usual, **fields)


def may_leave(state: PlaceRollout, max_unavailable: int = 0, exchange_share: float = 0.1) -> int:
    """The decision with the default settings."""
    return removable(state, max_unavailable=max_unavailable, exchange_share=exchange_share)


def test_nobody_leaves_before_others_have_come() -> None:
    """Without new machines to lease, the old ones stay."""
    assert may_leave(zone()) == 0
    assert may_leave(zone(active_target=3, coming=3)) == 0


def test_as_many_leave_as_have_come() -> None:
    """Two new ones can be leased: two old ones go."""
    assert may_leave(zone(active_target=3, coming=1, available=5)) == 2


def test_without_room_one_leaves_and_the_next_only_when_its_successor_has_come() -> None:
    """Minimum and maximum are 3: machines are exchanged within it."""
    assert may_leave(zone(maximum_size=3)) == 1
    assert may_leave(zone(maximum_size=3, staying=2, available=2, old=2)) == 0
    coming = zone(maximum_size=3, staying=2, available=2, old=2, active_target=1, coming=1)
    assert may_leave(coming) == 0
    assert may_leave(msgspec.structs.replace(coming, coming=0, available=3)) == 1


def test_room_for_one_is_used_before_anybody_leaves() -> None:
    """A maximum of 4 leaves room for one: the number to lease from need not drop at all."""
    full = zone(maximum_size=4, active_target=1, coming=1)
    assert may_leave(full) == 0
    assert may_leave(msgspec.structs.replace(full, coming=0, available=4)) == 1


def test_a_share_is_exchanged_at_a_time() -> None:
    """A tenth of 40 machines."""
    assert may_leave(zone(minimum_size=40, maximum_size=40, staying=40, available=40, old=40)) == 4


def test_what_the_settings_allow_may_be_missing() -> None:
    """max_unavailable lets that many leave at once."""
    assert may_leave(zone(), max_unavailable=1) == 1
    assert may_leave(zone(maximum_size=3), max_unavailable=2) == 2


def test_leased_machines_are_neither_missed_nor_replaced_by_others() -> None:
    """With one of three leased, two are there to lease from, and two it stays."""
    assert may_leave(zone(available=2, leased=1, old=2)) == 0
    assert may_leave(zone(available=3, leased=1, old=2, active_target=1)) == 1


def test_the_last_one_that_nobody_holds_may_leave_where_leases_are_the_minimum() -> None:
    """None need be left to lease from, with room or without."""
    assert may_leave(zone(available=1, leased=3, old=1)) == 1
    assert may_leave(zone(maximum_size=3, available=1, leased=2, old=1)) == 1


def test_the_only_machine_of_a_zone_is_exchanged_when_there_is_no_room() -> None:
    """A fleet of one: it stays while there is room for a second, and else leaves first."""
    one = zone(minimum_size=1, staying=1, available=1, old=1)
    assert may_leave(one) == 0
    assert may_leave(msgspec.structs.replace(one, maximum_size=2)) == 0
    assert may_leave(msgspec.structs.replace(one, maximum_size=1)) == 1


def test_nobody_leaves_to_make_room_for_a_revision_that_is_complete() -> None:
    """One of its machines is out of order: an old one stands in for it."""
    assert may_leave(zone(maximum_size=4, active_target=3, staying=1, old=1)) == 0


def test_all_leave_a_zone_that_the_configuration_no_longer_names() -> None:
    """There is nothing to keep up, whether they can be leased or not."""
    assert may_leave(zone(minimum_size=0)) == 3
    assert may_leave(zone(minimum_size=0, available=0)) == 3


def test_those_that_began_to_leave_go_first_and_repeats_choose_the_same() -> None:
    """A removal without an answer is tried again before another machine is taken."""
    turn = in_turn({"zone": ["b", "a"]}, {"zone": 2})
    assert turn == ("a", "b")
    assert share_out(2, ["z"], turn) == ("z", "a")
    assert share_out(0, ["z"]) == ()


@given(
    names=st.dictionaries(st.sampled_from("abc"), st.lists(st.text(max_size=3), unique=True)),
    more=st.dictionaries(st.sampled_from("abc"), st.integers(0, 5)),
)
def test_the_fullest_zone_goes_first(names: dict[str, list[str]], more: dict[str, int]) -> None:
    """Each machine once; whoever leaves was in the fullest of the zones that have one to leave."""
    sizes = {zone: len(some) + more.get(zone, 0) for zone, some in names.items()}
    left = {zone: sorted(some) for zone, some in names.items()}
    for name in in_turn(names, sizes):
        most = max(sizes[other] for other, some in left.items() if some)
        candidates = [it for it, some in left.items() if some and some[0] == name]
        zone = max(candidates, key=lambda it: sizes[it])
        assert sizes[zone] == most
        left[zone].pop(0)
        sizes[zone] -= 1
    assert not any(left.values())


@given(state=ZONES, allowed=COUNTS, share=SHARES)
def test_number_to_lease_from_stays_as_high_as_the_settings_say(
    state: PlaceRollout, allowed: int, share: float
) -> None:
    """It drops by more than the settings allow only without room, by the exchanged share."""
    count = removable(state, max_unavailable=allowed, exchange_share=share)
    assert 0 <= count <= state.old
    if not state.minimum_size or not count:
        return
    left = state.available - count
    full = state.active_target + state.staying >= state.maximum_size > 0
    exchanging = full and not state.coming and state.active_target < state.minimum_size
    slack = max(allowed, max(1, int(state.minimum_size * share)) if exchanging else 0)
    assert left >= state.minimum_size - state.leased - slack


@given(state=ZONES, canaries=st.integers(0, 3))
def test_an_unproved_revision_replaces_nothing_and_gets_room_for_its_canaries(
    state: PlaceRollout, canaries: int
) -> None:
    """Whatever the minimum, also 0."""
    unproved = msgspec.structs.replace(state, canaries=canaries)
    count = removable(unproved, max_unavailable=5, exchange_share=1.0)
    full = state.active_target + state.staying >= state.maximum_size > 0
    assert 0 <= count <= (max(0, canaries - state.active_target) if full else 0)


@given(
    minimum=st.integers(1, 12),
    room=st.none() | st.integers(0, 6),
    leased=st.integers(0, 12),
    allowed=st.integers(0, 3),
    share=SHARES,
    data=st.data(),
)
def test_every_roll_out_comes_to_its_end_within_its_bounds(
    minimum: int, room: int | None, leased: int, allowed: int, share: float, data: st.DataObject
) -> None:
    """A model: whatever comes up in whatever order, the bounds hold and nothing wedges."""
    leased = min(leased, minimum)
    maximum = 0 if room is None else minimum + room
    manager = InstanceGroupManager(minimum_size=minimum, maximum_size=maximum)
    slack = max(allowed, max(1, int(minimum * share)) if room == 0 else 0)
    old, target, coming = minimum - leased, 0, 0
    for _ in range(20 * minimum):
        more = growth(manager, target, old + leased, UNUSED)
        if more:
            target, coming = target + more, coming + more
            assert not maximum or target + old + leased <= maximum
        coming -= data.draw(st.integers(min(1, coming), coming))
        state = PlaceRollout(
            minimum_size=minimum,
            maximum_size=maximum,
            active_target=target,
            coming=coming,
            staying=old + leased,
            available=old + target - coming,
            leased=leased,
            old=old,
        )
        old -= removable(state, max_unavailable=allowed, exchange_share=share)
        assert old + target - coming >= minimum - leased - slack
        if not (old or coming or growth(manager, target, old + leased, UNUSED)):
            break
    assert old == 0
    assert target == (minimum if not maximum else min(minimum, maximum - leased))


@given(
    old=st.lists(st.integers(0, 8), min_size=1, max_size=3).filter(any),
    room=st.none() | st.integers(0, 4),
    surge=st.none() | st.integers(0, 3),
    allowed=st.integers(0, 3),
    data=st.data(),
)
def test_every_roll_out_of_a_pool_comes_to_its_end_within_its_bounds(
    old: list[int], room: int | None, surge: int | None, allowed: int, data: st.DataObject
) -> None:
    """A model: however its machines lie in its zones, and in whatever order others come up."""
    allowed = max(allowed, 1) if surge == 0 else allowed
    minimum = sum(old)
    maximum = 0 if room is None else minimum + room
    zones = tuple("abc"[: len(old)])
    left = {zone: [f"{zone}{i}" for i in range(n)] for zone, n in zip(zones, old, strict=True)}
    target, coming = dict.fromkeys(zones, 0), dict.fromkeys(zones, 0)
    pool = Pool(zones, minimum, maximum)
    most = maximum if surge is None else min(maximum or minimum + surge, minimum + surge)
    slack = max(allowed, 1 if most == minimum else 0)
    for _ in range(20 * minimum):
        staying = sum(map(len, left.values()))
        size = pool_size(pool, UNUSED, staying)
        limit = rollout_limit(None, minimum, staying, max_surge=surge, paused=False)
        size = size if limit is None else min(size, limit.size)
        sizes = spread(size, {zone: ZoneState(target[zone], 0) for zone in zones})
        for zone in zones:
            more = max(0, sizes[zone] - target[zone])
            target[zone] += more
            coming[zone] += more
        assert not most or sum(target.values()) + staying <= max(most, minimum)
        for zone in zones:
            coming[zone] -= data.draw(st.integers(min(1, coming[zone]), coming[zone]))
        state = PlaceRollout(
            minimum_size=minimum,
            maximum_size=most,
            active_target=sum(target.values()),
            coming=sum(coming.values()),
            staying=staying,
            available=staying + sum(target.values()) - sum(coming.values()),
            leased=0,
            old=staying,
        )
        count = removable(state, max_unavailable=allowed, exchange_share=0.0)
        turn = in_turn(left, {zone: len(left[zone]) + target[zone] for zone in zones})
        for name in share_out(count, turn):
            left[name[0]].remove(name)
        there = sum(map(len, left.values())) + sum(target.values()) - sum(coming.values())
        assert there >= minimum - slack
        if not any(left.values()) and not any(coming.values()) and sum(target.values()) == minimum:
            break
    assert not any(left.values())
    assert target == split(minimum, zones)


@given(state=ZONES, allowed=COUNTS, share=SHARES)
def test_no_old_machine_leaves_while_the_roll_out_is_paused(
    state: PlaceRollout, allowed: int, share: float
) -> None:
    """Whatever there would be room for."""
    paused = msgspec.structs.replace(state, paused=True)
    assert removable(paused, max_unavailable=allowed, exchange_share=share) == 0


@given(
    canaries=st.none() | COUNTS,
    needed=COUNTS,
    staying=COUNTS,
    max_surge=st.none() | COUNTS,
    paused=st.booleans(),
)
def test_old_and_new_together_are_at_most_what_is_needed_and_the_surge(
    *, canaries: int | None, needed: int, staying: int, max_surge: int | None, paused: bool
) -> None:
    """Beside old machines; what is lacking may always be made, once the revision is proved."""
    limit = rollout_limit(canaries, needed, staying, max_surge=max_surge, paused=paused)
    surge = 0 if paused else max_surge
    if limit is None:
        assert canaries is None
        assert not staying or surge is None
        return
    assert limit.size >= 0
    if canaries is not None:
        assert limit.size <= canaries
    else:
        assert staying + limit.size >= needed
    if staying and surge is not None:
        assert staying + limit.size <= max(staying, needed + surge)


@pytest.mark.parametrize(
    ("maximum_size", "coming", "leave"), [(4, 0, 1), (4, 1, 0), (0, 0, 0), (5, 0, 0), (5, 1, 0)]
)
def test_a_canary_gets_room_only_where_the_maximum_leaves_none_and_none_is_coming(
    maximum_size: int, coming: int, leave: int
) -> None:
    """Three old machines and one of the two canaries are there."""
    unproved = zone(maximum_size=maximum_size, active_target=1, coming=coming)
    assert may_leave(msgspec.structs.replace(unproved, canaries=2)) == leave


@pytest.mark.parametrize(
    ("staying", "paused", "reason"),
    [(0, True, None), (0, False, None), (2, True, PAUSED), (2, False, SURGE)],
)
def test_what_limits_a_new_revision_is_what_stays_of_the_old_ones(
    staying: int, paused: bool, reason: str | None
) -> None:
    """Where nothing stays, nothing is replaced."""
    limit = rollout_limit(None, 3, staying, max_surge=1, paused=paused)
    assert (limit.reason if limit is not None else None) == reason


@pytest.mark.parametrize(
    ("usable", "minimum_size", "max_unavailable", "may_go"),
    [(3, 3, 0, 0), (5, 3, 0, 2), (3, 3, 1, 1), (2, 3, 0, 0), (2, 1, 3, 2), (2, 0, 0, 2)],
)
def test_drained_machines_go_as_far_as_the_minimum_allows(
    usable: int, minimum_size: int, max_unavailable: int, may_go: int
) -> None:
    """What a drain takes must not leave fewer than the settings allow."""
    assert drainable(usable, minimum_size, max_unavailable) == may_go


LEASE = Lease(0.0, 100.0)
PATIENT = Drain(max_unavailable=0)
GONE = Deletion(Permit.REMOVED, 0.0, 0.0, "1", confirmed=1.0)


@pytest.mark.parametrize(
    ("instance", "apart"),
    [
        (Instance(), False),
        (Instance(catalog=CatalogState.REMOVED), False),
        (Instance(catalog=CatalogState.CATALOGED, lease=LEASE), False),
        (Instance(catalog=CatalogState.ABSENT, lease=LEASE), True),
        (Instance(catalog=CatalogState.CATALOGED, lost_since=1.0, lease=LEASE), True),
        (Instance(catalog=CatalogState.ABSENT, lease=Lease(0.0, 50.0)), False),
        (Instance(catalog=CatalogState.REMOVED, cordon=Cordon()), True),
        (Instance(catalog=CatalogState.CATALOGED, drain=Drain()), False),
        (Instance(catalog=CatalogState.CATALOGED, drain=PATIENT), True),
        (Instance(catalog=CatalogState.REMOVED, drain=PATIENT), False),
        (Instance(lease=LEASE, deletion=GONE), False),
    ],
)
def test_what_is_kept_and_cannot_be_leased_stays_apart(instance: Instance, *, apart: bool) -> None:
    """It is no canary, and none is waited for in its place."""
    assert stays_apart(instance, 50.0) is apart
