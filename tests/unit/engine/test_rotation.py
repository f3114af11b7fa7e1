"""engine.rotation: each once before any twice, at a pace, and all are listed once a round."""

from __future__ import annotations

from gce_backend.engine.rotation import Turns
from gce_backend.model.keys import MachineKey, manager_key

GROUP = manager_key("linux", "c", "us-east1-b")
KEYS = [GROUP.child(f"vm-{number}") for number in range(10)]


class Subjects:
    """What there is to take, and how often all of it was listed."""

    def __init__(self) -> None:
        self.keys = list(KEYS)
        self.listed = 0
        self.turns: Turns[MachineKey] = Turns()

    def all(self) -> list[MachineKey]:
        """Lists them."""
        self.listed += 1
        return list(self.keys)

    def take(self, now: float, pace: float = 1.0) -> list[MachineKey]:
        """Takes those whose turn it is."""
        number, known = len(self.keys), self.keys.__contains__
        return self.turns.take(number, self.all, known, pace=pace, now=now)


def test_each_has_its_turn_once_before_any_has_it_twice_at_the_pace() -> None:
    """A round lists all once, however often somebody asks."""
    it = Subjects()
    assert it.take(0.0) == []
    taken = [key for second in range(1, 41) for key in it.take(second / 2)]
    assert taken == [*KEYS, *KEYS]
    assert it.listed == 2


def test_after_a_pause_no_more_are_taken_than_there_are() -> None:
    """Nor any twice at once."""
    it = Subjects()
    it.take(0.0)
    assert it.take(1000.0) == KEYS
    assert len(it.take(1003.0)) == 10


def test_who_leaves_loses_its_turn_and_who_comes_has_one_in_the_next_round() -> None:
    """Nobody else is passed over for it."""
    it = Subjects()
    it.take(0.0)
    assert it.take(2.0) == KEYS[:2]
    new = GROUP.child("new")
    it.keys = [*KEYS[:3], *KEYS[5:], new]
    assert it.take(8.0) == [KEYS[2], *KEYS[5:]]
    assert it.take(17.0) == it.keys


def test_those_given_back_are_next() -> None:
    """In their order."""
    it = Subjects()
    it.take(0.0)
    assert it.take(3.0) == KEYS[:3]
    it.turns.give_back(KEYS[1:3])
    assert it.take(6.0) == KEYS[1:4]
    assert it.take(7.0) == [KEYS[4]]


def test_without_subjects_nothing_is_taken() -> None:
    """Nor listed again and again."""
    it = Subjects()
    it.keys = []
    assert [it.take(float(second)) for second in range(5)] == [[]] * 5
    assert it.listed == 0
