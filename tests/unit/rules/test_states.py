"""rules.states: what an operator calls the state of a machine, and the reason in words."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gce_backend.model.entities import CatalogState, Instance, Lease
from gce_backend.model.observed import Member
from gce_backend.model.orders import Drain
from gce_backend.rules.states import State, explain
from support.machines import (
    CATALOGED,
    LEASED,
    NOW,
    RECLAIMED,
    RUNNING,
    TOMBSTONE,
    UNDER_WAY,
    VM,
)

HELD = replace(CATALOGED, lease=LEASED)
OFF = replace(RUNNING, status="TERMINATED")
DRAINED = replace(VM, drain=Drain("a disk is full", NOW))
BEING_MADE = Member("linux-1", None, "", "CREATING", "No room in the zone.")
ADDING = replace(VM, catalog=CatalogState.ADDING)
REFUSED = replace(VM, catalog=CatalogState.REFUSED)


@pytest.mark.parametrize(
    ("instance", "member", "active", "state", "says"),
    [
        (replace(VM, gce_id=None), BEING_MADE, True, State.CREATING, "No room in the zone."),
        (VM, None, True, State.STARTING, "not been listed"),
        (VM, replace(RUNNING, status="STAGING"), True, State.STARTING, "STAGING"),
        (VM, RUNNING, True, State.RUNNING, "waits to be added"),
        (ADDING, RUNNING, True, State.RUNNING, "being added"),
        (CATALOGED, RUNNING, True, State.CATALOGED, "can be leased"),
        (REFUSED, RUNNING, True, State.SET_ASIDE, "not ours"),
        (HELD, RUNNING, True, State.LEASED, "Somebody holds it."),
        (HELD, RUNNING, False, State.LEASED, "The configuration no longer names it"),
        (replace(HELD, lease=Lease(NOW - 9, NOW)), RUNNING, True, State.CATALOGED, "can be leased"),
        (CATALOGED, RUNNING, False, State.DRAINING, "no longer names its revision"),
        (DRAINED, RUNNING, True, State.DRAINING, "a disk is full"),
        (replace(DRAINED, lease=LEASED), RUNNING, True, State.LEASED, "a disk is full"),
        (RECLAIMED, RUNNING, True, State.PENDING_DELETION, ""),
        (replace(CATALOGED, missing_since=NOW), None, True, State.MISSING, "no longer lists"),
        (replace(CATALOGED, stopped_since=NOW), OFF, True, State.STOPPED, "(TERMINATED)."),
        (replace(HELD, stopped_since=NOW), OFF, True, State.STOPPED, "Somebody holds it"),
        (replace(RECLAIMED, deletion=UNDER_WAY), RUNNING, True, State.DELETING, "absent"),
        (TOMBSTONE, None, True, State.DELETED, "tombstone"),
    ],
)
def test_every_machine_has_one_state_and_a_reason(
    instance: Instance, member: Member | None, active: bool, state: State, says: str
) -> None:
    """What ends comes before who holds it, and that before how it rises."""
    found, reason = explain(instance, member, active=active, now=NOW)
    assert found is state
    assert says in reason


def test_a_lease_is_shown_before_a_drain_and_an_end_before_a_lease() -> None:
    """A machine that somebody holds and that is reclaimed is on its way out."""
    over = replace(RECLAIMED, lease=LEASED)
    assert explain(over, RUNNING, active=False, now=NOW)[0] is State.PENDING_DELETION
    going = replace(over, deletion=UNDER_WAY, missing_since=NOW)
    assert explain(going, None, active=False, now=NOW)[0] is State.DELETING
