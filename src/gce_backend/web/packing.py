"""Answers in fewer bytes, for clients that can unpack them."""

from __future__ import annotations

import gzip
from functools import partial

from aiohttp import web

from gce_backend.base.tasks import off_loop

WORTH_PACKING = 50_000
"""Bytes of the smallest document that is packed; a large one in a thread."""


def accepts_gzip(request: web.Request) -> bool:
    """Whether the client accepts gzip."""
    return "gzip" in request.headers.get("Accept-Encoding", "")


async def packed(request: web.Request, response: web.Response) -> web.Response:
    """A document's answer, packed when that pays; the event loop goes on meanwhile."""
    body = response.body
    response.headers["Vary"] = "Accept-Encoding"
    if isinstance(body, bytes) and len(body) > WORTH_PACKING and accepts_gzip(request):
        packing = partial(gzip.compress, body, compresslevel=1, mtime=0)
        response.body = await off_loop(packing, len(body))
        response.headers["Content-Encoding"] = "gzip"
    return response
