"""`/api/control` and the orders behind it: pause, resume, roll-outs, approve, drain and others.

Reading is open. An order needs a token with its role. It is stored before it is answered, with who
gave it, wakes the jobs that it concerns, and leaves a line in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Generic, NamedTuple, TypeAlias, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta
from structlog.typing import FilteringBoundLogger

from gce_backend.base.cause import caused_by
from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import BackendError, OrderError, UnknownNameError
from gce_backend.engine.context import Context
from gce_backend.fleet.picture import Change
from gce_backend.model.entities import CONTROL_KEY
from gce_backend.model.keys import MachineKey
from gce_backend.rules import orders
from gce_backend.settings.tokens import NamedToken, Role
from gce_backend.web.access import Gate
from gce_backend.web.documents import bodies
from gce_backend.web.documents.answers import RefusedError, answer
from gce_backend.web.survey import states

DELETING = ("delete-instances-pending-deletion", "delete-drained-instances")
LEAVING = ("remove-cataloged-instances", "delete-drained-instances")
ROLLING = ("process-config", "resize-instance-groups", "remove-cataloged-instances")
CATALOGING = ("catalog-instances",)
NO_ORDERS = (
    "this daemon takes no orders: it has no token. Set http.token (GCE_BACKEND_HTTP__TOKEN) or "
    "http.tokens_file in its settings, and send a token as `Authorization: Bearer TOKEN`"
)

T = TypeVar("T", bound=msgspec.Struct)

Reason: TypeAlias = Annotated[str, Meta(max_length=orders.MAX_REASON)]
Name: TypeAlias = Annotated[str, Meta(max_length=orders.MAX_NAME)]
Changes: TypeAlias = list[Change[Any]]


class _Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all orders share: no unknown fields."""


class PauseOrder(_Order, frozen=True):
    """`POST /api/pause`: everything, or a template, a zone, a template in a zone."""

    reason: Reason = ""
    template: Name = ""
    zone: Name = ""


class Resume(_Order, frozen=True):
    """`POST /api/resume`: ends exactly that pause; with `all`, all pauses."""

    template: Name = ""
    zone: Name = ""
    all: bool = False


class RolloutOrder(_Order, frozen=True):
    """`POST /api/rollout-pause`, `POST /api/rollout-undo`: a template's roll-out."""

    template: Name
    reason: Reason = ""


class RolloutNamed(_Order, frozen=True):
    """`POST /api/rollout-resume`: a template's roll-out."""

    template: Name


class Approve(_Order, frozen=True):
    """`POST /api/approve`."""

    revision: Annotated[str, Meta(pattern=orders.REVISION_PATTERN, max_length=orders.MAX_REVISION)]


class LiftCap(_Order, frozen=True):
    """`POST /api/lift-cap`."""

    seconds: Annotated[float, Meta(ge=0, le=orders.MAX_LIFT_SECONDS)] = orders.LIFT_SECONDS


class AckMessages(_Order, frozen=True):
    """`POST /api/ack-messages`: messages that were set aside, by their ids; none means all."""

    message_ids: Annotated[tuple[Name, ...], Meta(max_length=1000)] = ()


class DrainOrder(_Order, frozen=True):
    """`POST /api/drain`: a machine, by its VM's name or its whole key."""

    name: Name
    reason: Reason = ""
    max_unavailable: Annotated[int, Meta(ge=1)] | None = None


class CordonOrder(_Order, frozen=True):
    """`POST /api/cordon`: a machine, by its VM's name or its whole key."""

    name: Name
    reason: Reason = ""


class MachineNamed(_Order, frozen=True):
    """`POST /api/undrain`, `POST /api/uncordon`: a machine, by its VM's name or its whole key."""

    name: Name


def _pause(context: Context, order: PauseOrder, by: str) -> Changes:
    fleet = context.fleet
    orders.check_scope(order.template, order.zone, fleet.templates, fleet.managers)
    apply = orders.pause(
        order.reason, context.clock.now(), template=order.template, zone=order.zone, by=by
    )
    return [Change(CONTROL_KEY, apply)]


def _resume(_: Context, order: Resume, __: str) -> Changes:
    one = orders.resume(template=order.template, zone=order.zone)
    return [Change(CONTROL_KEY, orders.resume_all if order.all else one)]


def _pause_rollout(context: Context, order: RolloutOrder, by: str) -> Changes:
    orders.the_template(order.template, context.fleet.templates)
    now = context.clock.now()
    return [Change(CONTROL_KEY, orders.pause_rollout(order.template, order.reason, now, by))]


def _resume_rollout(_: Context, order: RolloutNamed, __: str) -> Changes:
    return [Change(CONTROL_KEY, orders.resume_rollout(order.template))]


def _undo_rollout(context: Context, order: RolloutOrder, by: str) -> Changes:
    template = orders.the_template(order.template, context.fleet.templates)
    now = context.clock.now()
    undone = orders.undo_rollout(order.template, template, order.reason, now, by)
    return [Change(CONTROL_KEY, undone)]


def _approve(context: Context, order: Approve, by: str) -> Changes:
    held = orders.the_held(order.revision, context.fleet.configuration.held_revision)
    return [Change(CONTROL_KEY, orders.approve(held, by))]


def _lift_cap(context: Context, order: LiftCap, by: str) -> Changes:
    return [Change(CONTROL_KEY, orders.lift_cap(context.clock.now() + order.seconds, by))]


def _ack_messages(context: Context, order: AckMessages, by: str) -> Changes:
    keys = orders.messages_meant(order.message_ids, context.fleet.set_aside)
    return [Change(key, orders.acknowledge(context.clock.now(), by)) for key in keys]


def _drain(context: Context, order: DrainOrder, by: str) -> Changes:
    return _about(
        context,
        order.name,
        lambda key, now: orders.drain(key, order.reason, now, order.max_unavailable, by=by),
    )


def _undrain(context: Context, order: MachineNamed, _: str) -> Changes:
    return _about(context, order.name, lambda key, __: orders.undrain(key))


def _cordon(context: Context, order: CordonOrder, by: str) -> Changes:
    return _about(
        context, order.name, lambda key, now: orders.cordon(key, order.reason, now, by=by)
    )


def _uncordon(context: Context, order: MachineNamed, _: str) -> Changes:
    return _about(context, order.name, lambda key, __: orders.uncordon(key))


def _about(
    context: Context, name: str, apply: Callable[[MachineKey, UnixSeconds], orders.ApplyToMachine]
) -> Changes:
    key, now = orders.find_machine(name, context.fleet.instances), context.clock.now()
    return [Change(key, apply(key, now)), Change(CONTROL_KEY, orders.mention([key], now))]


def state(context: Context) -> dict[str, Any]:
    """The document of `GET /api/control`."""
    told = context.fleet.control
    return {
        "paused": context.paused,
        "paused_by_settings": not context.settings.actuate,
        **orders.shown(told, context.clock.now()),
        "held_revision": context.fleet.configuration.held_revision or None,
        "deletions_held": {
            permit.value: count
            for permit, count in context.memory.deletions.held_by_permit().items()
            if count
        },
    }


def _answer(context: Context, _: msgspec.Struct) -> dict[str, Any]:
    return state(context)


def _machine(context: Context, order: DrainOrder | CordonOrder | MachineNamed) -> dict[str, Any]:
    key = orders.find_machine(order.name, context.fleet.instances)
    instance = context.fleet.instances[key]
    active = context.fleet.is_active(key.group)
    state, reason = states.machine(context, key, instance, active=active)
    return {
        "name": key.name,
        "key": str(key),
        "state": state.value,
        "reason": states.with_trouble(context, key, reason),
        "drained": instance.drain is not None,
        "cordoned": instance.cordon is not None,
    }


class _Action(NamedTuple, Generic[T]):
    """An order: its body, event, changes, the jobs that run next, its answer, who may give it."""

    kind: type[T]
    event: str
    changes: Callable[[Context, T, str], Changes]
    wakes: tuple[str, ...] | None  # None: all jobs
    answer: Callable[[Context, T], dict[str, Any]] = _answer
    role: Role = Role.OPERATE


_ACTIONS: dict[str, _Action[Any]] = {
    "/api/pause": _Action(PauseOrder, "control.paused", _pause, ()),
    "/api/resume": _Action(Resume, "control.resumed", _resume, None),
    "/api/rollout-pause": _Action(
        RolloutOrder, "control.rollout_paused", _pause_rollout, ROLLING[1:]
    ),
    "/api/rollout-resume": _Action(
        RolloutNamed, "control.rollout_resumed", _resume_rollout, ROLLING
    ),
    "/api/rollout-undo": _Action(RolloutOrder, "control.rollout_undone", _undo_rollout, ROLLING),
    "/api/approve": _Action(
        Approve, "control.approved", _approve, ("import-config",), role=Role.ADMINISTER
    ),
    "/api/ack-messages": _Action(AckMessages, "control.messages_acknowledged", _ack_messages, ()),
    "/api/lift-cap": _Action(
        LiftCap, "control.cap_lifted", _lift_cap, DELETING, role=Role.ADMINISTER
    ),
    "/api/drain": _Action(DrainOrder, "control.drained", _drain, LEAVING, _machine),
    "/api/undrain": _Action(MachineNamed, "control.undrained", _undrain, CATALOGING, _machine),
    "/api/cordon": _Action(CordonOrder, "control.cordoned", _cordon, LEAVING[:1], _machine),
    "/api/uncordon": _Action(
        MachineNamed, "control.uncordoned", _uncordon, (*CATALOGING, *DELETING), _machine
    ),
}


class ControlApi:
    """The API of orders.

    Args:
        gate: knows whose token an order carries.
        context: the daemon's context; None while there is none.
        absence: says why there is no context.
        wake: runs the named jobs soon; None means all jobs.
        log: for the audit lines.
    """

    def __init__(
        self,
        *,
        gate: Gate,
        context: Callable[[], Context | None],
        absence: Callable[[], str],
        wake: Callable[[Iterable[str] | None], None],
        log: FilteringBoundLogger,
    ) -> None:
        self._gate = gate
        self._context = context
        self._absence = absence
        self._wake = wake
        self._log = log

    def routes(self) -> list[web.RouteDef]:
        """The routes for the server."""
        return [web.post(path, self._handle) for path in _ACTIONS]

    async def _handle(self, request: web.Request) -> web.Response:
        try:
            return await self._answer(request)
        except RefusedError as refused:
            self._log.warning(
                "control.refused",
                path=request.path,
                status=refused.status,
                remote=request.remote,
                who=_name(self._gate.bearer(request)),
            )
            response = answer({"error": str(refused)}, refused.status)
            if refused.status == 401:
                response.headers["WWW-Authenticate"] = "Bearer"
            return response

    async def carry_out(
        self, path: str, fields: Mapping[str, str], caller: NamedToken, *, remote: str | None
    ) -> None:
        """Carries out an order of a signed-in operator.

        Args:
            path: the path of the order, e.g. `/api/pause`.
            fields: the fields of the order.
            caller: whose session it is.
            remote: the address that it comes from, for the audit line.

        Raises:
            RefusedError: there is no such order, or it cannot be carried out.
        """
        if path not in _ACTIONS:
            raise RefusedError(404, "there is no such order")
        _require(caller, _ACTIONS[path].role)
        kind = _ACTIONS[path].kind
        several = {it.name for it in msgspec.structs.fields(kind) if isinstance(it.default, tuple)}
        given = {name: (text,) if name in several else text for name, text in fields.items()}
        try:
            order = msgspec.convert(given, kind, strict=False)
        except msgspec.ValidationError as error:
            raise RefusedError(400, f"the order cannot be understood: {error}") from None
        await self._obey(path, order, caller.name, remote)

    async def _answer(self, request: web.Request) -> web.Response:
        caller = self._caller(request)
        order = await _order(request, _ACTIONS[request.path].kind)
        return answer(await self._obey(request.path, order, caller.name, request.remote))

    async def _obey(self, path: str, order: _Order, who: str, remote: str | None) -> dict[str, Any]:
        action = _ACTIONS[path]
        context = self._context()
        if context is None:
            raise RefusedError(503, self._absence())
        try:
            with caused_by(f"operator {path.rpartition('/')[2]}", who):
                changed = await context.fleet.order(action.changes(context, order, who))
        except UnknownNameError as error:
            raise RefusedError(404, str(error)) from None
        except OrderError as error:
            raise RefusedError(409, str(error)) from None
        except BackendError as error:
            raise RefusedError(503, f"the order could not be stored: {error}") from None
        self._log.info(
            action.event,
            **msgspec.structs.asdict(order),
            changed=bool(changed),
            remote=remote,
            who=who,
        )
        if action.wakes != ():
            self._wake(action.wakes)
        return action.answer(context, order)

    def _caller(self, request: web.Request) -> NamedToken:
        if not self._gate.has_token:
            raise RefusedError(403, NO_ORDERS)
        caller = self._gate.bearer(request)
        if caller is None:
            raise RefusedError(401, "the token is missing or wrong")
        _require(caller, _ACTIONS[request.path].role)
        return caller


def _name(caller: NamedToken | None) -> str | None:
    return caller.name if caller is not None else None


async def _order(request: web.Request, kind: type[T]) -> T:
    body = await bodies.read(request)
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError(400, f"the body cannot be understood: {error}") from None


def _require(token: NamedToken, role: Role) -> None:
    """Lets only who has this role go on.

    Raises:
        RefusedError: the token has a lesser role.
    """
    if not token.role.includes(role):
        raise RefusedError(
            403, f"this needs the role {role}, and the token {token.name} has {token.role}"
        )
