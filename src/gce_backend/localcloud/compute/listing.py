"""Names in order, and lists of resources in pages, with Compute's list parameters."""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from gce_backend.localcloud.compute import filters
from gce_backend.localcloud.compute.links import ROOT
from gce_backend.localcloud.compute.replies import invalid, invalid_field

MAX_RESULTS = 500


class Names:
    """A set of names that can be walked in order from any place; sorted only when walked."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._sorted: list[str] | None = []

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.after(""))

    def add(self, name: str) -> None:
        """Puts a name in, unless it is in."""
        if name not in self._names:
            self._names.add(name)
            self._sorted = None

    def discard(self, name: str) -> None:
        """Takes a name out, if it is in."""
        if name in self._names:
            self._names.discard(name)
            self._sorted = None

    def after(self, name: str) -> list[str]:
        """The names that come after this one, in order."""
        if self._sorted is None:
            self._sorted = sorted(self._names)
        return self._sorted[bisect_right(self._sorted, name) :]


class Page(NamedTuple):
    """A page of resources.

    Attributes:
        items: the resources, in order of name.
        token: the next page's `pageToken`; None on the last page.
    """

    items: list[dict[str, Any]]
    token: str | None


def start_of(query: Mapping[str, str]) -> str:
    """The place after which the page begins; "" is the beginning.

    Raises:
        ServiceError: 400 invalid when the page token is not one of ours.
    """
    token = query.get("pageToken", "")
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise invalid_field("pageToken", token, "The page token is invalid.") from error


def page(
    query: Mapping[str, str], places: Iterator[str], render: Callable[[str], dict[str, Any] | None]
) -> Page:
    """One page of a list.

    Args:
        query: `maxResults`, `filter` and `orderBy` are heeded here.
        places: the list's places behind `start_of(query)`, in order.
        render: the resource at a place; None when nobody may see it.

    Raises:
        ServiceError: 400 invalid when a parameter is wrong.
    """
    if query.get("orderBy", "name") != "name":
        raise invalid("Invalid value for field 'orderBy': only 'name' is supported here.")
    limit = _limit(query.get("maxResults", ""))
    passes = filters.parse(query.get("filter"))
    items: list[dict[str, Any]] = []
    last = ""
    for place in places:
        item = render(place)
        if item is None or not passes(item):
            continue
        if len(items) == limit:
            return Page(items, base64.urlsafe_b64encode(last.encode()).decode())
        items.append(item)
        last = place
    return Page(items, None)


def everything(
    query: Mapping[str, str], places: Iterator[str], render: Callable[[str], dict[str, Any] | None]
) -> Page:
    """All of a list that ignores paging; `filter` is heeded.

    Raises:
        ServiceError: 400 invalid when the filter is wrong.
    """
    passes = filters.parse(query.get("filter"))
    rendered = (render(place) for place in places)
    return Page([item for item in rendered if item is not None and passes(item)], None)


def _limit(text: str) -> int:
    if not text:
        return MAX_RESULTS
    limit = int(text) if text.isdecimal() else -1
    if not 0 <= limit <= MAX_RESULTS:
        raise invalid_field("maxResults", text, f"Values must be between 0 and {MAX_RESULTS}.")
    return limit or MAX_RESULTS


def resource_list(kind: str, path: str, found: Page, **extra: Any) -> dict[str, Any]:
    """A list answer; as at Google, `items` is absent when there are none.

    Args:
        kind: e.g. `compute#instanceList`.
        path: the collection's partial link.
        found: what is on the page.
        extra: further members.
    """
    answer: dict[str, Any] = {"kind": kind, "id": path, "selfLink": ROOT + path, **extra}
    if found.items:
        answer["items"] = found.items
    if found.token is not None:
        answer["nextPageToken"] = found.token
    return answer


def zonal_list(
    kind: str,
    project: str,
    zone: str,
    collection: str,
    query: Mapping[str, str],
    names: Names,
    render: Callable[[str], dict[str, Any] | None],
) -> dict[str, Any]:
    """The list answer of a zone's resources.

    Args:
        kind: e.g. `compute#instanceList`.
        project: whose resources.
        zone: where.
        collection: the resources' name in links, e.g. `instances`.
        query: the call's parameters.
        names: the names in the zone.
        render: the resource of a name.

    Raises:
        ServiceError: 400 invalid when a parameter is wrong.
    """
    found = page(query, iter(names.after(start_of(query))), render)
    return resource_list(kind, f"projects/{project}/zones/{zone}/{collection}", found)


def aggregated_list(
    kind: str,
    project: str,
    collection: str,
    query: Mapping[str, str],
    zones: Mapping[str, Names],
    render: Callable[[str], dict[str, Any] | None],
) -> dict[str, Any]:
    """An aggregatedList answer: a scope per zone, with a warning where the page has nothing of it.

    Args:
        kind: e.g. `compute#instanceAggregatedList`.
        project: whose resources.
        collection: the resources' name in links and scopes, e.g. `instances`.
        query: the call's parameters.
        zones: the names in every zone, zones in order.
        render: the resource at `zone/name`.

    Raises:
        ServiceError: 400 invalid when a parameter is wrong.
    """
    zone, _, name = start_of(query).partition("/")
    places = (
        f"{this}/{found}"
        for this, names in zones.items()
        if this >= zone
        for found in names.after(name if this == zone else "")
    )
    results: dict[str, list[dict[str, Any]]] = {}
    items, token = page(query, places, render)
    for item in items:
        results.setdefault(item["zone"].rpartition("/")[2], []).append(item)
    scopes = {
        f"zones/{this}": {collection: results[this]} if this in results else _nothing(this)
        for this in zones
    }
    path = f"projects/{project}/aggregated/{collection}"
    answer = {"kind": kind, "id": path, "selfLink": ROOT + path, "items": scopes}
    return answer if token is None else answer | {"nextPageToken": token}


def _nothing(zone: str) -> dict[str, Any]:
    return {
        "warning": {
            "code": "NO_RESULTS_ON_PAGE",
            "message": f"There are no results for scope 'zones/{zone}' on this page.",
            "data": [{"key": "scope", "value": f"zones/{zone}"}],
        }
    }
