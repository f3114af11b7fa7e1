"""Whether a template has gone from everywhere: for tests in which one leaves the configuration."""

from __future__ import annotations

from support.fleet_harness import PROJECT, World


async def templates(w: World) -> set[str]:
    """The instance templates that exist at Compute."""
    state = await w.cloud_state()
    found: list[str] = state["compute"]["projects"].get(PROJECT, {}).get("instanceTemplates", [])
    return set(found)


def of(names: set[str], base_name: str) -> set[str]:
    """Those that begin with a template's name."""
    return {name for name in names if name.rpartition("/")[2].startswith(f"{base_name}-")}


async def nothing_left_of(w: World, base_name: str) -> bool:
    """Whether Compute, the catalog and the daemon know nothing of a template any more."""
    fleet = await w.get("/api/fleet")
    shown = any(t["base_name"] == base_name for t in fleet["templates"])
    everything = {*await w.vms(), *await w.groups(), *await templates(w), *await w.catalog()}
    return not shown and not of(everything, base_name)
