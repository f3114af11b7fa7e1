"""What a stranger may send to the daemon and to the embedded cloud: each is refused, or answered.

None is a 5xx, none leaves a traceback, and no line or answer holds a credential.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Iterable
from pathlib import Path

from structlog.testing import capture_logs

from gce_backend.localcloud.cloud import CloudOptions
from support.fleet_harness import CONTROL_TOKEN, World, world
from support.referee import Referee

BEARER = ("Authorization", f"Bearer {CONTROL_TOKEN}")
JSON = ("Content-Type", "application/json")
CHUNKED = ("Transfer-Encoding", "chunked")
FORM = ("Content-Type", "application/x-www-form-urlencoded")
BOMB = b" " * 5_000_000
HERE = "127.0.0.1"
LONGEST_LINE = 1000
UNSERVED = 501
"""How the embedded cloud answers what it does not serve."""


def request(
    verb: str,
    path: str,
    *headers: tuple[str, str],
    body: bytes = b"",
    host: str | None = HERE,
    version: str = "HTTP/1.1",
) -> bytes:
    """A request as it goes over the wire."""
    given = [("Host", host)] if host is not None else []
    given += [*headers, ("Connection", "close")]
    if body:
        given.append(("Content-Length", str(len(body))))
    head = "".join(f"{name}: {value}\r\n" for name, value in given)
    return f"{verb} {path} {version}\r\n{head}\r\n".encode("latin-1") + body


def order(*headers: tuple[str, str], body: bytes = b"") -> bytes:
    """An order to the daemon with its token; its body may follow without a length."""
    return request("POST", "/api/pause", BEARER, JSON, *headers, body=body)


def packed(how: str, body: bytes) -> bytes:
    """An order whose body is compressed, or is said to be."""
    return order(("Content-Encoding", how), body=body)


def guess(value: str) -> bytes:
    """An order with this Authorization header."""
    return request("POST", "/api/pause", JSON, ("Authorization", value), body=b"{}")


LINE_20_HOSTS = {  # none of them is a name of this machine
    "two hosts": request("GET", "/api/status", ("Host", "evil.example")),
    "this machine second": request("GET", "/api/status", ("Host", HERE), host="evil.example"),
    "none": request("GET", "/api/status", host=None),
    "none, in HTTP/1.0": request("GET", "/api/status", host=None, version="HTTP/1.0"),
    "a whole address elsewhere": request("GET", "http://evil.example/api/status"),
    **{
        host: request("GET", "/api/status", host=host)
        for host in (
            *("127.0.0.1@evil.example", "evil.example@127.0.0.1", "127.0.0.1:80.evil.example"),
            *("127.0.0.1:-1", "127.0.0.1:" + "9" * 4000, "127.1", "0x7f000001", "2130706433"),
            *("localhost.", "127.0.0.1\t.evil.example", "[::1]evil.example", "[127.0.0.1]:x"),
            *("[::1", "127.0.0.1/../evil.example", "127.0.0.1:８０".encode().decode("latin-1")),
        )
    },
}
LINE_21_MALFORMED = {
    "a long path": request("GET", "/" + "a" * 20_000),
    "many headers": request("GET", "/healthz", *[(f"X-{n}", "y" * 20) for n in range(5000)]),
    "a long header": request("GET", "/healthz", ("X-A", "y" * 100_000)),
    "a control character in a cookie": request(
        "GET", "/", ("Cookie", f"session={CONTROL_TOKEN}\1")
    ),
    "a control character in a token": guess(f"Bearer {CONTROL_TOKEN}\0"),
    "a control character beside a token": request("GET", f"/?token={CONTROL_TOKEN}\1"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 300,
    "HTTP/0.9": b"GET /\r\n",
    "nothing but zeros": b"\0" * 5000,
    "two words as a method": request("FOO BAR", "/"),
    "a long method": request("A" * 9000, "/"),
    "a header without a colon": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX\r\n\r\n",
    "a folded header": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\r\n b\r\n\r\n",
    "lines that end in LF": b"GET /healthz HTTP/1.1\nHost: 127.0.0.1\n\n",
    "lines that end in CR": b"GET /healthz HTTP/1.1\rHost: 127.0.0.1\r\r",
    "both lengths": order(CHUNKED, ("Content-Length", "5")) + b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "two lengths": order(("Content-Length", "5"), ("Content-Length", "6")) + b"hello!",
    "a length below zero": order(("Content-Length", "-5")) + b"hello",
    "a length of 400 digits": order(("Content-Length", "9" * 400)) + b"hello",
    "a length of 10 GB": order(("Content-Length", "10000000000")) + b"hello",
    "a chunk without end": order(CHUNKED) + b"FFFFFFFFFFFFFFFF\r\nabc",
    "a chunk without size": order(CHUNKED) + b"zz\r\nabc",
    "a chunk's endless extension": order(CHUNKED) + b"1;" + b"a" * 100_000,
    "an unknown transfer encoding": order(("Transfer-Encoding", "gzip")) + b"abc",
    "an unknown expectation": order(("Expect", "gold"), body=b"{}"),
}
BODIES = {
    "deep lists": order(body=b"[" * 200_000),
    "deep objects": order(body=b'{"reason":' * 30_000 + b"1" + b"}" * 30_000),
    "gzip that is none": packed("gzip", b"{}"),
    "gzip of 5 MB": packed("gzip", gzip.compress(BOMB)),
    "deflate of 5 MB": packed("deflate", zlib.compress(BOMB)),
    "brotli": packed("br", b"{}"),
    "gzip three times": packed("gzip, gzip, gzip", gzip.compress(b"{}")),
    "UTF-16": order(body='{"reason": "x"}'.encode("utf-16")),
    "a mark of byte order": order(body=b"\xef\xbb\xbf{}"),
    "half a surrogate pair": order(body=json.dumps({"reason": "\0\ud800"}).encode()),
    "NaN": order(body=b'{"reason": NaN}'),
    "5000 digits": order(body=b'{"reason": ' + b"9" * 5000 + b"}"),
    "null": order(body=b"null"),
    "a form of 20,000 fields": request("POST", "/session", FORM, body=b"a=b&" * 20_000),
    "a form of 1 MB": request("POST", "/session", FORM, body=b"token=" + b"a" * 1_000_000),
}
PATHS = {
    path: request("GET", path)
    for path in (
        *("/static/../../etc/passwd", "/static/%2e%2e/%2e%2e/etc/passwd", "/static/..%2fpasswd"),
        *("/machines/%00", "/machines/%ff%fe", "/machines/%ED%A0%80", "/machines/%zz%"),
        *("/api/explain?name=%ff%ED%A0%80", "/api/events?name=%00", "/machines?page=" + "9" * 4000),
        *("/machines?page=-1", "/machines?page=%D9%A3", "/api/machines?cursor=%00&cursor=1"),
    )
}
GUESSES = {
    value[:20]: guess(value)
    for value in (
        *("Bearer", "Bearer ", f"Bearer {CONTROL_TOKEN} x", f"Basic {CONTROL_TOKEN}"),
        *(CONTROL_TOKEN, f"Bearer {CONTROL_TOKEN[:-1]}", "Bearer \xff\xfe", "Bearer " + "x" * 8000),
    )
} | {
    "two tokens": request("POST", "/api/pause", ("Authorization", "Bearer no"), BEARER, body=b"{}"),
    "in the query": request("POST", f"/api/pause?token={CONTROL_TOKEN}", JSON, body=b"{}"),
    "as a cookie": request("POST", "/api/pause", ("Cookie", f"token={CONTROL_TOKEN}"), body=b"{}"),
    "by another method": request("GET", "/api/pause", ("X-HTTP-Method-Override", "POST"), BEARER),
}
ALL = {**LINE_20_HOSTS, **LINE_21_MALFORMED, **BODIES, **PATHS, **GUESSES}


async def sent(url: str, data: bytes) -> list[int]:
    """The statuses of the answers to what is sent; none when the connection is just closed."""
    host, _, port = url.partition("//")[2].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    answer = bytearray()
    try:
        writer.write(data)
        async with asyncio.timeout(60):
            while chunk := await reader.read(2**16):
                answer += chunk
    except (ConnectionError, TimeoutError):  # a timeout: whoever sent half may go again
        pass
    finally:
        writer.close()
    heads = [line for line in bytes(answer).split(b"\r\n") if line.startswith(b"HTTP/1.")]
    return [int(line.split()[1]) for line in heads]


async def answers(w: World, url: str, cases: dict[str, bytes]) -> dict[str, list[int]]:
    """The statuses of each case; the log has one short line for each, and no credential."""
    found = {}
    for name, data in cases.items():
        with capture_logs() as logs:
            found[name] = await sent(url, data)
            await w.pass_time(1.0)
        lines = [line for line in logs if not line["event"].startswith("job.")]
        severe = [line for line in lines if line["log_level"] in {"error", "critical"}]
        assert not severe, (name, severe)
        assert CONTROL_TOKEN not in str(lines), (name, lines)
        assert all(len(str(line)) < LONGEST_LINE for line in lines), (name, lines)
    return found


def worst(found: dict[str, list[int]], allowed: Iterable[int] = ()) -> dict[str, list[int]]:
    """The cases with a server's error."""
    right = {*range(500), *allowed}
    return {name: statuses for name, statuses in found.items() if not right.issuperset(statuses)}


async def test_line_21_whatever_a_stranger_sends_is_refused_by_the_daemon(tmp_path: Path) -> None:
    """By a status below 500 and one short line; the daemon is as it was."""
    async with world(tmp_path) as w:
        await w.until(w.is_loaded)
        found = await answers(w, w.daemon.url, ALL)
        assert not worst(found)
        assert {name for name in LINE_20_HOSTS if 200 in found[name]} == set()
        assert {name for name in LINE_21_MALFORMED if 200 in found[name]} == set()
        assert {name for name in GUESSES if 200 in found[name]} == set()
        assert {name for name in BODIES if 200 in found[name]} == set()
        assert not (await w.get("/api/control"))["paused"]
        assert (await sent(w.daemon.url, request("GET", "/healthz"))) == [200]


async def test_line_19_whatever_a_stranger_sends_is_refused_by_the_embedded_cloud(
    tmp_path: Path, referee: Referee
) -> None:
    """The same, and the bodies for a method that reads them."""
    referee.expect("^datastore.projects.lookup: request: ")
    options = CloudOptions(authenticate=False).instant()
    async with world(tmp_path, options=options, start=False) as w:
        lookup = b"POST /v1/projects/p:lookup "
        bodies = {name: data.replace(b"POST /api/pause ", lookup) for name, data in BODIES.items()}
        cases = {**LINE_20_HOSTS, **LINE_21_MALFORMED, **bodies, **PATHS}
        found = await answers(w, w.cloud.base_url, cases)
        assert not worst(found, {UNSERVED})
        hosts = {name for name in LINE_20_HOSTS if not name.startswith(("none", "a whole"))}
        assert {name for name in hosts if not {400, 403}.issuperset(found[name])} == set()
        assert {name for name in bodies if 200 in found[name]} <= {"null"}
