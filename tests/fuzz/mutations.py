"""Spoils texts and JSON values: what a peer, an editor or an attacker may send instead."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from support.mutation import mutated

ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    1e308,
    2**31,
    2**63,
    2**64,
    10**400,
    "",
    " ",
    "0",
    "-1",
    "9" * 5000,
    "1e999",
    "NaN",
    "true",
    "null",
    "a" * 70,
    "x" * 5000,
    "é",
    "\x00",
    "\ud800",
    "\u202e",
    "²",
    "../..",
    "//[",
    "http://[::1",
    "projects/p/zones/z/instances/i",
    "2026-13-01T00:00:00Z",
    "9999-12-31T23:59:59.999999999Z",
    "-P1D",
    "31536000000000s",
    "%",
    "%00",
    "=====",
    "{",
    [],
    {},
    [[]],
    [None],
    {"": ""},
    {"a": {"b": {"c": {}}}},
    [[[[[[[[[[]]]]]]]]]],
)
TEXTS = tuple(one for one in ODD if isinstance(one, str))
_DEEP = "[" * 5000


def spoiled_json(value: Any, chance: Random) -> bytes:
    """A JSON text that differs in one place or several, or is none any more."""
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        value = mutated(value, chance, chance.choice(ODD))
    raw = json.dumps(value, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    return spoiled_bytes(raw, chance) if chance.random() < 0.15 else raw


def spoiled_bytes(raw: bytes, chance: Random) -> bytes:
    """Bytes with a piece cut, doubled, changed or put in."""
    at, to = sorted(chance.randrange(len(raw) + 1) for _ in range(2))
    way = chance.randrange(6)
    if way == 0:
        return raw[:at]
    if way == 1:
        return raw[:at] + raw[to:]
    if way == 2:
        return raw[:to] + raw[at:]
    if way == 3:
        return raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :]
    if way == 4:
        odd = chance.choice(TEXTS).encode("utf-8", "surrogatepass")
        return raw[:at] + odd + raw[at:]
    return _DEEP.encode() if chance.random() < 0.05 else raw[:at] + chance.randbytes(3) + raw[at:]


def spoiled_text(text: str, chance: Random) -> str:
    """A configuration in which lines and values are others; UTF-8, as readers of files see to."""
    lines = text.splitlines()
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(lines))
        way = chance.randrange(6)
        if way == 0:
            del lines[at]
        elif way == 1:
            lines.insert(chance.randrange(len(lines) + 1), lines[at])
        elif way == 2 and ":" in lines[at]:
            name, _, _ = lines[at].partition(":")
            lines[at] = f"{name}: {json.dumps(chance.choice(ODD))}"
        elif way == 3 and ":" in lines[at]:
            name, _, value = lines[at].partition(":")
            odd = chance.choice(TEXTS)
            lines[at] = f'{name}: "{value.strip(chr(34) + " ")}{odd}"'
        elif way == 4:
            raw = lines[at].encode("utf-8", "replace")
            lines[at] = spoiled_bytes(raw, chance).decode("utf-8", "replace")
        else:
            other = chance.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        if not lines:
            return ""
    return "\n".join(lines).encode("utf-8", "replace").decode()
