"""The `fields` parameter of Google's APIs: which parts of an answer to send."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from gce_backend.localcloud.compute import description
from gce_backend.localcloud.compute.description import Shape
from gce_backend.localcloud.compute.error_replies import invalid_selection

Mask = dict[str, "Mask"]
"""What to keep below each name."""

_ALL = ""
"""The name that stands for everything; nothing is below it."""

_TOKEN = re.compile(r"[\w*-]+|[,/()]")


def masked(method: str, answer: Any, fields: str | None) -> Any:
    """The parts of an answer that `fields` names; all of it without `fields`.

    Args:
        method: the called method, whose answer's shape says which fields there are.
        answer: the whole answer.
        fields: the parameter.

    Raises:
        ServiceError: 400 invalidParameter when `fields` is malformed, or names an unknown field.
    """
    return answer if fields is None else _keep(answer, _mask(method, fields))


def _keep(value: Any, mask: Mask) -> Any:
    if _ALL in mask:
        return value
    if isinstance(value, list):
        return [_keep(element, mask) for element in value]
    if not isinstance(value, dict):
        return value
    everywhere = mask.get("*")
    kept = {}
    for name, inner in value.items():
        below = mask.get(name, everywhere)
        if below is not None:
            kept[name] = inner if _ALL in below else _keep(inner, below)
    return kept


@lru_cache(maxsize=256)
def _mask(method: str, fields: str) -> Mask:
    tokens = _TOKEN.findall(fields)
    mask: Mask = {}
    if "".join(tokens) != fields or _parse_list([*tokens, ""], 0, mask) != len(tokens):
        raise invalid_selection(fields)
    _check(mask, [description.method(method).response])
    return mask


def _parse_list(tokens: list[str], at: int, mask: Mask) -> int:
    """Reads `a,b/c,d(e)` into `mask`; returns the place after it, or -1 when it is malformed."""
    while True:
        inner = mask
        while True:
            if tokens[at] in {"", ",", "/", "(", ")"}:
                return -1
            inner = inner.setdefault(tokens[at], {})
            at += 1
            if tokens[at] != "/":
                break
            at += 1
        if tokens[at] == "(":
            at = _parse_list(tokens, at + 1, inner)
            if at < 0 or tokens[at] != ")":
                return -1
            at += 1
        else:
            inner[_ALL] = {}
        if tokens[at] != ",":
            return at
        at += 1


def _check(mask: Mask, shapes: list[Shape]) -> None:
    """Checks that each name is a field; after a wildcard, of anything that it stands for."""
    for name, inner in mask.items():
        if name != _ALL:
            below = [found for shape in shapes for found in description.members(shape, name)]
            if not below:
                raise invalid_selection(name)
            _check(inner, below)
