"""The discovery documents: which methods there are, and which of them a URL means."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from importlib import resources
from typing import Any
from urllib.parse import unquote

APIS = ("compute.v1", "datastore.v1", "pubsub.v1", "cloudresourcemanager.v1")
"""Those that the project speaks to."""

_UNLISTED = {"returnPartialSuccess": {"type": "boolean", "location": "query"}}
"""What Compute's lists take by its reference pages and its clients, and this description mentions,
but does not list."""

_VARIABLE = re.compile(r"\{(\+?)(\w+)\}")


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method of an API.

    Attributes:
        api: the API's name and version, e.g. `compute.v1`.
        name: the method's id, e.g. `compute.instances.get`.
        verb: the HTTP verb.
        path: its template, absolute, e.g. `/compute/v1/projects/{project}/zones/{zone}`.
        parameters: descriptions of its parameters and those of every method, by name.
        request: the name of the body's schema; None when it has no body.
        response: the name of the answer's schema.
        depth: how many slashes are in these paths.
        required_query: the parameters that the query must have.
        described: the description itself.
    """

    api: str
    name: str
    verb: str
    path: str
    parameters: dict[str, Any]
    request: str | None
    response: str | None
    depth: int
    required_query: frozenset[str]
    described: dict[str, Any]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What matches the raw paths that mean it; its groups are the variables.

        It is compiled when it is first needed: few of a thousand methods ever are.
        """
        return _pattern(self.path, self.parameters)

    def variables(self, path: str) -> dict[str, str]:
        """The values of the path's variables, percent-decoded.

        Args:
            path: a raw path that means this method.
        """
        matched = self.pattern.fullmatch(path)
        assert matched is not None
        return {name: unquote(value) for name, value in matched.groupdict().items()}


@cache
def document(api: str) -> dict[str, Any]:
    """The description of an API.

    Args:
        api: its name and version, e.g. `compute.v1`.
    """
    package = resources.files("googleapiclient") / "discovery_cache" / "documents"
    loaded: dict[str, Any] = json.loads((package / f"{api}.json").read_text())
    return loaded


@cache
def method(name: str) -> Method:
    """The method with this id, e.g. `compute.instances.get`.

    Raises:
        KeyError: there is none.
    """
    return {found.name: found for found in _all()}[name]


@lru_cache(maxsize=5000)
def find(verb: str, path: str) -> Method | None:
    """The method that a request means.

    Args:
        verb: the HTTP verb.
        path: the URL's raw path.

    Returns:
        Where several templates match, the one with most literal characters.
    """
    candidates = _index().get((verb, path.count("/")), ())
    matching = [known for known in candidates if known.pattern.fullmatch(path)]
    return max(matching, key=lambda known: len(_VARIABLE.sub("", known.path)), default=None)


def verbs(path: str) -> list[str]:
    """The verbs that a path can be used with."""
    return sorted({verb for verb, _ in _index() if find(verb, path)})


@cache
def _all() -> tuple[Method, ...]:
    return tuple(found for api in APIS for found in _below(api, document(api)))


@cache
def _index() -> dict[tuple[str, int], list[Method]]:
    index: dict[tuple[str, int], list[Method]] = {}
    for known in _all():
        index.setdefault((known.verb, known.depth), []).append(known)
    return index


def _below(api: str, resource: dict[str, Any]) -> Iterator[Method]:
    for described in resource.get("methods", {}).values():
        yield _method(api, described)
    for inner in resource.get("resources", {}).values():
        yield from _below(api, inner)


def _method(api: str, described: dict[str, Any]) -> Method:
    parameters = {**document(api)["parameters"], **described.get("parameters", {})}
    if "pageToken" in parameters and api == "compute.v1":
        parameters |= _UNLISTED
    root = f"/{document(api)['servicePath']}"
    path = root + described["path"]
    return Method(
        api=api,
        name=described["id"],
        verb=described["httpMethod"],
        path=path,
        parameters=parameters,
        request=described.get("request", {}).get("$ref"),
        response=described.get("response", {}).get("$ref"),
        depth=(root + described["flatPath"]).count("/"),
        required_query=frozenset(
            name
            for name, inner in parameters.items()
            if inner["location"] == "query" and inner.get("required")
        ),
        described=described,
    )


def _pattern(path: str, parameters: dict[str, Any]) -> re.Pattern[str]:
    """What a template matches: a variable is one segment, or with `+` what its pattern says."""
    parts: list[str] = []
    end = 0
    for variable in _VARIABLE.finditer(path):
        plus, name = variable.groups()
        inner = parameters[name]["pattern"].strip("^$") if plus else "[^/]+"
        parts += [re.escape(path[end : variable.start()]), f"(?P<{name}>{inner})"]
        end = variable.end()
    if end == len(path):
        # What follows a colon at the very end is a verb of its own, never part of a name.
        parts[-1] = re.sub(r"\[\^/\]\+\)$", "[^/:]+)", parts[-1])
    return re.compile("".join(parts) + re.escape(path[end:]))
