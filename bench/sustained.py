"""A pool of 300 machines, leased and released without pause: waits, memory, conditions, log.

Two processes on loopback, the embedded cloud with its default latencies (a VM takes 4 s to boot)
and Google's call rates. Leases begin at a fixed rate, whether or not earlier ones have been
served; each machine is held for a second, then released, deleted, and made again. Writes
bench/SUSTAINED.md.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from demand import PROVIDER, Fleet, fleet
from rise import BENCH, machine, used

MACHINES = 300
LEASES_PER_MINUTE = 1000
CAP = {"GCE_BACKEND_DELETION__RECLAIMED_COUNT": "15000"}
"""Half as much again as these leases return within the cap's window of ten minutes."""
HELD = 1.0
"""Seconds for which a machine is held."""
FIRST_LOOK, LAST_LOOK = 0.1, 1.0
"""Seconds between two looks whether a machine was given; each pause is twice the one before."""
PATIENCE = 600.0
"""Seconds after which a request is given up."""
ROWS = 12
"""At most about so many rows in the table."""


@dataclass(slots=True)
class Minute:
    """What one minute was like.

    Attributes:
        waits: seconds from each request of the minute to its machine.
        resident: the daemon's resident MB at its end.
        cpu: the daemon's CPU seconds until then.
        conditions: the fleet's conditions at its end.
        log: the daemon's log in bytes, until then.
        calls: the daemon's calls to Compute Engine until then.
    """

    waits: list[float] = field(default_factory=list)
    resident: float = 0.0
    cpu: float = 0.0
    conditions: int = 0
    log: int = 0
    calls: int = 0


async def lease(session: aiohttp.ClientSession, one: Fleet, name: str, waits: list[float]) -> None:
    """Leases a machine, holds it, and releases it."""
    begun, pause = time.monotonic(), FIRST_LOOK
    body = {"request_id": name, "duration": 3600, "dimensions": {"os_family": "LINUX"}}
    while time.monotonic() - begun < PATIENCE:
        if (await call(session, one, "lease", body)).get("hostname"):
            waits.append(time.monotonic() - begun)
            await asyncio.sleep(HELD)
            await call(session, one, "release", {"request_id": name})
            return
        await asyncio.sleep(pause)
        pause = min(LAST_LOOK, 2 * pause)
    waits.append(float("inf"))


async def call(session: aiohttp.ClientSession, one: Fleet, method: str, body: Any) -> Any:
    """A call to the Machine Provider."""
    headers = {"Authorization": f"Bearer {one.token}"}
    url = f"{one.url}{PROVIDER}/{method}"
    async with session.post(url, json=body, headers=headers) as answer:
        answer.raise_for_status()
        return await answer.json()


async def conditions(session: aiohttp.ClientSession, one: Fleet) -> int:
    """How many conditions the daemon knows, by its own count."""
    root = re.search(r'"url": ?"([^"]+)"', one.log.read_text())
    async with session.get(f"{root[1] if root else ''}/metrics") as answer:
        found = re.findall(r"^gce_backend_conditions\S* (\S+)$", await answer.text(), re.MULTILINE)
    return int(sum(map(float, found)))


async def measure(one: Fleet, minutes: int) -> list[Minute]:
    """Leases for so many minutes, and looks at the end of each."""
    found: list[Minute] = []
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        begun, numbers = time.monotonic(), itertools.count()
        for _ in range(minutes):
            now = Minute()
            found.append(now)
            for number in itertools.islice(numbers, LEASES_PER_MINUTE):
                due = begun + number * 60 / LEASES_PER_MINUTE
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(lease(session, one, f"s{number}", now.waits))
            now.cpu, now.resident = used(one.pid)
            now.conditions = await conditions(session, one)
            now.log = one.log.stat().st_size
            now.calls = await asyncio.to_thread(one.compute_calls)
            print(json.dumps(row(len(found), found)), flush=True)
    return found


def row(number: int, minutes: list[Minute]) -> list[str]:
    """The cells of a minute."""
    now = minutes[number - 1]
    before = minutes[number - 2] if number > 1 else now
    waits = sorted(now.waits) or [0.0]
    leases = LEASES_PER_MINUTE
    return [
        str(number),
        str(len(now.waits)),
        f"{waits[len(waits) // 2]:.1f}",
        f"{waits[-1]:.1f}",
        f"{(now.cpu - before.cpu):.1f}",
        f"{now.resident:.0f}",
        str(now.conditions),
        f"{(now.log - before.log) / leases:.0f}",
        f"{(now.calls - before.calls) / leases:.2f}",
    ]


def main() -> None:
    """Measures, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=5, help="60 is what the goal says")
    parser.add_argument("--out", type=Path, default=BENCH / "SUSTAINED.md")
    options = parser.parse_args()
    os.environ.update(CAP)
    with fleet(MACHINES) as one:
        minutes = asyncio.run(measure(one, options.minutes))
    step = max(1, options.minutes // ROWS)
    shown = [number for number in range(1, len(minutes) + 1) if number == 1 or number % step == 0]
    worst = max(wait for minute in minutes for wait in minute.waits)
    served = sum(len(minute.waits) for minute in minutes)
    lines = [
        "# Sustained",
        "",
        f"`bench/sustained.py --minutes {options.minutes}` on {machine()}.",
        (
            f"{MACHINES} machines, {LEASES_PER_MINUTE} leases a minute. Each machine is held for "
            f"{HELD:.0f} s, then deleted and made again."
        ),
        f"The worst of all {served} waits: {worst:.1f} s.",
        "",
        (
            "| minute | leases served | wait, s: median | worst | CPU-s | MB | conditions "
            "| log a lease, bytes | calls to Compute Engine a lease |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(f"| {' | '.join(row(number, minutes))} |" for number in shown),
    ]
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
