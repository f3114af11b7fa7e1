"""What a change of an entity is told as."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gce_backend.configuration.types import TemplateConfig
from gce_backend.model.entities import (
    CONFIG_SETTINGS_KEY,
    CONFIGURATION_KEY,
    CONTROL_KEY,
    DELETION_WINDOW_KEY,
    MACHINE_PROVIDER_KEY,
    CatalogState,
    ConfigServiceAddress,
    Deletion,
    DeletionWindow,
    Entity,
    InFlight,
    Instance,
    InstanceGroupManager,
    InstanceTemplate,
    InstanceTemplateRevision,
    Lease,
    MachineProviderAddress,
    MetadataUpdate,
    PendingDeletion,
    Permit,
    SetAsideMessage,
    StoredConfiguration,
)
from gce_backend.model.events import EventKind
from gce_backend.model.keys import Key, manager_key, revision_key, template_key
from gce_backend.model.orders import Control, Cordon, Drain, MachineOrder, Pause
from gce_backend.rules.narration import Told, named_states, tell

CHECKSUM = "0123456789abcdef0123456789abcdef01234567"
OTHER = "fedcba9876543210fedcba9876543210fedcba98"
ROOT = template_key("linux")
REVISION = revision_key("linux", CHECKSUM)
GROUP = manager_key("linux", CHECKSUM, "us-central1-a")
VM = GROUP.child("linux-01234567-usc1a-abcd")
TEMPLATE = TemplateConfig(
    base_name="linux", project="p", machine_type="e2-small", image_name="debian-12"
)
NAMED: dict[Key, Entity] = {
    ROOT: InstanceTemplate(active=CHECKSUM),
    REVISION: InstanceTemplateRevision(template=TEMPLATE, active=("us-central1-a",)),
}
UNNAMED: dict[Key, Entity] = {
    ROOT: InstanceTemplate(active=OTHER, drained=(CHECKSUM,)),
    REVISION: InstanceTemplateRevision(template=TEMPLATE, drained=("us-central1-a",)),
}
NOON = 1_800_000_000.0

STARTING = Instance(gce_id=7)
CATALOGED = Instance(gce_id=7, catalog=CatalogState.CATALOGED)
LEASED = replace(CATALOGED, lease=Lease(NOON, NOON + 60))
RECLAIMED = replace(CATALOGED, pending_deletion=PendingDeletion("It was reclaimed.", NOON))
DELETION = Deletion(Permit.RECLAIMED, NOON, NOON, "id-1")
DELETING = replace(RECLAIMED, deletion=DELETION)
DELETED = replace(RECLAIMED, deletion=replace(DELETION, confirmed=NOON))
UPDATE = MetadataUpdate({"b": "1", "a": None})
GROWN = InstanceGroupManager(minimum_size=3, url="group")
RESIZE = InFlight("resize", "id-1", NOON, 3)
DELETE = InFlight("delete", "id-1", NOON)


def _tell(
    key: Key,
    before: Entity | None,
    after: Entity | None,
    was: dict[Key, Entity] = NAMED,
    now: dict[Key, Entity] | None = None,
) -> Told | None:
    return tell(key, before, after, named_states(was.get, (was if now is None else now).get))


@pytest.mark.parametrize(
    ("before", "after", "states", "reason"),
    [
        (None, Instance(), " creating", "lists it"),
        (None, STARTING, " starting", "lists it"),
        (Instance(), STARTING, "creating starting", "made the VM"),
        (STARTING, replace(STARTING, catalog=CatalogState.ADDING), "starting running", "added"),
        (CATALOGED, replace(CATALOGED, catalog=CatalogState.REFUSED), "cataloged set-aside", "not"),
        (CATALOGED, replace(CATALOGED, catalog=CatalogState.REMOVED), "cataloged running", "left"),
        (CATALOGED, LEASED, "cataloged leased", "holds it until 2027-01-15 08:01:00 UTC."),
        (CATALOGED, replace(CATALOGED, lease=Lease(NOON)), "cataloged leased", "holds it."),
        (
            LEASED,
            replace(LEASED, lease=Lease(NOON, NOON + 120)),
            "leased leased",
            "extended until 2027-01-15 08:02:00 UTC.",
        ),
        (LEASED, CATALOGED, "leased cataloged", "lease has ended"),
        (LEASED, RECLAIMED, "leased pending-deletion", "It was reclaimed."),
        (RECLAIMED, DELETING, "pending-deletion deleting", "requested (permit: reclaimed)"),
        (DELETING, DELETED, "deleting deleted", "The VM is gone."),
        (DELETED, DELETING, "deleted deleting", "was not gone"),
        (DELETED, Instance(gce_id=8), "deleted starting", "Another VM has its name now."),
        (
            CATALOGED,
            replace(CATALOGED, missing_since=NOON),
            "cataloged missing",
            "no longer lists it",
        ),
        (replace(CATALOGED, missing_since=NOON), CATALOGED, "missing cataloged", "lists it again"),
        (CATALOGED, replace(CATALOGED, lost_since=NOON), "cataloged lost", "no longer holds it"),
        (
            CATALOGED,
            replace(CATALOGED, drain=Drain("it is noisy", NOON)),
            "cataloged draining",
            "Drained by hand: it is noisy",
        ),
        (replace(CATALOGED, drain=Drain()), CATALOGED, "draining cataloged", "undrained it"),
        (CATALOGED, replace(CATALOGED, cordon=Cordon("x")), "cataloged cordoned", "by hand: x"),
        (replace(CATALOGED, cordon=Cordon()), CATALOGED, "cordoned cataloged", "uncordoned it"),
        (
            CATALOGED,
            replace(CATALOGED, pending_metadata_updates=(UPDATE,)),
            "cataloged cataloged",
            "metadata is pending: a, b.",
        ),
        (
            replace(CATALOGED, active_metadata_update=replace(UPDATE, operation="o")),
            CATALOGED,
            "cataloged cataloged",
            "was updated: a, b.",
        ),
        (
            replace(CATALOGED, active_metadata_update=replace(UPDATE, operation="o")),
            replace(CATALOGED, pending_metadata_updates=(replace(UPDATE, attempts=1),)),
            "cataloged cataloged",
            "could not be updated; the daemon tries again: a, b.",
        ),
    ],
)
def test_each_step_of_a_machine_is_told_with_states_and_reason(
    before: Instance | None, after: Instance, states: str, reason: str
) -> None:
    """States in the words of the API, and why."""
    told = _tell(VM, before, after)
    assert told is not None
    assert (told.kind, f"{told.before} {told.after}") == ("machine", states)
    assert reason in told.reason


_TIMES = st.one_of(st.none(), st.floats())
_UPDATES = st.builds(
    MetadataUpdate, st.just({"a": "1"}), st.none() | st.just("id"), attempts=st.integers(0, 3)
)
_DELETIONS = st.builds(
    Deletion, st.sampled_from(Permit), st.floats(), st.floats(), st.just("id"), _TIMES
)
_INSTANCES = st.builds(
    Instance,
    gce_id=st.none() | st.integers(0, 3),
    missing_since=_TIMES,
    catalog=st.sampled_from(CatalogState),
    lease=st.none() | st.builds(Lease, st.floats(), _TIMES),
    lost_since=_TIMES,
    pending_deletion=st.none() | st.builds(PendingDeletion, st.text(), st.floats()),
    drain=st.none() | st.builds(Drain, st.text(), st.floats()),
    cordon=st.none() | st.builds(Cordon, st.text(), st.floats()),
    pending_metadata_updates=st.lists(_UPDATES, max_size=2).map(tuple),
    active_metadata_update=st.none() | _UPDATES,
    deletion=st.none() | _DELETIONS,
)


@given(st.none() | _INSTANCES, _INSTANCES, st.sampled_from([NAMED, UNNAMED, {}]))
def test_any_change_of_a_machine_can_be_told(
    before: Instance | None, after: Instance, above: dict[Key, Entity]
) -> None:
    """Whatever numbers others send: what cannot be told must not keep a change from being stored.

    And where the state changes, the event says so.
    """
    told = _tell(VM, before, after, above)
    first, last = (_tell(VM, None, instance, above) for instance in (before or Instance(), after))
    assert first is not None
    assert last is not None
    if before is None or first.after != last.after:
        assert told is not None
        assert (told.before, told.after) == ("" if before is None else first.after, last.after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (CATALOGED, CATALOGED),
        (CATALOGED, replace(CATALOGED, adding_since=NOON, resent=True, rising_since=NOON)),
        (CATALOGED, replace(CATALOGED, subscribed="a b c", url="u")),
        (DELETING, replace(DELETING, deletion=replace(DELETION, asked=NOON + 1, request_id="2"))),
        (DELETING, replace(DELETING, missing_since=NOON)),
        (
            replace(CATALOGED, missing_since=NOON),
            replace(CATALOGED, missing_since=NOON - 9),
        ),
        (
            replace(CATALOGED, pending_metadata_updates=(UPDATE,)),
            replace(CATALOGED, active_metadata_update=UPDATE),
        ),
        (
            replace(CATALOGED, active_metadata_update=UPDATE),
            replace(CATALOGED, active_metadata_update=replace(UPDATE, request_id="1")),
        ),
        (
            replace(CATALOGED, active_metadata_update=replace(UPDATE, attempts=1)),
            replace(CATALOGED, pending_metadata_updates=(replace(UPDATE, attempts=2),)),
        ),
        (DELETED, None),
    ],
)
def test_what_only_the_daemon_needs_is_no_event(before: Instance, after: Instance | None) -> None:
    """Request ids, repeats, a tombstone's end."""
    assert _tell(VM, before, after) is None


@pytest.mark.parametrize(
    ("instance", "states", "reason"),
    [
        (CATALOGED, "cataloged draining", "no longer names"),
        (STARTING, "starting draining", "no longer names"),
        (LEASED, "leased leased", "after its lease ends."),
    ],
)
def test_a_machine_drains_when_its_group_is_no_longer_named(
    instance: Instance, states: str, reason: str
) -> None:
    """Its own entity does not change; what is above it does."""
    told = _tell(VM, instance, instance, NAMED, UNNAMED)
    assert told is not None
    assert f"{told.before} {told.after}" == states
    assert reason in told.reason
    back = _tell(VM, instance, instance, UNNAMED, NAMED)
    assert back is not None
    assert (back.before, back.after) == (told.after, told.before)
    assert "names its group again" in back.reason


@pytest.mark.parametrize("instance", [RECLAIMED, DELETING, DELETED])
def test_a_machine_that_ends_anyway_does_not_drain(instance: Instance) -> None:
    """What the configuration says of its group makes no difference any more."""
    assert _tell(VM, instance, instance, NAMED, UNNAMED) is None


@pytest.mark.parametrize(
    ("before", "after", "above", "states", "reason"),
    [
        (None, InstanceGroupManager(3), NAMED, " creating", "at least 3 machines"),
        (None, InstanceGroupManager(1, 5), NAMED, " creating", "1 to 5 machines"),
        (InstanceGroupManager(3), GROWN, NAMED, "creating active", "The group is there."),
        (GROWN, replace(GROWN, resize=RESIZE), NAMED, "active growing", "grow by 3 machines"),
        (
            replace(GROWN, resize=RESIZE),
            replace(GROWN, resize=replace(RESIZE, size=4)),
            NAMED,
            "growing growing",
            "grow by 4 machines",
        ),
        (replace(GROWN, resize=RESIZE), GROWN, NAMED, "growing active", "3 machines has ended"),
        (
            GROWN,
            replace(GROWN, minimum_size=1, maximum_size=9),
            NAMED,
            "active active",
            "1 to 9 machines instead of at least 3 machines",
        ),
        (GROWN, replace(GROWN, url=None), NAMED, "active creating", "makes it again"),
        (GROWN, replace(GROWN, in_flight=DELETE), UNNAMED, "draining deleting", "requested"),
        (replace(GROWN, in_flight=DELETE), GROWN, UNNAMED, "deleting draining", "has failed"),
        (
            replace(GROWN, in_flight=DELETE),
            replace(GROWN, url=None),
            UNNAMED,
            "deleting deleted",
            "is gone.",
        ),
    ],
)
def test_each_step_of_a_group_is_told(
    before: InstanceGroupManager | None,
    after: InstanceGroupManager,
    above: dict[Key, Entity],
    states: str,
    reason: str,
) -> None:
    """From its creation to its end, with the sizes."""
    told = _tell(GROUP, before, after, above)
    assert told is not None
    assert (told.kind, f"{told.before} {told.after}") == ("group", states)
    assert reason in told.reason


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (InstanceGroupManager(3), InstanceGroupManager(3, in_flight=InFlight("insert", "i", NOON))),
        (
            replace(GROWN, resize=RESIZE),
            replace(GROWN, resize=replace(RESIZE, request_id="id-2", started=NOON + 1)),
        ),
    ],
)
def test_request_ids_of_a_group_are_no_event(
    before: InstanceGroupManager, after: InstanceGroupManager
) -> None:
    """Nothing that people see has changed."""
    assert _tell(GROUP, before, after) is None


def test_a_group_and_a_revision_drain_when_no_longer_named() -> None:
    """In the transaction of process-config."""
    group = _tell(GROUP, GROWN, GROWN, NAMED, UNNAMED)
    assert group is not None
    assert (group.before, group.after) == ("active", "draining")
    old = InstanceTemplateRevision(template=TEMPLATE, active=("us-central1-a",), url="u")
    new = replace(old, active=(), drained=("us-central1-a",))
    revision = _tell(REVISION, old, new, NAMED, UNNAMED)
    assert revision == Told(
        EventKind.TEMPLATE,
        "active",
        "draining",
        "The configuration no longer names revision 01234567.",
    )


def test_what_remains_of_a_group_goes_without_a_word() -> None:
    """It was told that the group is gone; its entity's end is no second transition."""
    assert _tell(GROUP, InstanceGroupManager(3), None, UNNAMED) is None


@pytest.mark.parametrize(
    ("before", "after", "states", "reason"),
    [
        (None, InstanceTemplate(active=CHECKSUM), " active", "revision 01234567"),
        (
            InstanceTemplate(active=CHECKSUM),
            InstanceTemplate(active=OTHER, drained=(CHECKSUM,)),
            "active active",
            "Revision 01234567 -> fedcba98.",
        ),
        (
            InstanceTemplate(active=CHECKSUM),
            InstanceTemplate(drained=(CHECKSUM,)),
            "active draining",
            "no longer names",
        ),
        (InstanceTemplate(), None, "draining ", "last revision was removed"),
    ],
)
def test_each_step_of_a_template_is_told(
    before: InstanceTemplate | None, after: InstanceTemplate | None, states: str, reason: str
) -> None:
    """With its revisions, short as in names."""
    told = _tell(ROOT, before, after)
    assert told is not None
    assert (told.kind, f"{told.before} {told.after}") == ("template", states)
    assert reason in told.reason


def test_that_a_drained_revision_was_removed_is_told_once() -> None:
    """The revision says it; its template, whose list of them becomes shorter, does not."""
    before = InstanceTemplate(active=CHECKSUM, drained=(OTHER,))
    assert _tell(ROOT, before, InstanceTemplate(active=CHECKSUM)) is None


@pytest.mark.parametrize(
    ("key", "before", "after", "change", "reason"),
    [
        (
            CONFIGURATION_KEY,
            StoredConfiguration(config_set="s", revision="r1"),
            StoredConfiguration(config_set="s", revision="r2"),
            ("r1", "r2"),
            "A new revision is in force.",
        ),
        (
            CONFIGURATION_KEY,
            None,
            StoredConfiguration(config_set="s"),
            ("", ""),
            "config set is s.",
        ),
        (
            CONFIG_SETTINGS_KEY,
            None,
            ConfigServiceAddress("config.example"),
            ("", "config.example"),
            "served by config.example.",
        ),
        (
            MACHINE_PROVIDER_KEY,
            MachineProviderAddress("https://a.example"),
            MachineProviderAddress("https://b.example"),
            ("https://a.example", "https://b.example"),
            "Machine Provider is at https://b.example.",
        ),
    ],
)
def test_each_change_of_configuration_is_told(
    key: Key, before: Entity | None, after: Entity, change: tuple[str, str], reason: str
) -> None:
    """From what to what."""
    told = _tell(key, before, after)
    assert told is not None
    assert (told.kind, (told.before, told.after)) == ("configuration", change)
    assert reason in told.reason


@pytest.mark.parametrize(
    ("before", "after", "states", "reason"),
    [
        (None, Control(paused=True, pause_reason="why"), "running paused", "why"),
        (None, Control(paused=True), "running paused", "No reason was given."),
        (Control(paused=True), Control(), "paused running", "has ended"),
        (None, Control(approved_revision="r2"), "running running", "Revision r2"),
        (None, Control(cap_lifted_until=NOON), "running running", "lifted until 2027-01-15"),
        (
            Control(cap_lifted_until=NOON),
            Control(cap_lifted_until=NOON - 60),
            "running running",
            "apply again from 2027-01-15 07:59:00",
        ),
        (
            None,
            Control(pauses=(Pause(template="linux", reason="why"),)),
            "running running",
            "Paused by an operator (template linux): why.",
        ),
        (
            Control(pauses=(Pause(zone="us-central1-a"),)),
            Control(),
            "running running",
            "Resumed by an operator (zone us-central1-a).",
        ),
    ],
)
def test_each_order_is_told(
    before: Control | None, after: Control, states: str, reason: str
) -> None:
    """What an operator told the daemon."""
    told = _tell(CONTROL_KEY, before, after)
    assert told is not None
    assert (told.kind, f"{told.before} {told.after}") == ("control", states)
    assert reason in told.reason


@pytest.mark.parametrize(
    ("key", "entity"),
    [
        (Key("SetAsideMessage", "1"), SetAsideMessage("poison", NOON)),
        (CONTROL_KEY, Control(machine_orders=(MachineOrder(VM, NOON),))),
        (CONTROL_KEY, Control()),
        (CONTROL_KEY, None),
        (DELETION_WINDOW_KEY, DeletionWindow()),
    ],
)
def test_what_is_no_transition_is_not_told(key: Key, entity: Entity | None) -> None:
    """Messages have a page of their own; notes among processes are nobody's news."""
    assert _tell(key, None, entity) is None


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (None, 100.0, "The end of its lease became known: "),
        (100.0, 200.0, "Its lease was extended until "),
        (200.0, 100.0, "Its lease was shortened to "),
        (100.0, None, "Its lease no longer has a known end."),
    ],
)
def test_line_09_lease_whose_end_changes_is_told_as_what_happened(
    before: float | None, after: float | None, words: str
) -> None:
    """It is called extended only when its end was known and is later now."""
    old = Instance(gce_id=1, catalog=CatalogState.CATALOGED, lease=Lease(1.0, before))
    told = _tell(VM, old, replace(old, lease=Lease(1.0, after)), NAMED)
    assert told is not None
    assert told.reason.startswith(words)
