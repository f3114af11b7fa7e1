"""A fleet of two templates, one of which is dropped: for tests of draining."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from gce_backend.settings.settings import DeletionSettings, Settings
from support.fleet_harness import PROJECT, World, manager, template

BOTH = template() + template("other", machine_type="e2-medium")
MANAGERS = manager() + manager("other", minimum=4)
"""Two templates; that of three machines may be removed without a word."""
SHORT = Settings(deletion=DeletionSettings(tombstone_seconds=30, window_seconds=30))


async def of_template(w: World, name: str = "linux") -> dict[str, Any]:
    """All that exists of a template: entities, cloud resources, catalog entries."""
    fleet = await w.get("/api/fleet")
    known = fleet.get("templates", [{"base_name": name}])  # a daemon that starts does not know
    compute = (await w.cloud_state())["compute"]["projects"].get(PROJECT, {})
    found = {
        "entities": [t for t in known if t["base_name"] == name],
        "templates": [t for t in compute.get("instanceTemplates", ()) if t.startswith(f"{name}-")],
        "groups": [g for g in compute.get("groups", {}) if g.split("/")[1].startswith(f"{name}-")],
        "vms": [vm for vm in compute.get("instances", {}) if vm.startswith(f"{name}-")],
        "disks": [disk for disk in compute.get("disks", ()) if disk.startswith(f"{name}-")],
        "catalog": [host for host in await w.catalog() if host.startswith(f"{name}-")],
    }
    return {kind: there for kind, there in found.items() if there}


def gone(w: World, name: str = "linux") -> Callable[[], Awaitable[bool]]:
    """Whether nothing is left of a template."""

    async def reached() -> bool:
        return not await of_template(w, name)

    return reached


def vms_are(w: World, names: set[str]) -> Callable[[], Awaitable[bool]]:
    """Whether these are the VMs of the first template."""

    async def reached() -> bool:
        return set((await of_template(w)).get("vms", ())) == names

    return reached


async def up(w: World, count: int = 7) -> None:
    """Waits until both templates' machines can be leased."""

    async def reached() -> bool:
        return list((await w.catalog()).values()).count("AVAILABLE") == count

    await w.until(reached)
    await w.until_states(cataloged=count)


def drop(w: World) -> None:
    """The first template and its manager leave the configuration."""
    w.write_config(template("other", machine_type="e2-medium"), manager("other", minimum=4))


LINUX_AND_WIN = template("linux") + template("win")


def linux_and_win(linux: int = 2, win: int = 3) -> str:
    """managers.cfg with two templates."""
    return manager("linux", minimum=linux) + manager("win", minimum=win)
