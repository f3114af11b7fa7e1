"""Records what a client asks the embedded cloud, so that the suite asks it without the client.

What a request has taken from an earlier answer, such as a fingerprint or the name of an operation,
is recorded as where it came from.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import msgspec

SHORTEST = 8
"""Characters below which a text in a request is not looked for in earlier answers."""
MARK = "<<{}>>"
_PARTS = re.compile(r"([/?&=:])")
_EVERYBODYS = {"us-central1-a", "us-central1", "local-project"}
"""Names that lists give and clients know anyway."""


class Exchange(msgspec.Struct, omit_defaults=True):
    """One request and how it was answered.

    Attributes:
        at: seconds since the recording began.
        verb: the HTTP verb.
        path: path and query; `<<N>>` stands for what an earlier answer gave.
        status: the answer's.
        kind: the body's content type.
        body: the body, as `path`.
        members: the names of the members of the answer.
        gives: what later requests take from the answer: the way to it, by N.
    """

    at: float
    verb: str
    path: str
    status: int
    kind: str = ""
    body: str = ""
    members: list[str] = []
    gives: dict[str, list[str | int]] = {}


class Recording(msgspec.Struct):
    """What one client did.

    Attributes:
        client: its name and version.
        epoch: Unix time at which it began.
        exchanges: in order.
    """

    client: str
    epoch: float
    exchanges: list[Exchange]

    def write(self, path: Path) -> None:
        """A line for each exchange, after one for the rest."""
        head = {"client": self.client, "epoch": self.epoch}
        lines = [json.dumps(head), *(msgspec.json.encode(one).decode() for one in self.exchanges)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Recording:
        """What `write` has written."""
        head, *lines = path.read_text(encoding="utf-8").splitlines()
        exchanges = [msgspec.json.decode(line, type=Exchange) for line in lines]
        return cls(**json.loads(head), exchanges=exchanges)


def leaves(answer: Any, way: tuple[str | int, ...] = ()) -> Iterator[tuple[str, list[str | int]]]:
    """The texts of an answer, with the way to each."""
    if isinstance(answer, str):
        yield answer, list(way)
    elif isinstance(answer, dict):
        for name, value in answer.items():
            yield from leaves(value, (*way, name))
    elif isinstance(answer, list):
        for index, value in enumerate(answer):
            yield from leaves(value, (*way, index))


def _replaced(body: Any, marked: Callable[[str], str]) -> Any:
    """A body whose texts are marked where they come from an answer."""
    if isinstance(body, str):
        return marked(body)
    if isinstance(body, dict):
        return {name: _replaced(value, marked) for name, value in body.items()}
    if isinstance(body, list):
        return [_replaced(value, marked) for value in body]
    return body


def at_the_end_of(way: list[str | int], answer: Any) -> str:
    """The text to which a way leads."""
    for step in way:
        answer = answer[step]
    return str(answer)


class Recorder:
    """Stands between a client and the cloud.

    Args:
        upstream: the cloud's address.

    Attributes:
        url: where the client finds it.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream).netloc
        self._seen: list[tuple[Exchange, Any]] = []
        self._lock = threading.Lock()
        self._began = time.time()
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                else:
                    recorder.pass_on(self)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def pass_on(self, handler: BaseHTTPRequestHandler) -> None:
        """One exchange."""
        at = time.time() - self._began
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        connection = http.client.HTTPConnection(self._upstream, timeout=150)
        passed = {
            name: value
            for name, value in handler.headers.items()
            if name.lower() != "accept-encoding"
        }
        connection.request(handler.command, handler.path, body or None, passed)
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        handler.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        handler.wfile.write(answer)
        if "Metadata-Flavor" in handler.headers:
            return  # tokens are the replayer's own business
        try:
            found = json.loads(answer)
        except ValueError:
            found = None
        exchange = Exchange(
            at=round(at, 3),
            verb=handler.command,
            path=handler.path,
            status=response.status,
            kind=handler.headers.get("Content-Type", ""),
            body=body.decode(),
            members=sorted(found) if isinstance(found, dict) else [],
        )
        with self._lock:
            self._seen.append((exchange, found))

    def recording(self, client: str) -> Recording:
        """What has been recorded; ends the recorder."""
        self._server.shutdown()
        self._server.server_close()
        known: dict[str, tuple[Exchange, list[str | int]]] = {}
        marks = 0
        said = set(_EVERYBODYS)

        def marked(text: str) -> str:
            """A text, or the mark of the answer that it was taken from."""
            nonlocal marks
            if text in said or text not in known:
                said.add(text)
                return text
            source, way = known[text]
            mark = next((mark for mark, there in source.gives.items() if there == way), "")
            if not mark:
                marks += 1
                mark = str(marks)
                source.gives = {**source.gives, mark: way}
            return MARK.format(mark)

        for exchange, answer in self._seen:
            parts = [marked(unquote(part)) for part in _PARTS.split(exchange.path)]
            if any(part.startswith("<<") for part in parts):
                exchange.path = "".join(
                    part if _PARTS.fullmatch(part) else quote(part, safe="<>") for part in parts
                )
            if exchange.body:
                exchange.body = json.dumps(_replaced(json.loads(exchange.body), marked))
            for text, way in leaves(answer):
                if len(text) >= SHORTEST:
                    known.setdefault(text, (exchange, way))
        exchanges = [exchange for exchange, _ in self._seen]
        return Recording(client, round(self._began, 3), exchanges)
