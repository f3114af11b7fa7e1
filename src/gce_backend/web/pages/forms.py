"""Forms of pages of both services: where a form comes from, and where it leads."""

from __future__ import annotations

from aiohttp import web

from gce_backend.web.documents.answers import RefusedError


def check_origin(request: web.Request) -> None:
    """Refuses a form that a page of another site has sent.

    Raises:
        RefusedError: 403: the browser does not say that a page of this service sent the request.
    """
    origin = request.headers.get("Origin", "")
    if not request.host or origin.partition("://")[2] != request.host:
        raise RefusedError(403, "the form did not come from a page of this service")


def redirect(path: str) -> web.Response:
    """Redirects the browser to a page of this service, and nowhere else."""
    ours = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return web.Response(status=303, headers={"Location": path if ours else "/"})
