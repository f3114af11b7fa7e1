"""The embedded cloud's access control: programs on this machine, and no pages of a browser.

It issues tokens to every caller. On a loopback address it accepts only loopback's own names, so
that no name of a foreign site leads to it. Wherever it listens, it refuses what a browser sends for
another site's page, because any page can send a plain form.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from gce_backend.settings.settings import is_loopback, names_loopback

FOREIGN_SITES = frozenset({"cross-site", "same-site"})
"""Values of Sec-Fetch-Site in requests from another site's page."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def trusting(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses requests for other hosts, and requests from another site's page."""
    refusal = why_not(request)
    if refusal:
        error = {"code": 403, "message": refusal, "status": "PERMISSION_DENIED"}
        return web.json_response({"error": error}, status=403)
    return await handler(request)


def why_not(request: web.Request) -> str:
    """Why a request is refused; "" when it is not.

    A client that uses the cloud as its HTTP proxy sends the address that it means, so any host is
    accepted from it: a foreign site cannot make a browser do this.
    """
    to_a_proxy = not request.raw_path.startswith(("/", "*"))
    if not to_a_proxy and _listens_on_loopback(request) and not names_loopback(request.host):
        return f"{request.host!r} is not a name of this machine: use 127.0.0.1 or localhost"
    origin = request.headers.get("Origin", "")
    foreign = bool(origin) and origin.partition("://")[2] != request.host
    if foreign or request.headers.get("Sec-Fetch-Site", "") in FOREIGN_SITES:
        return "a page of another site sent this"
    return ""


def _listens_on_loopback(request: web.Request) -> bool:
    """Whether the request came in at a loopback address, which only this machine can reach."""
    address = request.transport.get_extra_info("sockname") if request.transport else None
    return not isinstance(address, tuple) or is_loopback(str(address[0]))
