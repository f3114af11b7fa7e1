"""Two daemons on one store: how long nobody works when the leader is killed or stopped.

Three processes on loopback, the embedded cloud without latencies. N machines are cataloged; another
daemon stands by; the leader is ended, and the other one leads. The next leader is ended the other
way, and so on. Writes bench/HANDOVER.md. The cloud counts the calls.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rise import BENCH, COMMAND, calls_at, cataloged, machine, served, used

PATIENCE = 600.0
WARM_SECONDS = 5.0
READS = ("datastore.projects.lookup", "datastore.projects.runQuery")


class Daemon:
    """A daemon as a process of its own."""

    def __init__(self, settings: dict[str, str], log: Path) -> None:
        self.log = log
        self._stream: IO[str] = log.open("w")
        self._process = subprocess.Popen([*COMMAND, "run"], env=settings, stderr=self._stream)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def until(self, words: str) -> None:
        """Waits until its log holds these words."""
        end = time.monotonic() + PATIENCE
        while words not in self.log.read_text():
            if time.monotonic() > end or self._process.poll() is not None:
                sys.exit(f"the daemon did not say {words!r}: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def end(self, how: signal.Signals) -> None:
        """Ends it; does not wait."""
        self._process.send_signal(how)

    def gone(self) -> None:
        """Waits for its end."""
        self._process.wait(60)
        self._stream.close()


@contextlib.contextmanager
def daemons() -> Iterator[list[Daemon]]:
    """The daemons that run; none is left behind."""
    running: list[Daemon] = []
    try:
        yield running
    finally:
        for daemon in running:
            daemon.end(signal.SIGKILL)
            daemon.gone()


def sample(machines: int, rounds: int) -> dict[str, list[tuple[float, int, float]]]:
    """For each way to end a leader: seconds without one, reads of the next one, its CPU."""
    found: dict[str, list[tuple[float, int, float]]] = {"SIGTERM": [], "SIGKILL": []}
    with tempfile.TemporaryDirectory() as name, served(Path(name), machines) as (url, alone):
        settings = alone | {"GCE_BACKEND_STORE__LEADER_ELECTION": "true"}
        with daemons() as running:
            running.append(Daemon(settings, Path(name) / "0"))
            end = time.monotonic() + PATIENCE
            while cataloged(running[0].log) < machines:
                if time.monotonic() > end:
                    sys.exit(f"{machines} machines were not cataloged")
                time.sleep(0.2)
            for number in range(1, 2 * rounds + 1):
                running.append(Daemon(settings, Path(name) / str(number)))
                leader, standby = running
                standby.until('"standby.ready"')
                time.sleep(WARM_SECONDS)
                how = signal.SIGTERM if number % 2 else signal.SIGKILL
                before, cpu = calls_at(url), used(standby.pid)[0]
                begun = time.monotonic()
                leader.end(how)
                standby.until('"store.loaded"')
                took = time.monotonic() - begun
                after = calls_at(url)
                reads = sum(after.get(it, 0) - before.get(it, 0) for it in READS)
                found[how.name].append((took, reads, used(standby.pid)[0] - cpu))
                leader.gone()
                running.remove(leader)
                print(f"{machines} machines, {how.name}: {took:.2f} s")
    return found


def main() -> None:
    """Measures, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--rounds", type=int, default=3, help="hand-overs of each kind")
    options = parser.parse_args()
    lines = [
        "# Hand-over",
        "",
        f"`make bench` on {machine()}; median of {options.rounds} hand-overs (lowest-highest).",
        "Seconds from the signal until the standby daemon leads with a picture that is known to be",
        "current. `store.takeover_seconds` is 10. Reads: lookups and queries in that time, of all.",
        "",
        "| machines | the leader gets | seconds | CPU s of the next leader | reads |",
        "| --- | --- | --- | --- | --- |",
    ]
    for size in options.sizes:
        for how, values in sample(size, options.rounds).items():
            took, reads, cpu = zip(*values, strict=True)
            seconds = f"{statistics.median(took):.2f} ({min(took):.2f}-{max(took):.2f})"
            rest = f"{statistics.median(cpu):.2f} | {statistics.median(reads):g}"
            lines.append(f"| {size} | {how} | {seconds} | {rest} |")
    (BENCH / "HANDOVER.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    os.chdir(BENCH)
    main()
