"""Names in order, and lists of resources in pages, with Compute's list parameters."""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from gce_backend.localcloud.cloud import Call
from gce_backend.localcloud.compute import description, filters
from gce_backend.localcloud.compute.error_replies import invalid_field
from gce_backend.localcloud.compute.links import ROOT
from gce_backend.localcloud.statuses import ServiceError

MAX_RESULTS = 500
_BY_NAME = "name"
_NEWEST_FIRST = "creationTimestamp desc"
_BEHIND = "\x7f"
"""Sorts behind each character that a name can have."""
ANY = ("",)
"""The prefixes of all names."""


class Names:
    """A set of names that can be read in order from any name."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = set(names)
        self._sorted = sorted(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sorted)

    def add(self, name: str) -> None:
        """Adds a name."""
        if name not in self._names:
            self._names.add(name)
            insort(self._sorted, name)

    def discard(self, name: str) -> None:
        """Removes a name, if it is there."""
        if name in self._names:
            self._names.discard(name)
            del self._sorted[bisect_left(self._sorted, name)]

    def after(self, name: str, prefixes: Collection[str] = ANY) -> list[str]:
        """The names after this one that begin with one of the prefixes, in order."""
        start = bisect_right(self._sorted, name)
        if "" in prefixes:
            return self._sorted[start:]
        found: list[str] = []
        for prefix in sorted(prefixes):
            first = bisect_left(self._sorted, prefix, start)
            start = bisect_left(self._sorted, prefix + _BEHIND, first)
            found += self._sorted[first:start]
        return found


class ListPage(NamedTuple):
    """A page of resources.

    Attributes:
        items: the resources, in order.
        token: the next page's `pageToken`; None on the last page.
    """

    items: list[dict[str, Any]]
    token: str | None


After = Callable[[str, Collection[str]], Iterable[str]]
"""Returns the places after a place of a list, in order; after "", all of them.

A place ends with `/` and the name, or is the name. Places are left out whose names begin with none
of the prefixes.
"""

Render = Callable[[str], dict[str, Any] | None]
"""Returns the resource at a place; None when it is not visible."""


def page(
    call: Call, after: After, render: Render, created: Callable[[str], str | None] | None = None
) -> ListPage:
    """One page of a list, in the requested order. What names alone decide is not rendered.

    Args:
        call: its query's `maxResults`, `pageToken`, `filter` and `orderBy` count.
        after: returns the list's places.
        render: returns the resource at a place.
        created: returns the creation time of the resource at a place; None where there is none.

    Raises:
        ServiceError: 400 invalid when a parameter is wrong.
    """
    order = call.query.get("orderBy") or _BY_NAME
    if order not in {_BY_NAME, _NEWEST_FIRST}:
        raise invalid_field("orderBy", order, f"Only '{_BY_NAME}' and '{_NEWEST_FIRST}'.")
    limit = _limit(call.query.get("maxResults", ""))
    start = _start(call.query.get("pageToken", ""), order)
    wanted = filters.parse(call.query.get("filter"), description.listed(call.method))
    if order == _BY_NAME:
        named = _named(after, start.place, wanted)
        places: Iterator[_Place] = (_Place("", place) for place in named)
    else:
        places = _newest_first(_named(after, "", wanted), start, created or _creation(render))
    chosen = [*islice(_shown(places, render, wanted), limit + 1)]
    items = [item for _, item in chosen[:limit]]
    token = _token(order, chosen[limit - 1][0]) if len(chosen) > limit else None
    return ListPage(items, token)


def everything(call: Call, after: After, render: Render) -> ListPage:
    """All items of a list that ignores paging; `filter` counts.

    Raises:
        ServiceError: 400 invalid when the filter is wrong.
    """
    wanted = filters.parse(call.query.get("filter"), description.listed(call.method))
    places = (_Place("", place) for place in _named(after, "", wanted))
    return ListPage([item for _, item in _shown(places, render, wanted)], None)


def refuse(call: Call, *parameters: str) -> None:
    """Refuses parameters that Google documents as not supported by this list.

    Raises:
        ServiceError: 400 invalid.
    """
    for name in parameters:
        if call.query.get(name):
            raise invalid_field(name, call.query[name], "This list does not support it.")


class _Place(NamedTuple):
    """The place of an item: its creation time (if the list is ordered by it), and its name."""

    created: str
    place: str


_Entry = tuple[_Place, dict[str, Any]]


def _named(after: After, start: str, wanted: filters.Filter) -> Iterator[str]:
    """The places after this one whose names pass."""
    for place in after(start, wanted.prefixes):
        if wanted.passes_name(place.rpartition("/")[2]):
            yield place


def _shown(places: Iterable[_Place], render: Render, wanted: filters.Filter) -> Iterator[_Entry]:
    """The resources at these places that are visible and pass."""
    for place in places:
        item = render(place.place)
        if item is not None and wanted.passes(item):
            yield place, item


def _newest_first(
    places: Iterable[str], start: _Place, created: Callable[[str], str | None]
) -> Iterator[_Place]:
    found = [_Place(moment, place) for place in places if (moment := created(place)) is not None]
    found.sort(key=lambda place: place.created, reverse=True)
    for place in found:
        is_behind = place.created < start.created or (
            place.created == start.created and place.place > start.place
        )
        if is_behind or not start.place:
            yield place


def _creation(render: Render) -> Callable[[str], str | None]:
    """Reads creation times from the resources. As text, they sort by time: all are in UTC."""

    def created(place: str) -> str | None:
        item = render(place)
        return None if item is None else item.get("creationTimestamp") or item["insertTime"]

    return created


def _token(order: str, place: _Place) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode((order, place))).decode()


def _start(token: str, order: str) -> _Place:
    """The place after which a page begins."""
    if not token:
        return _Place("", "")
    try:
        raw = base64.b64decode(token, altchars=b"-_", validate=True)
        made_for, place = msgspec.json.decode(raw, type=tuple[str, _Place])
    except (binascii.Error, ValueError) as error:
        raise invalid_field("pageToken", token, "The page token is invalid.") from error
    if made_for != order:
        raise invalid_field("pageToken", token, "It belongs to a list in another order.")
    return place


def _limit(text: str) -> int:
    limit = int(text or 0)  # a number: queries are checked by their method's description
    if not 0 <= limit <= MAX_RESULTS:
        raise invalid_field("maxResults", text, f"Values must be between 0 and {MAX_RESULTS}.")
    return limit or MAX_RESULTS


def resource_list(kind: str, path: str, found: ListPage, **extra: Any) -> dict[str, Any]:
    """A list answer; as at Google, `items` is absent when there are none.

    Args:
        kind: e.g. `compute#instanceList`.
        path: the collection's partial link.
        extra: further members.
    """
    answer: dict[str, Any] = {"kind": kind, "id": path, "selfLink": ROOT + path, **extra}
    if found.items:
        answer["items"] = found.items
    if found.token is not None:
        answer["nextPageToken"] = found.token
    return answer


def zonal_list(
    kind: str, collection: str, call: Call, names: Names, render: Render
) -> dict[str, Any]:
    """The list answer of a zone's resources.

    Args:
        kind: e.g. `compute#instanceList`.
        collection: the resources' name in links, e.g. `instances`.
        call: the call, with project, zone and parameters.
        names: the names in the zone.
        render: the resource of a name.

    Raises:
        ServiceError: 400 invalid when a parameter is wrong.
    """
    path = f"projects/{call.path['project']}/zones/{call.path['zone']}/{collection}"
    return resource_list(kind, path, page(call, names.after, render))


def aggregated_list(
    kind: str,
    collection: str,
    call: Call,
    scopes: Mapping[str, Names],
    render: Render,
    unreachable: Collection[str] = (),
) -> dict[str, Any]:
    """An aggregatedList answer, with a warning for each scope without items on the page.

    Args:
        kind: e.g. `compute#instanceAggregatedList`.
        collection: the resources' name in links and scopes, e.g. `instances`.
        call: the call, with project and parameters.
        scopes: the names in each scope (`zones/Z`, `global`), in order of scopes.
        render: the resource at `scope/name`.
        unreachable: scopes that cannot be reached now.

    Raises:
        ServiceError: 400 invalid when a parameter is wrong; 503 backendError when a scope is
            unreachable and the caller has not agreed to partial success.
    """
    if unreachable and call.query.get("returnPartialSuccess", "").lower() != "true":
        raise ServiceError(503, "backendError", f"Unreachable: {', '.join(unreachable)}.")
    project = call.path["project"]

    def after(start: str, prefixes: Collection[str]) -> Iterator[str]:
        scope, _, name = start.rpartition("/")
        for this, names in scopes.items():
            if names and this >= scope and this not in unreachable:
                found = names.after(name if this == scope else "", prefixes)
                yield from (f"{this}/{one}" for one in found)

    results: dict[str, list[dict[str, Any]]] = {}
    items, token = page(call, after, render)
    for item in items:
        results.setdefault(_scope(item), []).append(item)
    path = f"projects/{project}/aggregated/{collection}"
    answer: dict[str, Any] = {"kind": kind, "id": path, "selfLink": ROOT + path}
    answer["items"] = {
        scope: {"warning": _warning("UNREACHABLE", scope)}
        if scope in unreachable
        else {collection: results[scope]}
        if scope in results
        else {"warning": _warning("NO_RESULTS_ON_PAGE", scope)}
        for scope in scopes
    }
    if unreachable:
        answer["unreachables"] = [f"projects/{project}/{scope}" for scope in unreachable]
    return answer if token is None else answer | {"nextPageToken": token}


def _scope(item: dict[str, Any]) -> str:
    return f"zones/{item['zone'].rpartition('/')[2]}" if "zone" in item else "global"


@lru_cache(maxsize=1024)
def _warning(code: str, scope: str) -> dict[str, Any]:
    texts = {
        "NO_RESULTS_ON_PAGE": f"There are no results for scope '{scope}' on this page.",
        "UNREACHABLE": f"The scope '{scope}' cannot be reached.",
    }
    return {"code": code, "message": texts[code], "data": [{"key": "scope", "value": scope}]}
