"""A daemon as a process of its own, and peers that open connections and do not finish a request."""

from __future__ import annotations

import contextlib
import http.client
import resource
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from processes.running import PROJECT, Command
from support.patience import PATIENCE

SLOW = 2_000
MOMENT_MS = 100
NOWHERE = "http://127.0.0.1:9"
NOT_HTTP = (
    b"\x16\x03\x01\x02\x00\x01",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
)


@contextlib.contextmanager
def descriptors(number: int) -> Iterator[None]:
    """Lets this process, and those that it starts in the block, open so many descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = number if hard == resource.RLIM_INFINITY else min(number, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Command]:
    """A daemon that reaches no service: it lives, and its endpoint is there."""
    endpoints = ("COMPUTE", "DATASTORE", "PUBSUB", "METADATA", "RESOURCE_MANAGER")
    with descriptors(1024):  # what a process has where nobody says otherwise
        command = Command(
            tmp_path,
            "daemon",
            "run",
            **{f"GCE_BACKEND_ENDPOINTS__{name}": NOWHERE for name in endpoints},
            GCE_BACKEND_PROJECT=PROJECT,
            GCE_BACKEND_HTTP__PORT="0",
        )
    try:
        yield command
    finally:
        command.kill()


def healthz(address: tuple[str, int]) -> int:
    """The status of /healthz, asked on a connection of its own as the probe does."""
    connection = http.client.HTTPConnection(*address, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", "/healthz")
        return connection.getresponse().status


def is_closed(peer: socket.socket) -> bool:
    """Whether the daemon has closed it."""
    try:
        return peer.recv(4096) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def still_open(peers: list[socket.socket]) -> list[socket.socket]:
    """Those that the daemon has not closed, once it closes one or a moment has passed."""
    poll = select.poll()
    for peer in peers:
        poll.register(peer, select.POLLIN)
    poll.poll(MOMENT_MS)
    return [peer for peer in peers if not is_closed(peer)]


def test_line_21_healthz_answers_throughout_two_thousand_slow_connections(daemon: Command) -> None:
    """Half of a request each; those that are too many, or too slow, are closed."""
    url = urlsplit(daemon.event("daemon.started")["url"])
    address = (str(url.hostname), int(url.port or 0))
    assert healthz(address) == 200
    with descriptors(SLOW + 500), contextlib.ExitStack() as peers:
        opened = []
        for number in range(SLOW):
            peer = peers.enter_context(socket.create_connection(address, timeout=PATIENCE))
            peer.sendall(b"GET /api/status HTTP/1.1\r\nHost: slow\r\nX-Slow: ")
            peer.setblocking(False)
            opened.append(peer)
            if number % 100 == 99:
                assert healthz(address) == 200
        end = time.monotonic() + 90
        while opened:
            assert time.monotonic() < end, f"{len(opened)} are still open"
            opened = still_open(opened)
            assert healthz(address) == 200
    assert daemon.is_running
    crowded, *_ = daemon.events("http.crowded")
    assert 0 < crowded["limit"] <= 500


def test_line_21_what_is_no_request_leaves_one_short_line(daemon: Command) -> None:
    """No traceback, whatever a port scanner sends, and the next one is served."""
    url = urlsplit(daemon.event("daemon.started")["url"])
    address = (str(url.hostname), int(url.port or 0))
    for sent in NOT_HTTP:
        before = len(daemon.events("http.malformed"))
        with socket.create_connection(address, timeout=PATIENCE) as peer:
            peer.sendall(sent)
            assert peer.recv(4096).startswith(b"HTTP/1.0 400")
        assert healthz(address) == 200
        lines = daemon.events("http.malformed")[before:]
        assert [line["remote"] for line in lines] == ["127.0.0.1"]
        assert len(lines[0]["error"]) <= 200
    text = daemon.log.read_text()
    assert "Traceback" not in text
    assert "stack_trace" not in text
