"""machine_provider: no number in a request is without bound, whichever method reads it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec import inspect

from gce_backend.machine_provider import api, lease_api

METHODS = {**api.METHODS, **lease_api.METHODS}


def numbers(found: inspect.Type, path: str = "") -> Iterator[tuple[str, inspect.Type]]:
    """Every number in a type, by its path."""
    match found:
        case inspect.StructType():
            for field in found.fields:
                yield from numbers(field.type, f"{path}.{field.name}")
        case inspect.UnionType():
            for one in found.types:
                yield from numbers(one, path)
        case inspect.VarTupleType() | inspect.ListType():
            yield from numbers(found.item_type, f"{path}[]")
        case inspect.IntType() | inspect.FloatType():
            yield path, found
        case inspect.StrType() | inspect.BoolType() | inspect.NoneType() | inspect.LiteralType():
            pass
        case _:
            raise AssertionError(f"{path}: what is a {found}?")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_number_of_a_request_is_bounded(method: str) -> None:
    """JSON has integers of any length, and 10**400 is no float."""
    unbounded = [
        path
        for path, kind in numbers(inspect.type_info(METHODS[method].request))
        if isinstance(kind, inspect.IntType | inspect.FloatType)
        and (kind.ge is None or kind.le is None)
    ]
    assert unbounded == []


def test_a_time_beyond_all_times_is_refused() -> None:
    """With 400, not with an error of this service's own."""
    for service, name, field in (
        (lease_api, "leases.create", "ends_at"),
        (api, "machine_provider.lease", "lease_expiration_ts"),
    ):
        body = {"request_id": "r", "dimensions": {}, field: 10**400}
        with pytest.raises(api.Refusal, match=field) as refused:
            service.request_of(name, body)
        assert refused.value.status == 400
