"""Commands as processes of their own, and what they say over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import multiprocessing
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import msgspec

from gce_backend.cli import main
from gce_backend.daemon.local import CONFIG_SET
from gce_backend.rules import cataloging
from support.cloud_harness import FLAVOR, TOKEN_PATH
from support.patience import PATIENCE

PROJECT = "local-project"
PRELOADED = [
    "gce_backend.daemon.daemon",
    "gce_backend.localcloud.assembly",
    "gce_backend.setup.messaging",
    "gce_backend.machine_provider.service",
    "processes.running",
    "support.records",
    "support.watch",
]
"""What commands and the records of their exchanges import; aiohttp's servers before pytest."""

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Process:
    """A running `gce-backend`, forked from a process that has imported it: its start costs little.

    Args:
        run: what it does, with the arguments.
        arguments: of `run`.
    """

    def __init__(self, run: Callable[..., None], *arguments: object) -> None:
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(PRELOADED)
        self._process = forks.Process(target=run, args=arguments)
        self._process.start()

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.exitcode

    def wait(self, within: float = PATIENCE) -> int:
        """The exit code, waited for.

        Args:
            within: so many seconds.
        """
        self._process.join(within)
        code = self.poll()
        assert code is not None, f"it has not ended within {within} s"
        return code

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None and self._process.pid is not None:
            os.kill(self._process.pid, number)


def _be_command(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    settling_seconds: float,
    *files: *tuple[Path, Path, Path],
) -> None:
    directory, out, log = files
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    cataloging.SETTLING_SECONDS = settling_seconds
    for stream, path in ((sys.stdout, out), (sys.stderr, log)):
        with path.open("ab") as file:
            os.dup2(file.fileno(), stream.fileno())
    main(arguments, prog_name="gce-backend")


class Command:
    """A running `gce-backend`.

    Attributes:
        out: what it writes on standard output.
        log: what it writes on standard error.
        process: itself.
        settling_seconds: for how long an addition that a kill cut off holds its machine: the one
            wait for which there is no setting.

    Args:
        directory: where it runs and where its files are.
        name: of those files.
        arguments: its own.
        environment: its variables beside those of the tests.
    """

    settling_seconds = cataloging.SETTLING_SECONDS

    def __init__(self, directory: Path, name: str, *arguments: str, **environment: str) -> None:
        self.out = directory / f"{name}.out"
        self.log = directory / f"{name}.log"
        self.log.touch()
        self._begin = self.log.stat().st_size
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("GCE_BACKEND_")}
        variables = {**inherited, **environment}
        files = directory, self.out, self.log
        self.process = Process(_be_command, arguments, variables, self.settling_seconds, *files)

    def events(self, message: str) -> list[dict[str, Any]]:
        """The log's events of this name, of this process only."""
        lines = self.log.read_bytes()[self._begin :].splitlines()
        events = [msgspec.json.decode(line) for line in lines if line.endswith(b"}")]
        return [event for event in events if event["message"] == message]

    def event(self, message: str) -> dict[str, Any]:
        """The first such event, waited for."""
        until(lambda: self.events(message) or not self.is_running)
        found = self.events(message)
        assert found, self.log.read_text()
        return found[0]

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def kill(self) -> None:
        """Kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, number: int = signal.SIGTERM, within: float = PATIENCE) -> int:
        """Sends a signal; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(within)


class Site:
    """A directory in which a cloud and a daemon run, each a process; both end with the test.

    Args:
        directory: for configuration, state file and logs.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "config"
        self.config.mkdir()
        self.files = ("--config", str(self.config), "--state", str(directory / "state.sqlite"))
        self.url = ""
        self._commands: list[Command] = []

    def start(self, name: str, *arguments: str, **environment: str) -> Command:
        """Starts a command."""
        command = Command(self.directory, name, *arguments, **environment)
        self._commands.append(command)
        return command

    def start_cloud(self, *arguments: str, port: int = 0) -> Command:
        """Starts the embedded cloud, and waits until it listens."""
        where = ["--port", str(port), *self.files]
        cloud = self.start("cloud", "localcloud", *where, *arguments)
        self.url = cloud.event("localcloud.started")["url"]
        return cloud

    @property
    def port(self) -> int:
        """Where the cloud listens."""
        return int(self.url.rpartition(":")[2])

    @property
    def environment(self) -> dict[str, str]:
        """All that a daemon is told: nothing but variables."""
        return {
            "GCE_BACKEND_PROJECT": PROJECT,
            "GCE_BACKEND_ENDPOINTS__COMPUTE": f"{self.url}/compute/v1/",
            "GCE_BACKEND_ENDPOINTS__DATASTORE": f"{self.url}/v1",
            "GCE_BACKEND_ENDPOINTS__PUBSUB": f"{self.url}/v1",
            "GCE_BACKEND_ENDPOINTS__METADATA": self.url,
            "GCE_BACKEND_ENDPOINTS__RESOURCE_MANAGER": f"{self.url}/v1",
            "GCE_BACKEND_CONFIG__SOURCE": "luci-v2",
            "GCE_BACKEND_HTTP__PORT": "0",
            "GCE_BACKEND_JOBS__IMPORT_CONFIG__CRON": "* * * * * *",
        }

    def set_up(self) -> None:
        """`gce-backend setup`: addresses, topic and subscription."""
        addresses = ["--config-service", self.url, "--machine-provider", self.url]
        done = self.start(
            "setup", "setup", "--config-set", CONFIG_SET, *addresses, **self.environment
        )
        assert done.process.wait() == 0, done.out.read_text() + done.log.read_text()

    def start_daemon(self, **environment: str) -> Command:
        """Starts the daemon; it need not have come far."""
        return self.start("daemon", "run", **{**self.environment, **environment})

    def start_local(self, *arguments: str) -> Command:
        """Starts a daemon with the embedded cloud in its process."""
        run = ("run", "--local", *self.files, *arguments)
        return self.start("local", *run, GCE_BACKEND_HTTP__PORT="0")

    def get(self, path: str, url: str | None = None) -> Any:
        """A JSON document of the cloud, or of the daemon at `url`."""
        return _request("GET", (url or self.url) + path)

    def authorized(self, verb: str, path: str, body: Any = None) -> Any:
        """A call of one of the cloud's services, with a token."""
        token = _request("GET", self.url + TOKEN_PATH, headers=FLAVOR)["access_token"]
        data = None if body is None else msgspec.json.encode(body)
        headers = {"Authorization": f"Bearer {token}"}
        return _request(verb, self.url + path, data, headers=headers)

    def inject(self, **fault: Any) -> None:
        """Injects a fault."""
        _request("POST", f"{self.url}/_localcloud/faults", msgspec.json.encode(fault))

    def happen(self, vm: str, event: str) -> None:
        """Lets something happen to a VM."""
        _request("POST", f"{self.url}/_localcloud/vms/{vm}/{event}")

    def existing(self) -> dict[str, set[str]]:
        """Names of what exists: templates, groups, VMs, machines in the catalog."""
        state = self.get("/_localcloud/state")
        compute = state["compute"]["projects"].get(PROJECT, {})
        return {
            "templates": set(compute.get("instanceTemplates", ())),
            "groups": set(compute.get("groups", ())),
            "vms": set(compute.get("instances", ())),
            "catalog": set(state["machine_provider"].get("catalog", ())),
        }

    def counts(self) -> tuple[int, int, int, int]:
        """How many templates, groups, VMs and catalog entries there are."""
        found = self.existing()
        return (
            len(found["templates"]),
            len(found["groups"]),
            len(found["vms"]),
            len(found["catalog"]),
        )

    def until_counts(self, templates: int, groups: int, vms: int, catalog: int) -> None:
        """Waits until exactly these exist."""
        wanted = (templates, groups, vms, catalog)
        until(lambda: self.counts() == wanted, lambda: f"{self.counts()} instead of {wanted}")

    def end(self) -> None:
        """Kills what still runs."""
        for command in self._commands:
            if command.is_running:
                command.kill()


class Screen:
    """A terminal that nobody sits at, wide enough for one line to be one line."""

    def __init__(self) -> None:
        self._end, self._device = pty.openpty()
        termios.tcsetwinsize(self._device, (40, 250))
        os.set_blocking(self._end, False)
        self._seen = b""

    def start(self, directory: Path, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts a command in this terminal."""
        return subprocess.Popen(
            [sys.executable, "-m", "gce_backend", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._device,
            stderr=self._device,
            env={**os.environ, "TERM": "xterm", "GCE_BACKEND_HTTP__PORT": "0"},
            cwd=directory,
        )

    def text(self) -> str:
        """All that was ever written on it, without colours."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._end, 65536):
                self._seen += data
        return _CONTROL.sub("", self._seen.decode(errors="replace"))

    def close(self) -> None:
        """Ends it."""
        os.close(self._device)
        os.close(self._end)


def _request(
    verb: str,
    url: str,
    body: bytes | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Any:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=PATIENCE)
    with contextlib.closing(connection):
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.request(verb, target, body, dict(headers))
        return msgspec.json.decode(connection.getresponse().read())


@contextlib.contextmanager
def site(directory: Path) -> Iterator[Site]:
    """A site, and its end."""
    made = Site(directory)
    try:
        yield made
    finally:
        made.end()


def until(condition: Callable[[], object], explain: Callable[[], str] = lambda: "") -> None:
    """Waits, in real time, until something holds; what cannot be reached yet does not hold."""
    end = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException, msgspec.DecodeError):
            if condition():
                return
        assert time.monotonic() < end, explain()
        time.sleep(0.05)
