"""`gce-backend adopt`: shown first, adopted after a yes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from click.testing import Result

from gce_backend.daemon.clients import Clients
from gce_backend.fleet.picture import Apply, Change, Fleet
from gce_backend.fleet.store import Store
from gce_backend.model.entities import (
    Entity,
    InstanceGroupManager,
    InstanceTemplate,
    InstanceTemplateRevision,
)
from gce_backend.model.keys import Key
from gce_backend.rules.ownership import Mark
from support.fleet_harness import ZONE
from support.made_resources import GROUP, WANTED, make
from support.served_cloud import PROJECT, ServedCloud, served_cloud

LOST = Mark("gce-backend", "fedcba987654")

Run = Callable[..., Result]


def _as(entity: Entity) -> Apply[Entity]:
    return lambda _: entity


@pytest.fixture
def served() -> Iterator[ServedCloud]:
    """A store whose daemon has imported the configuration and could make nothing."""
    entities: dict[Key, Entity] = {
        GROUP.template: InstanceTemplate(active=GROUP.revision.checksum),
        GROUP.revision: InstanceTemplateRevision(template=WANTED, active=(ZONE,)),
        GROUP: InstanceGroupManager(minimum_size=3),
    }

    async def write(clients: Clients) -> None:
        fleet = Fleet(Store(clients.datastore(PROJECT)))
        await fleet.change([Change(key, _as(entity)) for key, entity in entities.items()])

    with served_cloud() as running:
        running.ask(write)
        yield running


@pytest.fixture
def run(served: ServedCloud) -> Run:
    """Runs a command against it."""
    return served.run


def stored(served: ServedCloud) -> Fleet:
    """The entities."""

    async def read(clients: Clients) -> Fleet:
        fleet = Fleet(Store(clients.datastore(PROJECT)))
        await fleet.load()
        return fleet

    return served.ask(read)


def links(served: ServedCloud) -> list[tuple[str | None, int | None]]:
    """What the entities of the template and of the group say is there."""
    fleet = stored(served)
    revision, group = fleet.revisions[GROUP.revision], fleet.managers[GROUP]
    return [(revision.url, revision.gce_id), (group.url, group.gce_id)]


def document(done: Result) -> Any:
    """What a command printed with `--json`."""
    assert done.exit_code == 0, done.output
    return msgspec.json.decode(done.stdout)


def test_what_names_no_store_is_shown_first_and_adopted_after_a_yes(
    served: ServedCloud, run: Run
) -> None:
    """A no, and JSON without --yes, leave all as it is; a yes stores links and ids."""
    assert "nothing to adopt" in run("adopt").output
    make(served, Mark("gce-backend", ""), 3)
    done = run("adopt", answer="n\n")
    assert "instance template" in done.output
    assert "No other daemon may use these" in done.output
    assert "nothing was adopted" in done.output
    shown = document(run("adopt", "--json"))
    assert shown["adopted"] is False
    assert {(one["kind"], one["machines"]) for one in shown["found"]} == {
        ("instance template", 0),
        ("group", 3),
    }
    assert links(served) == [(None, None), (None, None)]

    assert "2 adopted" in run("adopt", answer="y\n").output
    expected = {(one["url"], int(one["gce_id"])) for one in shown["found"]}
    assert set(links(served)) == expected
    assert "nothing to adopt" in run("adopt").output


def test_what_is_anothers_is_not_offered(served: ServedCloud, run: Run) -> None:
    """It carries the id of a store, or another owner."""
    make(served, LOST, 3)
    assert document(run("adopt", "--yes", "--json"))["found"] == []
    assert links(served) == [(None, None), (None, None)]


def test_the_id_of_a_lost_store_is_taken_over(served: ServedCloud, run: Run) -> None:
    """What carries it is this store's from then on; the daemon adopts it by itself."""
    make(served, LOST, 3)
    shown = document(run("adopt", "--store", LOST.store, "--json"))
    assert (shown["adopted"], len(shown["found"])) == (False, 2)
    assert stored(served).identity == ""
    done = run("adopt", "--store", LOST.store, "--yes")
    assert "restart the daemon" in done.output
    assert stored(served).identity == LOST.store
    assert run("adopt", "--store", "nonsense").exit_code == 2
    assert "nothing to adopt" in run("adopt", "--store", "0" * 12, "--yes").output
    assert stored(served).identity == LOST.store
