"""`/api/control` and the orders behind it: pause, resume, approve, lift the cap.

Reading is open. An order needs the token of the settings, is written to the store under its
version before it is answered, wakes the jobs that it concerns, and leaves a line in the log.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta
from structlog.typing import FilteringBoundLogger

from gce_backend import control
from gce_backend.context import Context
from gce_backend.errors import BackendError
from gce_backend.fleet import Change
from gce_backend.models import CONTROL_KEY
from gce_backend.settings import Secret

MAX_BODY_BYTES = 16 * 1024
DELETING = ("delete-instances-pending-deletion", "delete-drained-instances")
NO_ORDERS = (
    "this daemon takes no orders: it has no token. Set http.token in its settings "
    "(GCE_BACKEND_HTTP__TOKEN) and send it as `Authorization: Bearer TOKEN`"
)

T = TypeVar("T", bound=msgspec.Struct)


class _Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all orders share: no unknown fields."""


class Pause(_Order, frozen=True):
    """`POST /api/pause`."""

    reason: Annotated[str, Meta(max_length=control.MAX_REASON)] = ""


class Resume(_Order, frozen=True):
    """`POST /api/resume`."""


class Approve(_Order, frozen=True):
    """`POST /api/approve`."""

    revision: Annotated[
        str, Meta(pattern=control.REVISION_PATTERN, max_length=control.MAX_REVISION)
    ]


class LiftCap(_Order, frozen=True):
    """`POST /api/lift-cap`."""

    seconds: Annotated[float, Meta(ge=0, le=control.MAX_LIFT_SECONDS)] = control.LIFT_SECONDS


class _Action(NamedTuple, Generic[T]):
    """An order: the type of its body, its event, the change that it makes, and whom it wakes."""

    kind: type[T]
    event: str
    apply: Callable[[T, float], control.Apply]
    wakes: tuple[str, ...] | None  # None: all jobs


_ACTIONS: dict[str, _Action[Any]] = {
    "/api/pause": _Action(
        Pause, "control.paused", lambda order, now: control.pause(order.reason, now), ()
    ),
    "/api/resume": _Action(Resume, "control.resumed", lambda _, __: control.resume, None),
    "/api/approve": _Action(
        Approve,
        "control.approved",
        lambda order, _: control.approve(order.revision),
        ("import-config",),
    ),
    "/api/lift-cap": _Action(
        LiftCap,
        "control.cap_lifted",
        lambda order, now: control.lift_cap(now + order.seconds),
        DELETING,
    ),
}


class _RefusedError(Exception):
    """An order that is not carried out: the HTTP status, and why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ControlApi:
    """Takes orders.

    Args:
        token: what they must carry; None refuses them all.
        context: the daemon's context; None while there is none yet.
        wake: runs jobs soon, by name; all of them when it is told none.
        log: for the audit lines.
    """

    def __init__(
        self,
        *,
        token: Secret | None,
        context: Callable[[], Context | None],
        wake: Callable[[Iterable[str] | None], None],
        log: FilteringBoundLogger,
    ) -> None:
        self._token = token
        self._context = context
        self._wake = wake
        self._log = log

    def routes(self) -> list[web.RouteDef]:
        """What the server is to serve."""
        return [web.post(path, self._handler(action)) for path, action in _ACTIONS.items()]

    def state(self) -> dict[str, Any] | None:
        """`GET /api/control`; None while the entities are not loaded."""
        context = self._context()
        return None if context is None else _state(context)

    def _handler(self, action: _Action[Any]) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            try:
                return _json(await self._carry_out(action, request), 200)
            except _RefusedError as refused:
                self._log.warning(
                    "control.refused",
                    path=request.path,
                    status=refused.status,
                    remote=request.remote,
                )
                response = _json({"error": str(refused)}, refused.status)
                if refused.status == 401:
                    response.headers["WWW-Authenticate"] = "Bearer"
                return response

        return handle

    async def _carry_out(self, action: _Action[Any], request: web.Request) -> dict[str, Any]:
        self._check_token(request)
        order = await _order(request, action.kind)
        context = self._context()
        if context is None:
            raise _RefusedError(503, "the daemon has not loaded its entities yet")
        apply = action.apply(order, context.clock.now())
        try:
            changed = await context.fleet.change([Change(CONTROL_KEY, apply)])
        except BackendError as error:
            raise _RefusedError(503, f"the order could not be stored: {error}") from None
        self._log.info(
            action.event,
            **msgspec.structs.asdict(order),
            changed=bool(changed),
            remote=request.remote,
        )
        if action.wakes != ():
            self._wake(action.wakes)
        return _state(context)

    def _check_token(self, request: web.Request) -> None:
        if self._token is None:
            raise _RefusedError(403, NO_ORDERS)
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        wanted = self._token.reveal().encode()
        same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), wanted)
        if scheme.lower() != "bearer" or not same:
            raise _RefusedError(401, "the token is missing or wrong")


async def _order(request: web.Request, kind: type[T]) -> T:
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise _RefusedError(413, f"the body has more than {MAX_BODY_BYTES} bytes")
    try:
        return msgspec.json.decode(bytes(body) or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _RefusedError(400, f"the body cannot be understood: {error}") from None


def _state(context: Context) -> dict[str, Any]:
    told = context.fleet.control
    until = told.cap_lifted_until
    return {
        "paused": context.paused,
        "paused_by_settings": not context.settings.actuate,
        "paused_by_operator": told.paused,
        "pause_reason": told.pause_reason,
        "paused_since": told.paused_since,
        "held_revision": context.world.held_revision or None,
        "approved_revision": told.approved_revision or None,
        "cap_lifted_until": until if until > context.clock.now() else None,
        "deletions_held": {job: count for job, count in context.world.held.items() if count},
    }


def _json(body: Any, status: int) -> web.Response:
    encoded = msgspec.json.format(msgspec.json.encode(body), indent=2)
    return web.Response(status=status, body=encoded, content_type="application/json")
