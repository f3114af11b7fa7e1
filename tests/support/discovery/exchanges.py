"""Whether a request and its answer are as Google describes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from yarl import URL

from support.discovery.documents import Method, find, verbs
from support.discovery.documents import method as method_named
from support.discovery.errors import error_problems
from support.discovery.masks import mask_problems
from support.discovery.values import Seen, parameter_problem, request_check, response_check

_JSON = "application/json"
_REMEMBERED_BYTES = 20_000
"""Up to this size a body's judgement is remembered: idle jobs say the same again and again."""


class Answer(NamedTuple):
    """What came back.

    Attributes:
        status: HTTP status.
        media: the media type.
        body: its bytes, decompressed.
    """

    status: int
    media: str
    body: bytes


class Exchange(NamedTuple):
    """A request and its answer.

    Attributes:
        verb: the HTTP verb.
        url: where to; only path and query count.
        sent: the request's body; None when it did not come whole.
        answer: what came back; None when nothing did.
        by_hand: whether a test wrote the request itself. Such a one may be nonsense, as long as it
            is refused for it; what clients send must be right whatever the answer.
    """

    verb: str
    url: URL
    sent: bytes | None = b""
    answer: Answer | None = None
    by_hand: bool = False

    @property
    def is_probe(self) -> bool:
        """Whether a test wanted this request to be refused."""
        return self.by_hand and self.answer is not None and 400 <= self.answer.status < 500


@dataclass
class Tally:
    """What was seen.

    Attributes:
        exchanges: how many.
        methods: the ids of their methods.
        sent: the fields that requests had.
        received: the fields that answers had.
    """

    exchanges: int = 0
    methods: set[str] = field(default_factory=set)
    sent: Seen = field(default_factory=set)
    received: Seen = field(default_factory=set)

    def add(self, other: Tally) -> None:
        """Counts what another one saw too."""
        self.exchanges += other.exchanges
        self.methods |= other.methods
        self.sent |= other.sent
        self.received |= other.received

    def __str__(self) -> str:
        return (
            f"{self.exchanges} exchanges checked, {len(self.methods)} methods, "
            f"{len(self.sent | self.received)} distinct fields seen "
            f"({len(self.sent)} sent, {len(self.received)} received)"
        )


def problems(exchange: Exchange, tally: Tally) -> list[str]:
    """What is wrong with an exchange, each with its method and the field's path.

    Args:
        exchange: one with an API of Google's.
        tally: counts it.
    """
    tally.exchanges += 1
    method, in_address = _address(exchange.verb, exchange.url.raw_path_qs)
    if method is None:
        return [] if exchange.is_probe else list(in_address)
    tally.methods.add(method.name)
    found = list(_answer_problems(method, exchange.answer, tally.received))
    if not exchange.is_probe:
        found += in_address
        found += _request_problems(method, exchange.sent, tally.sent)
    return [f"{method.name}: {problem}" for problem in found]


@lru_cache(maxsize=5000)
def _address(verb: str, path_and_query: str) -> tuple[Method | None, Sequence[str]]:
    """The method that an address means, and what is wrong with its path and query."""
    url = URL(path_and_query, encoded=True)
    path = url.raw_path
    method = find(verb, path)
    if method is None:
        others = " or ".join(verbs(path))
        what = f"this path takes {others} only" if others else "no method has this path"
        return None, [f"{verb} {path}: {what}"]
    return method, [*_path_problems(method, path), *_query_problems(method, url)]


def _path_problems(method: Method, path: str) -> Iterator[str]:
    for name, value in method.variables(path).items():
        if problem := parameter_problem(method.parameters[name], value):
            yield f"path.{name}: {problem}"


def _query_problems(method: Method, url: URL) -> Iterator[str]:
    given = url.query
    for name in set(given):
        described = _parameter(method, name)
        if described.get("location") != "query":
            yield f"query.{name}: no such parameter"
            continue
        values = given.getall(name)
        if len(values) > 1 and not described.get("repeated"):
            yield f"query.{name}: given {len(values)} times"
        for value in values:
            if problem := parameter_problem(described, value):
                yield f"query.{name}: {problem}"
    for name in method.required_query - given.keys():
        yield f"query.{name}: required, and missing"
    if "fields" in given:
        for path in mask_problems(method, given["fields"]):
            yield f"query.fields: the answer has no {path!r}"


def _parameter(method: Method, name: str) -> dict[str, Any]:
    """The description of a parameter; {} when there is none.

    Those of every API can be written with `$` (https://cloud.google.com/apis/docs/system-parameters),
    and `$alt` may say besides how enums are written.
    """
    described: dict[str, Any] = method.parameters.get(name, {})
    if not described and name == "$alt":
        described = method.parameters["alt"]
        described = described | {"enum": [*described["enum"], "json;enum-encoding=int"]}
    return described


def _request_problems(method: Method, sent: bytes | None, seen: Seen) -> Iterator[str]:
    if sent is None:
        return
    found, fields = _judged(_request, method.name, 0, sent or b"{}")
    seen |= fields
    for problem in found:
        yield f"request{problem}"


def _answer_problems(method: Method, answer: Answer | None, seen: Seen) -> Iterator[str]:
    if answer is None:
        return
    if answer.media != _JSON:
        yield f"response: HTTP status {answer.status} with {answer.media}, not with {_JSON}"
        return
    found, fields = _judged(_response, method.name, answer.status, answer.body)
    seen |= fields
    for problem in found:
        yield f"response{problem}"


_Judged = tuple[Sequence[str], Seen]
"""The problems of a body, and the fields that it has."""


def _judged(judge: Callable[[str, int, bytes], _Judged], *of: *tuple[str, int, bytes]) -> _Judged:
    """What is wrong with a body; a small one that came before is not looked at again."""
    return _remembered(judge, *of) if len(of[-1]) <= _REMEMBERED_BYTES else judge(*of)


@lru_cache(maxsize=5000)
def _remembered(
    judge: Callable[[str, int, bytes], _Judged], name: str, status: int, body: bytes
) -> _Judged:
    return judge(name, status, body)


def _request(name: str, _: int, body: bytes) -> _Judged:
    seen: Seen = set()
    try:
        return request_check(method_named(name))(_decoded(body), seen), seen
    except (ValueError, RecursionError) as error:
        return [f": no JSON: {error}"], seen


def _response(name: str, status: int, body: bytes) -> _Judged:
    seen: Seen = set()
    try:
        decoded = _decoded(body)
    except (ValueError, RecursionError) as error:
        return [f": no JSON: {error}"], seen
    if status == 200:
        return response_check(method_named(name))(decoded, seen), seen
    if status >= 400:
        return list(error_problems(status, decoded)), seen
    return [f": HTTP status {status} is neither 200 nor an error"], seen


def _decoded(body: bytes) -> Any:
    """The JSON value.

    Raises:
        ValueError: it is none.
        RecursionError: it is too deep.
    """
    return msgspec.json.decode(body)
