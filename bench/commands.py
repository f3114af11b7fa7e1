"""What a command costs before it does anything: CPU seconds and modules, for each light command.

A fresh process for each sample, commands in turn. `status` asks a daemon that runs beside it on an
embedded cloud of its own; `pause` and `plan` ask that cloud. Writes bench/COMMANDS.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from rise import BENCH, PATIENCE, process

MODULES = "import sys; from gce_backend.cli import main; main(prog_name='gce-backend')"
COUNT = f"import atexit, sys; atexit.register(lambda: print(len(sys.modules))); {MODULES}"
PROGRAM = str(Path(sys.executable).with_name("gce-backend"))
COMPLETION = {"_GCE_BACKEND_COMPLETE": "bash_complete", "COMP_CWORD": "1"}
COMMANDS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "version": (("version",), {}),
    "--help": (("--help",), {}),
    "status --help": (("status", "--help"), {}),
    "completion of a command": ((), {**COMPLETION, "COMP_WORDS": "gce-backend st"}),
    "completion of a name": (
        (),
        {**COMPLETION, "COMP_CWORD": "2", "COMP_WORDS": "gce-backend drain li"},
    ),
    "status": (("status",), {}),
    "pause": (("pause",), {}),
    "plan": (("plan",), {}),
}
BUDGET = {"completion of a name": 0.2, "status": 0.3, "pause": 0.6, "plan": 0.75}
"""CPU seconds; 0.15 for the others."""
SERVICES = {"pause", "plan"}
"""Commands that ask Google's services themselves, with the settings that a local run leaves."""


def cpu_of(arguments: tuple[str, ...], environment: dict[str, str]) -> float:
    """User and system seconds of one run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [PROGRAM, *arguments],
        env=environment,
        capture_output=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def modules_of(arguments: tuple[str, ...], environment: dict[str, str]) -> int:
    """How many modules of all kinds one run loads."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1])


def wait_for(url: str) -> None:
    """Waits until a daemon is ready."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(url):  # noqa: S310 -- ours
            return
        time.sleep(0.2)
    sys.exit(f"nothing is ready at {url}")


def main() -> None:
    """Measures, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=9)
    samples = parser.parse_args().samples
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as place:
        config = Path(place) / "config"
        config.mkdir()
        (config / "templates.cfg").touch()
        (config / "managers.cfg").touch()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        local = {**os.environ, "GCE_BACKEND_HTTP__PORT": str(port)}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with process("run", "--local", "--config", str(config), cwd=place, env=local, **quiet):
            wait_for(f"{url}/readyz")
            asking = {**os.environ, "GCE_BACKEND_URL": url}
            found_at = ("--settings", str(Path(place) / "var/localcloud.toml"))
            commands = {
                name: ((*arguments, *found_at) if name in SERVICES else arguments, more)
                for name, (arguments, more) in COMMANDS.items()
            }
            for _ in range(samples):
                for name, (arguments, more) in commands.items():
                    found[name].append(cpu_of(arguments, {**asking, **more}))
            modules = {
                name: modules_of(arguments, {**asking, **more})
                for name, (arguments, more) in commands.items()
            }
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    lines = [
        "# Commands",
        "",
        f"`make bench` on {machine}; median of {samples} samples (lowest-highest).",
        "",
        "| command | CPU s | budget | modules |",
        "| --- | --- | --- | --- |",
    ]
    for name, seconds in found.items():
        cells = f"{statistics.median(seconds):.3f} ({min(seconds):.3f}-{max(seconds):.3f})"
        lines.append(f"| {name} | {cells} | {BUDGET.get(name, 0.15)} | {modules[name]} |")
    (BENCH / "COMMANDS.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
