#!/usr/bin/env python3
"""The agent of a leased machine: lets the lessee in by SSH, and runs hooks, while the lease runs.

One file for Python 3.8 or newer, with nothing but its standard library. It runs on a Compute Engine
VM whose machine a Machine Provider leases out, and asks for no right but that of its subscription.

What it does follows from what the Machine Provider answers to its report. Messages of its
subscription only let it report at once. So a lost message delays it, and a restart repeats nothing
that was done: the state file says what was.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import json
import os
import pwd
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Optional

VERSION = "2"
CONNECT_SECONDS = 10.0
PULL_SECONDS = 120.0
"""Seconds that a pull may wait: longer than Pub/Sub holds one without messages."""
METADATA_SECONDS = 60
"""Seconds that one request at most waits for the subscription to appear in the metadata."""
PREEMPTION_SECONDS = 30.0
"""Seconds from the notice that Compute Engine takes the VM back until it stops."""
REPORT_SECONDS = 30.0
"""Seconds between two reports while the machine is leased."""
IDLE_FACTOR = 10.0
"""By how much these are more while it is not leased."""
LONGEST_PAUSE_SECONDS = 60.0
"""Seconds of the longest pause after failures in a row."""
IDENTITY_SECONDS = 1800.0
"""Seconds for which an identity token is used: half of its life."""
HOOK_SECONDS = 300.0
"""Seconds that a hook may run."""
MAX_BYTES = 2**20


class AgentError(Exception):
    """Something could not be had now; the agent tries again."""


class CallRefusedError(AgentError):
    """A service answered with an error.

    Args:
        status: the HTTP status.
    """

    def __init__(self, url: str, status: int, text: str) -> None:
        super().__init__(f"{url}: HTTP {status} {text[:200]}".rstrip())
        self.status = status


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: a token goes to nobody but its service."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """No other request."""


class Answer(NamedTuple):
    """An answer of a service.

    Attributes:
        text: its body.
        etag: what tells this content from another; "" when the service does not say it.
    """

    text: str
    etag: str


_DIRECT = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))
_OPENER = urllib.request.build_opener(_NoRedirects)


def fetch(
    url: str,
    *,
    headers: Optional[Mapping[str, str]] = None,
    body: Optional[object] = None,
    seconds: float = CONNECT_SECONDS,
    direct: bool = False,
) -> Answer:
    """One HTTP request: GET, or POST with a JSON body.

    Args:
        url: http or https.
        headers: further headers.
        body: the JSON body.
        seconds: without any byte, after which the request has failed.
        direct: whether to pass by proxies.

    Raises:
        CallRefusedError: the answer is an error.
        AgentError: there is no answer.
    """
    data = None if body is None else json.dumps(body).encode()
    sent = {"User-Agent": f"gce-backend-agent/{VERSION}", **(headers or {})}
    if data is not None:
        sent["Content-Type"] = "application/json"
    request = urllib.request.Request(url, data, sent)  # noqa: S310 (`main` checks the addresses)
    try:
        with (_DIRECT if direct else _OPENER).open(request, timeout=seconds) as response:
            found = response.read(MAX_BYTES + 1)
            etag = response.headers.get("ETag") or ""
    except urllib.error.HTTPError as error:
        with error:
            text = error.read(1000).decode(errors="replace")
        raise CallRefusedError(url.partition("?")[0], error.code, " ".join(text.split())) from None
    except (OSError, HTTPException, ValueError) as error:
        raise AgentError(f"{url.partition('?')[0]}: {error}") from None
    if len(found) > MAX_BYTES:
        raise AgentError(f"{url.partition('?')[0]}: the answer is too long")
    return Answer(found.decode(errors="replace"), etag)


def _document(answer: Answer, where: str) -> dict[str, Any]:
    """The JSON object in an answer."""
    try:
        found = json.loads(answer.text) if answer.text else {}
    except ValueError:
        raise AgentError(f"{where}: the answer is not JSON") from None
    if not isinstance(found, dict):
        raise AgentError(f"{where}: the answer is not an object")
    return found


class Metadata:
    """The VM's metadata server.

    Args:
        host: host name, and port if it is not 80.
    """

    def __init__(self, host: str) -> None:
        self._root = f"http://{host}/computeMetadata/v1/"
        self._token = ("", 0.0)
        self._identity = ("", 0.0)
        self._etag = ""

    def get(self, path: str, **query: object) -> Answer:
        """What is at a path."""
        seconds = CONNECT_SECONDS + float(str(query.get("timeout_sec", 0)))
        url = self._root + path + (f"?{urllib.parse.urlencode(query)}" if query else "")
        return fetch(url, headers={"Metadata-Flavor": "Google"}, seconds=seconds, direct=True)

    def find(self, path: str) -> str:
        """What is at a path; "" when nothing is."""
        try:
            return self.get(path).text.strip()
        except CallRefusedError as error:
            if error.status == 404:
                return ""
            raise

    def subscription(self, seconds: int) -> str:
        """The machine's subscription, `projects/P/subscriptions/S`; "" when it is not there yet.

        Args:
            seconds: how long to wait for other metadata than was last seen; 0 does not wait.
        """
        query = {"recursive": "true", "alt": "json"}
        if seconds and self._etag:
            query["wait_for_change"] = "true"
            query["last_etag"] = self._etag
            query["timeout_sec"] = str(seconds)
        answer = self.get("instance/attributes/", **query)
        self._etag = answer.etag
        found = _document(answer, "instance/attributes")
        key = "pubsub_subscription"
        name, project = str(found.get(key, "")), str(found.get(f"{key}_project", ""))
        return f"projects/{project}/subscriptions/{name}" if name and project else ""

    def await_preemption(self) -> None:
        """Waits until Compute Engine takes the VM back."""
        path = "instance/preempted"
        query: dict[str, str] = {}
        while True:
            answer = self.get(path, **query)
            if answer.text.strip().upper() == "TRUE":
                return
            query = {"wait_for_change": "true", "last_etag": answer.etag}
            query["timeout_sec"] = str(METADATA_SECONDS)
            if not answer.etag:
                time.sleep(1.0)

    def access_token(self, *, fresh: bool = False) -> str:
        """An access token of the VM's service account."""
        if fresh or self._token[1] <= time.monotonic():
            path = "instance/service-accounts/default/token"
            found = _document(self.get(path), path)
            seconds = float(found.get("expires_in", 0)) - 60.0
            self._token = (str(found.get("access_token", "")), time.monotonic() + seconds)
        return self._token[0]

    def identity(self, audience: str, *, fresh: bool = False) -> str:
        """An identity token that names the VM, for one service."""
        if fresh or self._identity[1] <= time.monotonic():
            path = "instance/service-accounts/default/identity"
            token = self.get(path, audience=audience, format="full").text.strip()
            self._identity = (token, time.monotonic() + IDENTITY_SECONDS)
        return self._identity[0]

    def addresses(self) -> list[str]:
        """The VM's external address, if it has one, and its internal one."""
        network = "instance/network-interfaces/0"
        paths = (f"{network}/access-configs/0/external-ip", f"{network}/ip")
        return [found for path in paths if (found := self.find(path))]


class Provider:
    """The Machine Provider.

    Args:
        url: its URL.
        audience: for which its access.cfg wants identity tokens.
        metadata: gives the tokens.
    """

    def __init__(self, url: str, audience: str, metadata: Metadata) -> None:
        self._url = url.rstrip("/")
        self._audience = audience or self._url
        self._metadata = metadata

    def report(self, name: str, said: Mapping[str, object]) -> dict[str, Any]:
        """Says how the machine is; returns its state and its lease."""
        return self._post(f"/api/v1/machines/{name}:report", said)

    def poll(self, name: str, backend: str) -> dict[str, Any]:
        """The machine's instruction and the instruction's state."""
        return self._post("/_ah/api/machine/v1/poll", {"hostname": name, "backend": backend})

    def ack(self, name: str, backend: str) -> None:
        """The instruction has been carried out."""
        self._post("/_ah/api/machine/v1/ack", {"hostname": name, "backend": backend})

    def _post(self, path: str, body: object) -> dict[str, Any]:
        for fresh in (False, True):
            token = self._metadata.identity(self._audience, fresh=fresh)
            headers = {"Authorization": f"Bearer {token}"}
            try:
                return _document(fetch(self._url + path, headers=headers, body=body), path)
            except CallRefusedError as error:
                if error.status != 401 or fresh:
                    raise
        raise AssertionError  # the second try returns or raises


class Subscription:
    """The machine's subscription, by which the Machine Provider wakes the agent.

    Args:
        root: Pub/Sub's URL.
        name: `projects/P/subscriptions/S`.
        metadata: gives the tokens.
    """

    def __init__(self, root: str, name: str, metadata: Metadata) -> None:
        self.name = name
        self._url = f"{root.rstrip('/')}/{name}"
        self._metadata = metadata

    def pull(self, seconds: float) -> list[str]:
        """Waits for messages; returns what acknowledges them.

        Args:
            seconds: the longest wait.
        """
        begun = time.monotonic()
        try:
            found = self._post("pull", {"maxMessages": 100}, seconds)
        except AgentError as error:
            if isinstance(error, CallRefusedError) or time.monotonic() - begun < seconds:
                raise
            return []  # nothing came in time
        messages = found.get("receivedMessages", [])
        return [str(one["ackId"]) for one in messages if isinstance(one, dict) and "ackId" in one]

    def acknowledge(self, ack_ids: Sequence[str]) -> None:
        """The messages have been heeded."""
        if ack_ids:
            self._post("acknowledge", {"ackIds": list(ack_ids)}, CONNECT_SECONDS)

    def _post(self, verb: str, body: object, seconds: float) -> dict[str, Any]:
        for fresh in (False, True):
            token = self._metadata.access_token(fresh=fresh)
            headers = {"Authorization": f"Bearer {token}"}
            url = f"{self._url}:{verb}"
            try:
                return _document(fetch(url, headers=headers, body=body, seconds=seconds), url)
            except CallRefusedError as error:
                if error.status != 401 or fresh:
                    raise
        raise AssertionError  # the second try returns or raises


class Lease(NamedTuple):
    """The lease that the machine serves.

    Attributes:
        id: its id.
        user: the lessee.
        label: the lessee's label for it.
        ends_at: its end in Unix seconds; 0 without end.
        ssh_keys: the lessee's public keys.
        warned: whether the hooks of its nearing end have run.
    """

    id: str
    user: str = ""
    label: str = ""
    ends_at: float = 0.0
    ssh_keys: tuple[str, ...] = ()
    warned: bool = False

    def environment(self) -> dict[str, str]:
        """What hooks find in their environment."""
        return {
            "LEASE_ID": self.id,
            "LEASE_USER": self.user,
            "LEASE_LABEL": self.label,
            "LEASE_ENDS_AT": str(int(self.ends_at)) if self.ends_at else "",
        }


def _printable(text: str) -> str:
    """A text of another's for the journal and for hooks, without control characters."""
    return "".join(c if c.isprintable() else " " for c in text)


def lease_of(found: Optional[Mapping[str, Any]]) -> Optional[Lease]:
    """The lease in a document; None when there is none."""
    if not found or not found.get("id"):
        return None
    keys = tuple(str(key) for key in found.get("ssh_keys", ()))
    return Lease(
        str(found["id"]),
        _printable(str(found.get("user", ""))),
        _printable(str(found.get("label", ""))),
        float(found.get("ends_at") or 0.0),
        keys,
        bool(found.get("warned", False)),
    )


class Hooks:
    """Programs that the machine's owner has put beside the agent.

    Args:
        directory: holds `leased.d`, `connect.d`, `ending.d`, `preempted.d` and `reclaimed.d`.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def run(self, occasion: str, environment: Mapping[str, str]) -> None:
        """Runs every program of an occasion, one by one, in the order of their names."""
        folder = self._directory / f"{occasion}.d"
        programs = sorted(folder.iterdir()) if folder.is_dir() else []
        for program in programs:
            if not (program.is_file() and os.access(program, os.X_OK)):
                continue
            say(f"running {program}")
            try:
                done = subprocess.run(  # noqa: S603 (the machine's owner has put it there)
                    [str(program)],
                    env={**os.environ, **environment},
                    stdin=subprocess.DEVNULL,
                    timeout=HOOK_SECONDS,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                say(f"{program}: {error}")
                continue
            if done.returncode:
                say(f"{program}: exit code {done.returncode}")


class Door:
    """The file of public keys with which sshd lets the lessee in.

    It belongs to the agent, not to the lessee, who could otherwise lead the agent elsewhere.

    Args:
        path: the file, which sshd's AuthorizedKeysFile names.
        login: the lessee's login name.
    """

    def __init__(self, path: Path, login: str) -> None:
        self.login = login
        self._path = path

    def open(self, keys: Sequence[str]) -> None:
        """Lets these keys in, and no others."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{key}\n" for key in keys)
        if self._path.is_file() and self._path.read_text("utf-8") == text:
            return
        _write(self._path, text, 0o644)

    def close(self) -> None:
        """Lets nobody in, and ends what runs under the login name."""
        self._path.unlink(missing_ok=True)
        try:
            user = pwd.getpwnam(self.login).pw_uid
        except KeyError:
            return
        if os.geteuid() == 0 and user != 0:
            ended = ["pkill", "-KILL", "-u", str(user)]
            try:
                subprocess.run(ended, check=False, timeout=CONNECT_SECONDS)  # noqa: S603 (a number)
            except (OSError, subprocess.TimeoutExpired) as error:
                say(f"the sessions of {self.login} could not be ended: {error}")


def _write(path: Path, text: str, mode: int) -> None:
    """Replaces a file as a whole."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


class Agent:
    """The agent.

    Args:
        options: the command line.
        metadata: the VM's metadata server.
        provider: the Machine Provider.
    """

    def __init__(self, options: argparse.Namespace, metadata: Metadata, provider: Provider) -> None:
        self._options = options
        self._metadata = metadata
        self._provider = provider
        self._hooks = Hooks(options.hooks)
        self._door = Door(options.authorized_keys, options.login)
        self._subscription: Optional[Subscription] = None
        self._name = ""
        self._addresses: list[str] = []
        self._preempted = False
        self._state: Path = options.state
        self._lease = self._remembered()

    def watch_preemption(self) -> None:
        """Waits until Compute Engine takes the VM back, and reports it at once.

        It runs beside `run`, which may be waiting for a message.
        """
        failures = 0
        while not self._preempted:
            try:
                self._metadata.await_preemption()
                self._preempted = True
            except AgentError:
                failures += 1
                time.sleep(min(2.0 ** min(failures - 1, 16), LONGEST_PAUSE_SECONDS))
        say("Compute Engine takes this VM back")
        end = time.monotonic() + PREEMPTION_SECONDS
        while time.monotonic() < end:
            try:
                self._name = self._name or self._metadata.get("instance/name").text.strip()
                self._report()
                break
            except AgentError as error:
                say(f"{error}; again in 1 s")
                time.sleep(1.0)
        if self._lease is not None:
            self._hooks.run("preempted", self._lease.environment())

    def run(self) -> NoReturn:
        """Works until a signal ends it."""
        threading.Thread(target=self.watch_preemption, daemon=True).start()
        failures = 0
        ack_ids: list[str] = []
        while True:
            try:
                self._look()
                if self._subscription is not None:
                    self._subscription.acknowledge(ack_ids)
                ack_ids = self._wait()
                failures = 0
            except AgentError as error:
                ack_ids = []
                self._end_overdue()
                failures += 1
                pause = min(2.0 ** min(failures - 1, 16), LONGEST_PAUSE_SECONDS)
                say(f"{error}; again in {pause:.0f} s")
                time.sleep(pause * random.uniform(0.75, 1.0))  # noqa: S311 (spreads retries)

    def _look(self) -> None:
        """Reports, and does what the answer asks for."""
        self._name = self._name or self._metadata.get("instance/name").text.strip()
        orders = self._report()
        if orders is None:
            self._end_overdue()
            return
        lease = lease_of(orders.get("lease"))
        if self._lease is not None and (lease is None or lease.id != self._lease.id):
            self._end(self._lease)
        if lease is None:
            return
        if self._lease is None:
            self._begin(lease)
            self._report()  # the lessee learns at once that the machine has let him in
        elif lease != self._lease._replace(warned=False):
            admitted = self._lease.ssh_keys
            self._door.open(lease.ssh_keys)
            self._remember(lease._replace(warned=self._lease.warned and not self._is_far(lease)))
            if lease.ssh_keys != admitted:
                self._report()
        self._door.open(lease.ssh_keys)
        self._heed_instruction(lease)
        self._warn()

    def _report(self) -> Optional[dict[str, Any]]:
        """The Machine Provider's answer; None when it knows neither the machine nor its lease."""
        said: dict[str, object] = {
            "backend": self._options.backend,
            "version": VERSION,
            "serves": self._lease.id if self._lease else "",
            "admits": _digest(self._lease.ssh_keys) if self._lease else "",
        }
        if self._preempted:
            said["preempted"] = True
        keys = _host_keys(self._options.host_keys)
        address = self._address()
        if keys and address:
            said["ssh"] = {
                "address": address,
                "port": self._options.port,
                "login": self._options.login,
                "host_keys": keys,
            }
        try:
            return self._provider.report(self._name, said)
        except CallRefusedError as error:
            if error.status == 404:  # not in the catalog yet, or any more: a lease may still run
                return None
            raise

    def _address(self) -> str:
        if self._options.address:
            return str(self._options.address)
        self._addresses = self._addresses or self._metadata.addresses()
        return self._addresses[0] if self._addresses else ""

    def _begin(self, lease: Lease) -> None:
        end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(lease.ends_at))
        until = f"until {end}" if lease.ends_at else "without end"
        say(f"leased to {lease.user} {until} ({lease.id})")
        self._hooks.run("leased", lease.environment())
        self._door.open(lease.ssh_keys)
        self._remember(lease)

    def _end(self, lease: Lease) -> None:
        say(f"the lease of {lease.user} has ended ({lease.id})")
        self._door.close()
        self._hooks.run("reclaimed", lease.environment())
        self._remember(None)

    def _end_overdue(self) -> None:
        """Ends a lease whose end has come while nobody can say whether it was extended."""
        if self._lease is not None and 0 < self._lease.ends_at <= time.time():
            self._end(self._lease)

    def _warn(self) -> None:
        """Runs the hooks of the lease's nearing end, once."""
        lease = self._lease
        if lease is None or lease.warned or self._is_far(lease):
            return
        say(f"the lease of {lease.user} ends soon ({lease.id})")
        self._hooks.run("ending", lease.environment())
        self._remember(lease._replace(warned=True))

    def _is_far(self, lease: Lease) -> bool:
        """Whether the end of a lease is not near."""
        return not lease.ends_at or lease.ends_at - time.time() > self._options.ending_seconds

    def _heed_instruction(self, lease: Lease) -> None:
        """Carries an instruction of the lessee out: connect to a server of the lessee's."""
        found = self._provider.poll(self._name, self._options.backend)
        instruction = found.get("instruction")
        server = instruction.get("swarming_server") if isinstance(instruction, dict) else None
        if not server or found.get("state") == "EXECUTED":
            return
        say(f"the lessee asks to connect to {server!r}")
        self._hooks.run("connect", {**lease.environment(), "LEASE_SERVER": str(server)})
        self._provider.ack(self._name, self._options.backend)

    def _wait(self) -> list[str]:
        """Waits for a message, or until a report is due; returns what acknowledges the messages."""
        seconds = self._options.report_seconds * (1.0 if self._lease else IDLE_FACTOR)
        if self._lease and self._lease.ends_at:
            left = self._lease.ends_at - time.time()
            near = left if self._lease.warned else left - self._options.ending_seconds
            seconds = min(seconds, max(near, 1.0))
        end = time.monotonic() + seconds * random.uniform(0.9, 1.0)  # noqa: S311 (spreads calls)
        while (left := end - time.monotonic()) > 0:
            if self._subscription is None:
                if self._subscribe(seconds=min(int(left) + 1, METADATA_SECONDS)):
                    return []  # what was published before is known from a report
                continue
            begun = time.monotonic()
            try:
                ack_ids = self._subscription.pull(min(max(left, 1.0), PULL_SECONDS))
            except CallRefusedError as error:
                if error.status == 404 and self._subscribe(seconds=0):
                    return []
                raise
            if ack_ids:
                return ack_ids
            if time.monotonic() - begun < 1.0:
                time.sleep(1.0)  # whoever answers nothing at once is not asked all the time
        return []

    def _subscribe(self, *, seconds: int) -> bool:
        """Finds the subscription in the metadata; returns whether it is another one than before."""
        name = self._metadata.subscription(seconds)
        if not name or (self._subscription is not None and self._subscription.name == name):
            return False
        say(f"subscribed to {name}")
        self._subscription = Subscription(self._options.pubsub, name, self._metadata)
        return True

    def _remembered(self) -> Optional[Lease]:
        try:
            found = json.loads(self._state.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return lease_of(found) if isinstance(found, dict) else None

    def _remember(self, lease: Optional[Lease]) -> None:
        self._lease = lease
        self._state.parent.mkdir(parents=True, exist_ok=True)
        _write(self._state, json.dumps(lease._asdict() if lease else {}), 0o600)


def _digest(keys: Sequence[str]) -> str:
    """What tells these public keys from others."""
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def _host_keys(pattern: str) -> list[str]:
    """The public keys of this machine's SSH server, without comments."""
    found = []
    for name in sorted(glob.glob(pattern)):  # noqa: PTH207 (the pattern is absolute)
        words = Path(name).read_text("utf-8").split()
        if len(words) >= 2:
            found.append(" ".join(words[:2]))
    return found[:10]


def say(text: str) -> None:
    """A line for the journal."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 (this is its log)


def _url(text: str) -> str:
    """A service's address to which tokens may go: https, or http on loopback."""
    parts = urllib.parse.urlsplit(text)
    is_here = parts.hostname in {"127.0.0.1", "::1", "localhost"}
    if not parts.hostname or parts.scheme not in ({"https", "http"} if is_here else {"https"}):
        raise argparse.ArgumentTypeError(f"{text!r} is not an https URL")
    return text


def parser() -> argparse.ArgumentParser:
    """The command line; every option has a value that fits a VM of Google's."""
    data = Path("/var/lib/gce-backend-agent")
    variables = os.environ
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument(
        "--url",
        type=_url,
        default=variables.get("GCE_BACKEND_PROVIDER__URL"),
        help="the Machine Provider's; by default the metadata's machine_provider_url",
    )
    made.add_argument("--audience", default="", help="of its identity tokens; by default the URL")
    made.add_argument(
        "--pubsub",
        type=_url,
        default=variables.get("GCE_BACKEND_ENDPOINTS__PUBSUB", "https://pubsub.googleapis.com/v1"),
        help="Pub/Sub's URL",
    )
    made.add_argument("--backend", default="GCE", help="the backend that manages the machine")
    made.add_argument("--login", default="lessee", help="the login name of lessees")
    made.add_argument("--address", default="", help="of the SSH server; by default the VM's")
    made.add_argument("--port", type=int, default=22, help="of the SSH server")
    made.add_argument(
        "--host-keys",
        default="/etc/ssh/ssh_host_*_key.pub",
        help="the SSH server's public keys; without any, nobody is let in",
    )
    made.add_argument(
        "--authorized-keys",
        type=Path,
        help=f"the file of the lessee's keys; by default {data}/authorized_keys/LOGIN",
    )
    made.add_argument("--hooks", type=Path, default=Path("/etc/gce-backend-agent"))
    made.add_argument("--state", type=Path, default=data / "state.json")
    made.add_argument(
        "--ending-seconds",
        type=float,
        default=300.0,
        help="before the end of a lease, when the hooks of ending.d run",
    )
    made.add_argument(
        "--report-seconds",
        type=float,
        default=REPORT_SECONDS,
        help=f"between two reports while leased; {IDLE_FACTOR:.0f} times as long otherwise",
    )
    made.add_argument("--version", action="version", version=VERSION)
    return made


def _stop(_: int, __: object) -> NoReturn:
    """Ends at once, wherever the agent is: what it has stored is whole, and a restart goes on."""
    os.write(2, b"stopped; the lease goes on\n")
    os._exit(0)


def main(arguments: Optional[Sequence[str]] = None) -> NoReturn:
    """Runs the agent.

    Args:
        arguments: the command line's, unless they are given here.
    """
    socket.setdefaulttimeout(CONNECT_SECONDS)
    options = parser().parse_args(arguments)
    data = Path("/var/lib/gce-backend-agent/authorized_keys")
    options.authorized_keys = options.authorized_keys or data / options.login
    default = "metadata.google.internal"
    metadata = Metadata(os.environ.get("GCE_METADATA_HOST", default))
    url = options.url
    while not url:
        try:
            url = _url(metadata.find("instance/attributes/machine_provider_url"))
        except (AgentError, argparse.ArgumentTypeError) as error:
            say(f"where is the Machine Provider? {error}; again in 60 s")
            time.sleep(LONGEST_PAUSE_SECONDS)
    Agent(options, metadata, Provider(url, options.audience, metadata)).run()


if __name__ == "__main__":
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, _stop)
    main()
