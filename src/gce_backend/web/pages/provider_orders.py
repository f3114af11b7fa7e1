"""The forms of a Machine Provider's pages: the API's own methods, for whom the browser signed in.

Each is judged, logged and refused as the same call of the API is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from gce_backend.machine_provider.api import Refusal

Fields = Mapping[str, str]
MINUTE = 60


class _Order(NamedTuple):
    """What a form does.

    Attributes:
        method: the API's.
        body: makes the method's request of the form's fields.
        shown_at: the page that shows what became of it.
    """

    method: str
    body: Callable[[Fields], dict[str, Any]]
    shown_at: str


def call_of(name: str, fields: Fields) -> tuple[str, dict[str, Any], str]:
    """The call that a form stands for.

    Args:
        name: the form's: release, hold, extend, transfer, lease, cordon or uncordon.
        fields: what it sends.

    Returns:
        The method, its request, and the page that shows what became of it.

    Raises:
        Refusal: 404: there is no such form. 400: its fields are malformed.
    """
    order = _ORDERS.get(name)
    if order is None:
        raise Refusal(404, f"There is no order {name}.")
    return order.method, order.body(fields), order.shown_at


def _named(fields: Fields) -> dict[str, Any]:
    return {"id": fields.get("id", "")}


def _machine(fields: Fields) -> dict[str, Any]:
    return {"name": fields.get("name", ""), "backend": fields.get("backend", "")}


def _lasting(fields: Fields) -> dict[str, Any]:
    """A duration in minutes, as people write it into a form; none when the field is empty."""
    text = fields.get("minutes", "").strip()
    if not text:
        return {}
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise Refusal(400, "The minutes must be a whole number.")
    return {"duration": int(text) * MINUTE}


def _new_lease(fields: Fields) -> dict[str, Any]:
    try:
        dimensions = msgspec.json.decode(fields.get("dimensions", ""), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Refusal(400, f"The dimensions are malformed: {error}.") from None
    kept = {name: fields[name] for name in ("request_id", "label") if name in fields}
    return {**kept, "dimensions": dimensions, **_lasting(fields)}


_ORDERS: Mapping[str, _Order] = {
    "release": _Order("leases.release", _named, "/leases"),
    "hold": _Order("leases.hold", lambda fields: _named(fields) | _lasting(fields), "/leases"),
    "extend": _Order("leases.extend", lambda fields: _named(fields) | _lasting(fields), "/leases"),
    "transfer": _Order(
        "leases.transfer",
        lambda fields: _named(fields) | {"user": fields.get("user", "").strip()},
        "/leases",
    ),
    "cordon": _Order("machines.cordon", _machine, "/machines"),
    "uncordon": _Order("machines.uncordon", _machine, "/machines"),
    "lease": _Order("leases.create", _new_lease, "/leases"),
}
