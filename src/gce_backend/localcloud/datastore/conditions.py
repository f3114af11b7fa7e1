"""Filters: converts their tree to alternatives, each a list of conditions that must all hold."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import msgspec

from gce_backend.localcloud.datastore.keys import Index, KeyPath, parse_key
from gce_backend.localcloud.datastore.requests import FilterMessage, PropertyFilter
from gce_backend.localcloud.datastore.values import SortKey, elements, indexed, key_value, sort_key
from gce_backend.localcloud.statuses import invalid

KEY = "__key__"
MAX_ALTERNATIVES = 30
MAX_EXCLUDED = 10
_RANGES: dict[str, Callable[[Any, Any], bool]] = {
    "LESS_THAN": operator.lt,
    "LESS_THAN_OR_EQUAL": operator.le,
    "GREATER_THAN": operator.gt,
    "GREATER_THAN_OR_EQUAL": operator.ge,
}
_LONERS = {"OR", "IN", "NOT_IN", "NOT_EQUAL"}
"""The operators that a query cannot have together with NOT_IN."""

Test: TypeAlias = Callable[[SortKey], bool]


class FilterCondition(NamedTuple):
    """One property's condition.

    Attributes:
        name: the property, or `__key__`.
        op: the comparison; never IN, which becomes alternatives.
        wanted: the value to compare with, or the values that NOT_IN excludes.
    """

    name: str
    op: str
    wanted: tuple[SortKey, ...]

    def test(self, found: SortKey) -> bool:
        """Whether a value passes."""
        if self.op == "EQUAL":
            return found == self.wanted[0]
        if self.op in _RANGES:
            # Only values of the same type can be compared.
            (rank, value) = self.wanted[0]
            return found[0] == rank and _RANGES[self.op](found[1], value)
        return found not in self.wanted


class Alternative(msgspec.Struct):
    """Conditions that all hold.

    Attributes:
        ancestor: the key at or under which it selects.
        equalities: some value of the property passes each.
        ranges: by property: one value of the property passes all.
    """

    ancestor: KeyPath | None = None
    equalities: list[FilterCondition] = msgspec.field(default_factory=list)
    ranges: dict[str, list[FilterCondition]] = msgspec.field(default_factory=dict)

    def add(self, condition: FilterCondition) -> None:
        """Adds a condition."""
        if condition.op == "HAS_ANCESTOR":
            self.ancestor = condition.wanted[0][1]
        elif condition.op == "EQUAL":
            self.equalities.append(condition)
        else:
            self.ranges.setdefault(condition.name, []).append(condition)

    def holds(self, properties: dict[str, Any], path: KeyPath, project: str) -> bool:
        """Whether an entity passes."""
        if self.ancestor is not None and path[: len(self.ancestor)] != self.ancestor:
            return False
        return all(
            any(map(equality.test, values_of(equality.name, properties, path, project)))
            for equality in self.equalities
        ) and all(
            any(self.admits(name, value) for value in values_of(name, properties, path, project))
            for name in self.ranges
        )

    def admits(self, name: str, value: SortKey) -> bool:
        """Whether one value of a property passes the conditions on single values."""
        return all(condition.test(value) for condition in self.ranges.get(name, ()))

    def selects(self, name: str, value: SortKey) -> bool:
        """Whether a query reads the index entry of this value."""
        equal = [condition for condition in self.equalities if condition.name == name]
        return self.admits(name, value) and (not equal or any(c.test(value) for c in equal))


def values_of(name: str, properties: dict[str, Any], path: KeyPath, project: str) -> list[SortKey]:
    """The values in the indexes for one property of an entity, or for its key."""
    if name == KEY:
        return [key_value(path)]
    return indexed(properties.get(name), project)


def alternatives(tree: FilterMessage | None, index: Index) -> list[Alternative]:
    """A filter's alternatives; a query without a filter has one, without conditions.

    Raises:
        ServiceError: it breaks a rule.
    """
    if tree is None:
        return [Alternative()]
    words = list(_words(tree))
    if ("NOT_IN" in words and len(_LONERS.intersection(words)) > 1) or words.count("NOT_IN") > 1:
        raise invalid("NOT_IN cannot be in a query with OR, IN, NOT_EQUAL or another NOT_IN")
    if words.count("NOT_EQUAL") > 1:
        raise invalid("a query has at most one NOT_EQUAL")
    found = []
    for conditions in _disjuncts(tree, index):
        found.append(Alternative())
        for condition in conditions:
            found[-1].add(condition)
    if len({alternative.ancestor for alternative in found}) > 1:
        raise invalid("all alternatives must have the same HAS_ANCESTOR filter")
    return found


def _words(tree: FilterMessage) -> Iterator[str]:
    if tree.composite_filter is not None:
        yield tree.composite_filter.op
        for part in tree.composite_filter.filters:
            yield from _words(part)
    if tree.property_filter is not None:
        yield tree.property_filter.op


def _disjuncts(tree: FilterMessage, index: Index) -> list[list[FilterCondition]]:
    composite, leaf = tree.composite_filter, tree.property_filter
    if composite is not None and leaf is None:
        parts = [_disjuncts(part, index) for part in composite.filters]
        if composite.op == "OR":
            return _few(found for part in parts for found in part)
        whole: list[list[FilterCondition]] = [[]]
        for part in parts:
            whole = _few([*left, *right] for left, right in product(whole, part))
        return whole
    if leaf is not None and composite is None:
        return _few(_leaf(leaf, index))
    raise invalid("a filter has either a compositeFilter or a propertyFilter")


def _few(found: Iterable[list[FilterCondition]]) -> list[list[FilterCondition]]:
    listed = list(found)
    if len(listed) > MAX_ALTERNATIVES:
        raise invalid(f"a query has at most {MAX_ALTERNATIVES} alternatives in all, IN included")
    return listed


def _leaf(leaf: PropertyFilter, index: Index) -> list[list[FilterCondition]]:
    name, op, value = leaf.property.name, leaf.op, leaf.value
    if op in {"IN", "NOT_IN"}:
        wanted = [_wanted(name, element, index) for element in elements(value)]
        most = MAX_ALTERNATIVES if op == "IN" else MAX_EXCLUDED
        if not 1 <= len(wanted) <= most:
            raise invalid(f"{op} takes 1 to {most} values")
        if op == "NOT_IN":
            return [[FilterCondition(name, op, tuple(wanted))]]
        return [[FilterCondition(name, "EQUAL", (one,))] for one in dict.fromkeys(wanted)]
    if op == "HAS_ANCESTOR" and name != KEY:
        raise invalid(f"HAS_ANCESTOR is for {KEY}")
    return [[FilterCondition(name, op, (_wanted(name, value, index),))]]


def _wanted(name: str, value: Any, index: Index) -> SortKey:  # unchecked JSON
    if name != KEY:
        return sort_key(value, index.project)
    if not isinstance(value, dict) or "keyValue" not in value:
        raise invalid(f"{KEY} is compared with keys")
    key = parse_key(value["keyValue"], index.project)
    if key.namespace != index.namespace:
        raise invalid(f"{KEY} is compared with a key of another namespace than the query's")
    return key_value(key.path)
