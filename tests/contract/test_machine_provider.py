"""What the Machine Provider's client expects of a Machine Provider."""

from __future__ import annotations

import asyncio

from contract.servers import Contract
from gce_backend.clients.machine_provider import (
    CatalogEntry,
    CatalogError,
    CatalogMachine,
    LeaseRequest,
    MachineProviderClient,
    NotCataloged,
)
from gce_backend.daemon.clients import Clients

TOKEN = "contract/template/revision/zone/machine"
GCE_ID = 7
PATIENCE = 600.0


def machine(server: Contract, name: str) -> CatalogMachine:
    """A machine that nobody else asks for: its only way to be leased is by its name."""
    attributes = [{"key": "key", "value": TOKEN}, {"key": "gce_id", "value": str(GCE_ID)}]
    return CatalogMachine(
        {"backend": "GCE", "hostname": f"{server.run}-{name}", "num_cpus": 1},
        {"backend_attributes": attributes, "on_reclamation": "DELETE"},
    )


async def entry(client: MachineProviderClient, hostname: str) -> CatalogEntry:
    """A machine's entry in the catalog."""
    found = await client.get(hostname)
    assert isinstance(found, CatalogEntry)
    return found


def test_a_machine_enters_the_catalog_under_our_key_and_leaves_it(server: Contract) -> None:
    """Added, found with its attributes, not added twice, deleted, and then not known."""

    async def work(clients: Clients) -> None:
        client = server.machine_provider(clients)
        ours = machine(server, "cataloged")
        assert isinstance(await client.get(ours.hostname), NotCataloged)
        (added,) = await client.add_machines([ours])
        assert added.added
        assert (await entry(client, ours.hostname)).is_of(TOKEN, GCE_ID)
        (again,) = await client.add_machines([ours])
        assert again.error == CatalogError.HOSTNAME_REUSE
        assert (await client.delete_machine(ours.hostname)).error is None
        assert isinstance(await client.get(ours.hostname), NotCataloged)
        gone = await client.delete_machine(ours.hostname)
        assert gone.error == CatalogError.ENTRY_NOT_FOUND

    server.ask(work)


def test_many_machines_are_answered_each_for_itself_and_in_order(server: Contract) -> None:
    """One that is there already does not keep the others out."""

    async def work(clients: Clients) -> None:
        client = server.machine_provider(clients)
        machines = [machine(server, f"many-{number}") for number in range(3)]
        await client.add_machines(machines[1:2])
        answers = await client.add_machines(machines)
        assert [answer.hostname for answer in answers] == [each.hostname for each in machines]
        assert [answer.added for answer in answers] == [True, False, True]
        for each in machines:
            assert (await client.delete_machine(each.hostname)).error is None

    server.ask(work)


def test_a_leased_machine_says_so_and_does_not_leave_the_catalog(server: Contract) -> None:
    """Leased by its name; delete_machine is refused until the lease is released and reclaimed."""

    async def work(clients: Clients) -> None:
        client = server.machine_provider(clients)
        ours = machine(server, "leased")
        await client.add_machines([ours])
        request = LeaseRequest(
            request_id=f"{server.run}-lease",
            dimensions={"hostname": ours.hostname},
            duration=3600,
        )
        async with asyncio.timeout(PATIENCE):
            while (lease := await client.lease(request)).state != "FULFILLED":
                assert lease.error is None
                await asyncio.sleep(0.1)
        assert lease.hostname == ours.hostname
        found = await entry(client, ours.hostname)
        assert found.state == "LEASED"
        assert (await client.delete_machine(ours.hostname)).error == CatalogError.LEASED
        assert (await client.release(request.request_id)).error is None

    server.ask(work)
