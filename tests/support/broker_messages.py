"""Messages of the Machine Provider as tests send them, and what became of them.

Use it for a test of what a message does to a machine and its metadata.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Any

from gce_backend.model.entities import Instance
from support.fleet_harness import PROJECT, World

TOPIC = f"/v1/projects/{PROJECT}/topics/machine-provider"
SUBSCRIPTION = f"/v1/projects/{PROJECT}/subscriptions/machine-provider"
NAME = SUBSCRIPTION.removeprefix("/v1/")


def wire(word: str, attributes: Mapping[str, str]) -> dict[str, Any]:
    """A message as Pub/Sub carries it."""
    return {"data": base64.b64encode(word.encode()).decode(), "attributes": dict(attributes)}


def key_of(machine: Mapping[str, Any]) -> str:
    """The `key` attribute of a machine that the daemon shows."""
    parts = (machine[part] for part in ("template", "revision", "zone", "name"))
    return "/".join((PROJECT, *parts))


def about(machine: Mapping[str, Any], word: str, **attributes: str) -> dict[str, Any]:
    """A message about a machine."""
    own = {"key": key_of(machine), "gce_id": machine["id"], "hostname": machine["name"]}
    return wire(word, {**own, **attributes})


def subscribed(machine: Mapping[str, Any], subscription: str, **attributes: str) -> dict[str, Any]:
    """SUBSCRIBED, with a subscription of that name."""
    more = {"subscription": subscription, "subscription_project": "mp", **attributes}
    return about(machine, "SUBSCRIBED", **more)


async def publish(w: World, *messages: Mapping[str, Any]) -> list[str]:
    """Publishes messages in one call; returns their ids."""
    answer = await w.call("POST", f"{TOPIC}:publish", {"messages": list(messages)})
    ids: list[str] = answer["messageIds"]
    return ids


async def one_machine(w: World) -> dict[str, Any]:
    """Waits until the fleet is cataloged, subscribed and quiet; returns one of its machines."""
    await w.until_states(cataloged=3)
    machines = await w.machines()

    async def all_subscribed() -> bool:
        return all(["pubsub_subscription" in await metadata(w, machine) for machine in machines])

    await w.until(all_subscribed)
    await settled(w)
    return machines[0]


async def backlog(w: World) -> dict[str, Any]:
    """The subscription, with what is `waiting` and `unacknowledged`."""
    found: dict[str, Any] = (await w.cloud_state())["pubsub"]["subscriptions"][NAME]
    return found


async def settled(w: World, within: float = 600.0) -> float:
    """Lets time pass until every message is acknowledged and every update applied."""

    async def quiet() -> bool:
        context = w.daemon.context
        if context is None or (await backlog(w))["unacknowledged"]:
            return False
        return not any(
            instance.pending_metadata_updates or instance.active_metadata_update
            for instance in context.fleet.instances.values()
        )

    return await w.until(quiet, within)


async def metadata(w: World, machine: Mapping[str, Any]) -> dict[str, str]:
    """A VM's metadata."""
    body = await vm(w, machine)
    return {item["key"]: item["value"] for item in body["metadata"].get("items", ())}


async def vm(w: World, machine: Mapping[str, Any]) -> dict[str, Any]:
    """A VM, as Compute shows it."""
    body: dict[str, Any] = await w.compute("GET", _path(machine))
    return body


async def set_metadata(w: World, machine: Mapping[str, Any], items: Mapping[str, str]) -> None:
    """Somebody else replaces a VM's metadata."""
    fingerprint = (await vm(w, machine))["metadata"]["fingerprint"]
    pairs = [{"key": key, "value": value} for key, value in items.items()]
    body = {"fingerprint": fingerprint, "items": pairs}
    answer = await w.compute("POST", f"{_path(machine)}/setMetadata", body)
    assert "error" not in answer, answer
    await asyncio.sleep(w.cloud.options.operation_seconds)


async def metadata_operations(w: World, machine: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The operations that were started to set a VM's metadata."""
    answer = await w.compute("GET", f"zones/{machine['zone']}/operations?maxResults=500")
    return [
        operation
        for operation in answer.get("items", ())
        if operation["operationType"] == "setMetadata"
        and operation["targetLink"].endswith(f"/{machine['name']}")
    ]


async def has(w: World, machine: Mapping[str, Any], key: str, value: str | None) -> bool:
    """Whether a VM's metadata has this value."""
    return (await metadata(w, machine)).get(key) == value


async def set_aside(w: World) -> dict[str, str]:
    """The messages set aside: id to reason."""
    shown = await w.get("/api/messages")
    return {message["message_id"]: message["reason"] for message in shown["set_aside"]}


async def metrics(w: World) -> str:
    """The daemon's metrics, as text."""
    async with w.session.get(w.daemon.url + "/metrics") as response:
        return await response.text()


async def readiness(w: World) -> tuple[int, str]:
    """The status of /readyz, and what it says of messages."""
    async with w.session.get(w.daemon.url + "/readyz") as response:
        checks = (await response.json())["checks"]
    return response.status, next(c["message"] for c in checks if c["name"] == "messages")


def _path(machine: Mapping[str, Any]) -> str:
    return f"zones/{machine['zone']}/instances/{machine['name']}"


def stored(w: World, machine: Mapping[str, Any]) -> Instance:
    """A machine's entity in the daemon's picture."""
    assert w.daemon.context is not None
    instances = w.daemon.context.fleet.instances
    return next(entity for key, entity in instances.items() if key.name == machine["name"])
