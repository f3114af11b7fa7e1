"""What the daemon shows of one template, group or condition: for tests that look at just one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from gce_backend.configuration.parsing import parse
from gce_backend.configuration.types import checksum
from support.fleet_harness import World, manager, template


async def condition(w: World, subject: str) -> dict[str, Any] | None:
    """A condition that the daemon shows now."""
    fleet = await w.get("/api/fleet")
    return next((c for c in fleet.get("conditions", ()) if c["subject"] == subject), None)


def has_condition(w: World, subject: str, reason: str) -> Callable[[], Awaitable[bool]]:
    """Whether a condition is shown with this reason."""

    async def shown() -> bool:
        found = await condition(w, subject)
        return found is not None and found["reason"] == reason

    return shown


async def shown(w: World, base_name: str) -> dict[str, Any]:
    """What `/api/fleet` says of a template; {} when it does not know it."""
    templates = (await w.get("/api/fleet")).get("templates", [])
    found: list[dict[str, Any]] = [t for t in templates if t["base_name"] == base_name]
    return found[0] if found else {}


async def compute_templates(w: World) -> list[str]:
    """The instance templates that exist at Compute."""
    answer = await w.compute("GET", "global/instanceTemplates")
    return sorted(item["name"] for item in answer.get("items", ()))


def manager_in(fleet: dict[str, Any], zone: str) -> dict[str, Any]:
    """A zone's only manager in what the daemon shows."""
    [found] = [
        group
        for shown in fleet["templates"]
        for shown_revision in shown["revisions"]
        for group in shown_revision["managers"]
        if group["zone"] == zone
    ]
    result: dict[str, Any] = found
    return result


def plain_revision() -> str:
    """The checksum of the harness's template."""
    return checksum(parse(template(), manager(), {}).templates[0])


async def reasons(w: World) -> set[str]:
    """The reasons of all conditions in force."""
    return {condition["reason"] for condition in (await w.get("/api/fleet"))["conditions"]}
