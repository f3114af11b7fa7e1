"""From a request to a machine, beside what Nodepool was measured at on the same embedded cloud.

Two processes on loopback, the embedded cloud with its default latencies (a VM takes 4 s to boot).
Writes bench/DEMAND.md. Nodepool's figures were recorded once, with its default settings.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rise import COMMAND, PATIENCE, cataloged, environment, process

BENCH = Path(__file__).parent
TEMPLATE = (
    'templates { base_name: "t" project: "local-project" machine_type: "e2-small" '
    'image_name: "debian-12" disk_size_gb: 20 service_accounts { name: "default" } '
    'dimensions: "os_family:LINUX" }\n'
)
MANAGER = (
    'managers { template_base_name: "t" zone: "us-central1-a" '
    "minimum_size: %d maximum_size: 300 }\n"
)
ZONE = "/compute/v1/projects/local-project/zones/us-central1-a"
PROVIDER = "/_ah/api/machine_provider/v1"
SETTLED, AT_REST = 30.0, 120.0
"""Seconds until a fleet is at rest, and for which it is then watched."""
NODEPOOL = {
    "pool": "3.5 s",
    "demand": "15.4 s",
    "calls": "110",
    "kept": "11 in 3.3 to 3.7 s",
    "made": "9 in 15.2 to 15.5 s",
    "returned": "25.5 s, 23 calls",
    "rest": "1.0",
}
"""What Nodepool needed, with its default settings, on the same cloud."""


class Fleet:
    """A cloud and a daemon.

    Args:
        url: where the cloud listens.
        log: the daemon's log.

    Attributes:
        log: the same.
        url: the same.
        token: an access token for the cloud.
        pid: the daemon's process, once it runs.
    """

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self.pid = 0
        self._own_calls = 0
        self._held: set[str] = set()
        self.log = log
        self.token = ""
        token = self._call("GET", "/computeMetadata/v1/instance/service-accounts/default/token")
        self.token = token["access_token"]

    def _call(self, verb: str, path: str, body: Any = None) -> Any:
        headers = {"Metadata-Flavor": "Google", "Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 -- our own cloud, on loopback
            self.url + path, data, headers, method=verb
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            text = answer.read()
        return json.loads(text) if text else None

    def cataloged(self) -> int:
        """How many machines the daemon has added to the catalog."""
        return cataloged(self.log)

    def has_group(self) -> bool:
        """Whether the daemon has made its group."""
        return '"group.created"' in self.log.read_text()

    def compute_calls(self) -> int:
        """Calls of the daemon to Compute Engine."""
        calls = self._call("GET", "/_localcloud/calls")
        total = sum(number for name, number in calls.items() if name.startswith("compute."))
        return total - self._own_calls

    def vms(self) -> set[str]:
        """The names of all VMs of the zone."""
        self._own_calls += 1
        return {vm["name"] for vm in self._call("GET", f"{ZONE}/instances").get("items", ())}

    def lease(self, count: int) -> list[float]:
        """Asks for machines, all at once.

        Returns:
            The seconds until each was given, ascending.
        """
        begun = time.monotonic()
        waiting, served = {f"r{number}" for number in range(count)}, []
        while waiting:
            for name in sorted(waiting):
                body = {"request_id": name, "duration": 3600, "dimensions": {"os_family": "LINUX"}}
                if host := self._call("POST", f"{PROVIDER}/lease", body).get("hostname"):
                    self._held.add(host)
                    waiting.discard(name)
                    served.append(time.monotonic() - begun)
            if time.monotonic() - begun > PATIENCE:
                sys.exit(f"{len(waiting)} requests were not served within {PATIENCE:.0f} s")
            time.sleep(0.1)
        return served

    def give_back(self, count: int) -> tuple[float, int]:
        """Releases the machines of all requests at once.

        Returns:
            The seconds until their VMs are gone, and the daemon's calls until then.
        """
        calls, begun = self.compute_calls(), time.monotonic()
        for number in range(count):
            self._call("POST", f"{PROVIDER}/release", {"request_id": f"r{number}"})
        while self._held & self.vms():
            if time.monotonic() - begun > PATIENCE:
                sys.exit(f"the returned machines were not gone within {PATIENCE:.0f} s")
            time.sleep(0.1)
        return time.monotonic() - begun, self.compute_calls() - calls

    def calls_at_rest(self) -> float:
        """The daemon's calls to Compute Engine a minute, while nobody asks for anything."""
        time.sleep(SETTLED)
        calls = self.compute_calls()
        time.sleep(AT_REST)
        return (self.compute_calls() - calls) / (AT_REST / 60)


@contextmanager
def fleet(minimum: int) -> Iterator[Fleet]:
    """A daemon with a group of this minimum, all of whose machines are in the catalog."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "config").mkdir()
        (place / "config" / "templates.cfg").write_text(TEMPLATE)
        (place / "config" / "managers.cfg").write_text(MANAGER % minimum)
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        state = str(place / "state.sqlite")
        with process("localcloud", "--port", "0", "--state", state, **quiet) as it:
            url = it.stdout.readline().strip() if it.stdout else ""
            settings = environment(url, place / "config")
            where = ("--config-set", "bench", "--config-service", url, "--machine-provider", url)
            subprocess.run(
                [*COMMAND, "setup", *where], env=settings, check=False, capture_output=True
            )
            found = Fleet(url, place / "log")
            with (
                found.log.open("w") as stream,
                process("run", env=settings, stderr=stream) as daemon,
            ):
                found.pid = daemon.pid
                end = time.monotonic() + PATIENCE
                while found.cataloged() < minimum or '"group.created"' not in found.log.read_text():
                    if time.monotonic() > end:
                        sys.exit(f"{minimum} machines were not cataloged within {PATIENCE:.0f} s")
                    time.sleep(0.05)
                yield found


def span(waits: list[float]) -> str:
    """The shortest and the longest of some waits, ascending."""
    return f"{waits[0]:.1f} to {waits[-1]:.1f} s"


def main() -> None:
    """Measures, and writes the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with fleet(10) as one:
        time.sleep(2)  # the Machine Provider has set up the last machine
        pool = one.lease(10)[-1]
    with fleet(0) as one:
        demand = one.lease(10)[-1]
    with fleet(100) as one:
        calls = one.compute_calls()
    with fleet(10) as one:
        time.sleep(2)
        waits = one.lease(20)
        gone, until_gone = one.give_back(20)
        rest = one.calls_at_rest()
    kept, made = waits[:10], waits[10:]
    rows = (
        ("10 requests to a pool of 10, until the last is served", f"{pool:.1f} s", "pool"),
        ("10 requests to an empty pool, until the last is served", f"{demand:.1f} s", "demand"),
        ("100 machines, calls to Compute Engine until all are ready", f"{calls}", "calls"),
        ("20 requests to a pool of 10, those that it serves", f"10 in {span(kept)}", "kept"),
        ("the others, whose machines are made", f"10 in {span(made)}", "made"),
        (
            "the 20 are returned, until their VMs are gone",
            f"{gone:.1f} s, {until_gone} calls",
            "returned",
        ),
        ("at rest after that, calls to Compute Engine a minute", f"{rest:.1f}", "rest"),
    )
    lines = [
        "# From a request to a machine",
        "",
        "`python bench/demand.py` on the embedded cloud with its default latencies. Nodepool was",
        "measured once on the same cloud, with its default settings.",
        "",
        "| what | this daemon | Nodepool |",
        "| --- | --- | --- |",
        *(f"| {what} | {ours} | {NODEPOOL[theirs]} |" for what, ours, theirs in rows),
    ]
    (BENCH / "DEMAND.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
