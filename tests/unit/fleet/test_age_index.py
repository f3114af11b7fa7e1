"""fleet.age_index: its order is that of a look at all machines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gce_backend.fleet.age_index import AgeIndex
from gce_backend.model.entities import Instance
from gce_backend.model.keys import MachineKey, manager_key

GROUP = manager_key("linux", "c", "us-east1-b")
KEYS = st.builds(GROUP.child, st.sampled_from("abcd"))
TIMES = st.none() | st.integers(0, 5).map(float)
STEPS = st.lists(st.tuples(KEYS, st.none() | TIMES.map(lambda at: Instance(listed_since=at))))


@given(STEPS, st.integers(0, 5))
def test_the_oldest_come_first_whatever_changed_before_and_after_the_first_question(
    steps: list[tuple[MachineKey, Instance | None]], asked: int
) -> None:
    """What was never listed has no age; a group that is forgotten is sorted anew."""
    index, there = AgeIndex(), dict[MachineKey, Instance]()
    for number, (key, after) in enumerate(steps):
        index.note(key, there.pop(key, None), after)
        if after is not None:
            there[key] = after
        if number < asked:
            continue
        listed = [
            (it.listed_since, key.name) for key, it in there.items() if it.listed_since is not None
        ]
        expected = [GROUP.child(name) for _, name in sorted(listed)]
        assert list(index.of(GROUP, lambda _: there.items())) == expected
        newest = index.of(GROUP, lambda _: there.items(), newest_first=True)
        assert list(newest) == expected[::-1]
        if number == asked + 3:
            index.forget(GROUP)
