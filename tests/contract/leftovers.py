"""Takes away what runs of the contract have left: `make contract-clean`.

Only what begins with the prefix is seen, and the guard lets nothing else be touched.
"""

from __future__ import annotations

import os
import sys
import uuid

from contract.servers import PREFIX, Contract, options_from
from gce_backend.clients.datastore.client import Datastore, Delete
from gce_backend.daemon.clients import Clients
from gce_backend.model.entities import SetAsideMessage

OPERATION_SECONDS = 600.0
KIND = SetAsideMessage.KIND
"""What the contract's entities are: a kind without effect on a daemon."""


async def remove(server: Contract, clients: Clients, prefix: str) -> list[str]:
    """Removes groups with their VMs, templates, subscriptions, topics and entities.

    Args:
        server: where.
        clients: its clients.
        prefix: what the names begin with; at least the prefix of all runs.

    Returns:
        The names of what was removed.
    """
    assert prefix.startswith(PREFIX)
    project = server.options.project
    removed = await _remove_compute(server, clients, prefix)
    removed += await _remove_messages(server, clients, prefix)
    return removed + await _remove_entities(clients.datastore(project), prefix)


async def _remove_compute(server: Contract, clients: Clients, prefix: str) -> list[str]:
    compute = server.compute(clients)
    project = server.options.project
    removed = []
    for group in (await compute.list_groups(project)).items:
        if group.name.startswith(prefix):
            done = await compute.delete_group(
                project, group.zone_name, group.name, request_id=str(uuid.uuid4())
            )
            await compute.await_operation(done, timeout=OPERATION_SECONDS)
            removed.append(group.name)
    for template in (await compute.list_instance_templates(project)).items:
        if template.name.startswith(prefix):
            done = await compute.delete_instance_template(
                project, template.name, request_id=str(uuid.uuid4())
            )
            await compute.await_operation(done, timeout=OPERATION_SECONDS)
            removed.append(template.name)
    return removed


async def _remove_messages(server: Contract, clients: Clients, prefix: str) -> list[str]:
    pubsub = clients.pubsub(server.options.project)
    removed = []
    for kind, delete in (
        ("subscriptions", pubsub.delete_subscription),
        ("topics", pubsub.delete_topic),
    ):
        for full in await _names(server, clients, kind):
            if full.rpartition("/")[2].startswith(prefix):
                await delete(full)
                removed.append(full)
    return removed


async def _names(server: Contract, clients: Clients, kind: str) -> list[str]:
    """Full names of all topics or subscriptions of the project."""
    root = server.settings.endpoints.pubsub
    url = f"{root}/projects/{server.options.project}/{kind}"
    found: list[str] = []
    query = {"pageSize": "1000"}
    headers = {"Authorization": f"Bearer {await clients.tokens.get()}"}
    while True:
        async with clients.session.get(url, params=query, headers=headers) as response:
            page = await response.json()
        found += [each["name"] for each in page.get(kind, ())]
        if not page.get("nextPageToken"):
            return found
        query["pageToken"] = page["nextPageToken"]


async def _remove_entities(datastore: Datastore, prefix: str) -> list[str]:
    rows = await datastore.query(KIND, keys_only=True)
    ours = [row.path for row in rows if row.path[0][1].startswith(prefix)]
    await datastore.commit([Delete(path, None) for path in ours])
    return [f"{KIND} {path[0][1]}" for path in ours]


def main() -> None:
    """Removes what all runs have left, where the variables say."""
    server = Contract(options_from(os.environ), embedded="http://127.0.0.1:1")
    missing = {"compute", "datastore", "pubsub"} - server.options.named.keys()
    if missing:
        sys.exit(f"name the servers to clean: {', '.join(sorted(missing))} (docs/testing.md)")
    for name in server.ask(lambda clients: remove(server, clients, PREFIX)):
        sys.stdout.write(f"removed {name}\n")


if __name__ == "__main__":
    main()
