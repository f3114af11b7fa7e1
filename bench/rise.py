"""From an empty store to N machines in the catalog: seconds, CPU, memory, and calls by method.

Two processes on loopback, the embedded cloud without latencies; a fresh pair for each sample.
Writes one table to bench/RESULTS.md and the same as JSON beside it. The cloud counts the calls.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parent
ZONES = (
    *("us-central1-a", "us-central1-b", "us-central1-c", "us-central1-f"),
    *("us-east1-b", "us-east1-c", "us-east4-a", "us-east4-b"),
    *("europe-west1-b", "europe-west1-c"),
)
GROUP_SIZE = 100
PATIENCE, PATIENCE_OF_A_MACHINE = 180.0, 0.004
COMMAND = (sys.executable, "-m", "gce_backend")
SET_METADATA = "compute.instances.setMetadata"
FEW = 1000
"""Machines whose metadata is set within seconds, at Google's rates in four regions."""
OF_EACH = ("compute_calls", "log_bytes")
COUNTED = (
    "compute.instanceGroupManagers.aggregatedList",
    "compute.instanceGroupManagers.listManagedInstances",
    "datastore.projects.commit",
    "machine_provider.catalog.add_machines",
)


def write_config(directory: Path, machines: int) -> None:
    """Templates with ten groups of a hundred machines each."""
    directory.mkdir()
    templates, managers = [], []
    for group in range(machines // GROUP_SIZE):
        number, zone = divmod(group, len(ZONES))
        if zone == 0:
            templates.append(
                f'templates {{ base_name: "t{number}" project: "local-project" '
                'machine_type: "e2-small" image_name: "debian-12" disk_size_gb: 20 '
                'service_accounts { name: "default" } dimensions: "os_family:LINUX" }\n'
            )
        managers.append(
            f'managers {{ template_base_name: "t{number}" zone: "{ZONES[zone]}" '
            f"minimum_size: {GROUP_SIZE} }}\n"
        )
    (directory / "templates.cfg").write_text("".join(templates))
    (directory / "managers.cfg").write_text("".join(managers))


def environment(url: str, directory: Path) -> dict[str, str]:
    """The daemon's settings: everything is at `url`."""
    return {
        **os.environ,
        "GCE_BACKEND_PROJECT": "local-project",
        "GCE_BACKEND_ENDPOINTS__COMPUTE": f"{url}/compute/v1/",
        "GCE_BACKEND_ENDPOINTS__DATASTORE": f"{url}/v1",
        "GCE_BACKEND_ENDPOINTS__PUBSUB": f"{url}/v1",
        "GCE_BACKEND_ENDPOINTS__RESOURCE_MANAGER": f"{url}/v1",
        "GCE_BACKEND_ENDPOINTS__METADATA": url,
        "GCE_BACKEND_HTTP__PORT": "0",
        "GCE_BACKEND_CONFIG__SOURCE": "directory",
        "GCE_BACKEND_CONFIG__DIRECTORY": str(directory),
    }


@contextmanager
def process(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A command that runs while the block lasts, and ends cleanly."""
    started = subprocess.Popen([*COMMAND, *arguments], text=True, **options)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(30)


def used(pid: int) -> tuple[float, float]:
    """CPU seconds and resident MB of a process."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    status = Path(f"/proc/{pid}/status").read_text()
    kilobytes = int(status.partition("VmRSS:")[2].split()[0])
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), kilobytes / 1024


@contextmanager
def served(place: Path, machines: int) -> Iterator[tuple[str, dict[str, str]]]:
    """An embedded cloud, set up for so many machines: its address, and a daemon's settings."""
    write_config(place / "config", machines)
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    state = str(place / "state.sqlite")
    with process("localcloud", "--port", "0", "--no-latency", "--state", state, **quiet) as it:
        url = it.stdout.readline().strip() if it.stdout else ""
        settings = environment(url, place / "config")
        where = ("--config-set", "bench", "--config-service", url, "--machine-provider", url)
        subprocess.run([*COMMAND, "setup", *where], env=settings, check=False, capture_output=True)
        urllib.request.urlopen(  # noqa: S310 -- our own cloud, on loopback
            urllib.request.Request(f"{url}/_localcloud/calls", method="DELETE")  # noqa: S310
        ).close()
        yield url, settings


def machine() -> str:
    """What it is measured on, and what else it was busy with."""
    cores, load = os.cpu_count() or 1, os.getloadavg()[2]
    what = f"{cores} cores, {platform.machine()}, Python {platform.python_version()}"
    if load < 2 * cores:
        return what
    return f"{what}, busy with other work (a load of {load:.0f}: alone, times are much shorter)"


def sample(machines: int) -> dict[str, Any]:
    """One rise, from starting the daemon to the last machine in the catalog."""
    with tempfile.TemporaryDirectory() as name, served(Path(name), machines) as (url, settings):
        return rise(machines, settings, url, Path(name) / "log")


def cataloged(log: Path) -> int:
    """How many machines the daemon's log says are in the catalog."""
    lines = log.read_text().rpartition("\n")[0].splitlines()
    runs = [line for line in lines if '"job.finished"' in line and '"catalog-instances"' in line]
    return sum(json.loads(run)["facts"].get("cataloged", 0) for run in runs)


def calls_at(url: str) -> dict[str, int]:
    """The calls that the cloud has counted, by method."""
    with urllib.request.urlopen(f"{url}/_localcloud/calls") as answer:  # noqa: S310
        found: dict[str, int] = json.load(answer)
    return found


def until_leasable(machines: int, url: str, log: Path) -> dict[str, float]:
    """What each machine has cost once its metadata is set: calls to Compute, bytes of log."""
    end = time.monotonic() + PATIENCE
    while calls_at(url).get(SET_METADATA, 0) < machines and time.monotonic() < end:
        time.sleep(0.5)
    time.sleep(3.0)  # for the operations
    calls = calls_at(url)
    total = sum(number for method, number in calls.items() if method.startswith("compute."))
    return {"compute_calls": total / machines, "log_bytes": log.stat().st_size / machines}


def rise(machines: int, settings: dict[str, str], url: str, log: Path) -> dict[str, Any]:
    """Runs the daemon until all machines are in the catalog."""
    begun = time.monotonic()
    with log.open("w") as stream, process("run", env=settings, stderr=stream) as daemon:
        while cataloged(log) < machines:
            if time.monotonic() - begun > PATIENCE + PATIENCE_OF_A_MACHINE * machines:
                sys.exit(f"{machines} machines were not cataloged in time")
            time.sleep(0.05 + machines / 1e6)
        seconds = time.monotonic() - begun
        cpu, resident = used(daemon.pid)
        calls = calls_at(url)
        leasable = until_leasable(machines, url, log) if machines <= FEW else {}
    return {
        **leasable,
        "seconds": seconds,
        "cpu": cpu,
        "resident_mb": resident,
        "calls": {method: calls.get(method, 0) for method in COUNTED},
    }


def main() -> None:
    """Measures, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--samples", type=int, default=5)
    options = parser.parse_args()
    results: dict[int, list[dict[str, Any]]] = {size: [] for size in options.sizes}
    for number in range(options.samples):
        for size in options.sizes:
            results[size].append(sample(size))
            print(f"sample {number + 1}, N={size}: {results[size][-1]['seconds']:.2f} s")
    lines = [
        "# Results",
        "",
        f"`make bench` on {machine()}; median of {options.samples} samples (lowest-highest).",
        "",
        "| empty to N cataloged | seconds | daemon CPU s | daemon MB | "
        + " | ".join(method.rpartition(".")[2] for method in COUNTED)
        + " |",
        "| --- | --- | --- | --- |" + " --- |" * len(COUNTED),
    ]
    for size, found in results.items():
        cells = [f"N={size}"]
        for field, digits in (("seconds", 2), ("cpu", 2), ("resident_mb", 0)):
            values = [one[field] for one in found]
            middle = statistics.median(values)
            cells.append(f"{middle:.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})")
        cells += [
            f"{statistics.median(one['calls'][method] for one in found):g}" for method in COUNTED
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| made to leasable | calls to Compute a machine | bytes of log a machine |"]
    lines += ["| --- | --- | --- |"]
    for size, found in results.items():
        if size <= FEW:
            values = (statistics.median(it[name] for it in found) for name in OF_EACH)
            lines.append(f"| N={size} | " + " | ".join(f"{value:.3g}" for value in values) + " |")
    (BENCH / "RESULTS.md").write_text("\n".join(lines) + "\n")
    (BENCH / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
