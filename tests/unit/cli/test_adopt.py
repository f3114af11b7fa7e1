"""`gce-backend adopt`: shown first, adopted after a yes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from gce_backend.base.clock import SystemClock
from gce_backend.cli import main
from gce_backend.clients.compute.call_budget import CallBudget, QuotaGroup
from gce_backend.configuration import parsing, types
from gce_backend.daemon.clients import Clients
from gce_backend.fleet.picture import Apply, Change, Fleet
from gce_backend.fleet.store import Store
from gce_backend.model.entities import (
    Entity,
    InstanceGroupManager,
    InstanceTemplate,
    InstanceTemplateRevision,
)
from gce_backend.model.keys import Key, manager_key
from gce_backend.rules.compute_bodies import group_body, template_body
from gce_backend.rules.ownership import Mark
from support.fleet_harness import ZONE, manager, template
from support.patience import PATIENCE
from support.served_cloud import PROJECT, ServedCloud, served_cloud

WANTED = parsing.parse(template(), manager(), {}).templates[0]
GROUP = manager_key("linux", types.checksum(WANTED), ZONE)
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

    def invoke(*arguments: str, answer: str | None = None) -> Result:
        return CliRunner().invoke(main, list(arguments), env=served.environment, input=answer)

    return invoke


def make(served: ServedCloud, mark: Mark) -> None:
    """A template and a group of three at Compute, with this mark."""

    async def insert(clients: Clients) -> None:
        compute = clients.compute(CallBudget(SystemClock(), dict.fromkeys(QuotaGroup, 10_000)))
        body = template_body(mark, GROUP.revision, WANTED)
        asked = await compute.insert_instance_template(PROJECT, body, request_id=str(uuid.uuid4()))
        await compute.await_operation(asked, timeout=PATIENCE)
        group = group_body(mark, GROUP, PROJECT, 3, body["name"])
        asked = await compute.insert_group(PROJECT, ZONE, group, request_id=str(uuid.uuid4()))
        await compute.await_operation(asked, timeout=PATIENCE)

    served.ask(insert)


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
    make(served, Mark("gce-backend", ""))
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
    make(served, LOST)
    assert document(run("adopt", "--yes", "--json"))["found"] == []
    assert links(served) == [(None, None), (None, None)]


def test_the_id_of_a_lost_store_is_taken_over(served: ServedCloud, run: Run) -> None:
    """What carries it is this store's from then on; the daemon adopts it by itself."""
    make(served, LOST)
    shown = document(run("adopt", "--store", LOST.store, "--json"))
    assert (shown["adopted"], len(shown["found"])) == (False, 2)
    assert stored(served).identity == ""
    done = run("adopt", "--store", LOST.store, "--yes")
    assert "restart the daemon" in done.output
    assert stored(served).identity == LOST.store
    assert run("adopt", "--store", "nonsense").exit_code == 2
    assert "nothing to adopt" in run("adopt", "--store", "0" * 12, "--yes").output
    assert stored(served).identity == LOST.store
