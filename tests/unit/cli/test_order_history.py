"""Orders given as commands, with no daemon anywhere, are told like those given to a daemon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from gce_backend.base.clock import SystemClock
from gce_backend.cli import main
from gce_backend.configuration.types import TemplateConfig
from gce_backend.daemon.clients import Clients
from gce_backend.fleet.history import EventFilter, History, HistoryEntry
from gce_backend.fleet.picture import Change, Fleet
from gce_backend.fleet.store import Store
from gce_backend.model.entities import (
    CatalogState,
    Entity,
    Instance,
    InstanceGroupManager,
    InstanceTemplate,
    InstanceTemplateRevision,
)
from gce_backend.model.keys import Key, manager_key, revision_key, template_key
from support.served_cloud import ACCOUNT, PROJECT, ServedCloud, served_cloud

GROUP = manager_key("linux", "c0ffee", "us-central1-a")
VM = GROUP.child("linux-c0ffee-usc1a-abcd")
TEMPLATE = TemplateConfig(
    base_name="linux", project="p", machine_type="e2-small", image_name="debian-12"
)
ENTITIES: dict[Key, Entity] = {
    template_key("linux"): InstanceTemplate(active="c0ffee"),
    revision_key("linux", "c0ffee"): InstanceTemplateRevision(TEMPLATE, (GROUP.name,)),
    GROUP: InstanceGroupManager(1),
    VM: Instance(gce_id=7, catalog=CatalogState.CATALOGED),
}


def _becomes(key: Key, entity: Entity) -> Change[Any]:
    return Change(key, lambda _: entity)


@pytest.fixture(scope="module")
def served() -> Iterator[ServedCloud]:
    """A cloud whose store holds one machine."""

    async def store(clients: Clients) -> int:
        changes = [_becomes(key, entity) for key, entity in ENTITIES.items()]
        return await Fleet(Store(clients.datastore(PROJECT))).change(changes)

    with served_cloud() as running:
        assert running.ask(store) == len(ENTITIES)
        yield running


def _told(served: ServedCloud, *arguments: str) -> list[tuple[str, str, str, str, str]]:
    """What a command adds to the history, oldest first."""

    async def read(clients: Clients) -> tuple[HistoryEntry, ...]:
        store = Store(clients.datastore(PROJECT))
        history = History(store, SystemClock(), max_age=86400.0, max_events=1000)
        return (await history.events(EventFilter())).events

    known = {entry.id for entry in served.ask(read)}
    done = CliRunner().invoke(main, list(arguments), env=served.environment)
    assert done.exit_code == 0, done.output
    new = [entry.event for entry in served.ask(read) if entry.id not in known]
    assert {event.who for event in new} <= {ACCOUNT}
    return [(e.kind, e.before, e.after, e.reason, e.cause) for e in reversed(new)]


def test_a_pause_by_command_is_told_with_its_reason(served: ServedCloud) -> None:
    """And the second time, which changes nothing, it is not told."""
    paused = ("control", "running", "paused", "a leak in the roof", "operator pause")
    assert _told(served, "pause", "--reason", "a leak in the roof") == [paused]
    assert _told(served, "pause", "--reason", "a leak in the roof") == []
    ended = ("control", "paused", "running", "The pause of the whole fleet has ended.")
    assert _told(served, "resume") == [(*ended, "operator resume")]


def test_a_machine_drained_by_command_is_told_in_its_true_states(served: ServedCloud) -> None:
    """The command reads what is above the machine: its group is named, so it was cataloged."""
    drained = ("machine", "cataloged", "draining", f"Drained by {ACCOUNT}: it is noisy")
    told = _told(served, "drain", VM.name, "--reason", "it is noisy")
    assert told == [(*drained, "operator drain")]
    stays = ("machine", "draining", "cataloged", "An operator undrained it.")
    assert _told(served, "undrain", VM.name) == [(*stays, "operator undrain")]


def test_addresses_stored_by_command_are_told(served: ServedCloud) -> None:
    """From which to which."""
    told = _told(served, "configure", "--config-set", "services/other")
    assert told == [
        ("configuration", "", "", "The config set is services/other.", "operator configure")
    ]
