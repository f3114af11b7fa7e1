"""Aggregations: counts, sums and averages of a query's results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from gce_backend.localcloud.datastore.requests import Aggregation, PropertyReference
from gce_backend.localcloud.datastore.storage import StorageRow
from gce_backend.localcloud.statuses import invalid


def named(aggregations: Sequence[Aggregation]) -> dict[str, Aggregation]:
    """The aggregations by the names of their results.

    Raises:
        ServiceError: one is not exactly one of count, sum and avg, or two have the same name.
    """
    found: dict[str, Aggregation] = {}
    unnamed = 0
    for item in aggregations:
        if [item.count, item.sum, item.avg].count(None) != 2:  # one of three is set
            raise invalid("an aggregation has exactly one of count, sum, avg")
        unnamed += not item.alias
        name = item.alias or f"property_{unnamed}"
        if name in found:
            raise invalid(f"two aggregations are named {name}")
        found[name] = item
    return found


def properties_of(aggregations: Iterable[Aggregation]) -> tuple[str, ...]:
    """The properties that are summed or averaged; an entity without one of them does not count."""
    wanted = (item.sum or item.avg for item in aggregations)
    return tuple(dict.fromkeys(item.property.name for item in wanted if item))


def aggregate(item: Aggregation, rows: Sequence[StorageRow]) -> dict[str, Any]:
    """The JSON value of one aggregation over the rows that a query found."""
    if item.count is not None:
        most = item.count.up_to
        return {"integerValue": str(len(rows) if most is None else min(most, len(rows)))}
    if item.sum is not None:
        return _sum(_numbers(item.sum, rows))
    return _average(_numbers(item.avg, rows))


def _average(numbers: list[int | float]) -> dict[str, Any]:
    if not numbers:
        return {"nullValue": None}
    return _double(_total([float(number) for number in numbers]) / len(numbers))


def _sum(numbers: list[int | float]) -> dict[str, Any]:
    if all(isinstance(number, int) for number in numbers):
        total = sum(numbers)
        if -(2**63) <= total < 2**63:
            return {"integerValue": str(total)}
    return _double(_total([float(number) for number in numbers]))


def _total(numbers: list[float]) -> float:
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):  # too large, or infinities of both signs
        return sum(numbers)


def _numbers(wanted: PropertyReference | None, rows: Sequence[StorageRow]) -> list[int | float]:
    values = (row.properties[wanted.property.name] for row in rows if wanted)
    return [
        int(value["integerValue"]) if "integerValue" in value else float(value["doubleValue"])
        for value in values
        if value.keys() & {"integerValue", "doubleValue"}
    ]


def _double(number: float) -> dict[str, Any]:
    if math.isfinite(number):
        return {"doubleValue": number}
    return {"doubleValue": "NaN" if math.isnan(number) else f"{'-' * (number < 0)}Infinity"}
