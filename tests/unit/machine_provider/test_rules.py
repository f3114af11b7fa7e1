"""What the Machine Provider refuses, which machine fits, and when a request is too late."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.machine_provider import rules
from gce_backend.machine_provider.entities import StoredLease, StoredMachine
from gce_backend.machine_provider.wire import Dimensions, LeaseRequestMessage, Policies

DAY = 24 * 3600
NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, "LEASE_LENGTH_UNSPECIFIED"),
        ({"indefinite": False}, "LEASE_LENGTH_UNSPECIFIED"),
        ({"duration": 1, "indefinite": True}, "MUTUAL_EXCLUSION_ERROR"),
        ({"duration": 1, "lease_expiration_ts": int(NOW) + 9}, "MUTUAL_EXCLUSION_ERROR"),
        ({"duration": 0}, "LEASE_LENGTH_UNSPECIFIED"),
        ({"lease_expiration_ts": 0}, "LEASE_LENGTH_UNSPECIFIED"),
        ({"duration": 0, "lease_expiration_ts": int(NOW) + 9}, None),
        ({"duration": -1}, "NONPOSITIVE_DEADLINE"),
        ({"pubsub_topic": "?"}, "LEASE_LENGTH_UNSPECIFIED"),
        ({"lease_expiration_ts": int(NOW)}, "LEASE_EXPIRATION_TS_ERROR"),
        ({"duration": 21 * DAY + 1}, "LEASE_TOO_LONG"),
        ({"lease_expiration_ts": int(NOW) + 21 * DAY + 1}, "LEASE_TOO_LONG"),
        ({"duration": 1, "pubsub_project": "fleet-1"}, "UNSPECIFIED_TOPIC"),
        ({"duration": 1, "pubsub_topic": "?"}, "INVALID_TOPIC"),
        ({"duration": 1, "pubsub_topic": "top", "pubsub_project": "a/b"}, "INVALID_PROJECT"),
        ({"duration": 1, "pubsub_topic": "top", "pubsub_project": "UPPER"}, None),
        ({"duration": 1, "pubsub_topic": "google"}, "INVALID_TOPIC"),
        ({"duration": 21 * DAY}, None),
        ({"lease_expiration_ts": int(NOW) + 21 * DAY}, None),
        ({"indefinite": True}, None),
    ],
)
def test_lease_rules(fields: dict[str, Any], error: str | None) -> None:
    """Each rule of lease lengths and topics, at its edge."""
    assert (
        rules.lease_error(
            LeaseRequestMessage(request_id="r", dimensions=Dimensions(), **fields), NOW
        )
        == error
    )


@given(
    st.lists(st.sampled_from(["LINUX", "WINDOWS", None]), max_size=12),
    st.lists(st.sampled_from(["LINUX", "WINDOWS"]), max_size=12),
)
def test_pairing_gives_no_machine_twice_and_leaves_no_fitting_one(
    asked: list[Any], offered: list[Any]
) -> None:
    """Each machine goes to one request at most; who gets none has none left that fits."""
    leases = [
        StoredLease(
            user="u",
            request=LeaseRequestMessage(
                request_id=str(place), dimensions=Dimensions(os_family=family)
            ),
            checksum="",
            created=0.0,
        )
        for place, family in enumerate(asked)
    ]
    machines = [
        StoredMachine(
            backend="GCE",
            hostname=str(place),
            addition_id=str(place),
            dimensions=Dimensions(os_family=family),
            policies=Policies(),
        )
        for place, family in enumerate(offered)
    ]
    pairs = list(rules.pair(leases, machines))
    given_away = [found.hostname for _, found in pairs]
    assert len(set(given_away)) == len(given_away)
    assert all(rules.matches(lease.request.dimensions, one.dimensions) for lease, one in pairs)
    served = {lease.request.request_id for lease, _ in pairs}
    left = [one for one in machines if one.hostname not in given_away]
    for lease in leases:
        if lease.request.request_id not in served:
            assert not any(rules.matches(lease.request.dimensions, one.dimensions) for one in left)


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ((), True),
        (("b:2",), True),
        (("b:2", "a:1"), True),
        (("c:3",), False),
        (("a:1", "c:3"), False),
    ],
)
def test_labels_that_are_asked_for_must_be_among_the_machines(
    asked: tuple[str, ...], fits: bool
) -> None:
    """In any order; other dimensions must be equal."""
    machine = Dimensions(num_cpus=4, snapshot_labels=("a:1", "b:2"))
    assert rules.matches(Dimensions(snapshot_labels=asked), machine) == fits
    assert not rules.matches(Dimensions(num_cpus=2, snapshot_labels=asked), machine)


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"duration": 60}, 4 * 3600),
        ({"indefinite": True}, 4 * 3600),
        ({"lease_expiration_ts": int(NOW) + 600}, 600),
        ({"lease_expiration_ts": int(NOW) + DAY}, 4 * 3600),
    ],
)
def test_request_waits_for_four_hours_unless_its_lease_would_be_over(
    fields: dict[str, Any], seconds: int
) -> None:
    """However long it wants a machine for."""
    request = LeaseRequestMessage(request_id="r", dimensions=Dimensions(), **fields)
    lease = StoredLease(user="u", request=request, checksum="", created=NOW)
    assert rules.valid_until(lease) == NOW + seconds
