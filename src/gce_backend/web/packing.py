"""Answers in fewer bytes, for clients that can unpack them."""

from __future__ import annotations

from aiohttp import web


def accepts_gzip(request: web.Request) -> bool:
    """Whether the client accepts gzip."""
    return "gzip" in request.headers.get("Accept-Encoding", "")
