"""A million machines in ten shards: calls, commits and cost a month, from counts of a hundred.

One daemon that elects its leader works through a rise, leases and a quiet hour in simulated time;
the embedded cloud counts the calls, and each commit is looked at for what Datastore would bill.
The month is computed from these counts. Writes bench/SHARDS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import structlog

BENCH = Path(__file__).parent
sys.path.insert(0, str(BENCH.parent / "tests"))

from gce_backend.clients.datastore.calls import Calls  # noqa: E402
from gce_backend.settings.settings import Settings, StoreSettings  # noqa: E402
from support.broker_messages import settled  # noqa: E402 -- lies with the tests
from support.fleet_harness import World, manager, world  # noqa: E402
from support.simulation import VirtualTimeLoop  # noqa: E402

MACHINES = 100
"""Machines of the measured fleet, in one group."""
FLEET, SHARDS, GROUP_SIZE = 1_000_000, 10, 1000
LEASES_A_DAY = 4
"""Leases of a machine in a day. Each one ends with a new machine."""
WRITE, READ, DELETE = 0.09e-5, 0.03e-5, 0.01e-5
"""Dollars for an entity in one region: list prices of Firestore in Datastore mode."""
MUTATIONS_A_MINUTE = 1400
"""`compute.calls_per_minute`: of a project, in a region."""
DAYS, DAY, SECONDS = 30, 1440, 60.0
BEATS, LOOKS = 4 / 10.0, 10 / 10.0
"""Heartbeats and looks of a standby daemon in a second: each look reads three entities."""


class Bill(Counter[str]):
    """What Datastore would bill: entities written, removed and read."""

    def watch(self) -> Any:
        """Counts what is sent to Datastore while the block lasts."""
        commit, lookup = Calls.commit, Calls.lookup

        async def committed(calls: Calls, mutations: Any, *rest: Any) -> Any:
            if _of_daemon(calls):
                removed = sum("delete" in one for one in mutations)
                self.update(commits=1, removed=removed, written=len(mutations) - removed)
            return await commit(calls, mutations, *rest)

        async def looked(calls: Calls, paths: Sequence[Any], *rest: Any) -> Any:
            if _of_daemon(calls):
                self.update(read=len(paths))
            return await lookup(calls, paths, *rest)

        return mock.patch.multiple(Calls, commit=committed, lookup=looked)


def _of_daemon(calls: Calls) -> bool:
    """Whether they are about the daemon's namespace; the Machine Provider's has a name."""
    return not calls.codec.key((("Kind", "name"),))["partitionId"].get("namespaceId")


async def counted(w: World, bill: Bill, act: Callable[[], Awaitable[None]]) -> Counter[str]:
    """What something costs in calls to Compute Engine and in entities, without heartbeats."""
    await settled(w)
    await w.reset_calls()
    bill.clear()
    begun = w.clock.monotonic()
    await act()
    await settled(w)
    calls = await w.calls()
    beats = round(BEATS * (w.clock.monotonic() - begun))
    bill.subtract(commits=beats, written=beats, read=beats)
    made = sum(number for name, number in calls.items() if name.startswith("compute."))
    return Counter({**bill, "compute": made})


async def measure(place: Path) -> dict[str, Counter[str]]:
    """The counts: of a rise, of leases that end with new machines, and of a quiet hour."""
    bill, found = Bill(), {}
    settings = Settings(store=StoreSettings(leader_election=True))
    with bill.watch():
        async with world(place, managers=manager(minimum=1), settings=settings) as w:
            await w.until_states(cataloged=1)

            async def rise() -> None:
                templates = (w.config_dir / "templates.cfg").read_text()
                w.write_config(templates, manager(minimum=MACHINES + 1))
                await w.until(lambda: w.has_vms(MACHINES + 1), every=2)
                await w.until_states(cataloged=MACHINES + 1)
                await w.pass_time(SECONDS)

            async def lease() -> None:
                order = {"duration": 3600, "dimensions": {"os_family": "LINUX"}}
                for number in range(MACHINES):
                    await w.broker("machine_provider.lease", {"request_id": f"r{number}", **order})
                await settled(w)
                old = set(await w.vms())
                for number in range(MACHINES):
                    await w.broker("machine_provider.release", {"request_id": f"r{number}"})

                async def replaced() -> bool:
                    return len(set(await w.vms()) - old) >= MACHINES

                await w.until(replaced, every=2)
                await w.until_states(cataloged=MACHINES + 1)
                await w.pass_time(SECONDS)

            async def rest() -> None:
                await w.pass_time(60 * SECONDS)

            found["rise"] = await counted(w, bill, rise)
            found["leases"] = await counted(w, bill, lease)
            found["quiet hour"] = await counted(w, bill, rest)
    return found


def table(found: dict[str, Counter[str]]) -> list[str]:
    """The counts, and the month that follows from them."""
    lease, quiet = found["leases"], found["quiet hour"]
    cycles = FLEET * LEASES_A_DAY * DAYS / MACHINES  # of so many leases each
    standing = {
        "written": BEATS * 86_400 * DAYS * SHARDS,
        "read": (3 * LOOKS + BEATS) * 86_400 * DAYS * SHARDS,
    }
    month = {
        name: lease[name] * cycles + standing.get(name, 0.0)
        for name in ("written", "removed", "read", "commits", "compute")
    }
    month["removed"] += quiet["removed"] * cycles  # tombstones, after a while
    month["read"] += FLEET * 24 * DAYS  # all entities are compared once an hour
    dollars = month["written"] * WRITE + month["removed"] * DELETE + month["read"] * READ
    minute = FLEET * LEASES_A_DAY / DAY
    heads = ("compute", "commits", "written", "removed", "read")
    rows = [
        f"| {name} | " + " | ".join(f"{counts[head]:g}" for head in heads) + " |"
        for name, counts in found.items()
    ]
    cost = dollars / SHARDS
    shown = {
        "leases a minute": minute,
        "calls to Compute Engine a minute": minute * lease["compute"] / MACHINES,
        "commits a minute, in such bursts": minute * lease["commits"] / MACHINES,
        "entities written a month, millions": month["written"] / 1e6,
        "entities read a month, millions": month["read"] / 1e6,
        "Datastore a month, $": dollars,
    }
    most = MUTATIONS_A_MINUTE / (lease["compute"] / MACHINES)
    return [
        "# Shards",
        "",
        f"`bench/shards.py`: {MACHINES} machines in simulated time, with leader election. Entities",
        "as Datastore bills them, without heartbeats. Machines change together, as in a burst.",
        "",
        "| 100 machines | calls to Compute Engine | commits | entities written | removed | read |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        f"A month of {FLEET:,} machines in {SHARDS} shards, each leased {LEASES_A_DAY} times a day",
        f"and then made anew (Datastore: ${cost:,.0f} a shard):",
        "",
        "| | all shards | one shard |",
        "| --- | --- | --- |",
        *(f"| {name} | {number:,.0f} | {number / SHARDS:,.0f} |" for name, number in shown.items()),
        "",
        f"A project's {MUTATIONS_A_MINUTE} mutations a minute in a region replace {most:,.0f}.",
        f"A quiet minute of a shard costs {quiet['compute'] / 60:.1f} calls to Compute Engine.",
    ]


def main() -> None:
    """Measures, and writes the tables."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with (
        tempfile.TemporaryDirectory() as name,
        asyncio.Runner(loop_factory=VirtualTimeLoop) as runner,
    ):
        lines = table(runner.run(measure(Path(name))))
    (BENCH / "SHARDS.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
