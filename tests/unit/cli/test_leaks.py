"""`leaks`: what belongs to nothing is listed with its cost, and deleted when ordered."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgspec
import pytest
from click.testing import Result

from gce_backend.daemon.clients import Clients
from gce_backend.fleet.picture import Change, Fleet
from gce_backend.fleet.store import Store
from gce_backend.localcloud.faults import Fault
from gce_backend.model.entities import (
    MACHINE_PROVIDER_KEY,
    STORE_IDENTITY_KEY,
    Entity,
    InstanceGroupManager,
    InstanceTemplateRevision,
    MachineProviderAddress,
    StoreIdentity,
)
from gce_backend.model.keys import Key, manager_key
from gce_backend.rules.ownership import Mark
from support.fleet_harness import ZONE
from support.lendable import add, catalog, until
from support.made_resources import WANTED, make
from support.served_cloud import PROJECT, ServedCloud, served_cloud

OURS = Mark("gce-backend", "0123456789ab")
ANOTHERS = Mark("gce-backend", "fedcba987654")

Run = Callable[..., Result]


@pytest.fixture
def served() -> Iterator[ServedCloud]:
    """A store that has lost its entities."""

    async def write(clients: Clients) -> None:
        fleet = Fleet(Store(clients.datastore(PROJECT)))
        identity = StoreIdentity(OURS.store, (PROJECT,))
        await fleet.change([Change(STORE_IDENTITY_KEY, lambda _: identity)])
        address = MachineProviderAddress(running.url)
        await fleet.change([Change(MACHINE_PROVIDER_KEY, lambda _: address)])

    with served_cloud() as running:
        running.ask(write)
        yield running


@pytest.fixture
def run(served: ServedCloud) -> Run:
    """Runs a command against it."""
    return served.run


def listed(run: Run) -> list[dict[str, Any]]:
    """What the command lists."""
    done = run("leaks", "--json")
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = msgspec.json.decode(done.stdout)["leaks"]
    return found


def test_what_belongs_to_nothing_is_listed_with_its_cost_and_deleted_when_ordered(
    served: ServedCloud, run: Run
) -> None:
    """A no leaves it; each deletion is of one; nothing is left in the end."""
    assert run("leaks").output == "nothing leaks\n"
    make(served, OURS, 2)
    found = listed(run)
    assert [one["kind"] for one in found] == ["VM", "VM", "group", "instance template"]
    assert found[0]["cost_per_day"] == pytest.approx(24 * 0.016751)
    assert "about 0.80 USD a day" in run("leaks").output
    group, last = found[2]["name"], found[3]["name"]
    assert "nothing was deleted" in run("leaks", "--delete", group, answer="n\n").output
    assert len(listed(run)) == 4
    assert "is deleted" in run("leaks", "--delete", f"{ZONE}/{group}", "--yes").output
    assert [one["name"] for one in listed(run)] == [last]
    assert "a day" not in run("leaks").output.splitlines()[-1], "what is left costs nothing"
    assert "is deleted" in run("leaks", "--delete", last, answer="y\n").output
    assert listed(run) == []
    refused = run("leaks", "--delete", last, "--yes")
    assert refused.exit_code == 1
    assert "no leak is called" in refused.output


def test_an_abandoned_vm_is_listed_with_its_price_and_the_command_that_deletes_it(
    served: ServedCloud, run: Run
) -> None:
    """It has outlived its group and its entity; nothing but its label says whose it is."""
    make(served, OURS, 2)
    first, second, group, _ = (one["name"] for one in listed(run))
    abandoned = f"{served.url}/_localcloud/vms/{first}/abandon?zone={ZONE}"
    with urllib.request.urlopen(urllib.request.Request(abandoned, method="POST")):  # noqa: S310
        pass
    known = served.cloud.state(("compute",))["compute"]["projects"][PROJECT]["groups"]
    assert known[f"{ZONE}/{group}"]["instances"] == [second]
    assert run("leaks", "--delete", group, "--yes").exit_code == 0
    vm, template = listed(run)
    assert (vm["kind"], vm["name"], template["kind"]) == ("VM", first, "instance template")
    assert vm["cost_per_day"] == pytest.approx(24 * 0.016751)
    assert vm["command"] == f"gce-backend leaks --delete {ZONE}/{first}"
    assert "about 0.40 USD a day" in run("leaks").output
    assert "is deleted" in run(*vm["command"].split()[1:], "--yes").output
    assert [one["kind"] for one in listed(run)] == ["instance template"]


def test_a_disk_that_outlived_its_vm_is_listed_with_the_command_that_deletes_it(
    served: ServedCloud, run: Run
) -> None:
    """By its labels, or by its name where an earlier release made it; in use, it is no leak."""
    make(served, OURS, 2, kept_disks=True)
    disks = {one["name"] for one in listed(run) if one["kind"] == "disk"}
    assert not disks
    group = next(one["name"] for one in listed(run) if one["kind"] == "group")
    names = {one["name"] for one in listed(run) if one["kind"] == "VM"}
    run("leaks", "--delete", group, "--yes")
    found = [one for one in listed(run) if one["kind"] == "disk"]
    assert {one["name"] for one in found} == {*names, *(f"{name}-1" for name in names)}
    first = found[0]
    assert first["cost_per_day"] == pytest.approx(24 * 20 * 0.000055)
    place = f"--zone={ZONE} --project={PROJECT}"
    assert first["command"] == f"gcloud compute disks delete {first['name']} {place}"
    assert first["command"] in run("leaks").output
    refused = run("leaks", "--delete", first["name"], "--yes")
    assert refused.exit_code == 1
    assert first["command"] in refused.output
    listing = "compute.disks.aggregatedList"
    served.cloud.faults.add(Fault(method=listing, status=403, reason="forbidden", times=None))
    told = run("leaks")
    assert told.exit_code == 0
    assert "listing disks needs compute.disks.list" in told.output


def test_what_is_anothers_or_leased_stays(served: ServedCloud, run: Run) -> None:
    """Somebody holds a machine of the group: the Machine Provider decides. The other one leaves."""
    served.environment["GCE_BACKEND_PROVIDER__URL"] = served.url
    make(served, ANOTHERS, 2)
    assert listed(run) == []
    served.ask(_renamed)
    first, second, group, _ = (one["name"] for one in listed(run))
    for name in (first, second):
        add(served, name)
    until(lambda: set(catalog(served.cloud).values()) == {"AVAILABLE"})
    assert run("lease", "--dimension", "os_family:LINUX", "--request-id", "mine").exit_code == 0
    (held,) = (name for name, state in catalog(served.cloud).items() if state == "LEASED")
    refused = run("leaks", "--delete", group, "--yes")
    assert refused.exit_code == 1
    assert f"somebody holds {held}: nothing was deleted" in refused.output
    there = {name for name, state in catalog(served.cloud).items() if state != "DELETED"}
    assert there == {held}
    assert len(listed(run)) == 4
    assert run("release", "mine").exit_code == 0
    until(lambda: "is deleted" in run("leaks", "--delete", group, "--yes").output)
    assert [one["kind"] for one in listed(run)] == ["instance template"]
    assert "LEASED" not in catalog(served.cloud).values()


def test_a_group_that_is_gone_or_whose_revision_is_missing_hides_no_leak(
    served: ServedCloud, run: Run
) -> None:
    """Its machines cannot be told; all the rest is listed, and what was not seen is named."""
    make(served, OURS, 1)
    gone = manager_key("linux", "0" * 40, ZONE)
    manager = InstanceGroupManager(minimum_size=1, url="https://compute.googleapis.com/gone")
    revision = InstanceTemplateRevision(template=WANTED)

    async def write(clients: Clients, key: Key, entity: Entity) -> None:
        await Fleet(Store(clients.datastore(PROJECT))).change([Change(key, lambda _: entity)])

    served.ask(partial(write, key=gone, entity=manager))
    told = run("leaks")
    assert f"not everything could be seen: the entity {gone.revision} is missing" in told.output
    served.ask(partial(write, key=gone.revision, entity=revision))
    assert [one["kind"] for one in listed(run)] == ["VM", "group", "instance template"]
    assert "not everything" not in run("leaks").output


async def _renamed(clients: Clients) -> None:
    """The store gets the id of the one that has made all that."""
    fleet = Fleet(Store(clients.datastore(PROJECT)))
    identity = StoreIdentity(ANOTHERS.store, (PROJECT,))
    await fleet.change([Change(STORE_IDENTITY_KEY, lambda _: identity)])
