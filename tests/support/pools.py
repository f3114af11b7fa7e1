"""A pool of three zones, and where its machines are. Use it for any test of several zones."""

from __future__ import annotations

from collections import Counter

from support.fleet_harness import World

ZONES = ("us-central1-a", "us-central1-b", "us-central1-c")


def pool(minimum: int, maximum: int | None = None, **fields: int) -> str:
    """A manager of three zones."""
    limits = {"minimum_size": minimum, **({"maximum_size": maximum} if maximum else {}), **fields}
    told = " ".join(f"{name}: {value}" for name, value in limits.items())
    zones = " ".join(f'zones: "{zone}"' for zone in ZONES)
    return f'managers {{ template_base_name: "linux" {zones} {told} }}\n'


async def by_zone(w: World, *states: str) -> Counter[str]:
    """Machines in these states, by zone."""
    return Counter(machine["zone"] for machine in await w.machines() if machine["state"] in states)


async def running(w: World, number: int) -> bool:
    """Whether so many machines can be leased or are leased."""
    return (await by_zone(w, "cataloged", "leased")).total() == number
