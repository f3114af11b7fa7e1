"""Names in order, and lists of resources in pages, with Compute's list parameters."""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
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


class Names:
    """A set of names that can be read in order from any name; sorted only when it is read."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = set(names)
        self._sorted: list[str] | None = None

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.after(""))

    def add(self, name: str) -> None:
        """Adds a name."""
        if name not in self._names:
            self._names.add(name)
            self._sorted = None

    def discard(self, name: str) -> None:
        """Removes a name, if it is there."""
        if name in self._names:
            self._names.discard(name)
            self._sorted = None

    def after(self, name: str) -> list[str]:
        """The names after this one, in order."""
        if self._sorted is None:
            self._sorted = sorted(self._names)
        return self._sorted[bisect_right(self._sorted, name) :]


class ListPage(NamedTuple):
    """A page of resources.

    Attributes:
        items: the resources, in order.
        token: the next page's `pageToken`; None on the last page.
    """

    items: list[dict[str, Any]]
    token: str | None


After = Callable[[str], Iterable[str]]
"""Returns the places after a place of a list, in order; after "", all of them."""

Render = Callable[[str], dict[str, Any] | None]
"""Returns the resource at a place; None when it is not visible."""


def page(call: Call, after: After, render: Render) -> ListPage:
    """One page of a list, in the requested order.

    Args:
        call: its query's `maxResults`, `pageToken`, `filter` and `orderBy` count.
        after: returns the list's places.
        render: returns the resource at a place.

    Raises:
        ServiceError: 400 invalid when a parameter is wrong.
    """
    order = call.query.get("orderBy") or _BY_NAME
    if order not in {_BY_NAME, _NEWEST_FIRST}:
        raise invalid_field("orderBy", order, f"Only '{_BY_NAME}' and '{_NEWEST_FIRST}'.")
    limit = _limit(call.query.get("maxResults", ""))
    start = _start(call.query.get("pageToken", ""), order)
    passes = filters.parse(call.query.get("filter"), description.listed(call.method))
    if order == _BY_NAME:
        found = _by_name(after, start.place, render)
    else:
        found = _newest_first(after, start, render)
    chosen = [*islice((entry for entry in found if passes(entry[1])), limit + 1)]
    items = [item for _, item in chosen[:limit]]
    token = _token(order, chosen[limit - 1][0]) if len(chosen) > limit else None
    return ListPage(items, token)


def everything(call: Call, after: After, render: Render) -> ListPage:
    """All items of a list that ignores paging; `filter` counts.

    Raises:
        ServiceError: 400 invalid when the filter is wrong.
    """
    passes = filters.parse(call.query.get("filter"), description.listed(call.method))
    return ListPage([item for _, item in _by_name(after, "", render) if passes(item)], None)


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


def _by_name(after: After, start: str, render: Render) -> Iterator[_Entry]:
    for place in after(start):
        item = render(place)
        if item is not None:
            yield _Place("", place), item


def _newest_first(after: After, start: _Place, render: Render) -> Iterator[_Entry]:
    found = [
        (_Place(_created(item), place), item) for (_, place), item in _by_name(after, "", render)
    ]
    found.sort(key=lambda entry: entry[0].created, reverse=True)
    for place, item in found:
        is_behind = place.created < start.created or (
            place.created == start.created and place.place > start.place
        )
        if is_behind or not start.place:
            yield place, item


def _created(item: dict[str, Any]) -> str:
    """The creation time as text, which sorts by time because all times here are in UTC."""
    moment: str = item.get("creationTimestamp") or item["insertTime"]
    return moment


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

    def after(start: str) -> Iterator[str]:
        scope, _, name = start.rpartition("/")
        for this, names in scopes.items():
            if names and this >= scope and this not in unreachable:
                yield from (
                    f"{this}/{found}" for found in names.after(name if this == scope else "")
                )

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
