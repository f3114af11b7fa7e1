"""fleet.facet_index: what it says is what a look at all machines says."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from gce_backend.fleet.facet_index import FacetIndex
from gce_backend.model.entities import Instance
from gce_backend.model.keys import GroupKey, MachineKey, manager_key
from gce_backend.rules.facets import Facet, facets_of
from gce_backend.rules.permits import lease_runs
from support.any_machine import INSTANCES

GROUPS = tuple(manager_key("linux", "c", zone) for zone in ("us-east1-b", "us-west1-a"))
KEYS = st.builds(
    lambda group, name: group.child(name), st.sampled_from(GROUPS), st.sampled_from("abcd")
)
STEPS = st.lists(st.tuples(KEYS, st.none() | INSTANCES, st.floats(0, 12)), max_size=25)


def _all(
    instances: Mapping[MachineKey, Instance], facet: Facet, group: GroupKey | None
) -> set[MachineKey]:
    return {
        key
        for key, one in instances.items()
        if facet in facets_of(one) and group in {None, key.group}
    }


@given(STEPS)
def test_it_says_what_a_look_at_all_machines_says(
    steps: list[tuple[MachineKey, Instance | None, float]],
) -> None:
    """After every change, of each facet: of a group and of all, listed and counted."""
    index = FacetIndex()
    instances: dict[MachineKey, Instance] = {}
    for key, after, now in steps:
        index.note(key, instances.pop(key, None), after)
        if after is not None:
            instances[key] = after
        for group in (None, *GROUPS):
            for facet in Facet:
                found = list(index.keys([facet], group))
                assert set(found) == _all(instances, facet, group)
                assert len(found) == len(set(found)) == index.count(facet, group)
            both = set(index.keys([Facet.LEAVING, Facet.TROUBLED], group))
            assert both == _all(instances, Facet.LEAVING, group) | _all(
                instances, Facet.TROUBLED, group
            )
        for one in GROUPS:
            leased = _all(instances, Facet.LEASED, one)
            running = sum(lease_runs(instances[machine], now) for machine in leased)
            assert index.leased(one, now, instances) == running
