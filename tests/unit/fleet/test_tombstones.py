"""fleet.tombstones: each reader is told of each deletion once, and none is mistaken for another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gce_backend.fleet.tombstones import Tombstones
from gce_backend.model.entities import Deletion, Instance, Permit
from gce_backend.model.keys import MachineKey, manager_key

GROUP = manager_key("linux", "c", "us-east1-b")
LIVING = Instance()
DELETED = Instance(deletion=Deletion(Permit.REMOVED, 1.0, 1.0, "id", confirmed=2.0))
STEPS = st.lists(
    st.tuples(
        st.builds(GROUP.child, st.sampled_from("abcd")),
        st.sampled_from([None, LIVING, DELETED]),
        st.booleans(),
    ),
    max_size=30,
)


@given(STEPS)
def test_a_reader_that_reads_on_has_each_deletion_that_still_holds(
    steps: list[tuple[MachineKey, Instance | None, bool]],
) -> None:
    """In their order, whenever it reads; what it read before is told apart from what came later."""
    index, tombstones = Tombstones(), dict[MachineKey, int]()
    read: dict[int, MachineKey] = {}
    for step, (key, after, reads) in enumerate(steps):
        assert index.note(key, after) == (after is DELETED)
        if after is not DELETED:
            tombstones.pop(key, None)
        else:
            tombstones.setdefault(key, step)
        if reads:
            new = list(index.after(max(read, default=0)))
            assert [number for number, _ in new] == sorted((n for n, _ in new), reverse=True)
            assert not read.keys() & {number for number, _ in new}
            read.update(reversed(new))
            holding = [key for number, key in read.items() if index.has(number, key)]
            assert holding == sorted(tombstones, key=lambda key: tombstones[key])
