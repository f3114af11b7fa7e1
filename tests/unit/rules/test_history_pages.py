"""Events as pages: packed small, named in the order of time, read back as they were."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from gce_backend.base.clock import Clock
from gce_backend.fleet.history_writer import Chronicler
from gce_backend.fleet.store import encode
from gce_backend.model.entities import (
    CONTROL_KEY,
    CatalogState,
    Entity,
    Instance,
    InstanceGroupManager,
)
from gce_backend.model.events import Event, HistoryPage
from gce_backend.model.keys import Key, manager_key, template_key
from gce_backend.model.orders import Control, Drain
from gce_backend.rules.history_pages import PAGE_EVENTS, PageName, Transition, event_of

CHECKSUM = "0123456789abcdef0123456789abcdef01234567"
ZONES = ("us-central1-a", "europe-west1-b")
NOON = 1_800_000_000.0
MAX_ENTITY_BYTES = 1_000_000


class _Clock(Clock):
    """A wall clock that is turned by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.time = NOON

    def now(self) -> float:
        """The time set."""
        return self.time

    def monotonic(self) -> float:
        """The same."""
        return self.time


def _nothing(_: Key) -> Entity | None:
    return None


def _appearing(number: int, zone: str = ZONES[0], cause: str = "job a") -> Transition:
    key = manager_key("linux", CHECKSUM, zone).child(f"vm-{number:04d}")
    return Transition(key, None, Instance(gce_id=number), cause)


def _pages(*steps: Transition, clock: _Clock | None = None) -> dict[Key, HistoryPage]:
    return Chronicler(clock or _Clock(), random.Random(0)).pages(steps, _nothing, _nothing)


def _events(pages: dict[Key, HistoryPage]) -> list[Event]:
    return [
        event_of(happening, name, page.at)
        for page in pages.values()
        for happening in page.happenings
        for name in happening.names
    ]


def test_the_same_of_neighbours_is_written_once() -> None:
    """A thousand machines of a group that appear together cost little more than their names."""
    pages = _pages(*map(_appearing, range(1000)))
    assert [len(page.happenings) for page in pages.values()] == [1, 1]
    written = sum(len(str(encode(page))) for page in pages.values())
    assert written < 1000 * 20
    assert [event.name for event in _events(pages)] == [f"vm-{n:04d}" for n in range(1000)]


def test_events_of_one_commit_keep_their_order() -> None:
    """Only neighbours are told together: another zone, cause or step in between parts them."""
    first, second = _appearing(1), _appearing(2)
    leaving = Transition(
        first.key, first.after, replace(Instance(1), catalog=CatalogState.ADDING), "b"
    )
    steps = [first, _appearing(5, ZONES[1]), second, leaving, _appearing(3, cause="b")]
    told = [(e.name, e.zone, e.before, e.after, e.cause) for e in _events(_pages(*steps))]
    assert told == [
        ("vm-0001", ZONES[0], "", "draining", "job a"),
        ("vm-0005", ZONES[1], "", "draining", "job a"),
        ("vm-0002", ZONES[0], "", "draining", "job a"),
        ("vm-0001", ZONES[0], "draining", "draining", "b"),
        ("vm-0003", ZONES[0], "", "draining", "b"),
    ]


def test_an_event_says_whose_it_is() -> None:
    """Name, subject, template and zone follow from the key."""
    group = manager_key("linux", CHECKSUM, ZONES[0])
    steps = [
        _appearing(1),
        Transition(group, None, InstanceGroupManager(3), "job b"),
        Transition(CONTROL_KEY, None, Control(paused=True), "operator pause"),
    ]
    machine, made, paused = _events(_pages(*steps))
    assert (machine.at, machine.kind, machine.subject) == (
        NOON,
        "machine",
        f"linux/{CHECKSUM}/{ZONES[0]}/vm-0001",
    )
    assert (machine.template, machine.zone) == ("linux", ZONES[0])
    assert (made.kind, made.name) == ("group", "linux-01234567-usc1a")
    assert (made.template, made.zone) == ("linux", ZONES[0])
    assert (paused.kind, paused.name, paused.template, paused.zone) == (
        "control",
        "control",
        "",
        "",
    )


def test_nothing_told_is_no_page() -> None:
    """A change of what only the daemon needs leaves no trace."""
    step = _appearing(1)
    assert not _pages(Transition(step.key, step.after, replace(Instance(1), url="u"), "job a"))


@pytest.mark.parametrize("count", [1, PAGE_EVENTS, PAGE_EVENTS + 1, 3 * PAGE_EVENTS + 7])
def test_no_page_holds_too_many_and_its_name_says_how_many(count: int) -> None:
    """Bounds are kept by names alone."""
    pages = _pages(*map(_appearing, range(count)))
    held = [sum(len(h.names) for h in page.happenings) for page in pages.values()]
    assert sum(held) == count
    assert max(held) <= PAGE_EVENTS
    assert [found.events for key in pages if (found := PageName.of(key.name))] == held


@pytest.mark.parametrize("letter", ["a", "ü", "\N{PILE OF POO}", '"', "\n", "\x01", "\ud800"])
def test_the_largest_page_fits_into_an_entity(letter: str) -> None:
    """Five hundred events that share nothing, with the longest names, reasons and causes."""
    steps = []
    for number in range(PAGE_EVENTS):
        group = manager_key("t" * 58, CHECKSUM, f"northamerica-northeast{number}-a")
        key = group.child(f"{number:063d}")
        drained = replace(Instance(1), drain=Drain(f"{number} " + letter * 5000))
        steps.append(Transition(key, Instance(1), drained, f"{number} " + letter * 5000))
    (page,) = _pages(*steps).values()
    assert len(page.happenings) == PAGE_EVENTS
    assert len(str(encode(page)["happenings"]).encode()) < MAX_ENTITY_BYTES


def test_names_are_in_the_order_of_writing_whatever_the_clock_does() -> None:
    """Within a moment, and when the clock is set back; what it showed is in the event."""
    clock = _Clock()
    chronicler = Chronicler(clock, random.Random(0))
    names, times = [], []
    for number, turn in enumerate([0.0, 0.0, 5.0, -86400.0, 0.0]):
        clock.time += turn
        ((key, page),) = chronicler.pages([_appearing(number)], _nothing, _nothing).items()
        names.append(key.name)
        times.append(page.at - NOON)
    assert names == sorted(set(names))
    assert times == [0.0, 0.0, 5.0, -86395.0, -86395.0]
    assert names[0] > PageName.first(NOON)
    assert names[0] < PageName.first(NOON + 1)


@pytest.mark.parametrize("name", ["", "garbage", "1800000000000000-1-0", str(template_key("x"))])
def test_a_foreign_name_is_recognised(name: str) -> None:
    """What somebody else put there is nobody's page."""
    assert PageName.of(name) is None


def test_a_long_reason_is_cut() -> None:
    """What people type is kept as far as it fits."""
    paused = Control(paused=True, pause_reason="why " * 200)
    (event,) = _events(_pages(Transition(CONTROL_KEY, None, paused, "operator pause")))
    assert event.reason == ("why " * 200)[:300]
