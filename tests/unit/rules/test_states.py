"""rules.states: what an operator calls the state of a machine, and the reason in words."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gce_backend.configuration.types import TemplateConfig
from gce_backend.model.entities import (
    CatalogState,
    InFlight,
    Instance,
    InstanceGroupManager,
    InstanceTemplateRevision,
    Lease,
    PendingDeletion,
)
from gce_backend.model.observed import STOPPED, Group, Member
from gce_backend.model.orders import Cordon, Drain
from gce_backend.rules.group_sizes import Use, wanted_size
from gce_backend.rules.rollout import PROVING, RolloutLimit
from gce_backend.rules.states import (
    GroupFacts,
    GroupState,
    MachineFacts,
    State,
    explain,
    explain_group,
    explain_revision,
    is_useful,
)
from support.machines import (
    ABSENT,
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
CORDONED = replace(CATALOGED, cordon=Cordon("a look", NOW))
DRAINED = replace(VM, drain=Drain("a disk is full", NOW))
BEING_MADE = Member("linux-1", None, "", "CREATING", "No room in the zone.")
ADDING = replace(VM, catalog=CatalogState.ADDING)
LOST = replace(CATALOGED, lost_since=NOW - 60)
GONE = replace(CATALOGED, missing_since=NOW)
TAKEN_BACK = replace(CATALOGED, stopped_since=NOW, preempted_since=NOW)
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
        (CATALOGED, None, True, State.CATALOGED, "has not been listed"),
        (CATALOGED, OFF, True, State.STOPPED, "(TERMINATED)."),
        (CATALOGED, replace(RUNNING, gce_id=8), True, State.MISSING, "Another VM"),
        (CATALOGED, replace(RUNNING, status=""), True, State.MISSING, "somebody else deleted it"),
        (CATALOGED, replace(RUNNING, action="DELETING"), True, State.DELETING, "nobody here"),
        (CATALOGED, replace(RUNNING, action="RESTARTING"), True, State.STARTING, "RESTARTING"),
        (CATALOGED, replace(RUNNING, status="REPAIRING"), True, State.STARTING, "REPAIRING"),
        (LOST, RUNNING, True, State.LOST, "no longer holds it"),
        (LOST, RUNNING, False, State.DRAINING, "no longer names"),
        (replace(LOST, lease=LEASED), RUNNING, True, State.LEASED, "no longer holds it"),
        (ABSENT, RUNNING, True, State.LOST, "does not hold it"),
        (REFUSED, RUNNING, True, State.SET_ASIDE, "another key"),
        (HELD, RUNNING, True, State.LEASED, "Somebody holds it."),
        (HELD, RUNNING, False, State.LEASED, "The configuration no longer names it"),
        (replace(HELD, lease=Lease(NOW - 9, NOW)), RUNNING, True, State.CATALOGED, "can be leased"),
        (CATALOGED, RUNNING, False, State.DRAINING, "no longer names its revision"),
        (DRAINED, RUNNING, True, State.DRAINING, "a disk is full"),
        (replace(DRAINED, lease=LEASED), RUNNING, True, State.LEASED, "a disk is full"),
        (RECLAIMED, RUNNING, True, State.PENDING_DELETION, ""),
        (CORDONED, RUNNING, False, State.CORDONED, "by hand: a look"),
        (replace(CORDONED, drain=Drain()), RUNNING, True, State.CORDONED, "by hand: a look"),
        (replace(CORDONED, lease=LEASED), RUNNING, True, State.LEASED, "and is kept"),
        (replace(CORDONED, stopped_since=NOW), OFF, True, State.STOPPED, "by hand: a look"),
        (
            replace(RECLAIMED, cordon=CORDONED.cordon),
            RUNNING,
            True,
            State.CORDONED,
            "kept all the same",
        ),
        (GONE, None, True, State.MISSING, "somebody else deleted it"),
        (replace(GONE, preempted_since=NOW), None, True, State.MISSING, "took the VM back"),
        (replace(CATALOGED, stopped_since=NOW), OFF, True, State.STOPPED, "(TERMINATED)."),
        (TAKEN_BACK, OFF, True, State.STOPPED, "(TERMINATED). Compute Engine took the VM back"),
        (replace(HELD, stopped_since=NOW), OFF, True, State.STOPPED, "Somebody holds it"),
        (replace(RECLAIMED, deletion=UNDER_WAY), RUNNING, True, State.DELETING, "absent"),
        (TOMBSTONE, None, True, State.DELETED, "tombstone"),
    ],
)
def test_every_machine_has_one_state_and_a_reason(
    instance: Instance, member: Member | None, active: bool, state: State, says: str
) -> None:
    """What ends comes before who holds it, and that before how it rises."""
    found, reason = explain(MachineFacts(instance, member, active, NOW))
    assert found is state
    assert says in reason


def test_a_lease_is_shown_before_a_drain_and_an_end_before_a_lease() -> None:
    """A machine that somebody holds and that is reclaimed is on its way out."""
    over = replace(RECLAIMED, lease=LEASED)
    assert explain(MachineFacts(over, RUNNING, False, NOW))[0] is State.PENDING_DELETION
    going = replace(over, deletion=UNDER_WAY, missing_since=NOW)
    assert explain(MachineFacts(going, None, False, NOW))[0] is State.DELETING


def test_what_no_complete_list_shows_is_missing_before_its_entity_says_so() -> None:
    """The store could not be written, or the group is gone: it cannot be leased all the same."""
    state, reason = explain(MachineFacts(CATALOGED, None, True, NOW, listed=True))
    assert (state, reason) == (State.MISSING, "The last list of its group does not show it.")


@pytest.mark.parametrize(
    ("instance", "state", "says"),
    [
        (CATALOGED, State.CATALOGED, "until a pause ends"),
        (VM, State.RUNNING, "not added to the catalog until a pause ends"),
        (ADDING, State.RUNNING, "not added to the catalog until a pause ends"),
    ],
)
def test_a_pause_promises_nothing(instance: Instance, state: State, says: str) -> None:
    """Whoever leases a machine during a pause finds one whose metadata nobody writes."""
    found, reason = explain(MachineFacts(instance, RUNNING, True, NOW, paused=True))
    assert found is state
    assert says in reason
    assert "can be leased" not in reason


STATUSES = st.sampled_from(["", "PROVISIONING", "STAGING", "RUNNING", "REPAIRING", *STOPPED])
ACTIONS = st.sampled_from(
    ["NONE", "CREATING", "DELETING", "RECREATING", "VERIFYING", "RESTARTING", "ABANDONING"]
)
TIMES = st.none() | st.floats(NOW - 1000, NOW)
MEMBERS = st.none() | st.builds(
    Member,
    name=st.just("linux-1"),
    gce_id=st.sampled_from([None, 7, 8]),
    status=STATUSES,
    action=ACTIONS,
)
INSTANCES = st.builds(
    Instance,
    gce_id=st.sampled_from([None, 7]),
    missing_since=TIMES,
    abandoned_since=st.none(),
    stopped_since=TIMES,
    catalog=st.sampled_from(CatalogState),
    lease=st.none()
    | st.builds(Lease, since=st.just(NOW - 9), expiration=st.floats(NOW - 9, NOW + 9)),
    lost_since=TIMES,
    drain=st.none() | st.just(Drain("a disk is full", NOW)),
    cordon=st.none() | st.just(Cordon("a look", NOW)),
    pending_deletion=st.none() | st.just(PendingDeletion("reclaimed", NOW)),
    deletion=st.none() | st.just(UNDER_WAY),
)
FACTS = st.builds(
    MachineFacts,
    instance=INSTANCES,
    member=MEMBERS,
    active=st.booleans(),
    now=st.just(NOW),
    listed=st.booleans(),
    paused=st.booleans(),
)


@given(FACTS)
def test_line_09_no_statement_about_a_machine_contradicts_what_is_known(
    facts: MachineFacts,
) -> None:
    """Whatever the world: what is said to be leasable is, and what is held is said to be held."""
    instance, member = facts.instance, facts.member
    state, reason = explain(facts)
    assert reason
    if "can be leased" in reason:
        assert state is State.CATALOGED
        assert member is not None
        assert member.is_running
        assert not facts.paused
    if state is State.CATALOGED:
        assert facts.active
        assert instance.catalog is CatalogState.CATALOGED
        assert (instance.lost_since, instance.stopped_since, instance.missing_since) == (None,) * 3
        ends = instance.drain, instance.pending_deletion, instance.deletion
        assert ends == (None,) * 3
        assert member is None or member.is_running
        assert not (member is None and facts.listed and instance.gce_id is not None)
    if "waits to be added" in reason or "being added" in reason:
        assert instance.catalog in {
            CatalogState.NEVER,
            CatalogState.ADDING,
            CatalogState.REMOVED,
        }
        assert member is not None
        assert member.is_running
    if is_useful(facts, state):
        assert (instance.deletion, instance.pending_deletion) == (None, None)
        assert state is State.LEASED or instance.catalog is CatalogState.CATALOGED


# Groups

THREE = InstanceGroupManager(3, 5, url="u")


def seen(size: int, *, stable: bool = True, failing: int = 0) -> Group:
    """A group as last listed, so many of whose members fail."""
    bad = Member("x", None, "", "CREATING", "No.", "INTERNAL_ERROR")
    members = {f"vm-{n}": bad if n < failing else RUNNING for n in range(size)}
    return Group(size, stable, "", 0.0, members, 0.0, complete=True)


CAN = State.CATALOGED


@pytest.mark.parametrize(
    ("facts", "state", "says"),
    [
        ({"machines": {CAN: 3}}, GroupState.ACTIVE, "It has what the configuration asks for."),
        ({"machines": {CAN: 2, State.LEASED: 1}}, GroupState.ACTIVE, "what the configuration"),
        ({"group": seen(4), "machines": {CAN: 4}}, GroupState.SURPLUS, "lasted for 900 s"),
        ({"group": seen(7), "machines": {CAN: 7}}, GroupState.SURPLUS, "7 machines and needs 3"),
        (
            {"group": seen(7), "machines": {CAN: 3, State.DRAINING: 4}},
            GroupState.SURPLUS,
            "needs 3: 4 drain.",
        ),
        (
            {"group": seen(4), "machines": {State.LEASED: 4}},
            GroupState.SURPLUS,
            "until their leases end",
        ),
        (
            {"group": seen(4), "machines": {CAN: 4}, "paused": True},
            GroupState.SURPLUS,
            "until a pause ends",
        ),
        (
            {
                "manager": InstanceGroupManager(3, 5, url="u", surplus_seconds=-1),
                "group": seen(4),
                "machines": {CAN: 4},
            },
            GroupState.SURPLUS,
            "surplus_seconds: -1",
        ),
        (
            {"group": seen(4), "machines": {CAN: 2, State.LEASED: 2}, "use": Use(2, 2)},
            GroupState.ACTIVE,
            "what the configuration",
        ),
        (
            {"group": seen(4), "machines": {CAN: 3, State.LOST: 1}},
            GroupState.DEGRADED,
            "1 of its 4 machines cannot be leased; the rest are enough.",
        ),
        (
            {"machines": {CAN: 1, State.STOPPED: 1, State.LOST: 1}},
            GroupState.DEGRADED,
            "1 of 3 machines can be leased or are leased; 1 stopped, 1 lost.",
        ),
        ({"machines": {CAN: 1, State.STARTING: 2}}, GroupState.CHANGING, "1 of 3"),
        ({"group": seen(3, failing=2)}, GroupState.FAILING, "with 2 of its 3 machines."),
        ({"group": seen(2)}, GroupState.GROWING, "It has 2 of 3 machines."),
        (
            {"group": seen(1), "limit": RolloutLimit(1, PROVING)},
            GroupState.GROWING,
            "must be leasable before",
        ),
        ({"group": seen(2), "paused": True}, GroupState.PAUSED, "until a pause ends"),
        ({"group": seen(2), "troubled": True}, GroupState.FAILING, "It has 2 of 3 machines."),
        (
            {"group": seen(2), "others": 3, "machines": {CAN: 2}},
            GroupState.ACTIVE,
            "leave no room for more below the maximum of 5",
        ),
        ({"group": seen(3, stable=False)}, GroupState.CHANGING, "creating or deleting"),
        ({"group": None}, GroupState.UNKNOWN, "not been seen"),
        ({"unlisted": True}, GroupState.MISSING, "does not list it"),
        ({"manager": InstanceGroupManager(3)}, GroupState.CREATING, "about to be created"),
        (
            {"manager": InstanceGroupManager(3, in_flight=InFlight("insert", "i", 0.0))},
            GroupState.CREATING,
            "is being created",
        ),
        (
            {"manager": InstanceGroupManager(3), "troubled": True},
            GroupState.FAILING,
            "cannot be made",
        ),
        ({"manager": InstanceGroupManager(3), "paused": True}, GroupState.PAUSED, "not made until"),
        ({"active": False}, GroupState.DRAINING, "no longer names it."),
        ({"active": False, "paused": True}, GroupState.DRAINING, "until a pause ends"),
        (
            {"active": False, "manager": InstanceGroupManager(3)},
            GroupState.DELETED,
            "Compute has no such group",
        ),
        (
            {"manager": replace(THREE, in_flight=InFlight("delete", "i", 0.0))},
            GroupState.DELETING,
            "was requested",
        ),
    ],
)
def test_a_groups_state_follows_from_all_that_is_known(
    facts: dict[str, Any], state: GroupState, says: str
) -> None:
    """Entity, what was seen of it, its machines, pauses and failures, each in its place."""
    known = {"manager": THREE, "group": seen(3), "active": True, "machines": {}, **facts}
    found, reason = explain_group(GroupFacts(**known))
    assert found is state
    assert says in reason


GROUPS = st.builds(
    GroupFacts,
    manager=st.builds(
        InstanceGroupManager,
        minimum_size=st.integers(0, 5),
        maximum_size=st.sampled_from([0, 5, 6]),
        url=st.none() | st.just("u"),
    ),
    group=st.none()
    | st.builds(
        seen, size=st.integers(0, 7), stable=st.booleans(), failing=st.sampled_from([0, 0, 1])
    ),
    active=st.booleans(),
    machines=st.dictionaries(st.sampled_from(State), st.integers(0, 5)).map(Counter),
    others=st.none() | st.integers(0, 6),
    unlisted=st.booleans(),
    paused=st.booleans(),
    troubled=st.booleans(),
    use=st.builds(
        Use,
        leased=st.integers(0, 3),
        waiting=st.integers(0, 3),
        share=st.none() | st.integers(0, 5),
        ageing=st.integers(0, 2),
    ),
)


@given(GROUPS)
def test_line_09_no_statement_about_a_group_contradicts_what_is_known(facts: GroupFacts) -> None:
    """A group that has what is asked for lacks nothing, has no surplus, and fails in nothing."""
    state, reason = explain_group(facts)
    useful = facts.machines[State.CATALOGED] + facts.machines[State.LEASED]
    wanted = wanted_size(facts.manager, facts.others or 0, facts.use)
    if reason == "It has what the configuration asks for.":
        assert facts.group is not None
        assert facts.manager.minimum_size <= wanted == facts.group.target_size <= useful
        assert facts.group.stable
        assert not any(member.error_code for member in facts.group.members.values())
        assert not facts.machines[State.LOST] + facts.machines[State.STOPPED]
    if state is GroupState.GROWING:
        assert not facts.paused
        assert facts.group is not None
        assert facts.group.target_size < wanted
    if state in {GroupState.GROWING, GroupState.CREATING, GroupState.ACTIVE}:
        assert facts.active
        assert not facts.unlisted


@pytest.mark.parametrize(
    ("url", "paused", "troubled", "state"),
    [
        ("u", True, True, GroupState.ACTIVE),
        (None, False, False, GroupState.CREATING),
        (None, True, True, GroupState.PAUSED),
        (None, False, True, GroupState.FAILING),
    ],
)
def test_line_09_a_template_that_cannot_be_made_is_not_being_created(
    url: str | None, paused: bool, troubled: bool, state: GroupState
) -> None:
    """A bad image is no creation under way."""
    revision = InstanceTemplateRevision(TemplateConfig(base_name="linux"), url=url)
    found, _ = explain_revision(revision, active=True, paused=paused, troubled=troubled)
    assert found is state
