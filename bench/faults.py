"""What becomes of requests when machines vanish and when a zone is sold out.

Two processes on loopback, the embedded cloud with its default latencies (a VM takes 4 s to boot).
Writes bench/FAULTS.md. Nodepool's answers to the same faults were recorded once.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from demand import BENCH, TEMPLATE
from rise import COMMAND, PATIENCE, environment, process

ZONES = ("us-central1-a", "us-central1-b")
MANAGER = (
    f'managers {{ template_base_name: "t" zones: "{ZONES[0]}" zones: "{ZONES[1]}" '
    "minimum_size: %d maximum_size: 20 }\n"
)
SETTLED, WATCHED = 60.0, 180.0
"""Seconds until a fleet is at rest, and for which orders to delete are counted."""
DELETIONS = ("instances.delete", "instanceGroupManagers.deleteInstances")
NODEPOOL = {
    "free": "never: 4 of 4 given out in 5 minutes",
    "held": "never",
    "orders": "9.4, without end",
    "zone": "5 of 10 within 12 s, the others not in 5 minutes",
    "said": "nothing: its machines are `building`",
}
"""What Nodepool did: it retries a launch after an hour, three times, then fails the request."""


class Cloud:
    """An embedded cloud with a daemon.

    Args:
        url: where the cloud listens.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._headers = {"Metadata-Flavor": "Google", "Content-Type": "application/json"}
        token = self.call("GET", "/computeMetadata/v1/instance/service-accounts/default/token")
        self._headers["Authorization"] = f"Bearer {token['access_token']}"

    def call(self, verb: str, path: str, body: Any = None) -> Any:
        """Asks the cloud, or the Machine Provider in it; returns what it answers."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 -- our own cloud, on loopback
            self._url + path, data, self._headers, method=verb
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            text = answer.read()
        return json.loads(text) if text else None

    def vms(self) -> dict[str, str]:
        """The zone of each VM that runs, by name."""
        listed = self.call("GET", "/compute/v1/projects/local-project/aggregated/instances")
        return {
            vm["name"]: scope.rpartition("/")[2]
            for scope, found in listed["items"].items()
            for vm in found.get("instances", ())
            if vm["status"] == "RUNNING"
        }

    def free(self) -> set[str]:
        """The machines that the catalog offers."""
        machines = self.call("GET", "/api/v1/machines")["machines"]
        return {one["name"] for one in machines if one["state"] == "AVAILABLE"}

    def ask(self, name: str) -> dict[str, Any]:
        """Asks for a machine; repeating it with the same name tells how the request stands."""
        body = {"request_id": name, "duration": 3600, "dimensions": {"os_family": "LINUX"}}
        lease: dict[str, Any] = self.call("POST", "/api/v1/leases", body)
        return lease

    def served(self, count: int, name: str) -> tuple[float, list[dict[str, Any]]]:
        """Asks for machines, all at once; returns the seconds until the last, and the leases."""
        begun = time.monotonic()
        names = [f"{name}{number}" for number in range(count)]
        until(lambda: {self.ask(one)["state"] for one in names} == {"active"}, "leases")
        return time.monotonic() - begun, [self.ask(one) for one in names]

    def delete_vms(self) -> None:
        """Lets somebody else delete all VMs."""
        for name, zone in self.vms().items():
            self.call("POST", f"/_localcloud/vms/{name}/delete?zone={zone}")


def until(holds: Callable[[], bool], what: str) -> None:
    """Waits until something holds; ends the program when it does not come."""
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            sys.exit(f"{what}: not within {PATIENCE:.0f} s")
        time.sleep(0.1)


@contextmanager
def fleet(minimum: int) -> Iterator[tuple[Cloud, Path]]:
    """A daemon with a pool in two zones, whose machines are all in the catalog; and its log."""
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
            log = place / "log"
            with log.open("w") as stream, process("run", env=settings, stderr=stream):
                cloud = Cloud(url)
                until(lambda: log.read_text().count('"group.created"') == 2, "groups")
                until(lambda: len(cloud.free()) == minimum, "machines")
                yield cloud, log


def vanished() -> tuple[float, float, int]:
    """Somebody deletes the VMs of four machines, of which two are leased.

    Returns:
        Seconds until none of them can be leased, seconds until the leases have ended, and the
        orders to delete VMs in three minutes.
    """
    with fleet(4) as (cloud, _):
        _, leases = cloud.served(2, "vanished")
        time.sleep(SETTLED)
        names = {lease["request_id"] for lease in leases}
        deleted = set(cloud.vms())
        cloud.call("DELETE", "/_localcloud/calls")
        cloud.delete_vms()
        begun = time.monotonic()
        until(lambda: not cloud.free() & deleted, "out of the catalog")
        out = time.monotonic() - begun
        until(lambda: all(cloud.ask(name)["state"] == "ended" for name in names), "ended leases")
        ended = time.monotonic() - begun
        time.sleep(max(WATCHED - ended, 0))
        calls = cloud.call("GET", "/_localcloud/calls")
        return out, ended, sum(calls.get(f"compute.{method}", 0) for method in DELETIONS)


def sold_out() -> tuple[float, str]:
    """One of two zones has no machines.

    Returns:
        Seconds until ten requests are served, and the reason that the daemon gives for the zone.
    """
    with fleet(0) as (cloud, log):
        fault = {"kind": "stockout", "zone": ZONES[0], "times": None}
        cloud.call("POST", "/_localcloud/faults", fault)
        seconds, _ = cloud.served(10, "stockout")
        entries = [json.loads(line) for line in log.read_text().splitlines()]
    said = [one["reason"] for one in entries if one["message"] == "group.failing"]
    return seconds, said[0] if said else "nothing"


def main() -> None:
    """Measures, and writes the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    seconds, said = sold_out()
    out, ended, orders = vanished()
    rows = (
        (
            "4 VMs deleted by somebody else: until none of them is leased to anyone",
            f"{out:.0f} s",
            "free",
        ),
        (
            "the same: until the leases on them have ended, with the reason",
            f"{ended:.0f} s",
            "held",
        ),
        (
            "the same: orders to delete such a VM, a minute and VM",
            f"{orders / 3 / 4:.1f}",
            "orders",
        ),
        (
            "10 requests, one of two zones sold out: until the last is served",
            f"{seconds:.0f} s",
            "zone",
        ),
        ("what is said of that zone", said, "said"),
    )
    lines = [
        "# When things go wrong",
        "",
        "`python bench/faults.py` on the embedded cloud with its default latencies. The daemon",
        "looks at its VMs once a minute, so the first two figures vary between 1 s and 76 s.",
        "Nodepool 11.0.0 was measured once, as",
        "[Alternatives](../docs/comparison.md#zuuls-launcher-and-nodepool) says.",
        "",
        "| what | this daemon | Nodepool |",
        "| --- | --- | --- |",
        *(f"| {what} | {ours} | {NODEPOOL[theirs]} |" for what, ours, theirs in rows),
    ]
    (BENCH / "FAULTS.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
