"""The `fields` parameter of Google's APIs: which parts of an answer to send."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from gce_backend.localcloud.compute.replies import invalid

Mask = dict[str, "Mask"]
"""What to keep below each name; an empty mask keeps everything."""

_TOKEN = re.compile(r"[\w*-]+|[,/()]")


def masked(answer: Any, fields: str | None) -> Any:
    """The parts of an answer that `fields` names; all of it without `fields`.

    Raises:
        ServiceError: 400 invalid when `fields` is malformed.
    """
    return answer if fields is None else _keep(answer, _parse(fields))


def _keep(value: Any, mask: Mask) -> Any:
    if not mask:
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
            kept[name] = _keep(inner, below)
    return kept


@lru_cache(maxsize=256)
def _parse(fields: str) -> Mask:
    tokens = _TOKEN.findall(fields)
    wrong = invalid(f"Invalid value for field 'fields': '{fields}'. Invalid field selection.")
    if "".join(tokens) != fields:
        raise wrong
    mask: Mask = {}
    if _parse_list([*tokens, ""], 0, mask) != len(tokens):
        raise wrong
    return mask


def _parse_list(tokens: list[str], at: int, mask: Mask) -> int:
    """Reads `a,b/c,d(e)` into `mask`; returns the place behind it, -1 when it is malformed."""
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
        if tokens[at] != ",":
            return at
        at += 1
