"""Forms for orders: the same orders as the API's, from a signed-in browser."""

from __future__ import annotations

from aiohttp import web

from gce_backend.web.access import Gate
from gce_backend.web.documents.answers import RefusedError
from gce_backend.web.documents.bodies import read_form
from gce_backend.web.documents.orders import ControlApi
from gce_backend.web.pages.forms import check_origin, redirect
from gce_backend.web.pages.site import Site

SIGN_IN = "Sign in first: orders need a token of this daemon."
_SHOWN_AT = {"ack-messages": "/messages"}
"""The pages that show what became of an order whose form names none; else the first one does."""


class Orders:
    """Carries out the orders of forms.

    Args:
        gate: who may act.
        control: carries out orders.
        site: renders refusals.
    """

    def __init__(self, gate: Gate, control: ControlApi, site: Site) -> None:
        self._gate = gate
        self._control = control
        self._site = site

    def routes(self) -> list[web.RouteDef]:
        """What the server is to serve."""
        return [web.post("/orders/{name}", self._carry_out)]

    async def _carry_out(self, request: web.Request) -> web.Response:
        try:
            check_origin(request)
            caller = self._gate.caller(request)
            if caller is None:
                raise RefusedError(401, SIGN_IN)  # noqa: TRY301
            fields = await read_form(request)
            name = request.match_info["name"]
            to = fields.get("to", _SHOWN_AT.get(name, "/"))
            order = {field: text for field, text in fields.items() if field != "to"}
            await self._control.carry_out(f"/api/{name}", order, caller, remote=request.remote)
        except RefusedError as refused:
            values = {"status": refused.status, "message": str(refused), "similar": ()}
            frame = self._site.frame(request)
            return self._site.renderer.page(request, "refused.html", frame | values, refused.status)
        return redirect(to)
