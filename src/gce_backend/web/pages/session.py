"""Signing in and out: a browser sends a token once, and gets a session."""

from __future__ import annotations

from aiohttp import web

from gce_backend.web.access import COOKIE, Gate
from gce_backend.web.cookies import drop_cookie
from gce_backend.web.documents.answers import RefusedError
from gce_backend.web.documents.bodies import read_form
from gce_backend.web.pages.forms import check_origin, redirect
from gce_backend.web.pages.site import Site


class Sessions:
    """The form for signing in, and its answers.

    Args:
        gate: checks tokens.
        site: renders the form.
    """

    def __init__(self, gate: Gate, site: Site) -> None:
        self._gate = gate
        self._site = site

    def routes(self) -> list[web.RouteDef]:
        """What the server is to serve."""
        return [
            web.get("/session", self._form),
            web.post("/session", self._begin),
            web.post("/session/end", self._end),
        ]

    async def _form(self, request: web.Request) -> web.Response:
        return self._draw(request, request.query.get("to", "/"), "", 200)

    async def _begin(self, request: web.Request) -> web.Response:
        try:
            check_origin(request)
            given = await read_form(request)
        except RefusedError as refused:
            return self._draw(request, "/", f"Nothing was done: {refused}.", refused.status)
        to, token = given.get("to", "/"), self._gate.known(given.get("token", ""))
        if token is None:
            await self._gate.slow_down(request)
            return self._draw(request, to, "The token is wrong.", 401)
        response = redirect(to)
        self._gate.admit(token, response, request)
        return response

    async def _end(self, request: web.Request) -> web.Response:
        try:
            check_origin(request)
        except RefusedError as refused:
            return self._draw(request, "/", f"Nothing was done: {refused}.", refused.status)
        response = redirect("/")
        drop_cookie(response, COOKIE)
        return response

    def _draw(self, request: web.Request, to: str, wrong: str, status: int) -> web.Response:
        frame = self._site.frame(request)
        if not self._gate.may_read(request):
            frame |= {"project": "", "version": ""}
        values = frame | {"to": to, "wrong": wrong}
        return self._site.renderer.page(request, "session.html", values, status)
