"""rules.zones: even, within what is asked, never from a lessee, and no storm after a stockout."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gce_backend.rules.zones import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    ZoneState,
    ZoneTrouble,
    growth_of,
    split,
    spread,
    troubled,
)

STATES = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.builds(
        lambda leased, idle, growth, rank: ZoneState(leased + idle, leased, growth, rank),
        st.integers(0, 10),
        st.integers(0, 10),
        st.none() | st.integers(0, 3),
        st.integers(0, 2),
    ),
    min_size=1,
)


@given(total=st.integers(0, 60), zones=STATES)
def test_the_sizes_are_the_total_as_far_as_zones_can_and_lessees_let(
    total: int, zones: dict[str, ZoneState]
) -> None:
    """No leased machine goes, no zone grows by more than it can, and nothing moves for nothing."""
    sizes = spread(total, zones)
    present = sum(zone.size for zone in zones.values())
    for name, zone in zones.items():
        assert sizes[name] >= zone.leased
        assert zone.growth is None or sizes[name] <= zone.size + zone.growth
        assert sizes[name] <= zone.size or total > present
        assert sizes[name] >= zone.size or total < present
    for name, zone in zones.items():  # a better machine type first, the worst one goes first
        for other, better in zones.items():
            if better.rank < zone.rank and sizes[name] > zone.size:
                assert better.growth is not None
                assert sizes[other] == better.size + better.growth
            if better.rank < zone.rank and sizes[other] < better.size:
                assert sizes[name] == zone.leased
    found = sum(sizes.values())
    if total < present:
        assert found == max(total, sum(zone.leased for zone in zones.values()))
    elif any(zone.growth is None for zone in zones.values()):
        assert found == total


@given(total=st.integers(0, 60), count=st.integers(2, 6))
def test_an_empty_pool_is_spread_evenly(total: int, count: int) -> None:
    """As a split is."""
    zones = {f"zone-{number}": ZoneState(0, 0) for number in range(count)}
    sizes = spread(total, zones)
    assert max(sizes.values()) - min(sizes.values()) <= 1
    assert sizes == split(total, zones)


@given(total=st.integers(3, 60))
def test_the_part_of_a_zone_that_cannot_goes_to_the_others(total: int) -> None:
    """It keeps what it has."""
    zones = {"a": ZoneState(1, 0, 0), "b": ZoneState(0, 0), "c": ZoneState(0, 0)}
    sizes = spread(total, zones)
    assert sizes["a"] == 1
    assert sum(sizes.values()) == total
    assert abs(sizes["b"] - sizes["c"]) <= 1


def test_machines_that_are_replaced_make_a_pool_even_again() -> None:
    """After a stockout, one by one, as leases end."""
    sizes = {"a": 0, "b": 5, "c": 4}
    for _ in range(20):
        largest = max(sizes, key=lambda name: (sizes[name], name))
        sizes[largest] -= 1  # its lease ended
        sizes = spread(9, {name: ZoneState(size, 0) for name, size in sizes.items()})
    assert sizes == {"a": 3, "b": 3, "c": 3}


def test_a_zone_in_trouble_tries_one_machine_ever_more_slowly_until_one_comes() -> None:
    """Two pauses of a minute and more, then one machine, then any number."""
    found = troubled(None, 0.0, failing=True, made=2)
    assert found == ZoneTrouble(FIRST_PAUSE, FIRST_PAUSE, 2)
    assert growth_of(found, 59.0) == 0
    assert troubled(found, 30.0, failing=True, made=2) == found
    assert growth_of(found, 60.0) == 1
    again = troubled(found, 61.0, failing=True, made=2)
    assert again == ZoneTrouble(61.0 + 2 * FIRST_PAUSE, 2 * FIRST_PAUSE, 2)
    fewer = troubled(again, 100.0, failing=False, made=1)
    assert fewer is not None
    assert growth_of(fewer, 100.0) == 0
    assert troubled(fewer, 300.0, failing=False, made=2) is None
    assert growth_of(None, 0.0) is None


@given(looks=st.lists(st.floats(0, 3600), max_size=30))
def test_pauses_are_bounded(looks: list[float]) -> None:
    """However long a stockout lasts, a zone is tried every ten minutes."""
    found, moment = None, 0.0
    for pause in looks:
        moment += pause
        found = troubled(found, moment, failing=True, made=0)
        assert found is not None
        assert found.until <= moment + LONGEST_PAUSE
