"""Batches: many calls in one request, and their answers in one answer.

Each call is sent to the cloud as if it had come alone: it is counted, charged, affected by faults
and refused by itself.
"""

from __future__ import annotations

import email.policy
import secrets
from collections.abc import Iterator
from email.message import Message
from email.parser import BytesParser
from http import HTTPStatus
from typing import NamedTuple

import aiohttp
from aiohttp import web
from yarl import URL

from gce_backend.localcloud.cloud import Call, Cloud, Route
from gce_backend.localcloud.statuses import ServiceError

MAX_CALLS = 1000
PATH = "/batch/compute/v1"
_BELOW = "/compute/v1/"
_PASSED_ON = {"authorization", "content-type"}
"""The headers of a single call that count."""


class _Part(NamedTuple):
    """One call of a batch.

    Attributes:
        content_id: the id of its answer; "" for none.
        verb: the HTTP verb.
        target: path and query.
        headers: those of its own headers that count.
    """

    content_id: str
    verb: str
    target: URL
    headers: dict[str, str]
    body: bytes


class Batches:
    """The batch endpoint of Compute Engine.

    Args:
        cloud: where the calls are sent.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def route(self) -> Route:
        """Its only method. Each call has a token, or the batch has one for all."""
        return Route("compute.batch", "POST", PATH, self._handle, authenticated=False)

    async def _handle(self, call: Call) -> web.Response:
        request = call.request
        parts = list(_parts(request.headers.get("Content-Type", ""), await request.read()))
        if not parts or len(parts) > MAX_CALLS:
            raise _malformed(f"it has {len(parts)} parts instead of 1 to {MAX_CALLS}")
        token = request.headers.get("Authorization")
        common = {} if token is None else {"Authorization": token}
        boundary = f"batch_{secrets.token_hex(16)}"
        async with aiohttp.ClientSession(self._cloud.base_url) as session:
            answers = [await _answer(session, part, common) for part in parts]
        written = b"".join(b"--%s\r\n%s\r\n" % (boundary.encode(), answer) for answer in answers)
        return web.Response(
            body=written + b"--%s--\r\n" % boundary.encode(),
            headers={"Content-Type": f"multipart/mixed; boundary={boundary}"},
        )


def _parts(content_type: str, raw: bytes) -> Iterator[_Part]:
    """The calls of a batch.

    Raises:
        ServiceError: 400, it is not one.
    """
    whole = _message(b"Content-Type: %s\r\n\r\n%s" % (content_type.encode(), raw))
    if whole.get_content_type() != "multipart/mixed" or not whole.is_multipart():
        raise _malformed("its content type is not multipart/mixed, or its boundary is missing")
    for part in whole.get_payload():
        if not isinstance(part, Message) or part.get_content_type() != "application/http":
            raise _malformed("a part is not application/http")
        content = part.get_payload(decode=True)
        if not isinstance(content, bytes):
            raise _malformed("a part has parts of its own")
        line, _, rest = content.lstrip().partition(b"\n")
        words = line.decode("latin-1").split()
        if len(words) not in {2, 3} or not words[0].isalpha():
            raise _malformed("a part does not begin with a request line")
        head, _, body = rest.replace(b"\r\n", b"\n").partition(b"\n\n")
        yield _Part(
            content_id=_plain(part.get("Content-ID", "")),
            verb=words[0].upper(),
            target=_target(words[1]),
            headers={
                name.title(): _plain(value)
                for name, value in _message(head + b"\n\n").items()
                if name.lower() in _PASSED_ON
            },
            body=body,
        )


def _target(text: str) -> URL:
    """The path and query of a call, whatever host it names."""
    try:
        url = URL(text, encoded=True).relative() if "://" in text else URL(text, encoded=True)
    except ValueError:
        url = URL()
    if not url.raw_path.startswith(_BELOW) or {".", ".."} & set(url.raw_parts) or url.host:
        raise _malformed(f"a part asks for {text[:80]!r}, not for something below {_BELOW}")
    return url


def _plain(value: object) -> str:
    """A header's value without line ends and what is not ASCII."""
    return " ".join(str(value).encode("ascii", "replace").decode().split())


def _message(raw: bytes) -> Message:
    return BytesParser(policy=email.policy.compat32).parsebytes(raw)


async def _answer(session: aiohttp.ClientSession, part: _Part, common: dict[str, str]) -> bytes:
    """The part of the whole answer that answers one call."""
    headers = common | part.headers
    request = session.request(
        part.verb, part.target, data=part.body or None, headers=headers, allow_redirects=False
    )
    try:
        async with request as response:
            status, reason = response.status, response.reason or ""
            kind, body = response.content_type, await response.read()
    except aiohttp.ClientError:  # the call's connection was cut, not that of the batch
        status, reason = HTTPStatus.BAD_GATEWAY, HTTPStatus.BAD_GATEWAY.phrase
        kind, body = "text/plain", b""
    lines = ["Content-Type: application/http"]
    if part.content_id:
        lines.append(f"Content-ID: <response-{part.content_id.strip('<>')}>")
    lines += ["", f"HTTP/1.1 {int(status)} {reason}", f"Content-Type: {kind}; charset=UTF-8"]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def _malformed(why: str) -> ServiceError:
    return ServiceError(400, "badRequest", f"The batch cannot be read: {why}.")
