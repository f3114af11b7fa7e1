"""rules.demand: every request counts for one group that can serve it, and zones share evenly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.model.machine_token import Dimension
from gce_backend.model.observed import RequestedMachines
from gce_backend.rules.demand import Supply, fits, share

KINDS = ("LINUX", "WINDOWS", "OSX")
COUNTS = st.integers(0, 12)
GROUPS = st.dictionaries(
    st.sampled_from("abcdef"),
    st.builds(Supply, st.fixed_dictionaries({"os_family": st.sampled_from(KINDS)}), COUNTS, COUNTS),
)
REQUESTS = st.lists(
    st.builds(
        RequestedMachines, st.fixed_dictionaries({"os_family": st.sampled_from(KINDS)}), COUNTS
    )
)


@given(requests=REQUESTS, groups=GROUPS)
def test_nothing_is_lost_answered_twice_or_beyond_what_a_group_can(
    requests: list[RequestedMachines], groups: dict[str, Supply]
) -> None:
    """Each kind is served as far as its groups reach; the rest is said to be unserved."""
    found = share(requests, groups)
    asked = sum(one.count for one in requests)
    assert sum(found.by_group.values()) + found.unserved == asked
    for name, number in found.by_group.items():
        assert 0 < number <= groups[name].ready + groups[name].room
    for kind in KINDS:
        able = {name: one for name, one in groups.items() if one.dimensions["os_family"] == kind}
        wanted = sum(one.count for one in requests if one.dimensions["os_family"] == kind)
        served = sum(found.by_group.get(name, 0) for name in able)
        assert served == min(wanted, sum(one.ready + one.room for one in able.values()))


@given(count=st.integers(1, 60), ready=st.lists(st.integers(0, 5), min_size=2, max_size=5))
def test_zones_grow_evenly_and_idle_machines_serve_first(count: int, ready: list[int]) -> None:
    """No zone grows by two more than another."""
    groups = {
        f"zone-{n}": Supply({"os_family": "LINUX"}, idle, 100) for n, idle in enumerate(ready)
    }
    found = share([RequestedMachines({"os_family": "LINUX"}, count)], groups)
    grown = [max(0, found.by_group.get(name, 0) - supply.ready) for name, supply in groups.items()]
    assert sum(grown) == max(0, count - sum(ready))
    assert max(grown) - min(grown) <= 1


@given(count=st.integers(1, 20))
def test_machines_on_their_way_are_not_asked_for_again(count: int) -> None:
    """What a first look made a group grow by is ready at the second."""
    asked = [RequestedMachines({"os_family": "LINUX"}, count)]
    kind = {"os_family": "LINUX"}
    first = share(asked, {"a": Supply(kind, 1, 9), "b": Supply(kind, 0, 10)})
    grown = {"a": Supply(kind, max(1, first.by_group.get("a", 0)), 9)}
    grown["b"] = Supply(kind, first.by_group.get("b", 0), 10)
    second = share(asked, grown)
    assert second.by_group == first.by_group


@pytest.mark.parametrize(
    ("asked", "serves"),
    [
        ({}, True),
        ({"os_family": "LINUX", "num_cpus": 2}, True),
        ({"num_cpus": "2"}, True),
        ({"memory_gb": 4}, True),
        ({"memory_gb": 8}, False),
        ({"snapshot_labels": ["a:1"]}, True),
        ({"snapshot_labels": ["a:1", "c:3"]}, False),
        ({"linux_flavor": "DEBIAN"}, False),
        ({"hostname": "vm-1"}, False),
    ],
)
def test_a_machine_serves_a_request_whose_dimensions_it_has(
    asked: dict[str, Dimension], serves: bool
) -> None:
    """A request for one host name asks for that machine, not for another one."""
    machine: dict[str, Dimension] = {
        "os_family": "LINUX",
        "num_cpus": 2,
        "memory_gb": 4.0,
        "snapshot_labels": ["a:1", "b:2"],
    }
    assert fits(asked, machine) is serves
