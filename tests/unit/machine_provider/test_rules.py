"""What the Machine Provider refuses, and when a request is too late."""

from __future__ import annotations

from typing import Any

import pytest

from gce_backend.machine_provider import rules
from gce_backend.machine_provider.entities import StoredLease
from gce_backend.machine_provider.wire import Dimensions, LeaseRequestMessage

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
