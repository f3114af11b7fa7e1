"""What the Machine Provider takes for a request, and how it writes an answer."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gce_backend.machine_provider import api
from gce_backend.machine_provider.wire import (
    AddRequest,
    CapacityRequest,
    CapacityResponse,
    Dimensions,
    KeyValue,
    LeaseResponse,
    dimension_text,
)


def dimensions(**fields: Any) -> Any:
    """The dimensions of an addition with these."""
    body = {"dimensions": fields, "policies": {}}
    request = api.request_of("catalog.add_machine", body)
    assert isinstance(request, AddRequest)
    return request.dimensions


@pytest.mark.parametrize(
    ("field", "sent", "value"),
    [
        ("backend", 0, "DUMMY"),
        ("backend", 1, "GCE"),
        ("os_family", 1, "LINUX"),
        ("os_family", 3, "WINDOWS"),
        ("linux_flavor", 2, "DEBIAN"),
        ("disk_type", "SSD", "SSD"),
        ("num_cpus", "4", 4),
        ("num_cpus", 4.0, 4),
        ("memory_gb", "3.75", 3.75),
        ("memory_gb", 4, 4.0),
        ("snapshot_labels", "a:1", ("a:1",)),
        ("snapshot_labels", ["a:1", "b:2"], ("a:1", "b:2")),
        ("hostname", None, None),
        ("gpu", "T4", None),
    ],
)
def test_values_come_in_several_forms(field: str, sent: Any, value: Any) -> None:
    """Enums as numbers, numbers as strings, one value for a list of one, null for absent."""
    assert getattr(dimensions(**{field: sent}), field, None) == value


@pytest.mark.parametrize(
    ("field", "sent"),
    [
        ("linux_flavor", "FEDORA"),
        ("linux_flavor", 0),
        ("disk_type", "NVME"),
        ("os_family", 9),
        ("backend", -1),
        ("num_cpus", True),
        ("num_cpus", 4.5),
        ("num_cpus", "many"),
        ("hostname", 7),
    ],
)
def test_other_values_are_refused_by_their_place(field: str, sent: Any) -> None:
    """400 for the whole request."""
    with pytest.raises(api.Refusal) as caught:
        dimensions(**{field: sent})
    assert caught.value.status == 400
    assert f"$.dimensions.{field}" in caught.value.message


@pytest.mark.parametrize("method", sorted(api.METHODS))
@pytest.mark.parametrize("body", [[], "text", 7, {"requests": 7, "hostname": [], "request_id": []}])
def test_what_is_no_request_is_refused_by_every_method(method: str, body: Any) -> None:
    """With 400, and no exception of another kind."""
    with pytest.raises(api.Refusal) as caught:
        api.request_of(method, body)
    assert caught.value.status == 400


def test_one_attribute_without_a_list_is_a_list_of_one() -> None:
    """And a value that is empty is kept."""
    body = {"dimensions": {}, "policies": {"backend_attributes": {"key": "k", "value": ""}}}
    request = api.request_of("catalog.add_machine", body)
    assert isinstance(request, AddRequest)
    assert request.policies.backend_attributes == (KeyValue(key="k", value=""),)
    shown = api.wire_form(request)
    assert shown["policies"] == {"backend_attributes": [{"key": "k", "value": ""}]}


def test_answers_have_int64_as_strings_and_nothing_that_is_not_set() -> None:
    """Also in lists, and what is false is said where it is set."""
    asked = CapacityRequest(dimensions=Dimensions(num_cpus=4, memory_gb=3.75), count=2)
    shown = api.wire_form(CapacityResponse(capacity_modification_request=asked))
    whole = {"dimensions": {"num_cpus": "4", "memory_gb": 3.75}, "count": "2"}
    assert shown == {"capacity_modification_request": whole}
    lease = LeaseResponse(client_request_id="r", lease_expiration_ts=9, leased_indefinitely=False)
    assert msgspec.json.decode(msgspec.json.encode(api.wire_form(lease))) == {
        "client_request_id": "r",
        "lease_expiration_ts": "9",
        "leased_indefinitely": False,
    }


def test_dimensions_read_as_they_are_asked_for() -> None:
    """Each of several values with its key, as `--dimension` takes it."""
    several = Dimensions(backend="GCE", os_family="LINUX", snapshot_labels=("a:b", "c:d"))
    said = "os_family:LINUX snapshot_labels:a:b snapshot_labels:c:d"
    assert dimension_text(several) == said
    assert dimension_text(Dimensions()) == "any"
