"""What a Machine Provider does in a second: machines added, leases begun, CPU, memory, commits.

Two processes on loopback: `gce-backend machine-provider`, and the embedded cloud without latencies,
which serves its Datastore and Pub/Sub and counts the calls. Leases begin at a fixed rate, whether
or not earlier ones have been answered. Writes bench/LENDING.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from rise import BENCH, environment, process, used

BATCH = 1000
"""Machines of one add_machines call."""
BATCHES_AT_ONCE = 2
LEASES_PER_MINUTE = 1000
PATIENCE = 3600.0
ACCESS = """\
client_ids: "localcloud.apps.googleusercontent.com"
groups { name: "daemon" members: "daemon@example.com" roles: BACKEND backend: "GCE" }
groups { name: "people" members: "*@example.com" roles: USER }
"""


class Lender:
    """A Machine Provider that is called over HTTP.

    Args:
        session: for HTTP.
        url: its URL.
        cloud: the embedded cloud's URL.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, cloud: str) -> None:
        self._session = session
        self._url = url
        self._cloud = cloud
        self._tokens: dict[str, str] = {}

    async def token(self, account: str) -> str:
        """An access token of an account."""
        if account not in self._tokens:
            url = f"{self._cloud}/_localcloud/tokens/{account}"
            async with self._session.post(url) as answer:
                self._tokens[account] = (await answer.json())["access_token"]
        return self._tokens[account]

    async def call(self, verb: str, path: str, account: str, body: Any = None) -> Any:
        """One call; anything but 200 ends the measurement."""
        headers = {"Authorization": f"Bearer {await self.token(account)}"}
        request = self._session.request(verb, self._url + path, json=body, headers=headers)
        async with request as answer:
            if answer.status != 200:
                sys.exit(f"{path}: HTTP {answer.status}: {await answer.text()}")
            return await answer.json()

    async def available(self) -> int:
        """The machines that can be leased."""
        async with self._session.get(f"{self._url}/metrics") as answer:
            found = re.search(r'_machines\{state="AVAILABLE"\} (\S+)', await answer.text())
        return int(float(found[1])) if found else 0

    async def cloud_calls(self) -> dict[str, int]:
        """The calls that the cloud has answered, by method."""
        async with self._session.get(f"{self._cloud}/_localcloud/calls") as answer:
            calls: dict[str, int] = await answer.json()
        return calls


async def until(done: Callable[[], Any]) -> None:
    """Waits for something."""
    begun = time.monotonic()
    while not await done():
        if time.monotonic() - begun > PATIENCE:
            sys.exit(f"not done within {PATIENCE:.0f} s")
        await asyncio.sleep(0.5)


async def add(lender: Lender, pid: int, machines: int) -> tuple[list[float], float]:
    """Adds machines.

    Returns:
        The seconds of each call, and the CPU seconds of the first one, which is alone.
    """
    seconds: list[float] = []
    turns = asyncio.Semaphore(BATCHES_AT_ONCE)

    async def batch(start: int) -> None:
        requests = [
            {
                "dimensions": {"hostname": f"vm-{number}", "os_family": "LINUX", "num_cpus": 8},
                "policies": {},
            }
            for number in range(start, min(start + BATCH, machines))
        ]
        async with turns:
            begun = time.monotonic()
            body = {"requests": requests}
            await lender.call(
                "POST", "/_ah/api/catalog/v1/add_machines", "daemon@example.com", body
            )
            seconds.append(time.monotonic() - begun)

    before, _ = used(pid)
    await batch(0)
    after, _ = used(pid)
    await asyncio.gather(*(batch(start) for start in range(BATCH, machines, BATCH)))
    return seconds, after - before


async def lease(lender: Lender, count: int) -> list[float]:
    """Begins leases at a fixed rate; returns the seconds from each request to its machine."""

    async def one(number: int) -> float:
        user = f"user-{number % 50}@example.com"
        body = {"request_id": f"r{number}", "dimensions": {"os_family": "LINUX"}, "duration": 3600}
        begun = time.monotonic()
        found = await lender.call("POST", "/api/v1/leases", user, body)
        while found["state"] != "active":
            await asyncio.sleep(0.05)
            found = await lender.call("GET", f"/api/v1/leases/{found['id']}", user)
        return time.monotonic() - begun

    for number in range(50):
        await lender.token(f"user-{number}@example.com")
    begun, tasks = time.monotonic(), []
    for number in range(count):
        await asyncio.sleep(max(begun + number * 60 / LEASES_PER_MINUTE - time.monotonic(), 0))
        tasks.append(asyncio.create_task(one(number)))
    return await asyncio.gather(*tasks)


async def measure(url: str, cloud: str, pid: int, machines: int, leases: int) -> dict[str, float]:
    """One run."""
    connector = aiohttp.TCPConnector(limit=200)
    limit = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=connector, timeout=limit) as session:
        lender = Lender(session, url, cloud)
        begun = time.monotonic()
        adding, add_cpu = await add(lender, pid, machines)

        async def all_available() -> bool:
            return await lender.available() == machines

        await until(all_available)
        ready = time.monotonic() - begun
        cpu, _ = used(pid)
        before = await lender.cloud_calls()
        waits = sorted(await lease(lender, leases))
        after = await lender.cloud_calls()
        later, resident = used(pid)
    commits = "datastore.projects.commit"
    return {
        "add_1000_seconds": statistics.median(adding),
        "add_1000_cpu": add_cpu,
        "ready_seconds": ready,
        "wait_p50": waits[len(waits) // 2],
        "wait_p99": waits[len(waits) * 99 // 100],
        "cpu_per_lease_ms": (later - cpu) / leases * 1000,
        "commits_per_lease": (after[commits] - before[commits]) / leases,
        "resident_mb": resident,
    }


def sample(machines: int, leases: int) -> dict[str, float]:
    """One run with processes of its own."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "access.cfg").write_text(ACCESS)
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        state = str(place / "state.sqlite")
        with process("localcloud", "--port", "0", "--no-latency", "--state", state, **quiet) as it:
            cloud = it.stdout.readline().strip() if it.stdout else ""
            settings = {
                **environment(cloud, place),
                "GCE_BACKEND_ENDPOINTS__TOKENINFO": f"{cloud}/tokeninfo",
                "GCE_BACKEND_PROVIDER__ACCESS": str(place / "access.cfg"),
                "GCE_BACKEND_PROVIDER__NAMESPACE": "bench",
                "GCE_BACKEND_PROVIDER__PORT": "0",
                "GCE_BACKEND_LOG__FORMAT": "json",
            }
            with (
                (place / "log").open("w") as stream,
                process("machine-provider", env=settings, stderr=stream) as provider,
            ):
                while "leadership.took_over" not in (text := (place / "log").read_text()):
                    time.sleep(0.05)
                found = re.search(r'"url":\s*"([^"]+)"', text)
                url = found[1] if found else sys.exit("it does not say where it listens")
                return asyncio.run(measure(url, cloud, provider.pid, machines, leases))


def main() -> None:
    """Measures, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", type=int, nargs="*", default=[10_000])
    parser.add_argument("--leases", type=int, default=LEASES_PER_MINUTE)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    columns = (
        *("machines", f"add_machines of {BATCH}, s", "CPU of one alone, s", "all can be leased, s"),
        *("request to machine, s: median", "99 %", "CPU a lease, ms", "commits a lease", "MB"),
    )
    lines = [
        "# Lending",
        "",
        f"`make bench` on {machine}: {options.leases} leases at {LEASES_PER_MINUTE} a minute,",
        "while machines are free. The embedded cloud and the caller run on the same cores, which",
        f"had a load of {os.getloadavg()[2]:.0f} already: alone, times are shorter. CPU is that of",
        "the Machine Provider.",
        "",
        f"| {' | '.join(columns)} |",
        "|" + " --- |" * len(columns),
    ]
    for size in options.sizes:
        found = sample(size, options.leases)
        print(json.dumps({"machines": size, **found}))
        lines.append(
            f"| {size} | {found['add_1000_seconds']:.2f} | {found['add_1000_cpu']:.2f} "
            f"| {found['ready_seconds']:.0f} "
            f"| {found['wait_p50']:.3f} | {found['wait_p99']:.3f} "
            f"| {found['cpu_per_lease_ms']:.1f} | {found['commits_per_lease']:.2f} "
            f"| {found['resident_mb']:.0f} |"
        )
    (BENCH / "LENDING.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
