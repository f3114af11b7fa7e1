"""fleet.phantom_looks: a look is due from its time until it is done, unless its tombstone goes."""

from __future__ import annotations

from gce_backend.fleet.phantom_looks import PhantomLook, PhantomLooks
from gce_backend.model.keys import MachineKey, manager_key

GROUP = manager_key("linux", "c", "us-east1-b")
A, B = GROUP.child("a"), GROUP.child("b")


def _is_there(_: int, __: MachineKey) -> bool:
    return True


def test_a_look_is_due_from_its_time_until_the_next_one_is_planned() -> None:
    """The earliest is the first, in whatever order they were planned."""
    looks = PhantomLooks()
    looks.plan(PhantomLook(20.0, 2, 0, B))
    looks.plan(PhantomLook(10.0, 1, 0, A))
    assert list(looks.due(9.0, _is_there)) == []
    assert not looks.are_due
    assert list(looks.due(20.0, _is_there)) == [A, B]
    assert list(looks.due(20.0, _is_there)) == [A, B]
    looks.plan(PhantomLook(30.0, 1, 1, A))
    assert list(looks.due(29.0, _is_there)) == [B]
    looks.forget(B)
    assert not looks.are_due
    assert list(looks.due(30.0, _is_there)) == [A]
    assert looks.of(A) == PhantomLook(30.0, 1, 1, A)


def test_the_look_of_a_tombstone_that_has_gone_is_never_due() -> None:
    """Another deletion of a machine of the same name has a number of its own."""
    looks = PhantomLooks()
    looks.plan(PhantomLook(10.0, 1, 0, A))
    looks.plan(PhantomLook(15.0, 2, 0, A))
    assert list(looks.due(12.0, lambda number, _: number == 2)) == []
    assert list(looks.due(15.0, lambda number, _: number == 2)) == [A]
    assert looks.of(A) == PhantomLook(15.0, 2, 0, A)
