"""Who the embedded cloud listens to: programs of this machine, and no page of a browser.

It gives tokens to whoever asks. On a loopback address it is asked by loopback's own names alone, so
that no name of a foreign site leads to it; and what a browser sends for another site's page is
refused wherever it listens, because a plain form needs nobody's leave to send it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

from gce_backend.settings.settings import is_loopback

FOREIGN_SITES = frozenset({"cross-site", "same-site"})
"""What browsers say in Sec-Fetch-Site of a request that another site's page sends."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def trusting(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses what is not for this cloud, and what a page of another site sends."""
    refusal = why_not(request)
    if refusal:
        error = {"code": 403, "message": refusal, "status": "PERMISSION_DENIED"}
        return web.json_response({"error": error}, status=403)
    return await handler(request)


def why_not(request: web.Request) -> str:
    """Why a request is refused; "" when it is not.

    A client whose HTTP proxy the cloud is names the address that it means; no name of a foreign
    site leads a browser to that.
    """
    to_a_proxy = not request.raw_path.startswith(("/", "*"))
    if not to_a_proxy and _listens_on_loopback(request) and not _names_loopback(request.host):
        return f"{request.host!r} is no name of this machine: use 127.0.0.1 or localhost"
    origin = request.headers.get("Origin", "")
    foreign = bool(origin) and origin.partition("://")[2] != request.host
    if foreign or request.headers.get("Sec-Fetch-Site", "") in FOREIGN_SITES:
        return "a page of another site sent this"
    return ""


def _listens_on_loopback(request: web.Request) -> bool:
    """Whether the request came in at a loopback address, which is reached from here alone."""
    address = request.transport.get_extra_info("sockname") if request.transport else None
    return not isinstance(address, tuple) or is_loopback(str(address[0]))


def _names_loopback(host: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False
