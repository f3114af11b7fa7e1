"""Whether JSON values are what a schema of a discovery document says.

A schema becomes a function once, and is then called for every value. Problems are found on the way
down and given their path on the way up, so that what fits costs little.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from typing import Any

from support.discovery.documents import Method, document

Seen = set[str]
"""The fields met, each as `api.Schema.field.field`."""

Check = Callable[[Any, Seen], Sequence[str]]
"""Answers what is wrong with a value, each problem as `.path[0].below: what`."""

Judge = Callable[[Any], str | None]
"""Answers what is wrong with a scalar."""

_RANGES = {
    "int32": range(-(2**31), 2**31),
    "uint32": range(2**32),
    "int64": range(-(2**63), 2**63),
    "uint64": range(2**64),
}
_FORMATS = {
    "byte": re.compile(r"(?:[\w+/-]{4})*(?:[\w+/-]{2}(?:==)?|[\w+/-]{3}=?)?", re.ASCII),
    "google-datetime": re.compile(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)", re.ASCII
    ),
    "google-duration": re.compile(r"-?\d+(?:\.\d{1,9})?s", re.ASCII),
    "google-fieldmask": re.compile(r"[\w.]+(?:,[\w.]+)*", re.ASCII),
}
_NO_NUMBERS = {"NaN", "Infinity", "-Infinity"}
_OUTPUT_ONLY = ("[output only]", "output only")
_SHOWN = 80
"""How many characters of a value a problem shows."""


def request_check(method: Method) -> Check:
    """What judges the body of a request."""
    return _checks(method.api, method.name)(method.request)


def response_check(method: Method) -> Check:
    """What judges the body of a success."""
    return _checks(method.api, None)(method.response)


def parameter_problem(schema: dict[str, Any], text: str) -> str | None:
    """What is wrong with a parameter of a URL.

    Args:
        schema: the parameter's description.
        text: its value, percent-decoded.
    """
    kind = schema["type"]
    value: Any = text
    if kind == "boolean":
        value = {"true": True, "false": False}.get(text, text)
    elif kind == "integer" and re.fullmatch(r"-?\d{1,30}", text, re.ASCII):
        value = int(text)
    elif kind == "number" and re.fullmatch(r"-?\d+(\.\d+)?", text, re.ASCII):
        value = float(text)
    return _scalar_problem(schema, value)


def is_read_only(schema: dict[str, Any]) -> bool:
    """Whether only Google writes a field: by flag, or by the first words of its description."""
    described = str(schema.get("description", "")).lower()
    return bool(schema.get("readOnly")) or described.startswith(_OUTPUT_ONLY)


class _Checks:
    """The checks of one API's schemas, in one direction.

    Args:
        api: the API's name and version.
        sent_by: the id of the method whose request is judged; None for answers.
    """

    def __init__(self, api: str, sent_by: str | None) -> None:
        self._schemas = document(api)["schemas"]
        self._api = api.partition(".")[0]
        self._sent_by = sent_by
        self._made: dict[str, Check] = {}

    def __call__(self, name: str | None) -> Check:
        """The check of a schema; None for no body at all."""
        if name is None:
            return _nothing
        if name not in self._made:
            self._made[name] = self._make(self._schemas[name], f"{self._api}.{name}")
        return self._made[name]

    def _make(self, schema: dict[str, Any], place: str) -> Check:
        if "$ref" in schema:
            return partial(self._referred, schema["$ref"])
        kind = schema["type"]
        if kind == "any":
            return _anything
        if kind == "array":
            return partial(_array, self._make(schema["items"], place))
        if kind == "object":
            return self._object(schema, place)
        if kind == "string" and schema.keys().isdisjoint({"format", "enum", "pattern"}):
            return _string  # most fields are plain text
        # The same names, states and dates come again and again; 1, 1.0 and True are apart.
        judge = partial(_scalar_problem, schema)
        return partial(_scalar, lru_cache(maxsize=1000, typed=True)(judge), judge)

    def _referred(self, name: str, value: Any, seen: Seen) -> Sequence[str]:
        # Found when it is needed, because schemas refer to themselves.
        return self(name)(value, seen)

    def _object(self, schema: dict[str, Any], place: str) -> Check:
        fields: dict[str, tuple[str, Check]] = {}
        required: set[str] = set()
        for name, inner in schema.get("properties", {}).items():
            below = f"{place}.{name}"
            refused = self._sent_by is not None and is_read_only(inner)
            fields[name] = below, _read_only if refused else self._make(inner, below)
            if self._sent_by in inner.get("annotations", {}).get("required", ()):
                required.add(name)
        values = schema.get("additionalProperties")
        return partial(
            _object, fields, required, None if values is None else self._make(values, place)
        )


_checks = cache(_Checks)


def _nothing(value: Any, _: Seen) -> Sequence[str]:
    return [": a body where none belongs"] if value else ()


def _anything(_: Any, __: Seen) -> Sequence[str]:
    return ()


def _read_only(_: Any, __: Seen) -> Sequence[str]:
    return [": only Google writes this field"]


def _array(check: Check, value: Any, seen: Seen) -> Sequence[str]:
    if not isinstance(value, list):
        return [f": {_shown(value)} is no list"]
    problems: list[str] = []
    for index, element in enumerate(value):
        if found := check(element, seen):
            problems += [f"[{index}]{problem}" for problem in found]
    return problems


def _object(
    fields: dict[str, tuple[str, Check]],
    required: set[str],
    values: Check | None,
    value: Any,
    seen: Seen,
) -> Sequence[str]:
    if not isinstance(value, dict):
        return [f": {_shown(value)} is no object"]
    problems: list[str] = []
    if required:
        problems += [f".{name}: required, and missing" for name in required - value.keys()]
    for name, inner in value.items():
        known = fields.get(name)
        if known is not None:
            seen.add(known[0])
            found = known[1](inner, seen)
        else:
            found = [": no such field"] if values is None else values(inner, seen)
        if found:
            problems += [f".{name}{problem}" for problem in found]
    return problems


def _string(value: Any, _: Seen) -> Sequence[str]:
    return () if isinstance(value, str) else [f": {_shown(value)} is no string"]


def _scalar(remembered: Judge, judge: Judge, value: Any, _: Seen) -> Sequence[str]:
    problem = judge(value) if isinstance(value, (dict, list)) else remembered(value)
    return [f": {problem}"] if problem else ()


def _scalar_problem(schema: dict[str, Any], value: Any) -> str | None:
    kind, form = schema["type"], schema.get("format", "")
    if kind == "boolean":
        fits = isinstance(value, bool)
    elif kind == "integer":
        fits = isinstance(value, int) and not isinstance(value, bool) and value in _RANGES[form]
    elif kind == "number":
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits = fits or value in _NO_NUMBERS
    elif "enum" in schema:
        if value in schema["enum"] or (value is None and "NULL_VALUE" in schema["enum"]):
            return None
        return f"{_shown(value)} is none of {', '.join(schema['enum'])}"
    else:
        return _string_problem(schema, value)
    if not fits:
        return f"{_shown(value)} is no {kind}" + (f" ({form})" if form else "")
    if kind == "integer" and not _within(schema, value):
        return f"{value} is not from {schema.get('minimum', '')} to {schema.get('maximum', '')}"
    return None


def _string_problem(schema: dict[str, Any], value: Any) -> str | None:
    if not isinstance(value, str):
        return f"{_shown(value)} is no string"
    form = schema.get("format")
    if form in _RANGES:
        number = re.fullmatch(r"-?\d{1,20}", value, re.ASCII)
        fits = number is not None and int(value) in _RANGES[form]
    else:
        fits = form is None or _FORMATS[form].fullmatch(value) is not None
    if not fits:
        return f"{_shown(value)} is no string ({form})"
    pattern = schema.get("pattern")
    if pattern is not None and re.fullmatch(pattern, value) is None:
        return f"{_shown(value)} does not match {pattern}"
    return None


def _within(schema: dict[str, Any], value: int) -> bool:
    return int(schema.get("minimum", value)) <= value <= int(schema.get("maximum", value))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
