"""The start with N machines in the store, and what each page and document then costs the server.

A daemon that only watches (`actuate = false`) starts on the store of a fleet that has risen, so
that what a page costs is not mixed with the work of jobs. CPU is the daemon's, a request's share of
many, and the median of five samples; bytes are those on the wire, packed. Writes bench/PAGES.md.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from rise import BENCH, machine, process, rise, served, used

PATHS = (
    *("/", "/machines", "/machines?state=cataloged&page=30", "/machines?q=us-east1-b-0", "/jobs"),
    *("/events", "/messages", "/configuration", "/metrics", "/api/status", "/api/jobs"),
    *("/api/machines?limit=500", "/api/fleet?limit=10", "/api/events?limit=100"),
)
BUDGET = 0.2
"""CPU seconds of a page."""
TIMES = 10
"""Requests of each path that are measured together: the system counts CPU in steps of 10 ms."""
SAMPLES = 5
"""Of which the median is told, so that a job that ran meanwhile does not count."""
PATIENCE = 300.0


def loaded(log: Path) -> bool:
    """Whether the daemon's log says that it has loaded its entities."""
    return '"store.loaded"' in log.read_text()


def fetch(url: str) -> int:
    """Bytes of an answer on the wire."""
    asked = urllib.request.Request(url, headers={"Accept-Encoding": "gzip"})  # noqa: S310 -- ours
    with urllib.request.urlopen(asked) as answer:  # noqa: S310 -- the same
        return len(answer.read())


def cost(pid: int, url: str) -> float:
    """CPU seconds of a process for a request."""
    before = used(pid)[0]
    for _ in range(TIMES):
        fetch(url)
    return (used(pid)[0] - before) / TIMES


def sample(machines: int) -> list[str]:
    """The lines of the tables for a fleet of that size."""
    with tempfile.TemporaryDirectory() as name, served(Path(name), machines) as (url, settings):
        place = Path(name)
        risen = rise(machines, settings, url, place / "log")
        watching = settings | {"GCE_BACKEND_ACTUATE": "false"}
        log = place / "second"
        begun = time.monotonic()
        with log.open("w") as stream, process("run", env=watching, stderr=stream) as daemon:
            while not loaded(log):
                if time.monotonic() - begun > PATIENCE:
                    sys.exit("the daemon does not load its entities")
                time.sleep(0.05)
            seconds = time.monotonic() - begun
            cpu, resident = used(daemon.pid)
            found = re.search(r'"url": ?"([^"]+)"', log.read_text())
            root = json.loads(f'"{found[1]}"') if found else ""
            risen_in = f"{risen['seconds']:.1f} s to rise with {risen['cpu']:.1f} s of CPU and"
            started_in = f"a start takes {seconds:.1f} s, {cpu:.1f} s of CPU and {resident:.0f} MB"
            lines = [
                f"{machines} machines: {risen_in} {risen['resident_mb']:.0f} MB; {started_in}.",
                "",
                f"| with {machines} machines | CPU ms of the server | bytes on the wire |",
                "| --- | --- | --- |",
            ]
            for path in PATHS:
                size = fetch(root + path)  # the first one looks at all machines
                time.sleep(0.2)
                took = statistics.median(cost(daemon.pid, root + path) for _ in range(SAMPLES))
                mark = "" if took <= BUDGET else ", above the budget"
                lines.append(f"| `{path}` | {took * 1000:.0f}{mark} | {size} |")
    return [*lines, ""]


def main() -> None:
    """Measures, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", type=int, nargs="*", default=[10_000])
    options = parser.parse_args()
    lines = [
        "# Pages",
        "",
        f"`make bench` on {machine()}. The budget of a page is {BUDGET * 1000:.0f} ms.",
        "",
    ]
    for size in options.sizes:
        lines += sample(size)
    (BENCH / "PAGES.md").write_text("\n".join(lines).rstrip() + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
