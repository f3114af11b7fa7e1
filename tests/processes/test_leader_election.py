"""Three daemons as processes on one store: frozen, woken up too late, stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from processes.running import Command, Site, site, until
from support.fleet_harness import manager, template


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    """A cloud with a Machine Provider, and a configuration of two machines."""
    with site(tmp_path) as made:
        (made.config / "templates.cfg").write_text(template())
        (made.config / "managers.cfg").write_text(manager(minimum=2))
        made.start_cloud("--no-latency")
        made.set_up()
        yield made


def start(place: Site, name: str) -> Command:
    """Starts a daemon that may lead."""
    election = {
        "GCE_BACKEND_STORE__LEADER_ELECTION": "true",
        "GCE_BACKEND_STORE__TAKEOVER_SECONDS": "5",
    }
    return place.start(name, "run", **place.environment, **election)


def deletions(place: Site) -> int:
    """How many calls have asked for the deletion of a machine."""
    calls = place.get("/_localcloud/calls")
    return sum(n for name, n in calls.items() if "delete" in name and "compute" in name)


def test_a_frozen_leader_is_replaced_and_stands_by_when_it_wakes_up(place: Site) -> None:
    """SIGSTOP and SIGCONT: the machines stay, and each daemon that leads goes on with them."""
    first = start(place, "first")
    place.until_counts(1, 1, 2, 2)
    before = place.existing()
    others = [start(place, "second"), start(place, "third")]
    for other in others:
        other.event("daemon.started")
    first.process.send_signal(signal.SIGSTOP)
    until(lambda: any(other.events("store.loaded") for other in others))
    second = next(other for other in others if other.events("leadership.took_over"))
    [third] = [other for other in others if other is not second]
    first.process.send_signal(signal.SIGCONT)
    first.event("leadership.stands_by")
    (place.config / "managers.cfg").write_text(manager(minimum=3))
    place.until_counts(1, 1, 3, 3)
    assert second.stop() == 0
    until(lambda: third.events("store.loaded") or len(first.events("store.loaded")) == 2)
    (place.config / "managers.cfg").write_text(manager(minimum=4))
    place.until_counts(1, 1, 4, 4)
    assert before["vms"] < place.existing()["vms"]
    assert deletions(place) == 0
    assert first.stop() == third.stop() == 0
