"""Property masks: the properties that an answer has, or that a mutation writes."""

from __future__ import annotations

import re
from typing import Any, TypeAlias

from gce_backend.localcloud.datastore.requests import PropertyMask
from gce_backend.localcloud.statuses import invalid

_NAME = re.compile(r"(?:[^.\\]|\\.)+", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)

Path: TypeAlias = tuple[str, ...]
"""The names from an entity down to a property of an entity value in it."""


def parse_mask(mask: PropertyMask | None) -> list[Path] | None:
    """The paths of a mask; None for no mask.

    Raises:
        ServiceError: one is empty or has an empty part.
    """
    if mask is None:
        return None
    return [_parse(text) for text in mask.paths or ()]


def _parse(text: str) -> Path:
    names = _NAME.findall(text)
    if ".".join(names) != text or not names:
        raise invalid(f"{text!r} is not a property path")
    return tuple(_ESCAPED.sub(r"\1", name) for name in names)


def merged(old: dict[str, Any], new: dict[str, Any], paths: list[Path] | None) -> dict[str, Any]:
    """The properties after a mutation: new ones where the mask names them, else the old ones."""
    if paths is None:
        return new
    for path in paths:
        old = _merge(old, new, path)
    return old


def _merge(old: dict[str, Any], new: dict[str, Any], path: Path) -> dict[str, Any]:
    name, *rest = path
    if not rest:
        kept = {key: value for key, value in old.items() if key != name}
        return {**kept, name: new[name]} if name in new else kept
    value = next((p[name] for p in (old, new) if "entityValue" in p.get(name, {})), None)
    if value is None:
        return old  # there is no entity value at this name, so there is nothing to set or delete
    inner = _merge(_inner(old.get(name)), _inner(new.get(name)), tuple(rest))
    return {**old, name: {**value, "entityValue": {**value["entityValue"], "properties": inner}}}


def _inner(value: dict[str, Any] | None) -> dict[str, Any]:
    entity = (value or {}).get("entityValue") or {}
    return entity.get("properties") or {}
