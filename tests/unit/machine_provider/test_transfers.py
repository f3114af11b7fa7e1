"""Who may take a lease, and what becomes of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace

from gce_backend.machine_provider.access.policy import AccessGroup, AccessPolicy, LeaseLimits
from gce_backend.machine_provider.entities import LeaseState, StoredLease
from gce_backend.machine_provider.queue import Held
from gce_backend.machine_provider.transfers import (
    MAX_TRANSFERS,
    may_take,
    transfer_refusal,
    transferred,
)
from gce_backend.machine_provider.wire import Dimensions, LeaseRequestMessage

NOW = 1000.0
LEASE = StoredLease(
    user="ann@example.com",
    request=LeaseRequestMessage(request_id="r", dimensions=Dimensions(os_family="LINUX")),
    checksum="",
    created=0.0,
    state=LeaseState.FULFILLED,
    group="jobs",
    count=2,
    fulfilled_ts=0,
    lease_expiration_ts=7200,
    keepalive=60,
    alive_until=1060,
    ssh_keys=("ssh-ed25519 AAAA",),
)
HELD = replace(LEASE, held=True)


@pytest.mark.parametrize(
    ("lease", "limits", "why"),
    [
        (LEASE, {}, None),
        (LEASE, {"max_leases": 4, "max_machines": 9, "longest_lease": 7200}, None),
        (LEASE, {"dimensions": (("os_family", "OSX"),)}, "os_family must be OSX"),
        (replace(LEASE, lease_expiration_ts=None), {}, "a lease must have an end"),
        (replace(LEASE, lease_expiration_ts=None), {"without_end": True}, None),
        (LEASE, {"max_leases": 3}, "at most 3 leases"),
        (LEASE, {"max_machines": 8}, "at most 8 machines"),
        (LEASE, {"longest_lease": 7199}, "lasts 7199 s at most"),
        (HELD, {"max_held": 3, "longest_hold": 6200, "longest_lease": 60}, None),
        (HELD, {"max_held": 2}, "at most 2 machines after failures"),
        (HELD, {"max_held": 3, "longest_hold": 6199}, "for 6199 s at most"),
        (replace(LEASE, former=("a@b.org",) * MAX_TRANSFERS), {}, "20 times"),
    ],
)
def test_a_lease_fits_into_the_limits_of_the_next_group(
    lease: StoredLease, limits: dict[str, Any], why: str | None
) -> None:
    """Which holds three leases, with seven machines of two users, and one after a failure."""
    held = Held(
        machines=Counter({("desk", "bob@example.com"): 4, ("desk", "cy@example.com"): 3}),
        leases=Counter(desk=3),
        investigated=Counter(desk=1),
    )
    told = transfer_refusal(
        lease, AccessGroup(name="desk", limits=LeaseLimits(**limits)), held, NOW
    )
    assert told is None if why is None else told is not None and why in told
    own = AccessGroup(name="jobs", limits=LeaseLimits(**limits))
    assert (transfer_refusal(lease, own, held, NOW) is None) == (len(lease.former) < MAX_TRANSFERS)


def test_a_transfer_takes_keys_and_keepalive_and_leaves_the_request_its_name() -> None:
    """Within a group, and to the groups that it names; back to the requester, too."""
    jobs = AccessGroup(name="jobs", transfer_to=("desk",))
    desk, lab = AccessGroup(name="desk"), AccessGroup(name="lab")
    policy = AccessPolicy(groups=(jobs, desk, lab))
    assert [may_take(policy, LEASE, group) for group in policy.groups] == [True, True, False]
    moved = transferred(LEASE, "bob@example.com", desk, NOW)
    assert (moved.user, moved.group, moved.requester) == ("bob@example.com", "desk", LEASE.user)
    assert (moved.name, moved.former) == (LEASE.name, (LEASE.user,))
    assert (moved.ssh_keys, moved.keepalive, moved.alive_until) == ((), None, None)
    assert not may_take(policy, moved, jobs)
    answer = moved.response
    assert (answer.hostname, answer.lease_expiration_ts) == (None, 1000)
    back = transferred(moved, LEASE.user, jobs, NOW)
    assert (back.response.hostname, back.response.lease_expiration_ts) == ("", 7200)
