"""rules.orders: what operators order, as changes that may be repeated."""

from __future__ import annotations

import msgspec
import pytest

from gce_backend.base.errors import OrderError, UnknownNameError
from gce_backend.configuration.types import TemplateConfig
from gce_backend.model.entities import (
    Deletion,
    EarlierRevision,
    Instance,
    InstanceTemplate,
    PendingDeletion,
    Permit,
)
from gce_backend.model.keys import manager_key
from gce_backend.model.orders import Control, Cordon, Drain, RolloutPause, Undone
from gce_backend.rules.orders import (
    MAX_MACHINE_ORDERS,
    MAX_PAUSES,
    approve,
    cordon,
    drain,
    find_machine,
    lift_cap,
    mention,
    pause,
    pause_rollout,
    resume,
    resume_all,
    resume_rollout,
    uncordon,
    undo_rollout,
    undrain,
)


def test_a_name_that_several_machines_have_is_refused_with_their_keys() -> None:
    """Then one of the keys is what to give."""
    keys = [manager_key(base, "0" * 40, "z").child("twin") for base in ("a", "b")]
    with pytest.raises(OrderError) as refused:
        find_machine("twin", keys)
    assert all(str(key) in str(refused.value) for key in keys)
    assert find_machine(str(keys[1]), keys) is keys[1]
    with pytest.raises(UnknownNameError):
        find_machine(str(keys[1])[1:], keys)


def test_so_many_pauses_and_no_more() -> None:
    """The entity stays small; one that is in force may be ordered again."""
    told: Control | None = None
    for number in range(MAX_PAUSES):
        told = pause("", 5.0, template=f"t{number}")(told)
    with pytest.raises(OrderError):
        pause("", 5.0, zone="another")(told)
    again = pause("news", 9.0, template="t7")(told)
    assert len(again.pauses) == MAX_PAUSES
    (found,) = [one for one in again.pauses if one.template == "t7"]
    assert (found.reason, found.since) == ("news", 5.0)
    assert pause("", 5.0)(again).paused
    assert resume_all(pause("", 5.0)(again)) == Control()


def test_so_many_orders_about_machines_are_remembered_and_the_newest_of_each() -> None:
    """The entity stays small; an order is news even when the one before was about the same."""
    keys = [manager_key("a", "0" * 40, "z").child(f"m{number}") for number in range(60)]
    told: Control | None = None
    for moment, key in enumerate(keys):
        told = mention([key], float(moment))(told)
    told = mention([keys[-2]], 99.0)(told)
    assert len(told.machine_orders) == MAX_MACHINE_ORDERS
    assert [order.machine for order in told.machine_orders[-2:]] == [keys[-1], keys[-2]]
    assert told.machine_orders[-1].at == 99.0
    assert told.machines_ordered == 0.0


def test_an_order_about_more_machines_than_are_remembered_has_all_read_again() -> None:
    """The entity stays small, and what it named before stays named."""
    keys = [manager_key("a", "0" * 40, "z").child(f"m{number}") for number in range(60)]
    before = mention(keys[:2], 1.0)(None)
    after = mention(keys, 7.0)(before)
    assert after == msgspec.structs.replace(before, machines_ordered=7.0)


def test_orders_about_machines_are_idempotent_and_know_when_it_is_too_late() -> None:
    """Drained twice it is drained once; a deletion that has begun is neither begun nor undone."""
    key = manager_key("a", "0" * 40, "z").child("m")
    machine = Instance(gce_id=7, url="u")
    drained = drain(key, "why", 5.0)(machine)
    assert drained.drain == Drain("why", 5.0)
    assert drain(key, "why", 9.0)(drained) == drained
    assert undrain(key)(drained) == undrain(key)(machine) == machine
    dying = msgspec.structs.replace(machine, deletion=Deletion(Permit.NEVER_CATALOGED, 5, 5, "x"))
    assert drain(key, "why", 9.0)(dying) is dying
    with pytest.raises(OrderError):
        undrain(key)(dying)
    for change in (drain(key, "", 9.0), undrain(key)):
        with pytest.raises(UnknownNameError):
            change(None)


def test_a_cordon_keeps_what_is_not_deleted_yet() -> None:
    """Its first time stays; a deletion that has begun is not undone; nothing of it is left."""
    key = manager_key("a", "0" * 40, "z").child("m")
    machine = Instance(gce_id=7, url="u", pending_deletion=PendingDeletion("reclaimed", 1.0))
    cordoned = cordon(key, "why", 5.0)(machine)
    assert cordoned.cordon == Cordon("why", 5.0)
    assert cordon(key, "why", 9.0)(cordoned) == cordoned
    assert uncordon(key)(cordoned) == uncordon(key)(machine) == machine
    dying = msgspec.structs.replace(machine, deletion=Deletion(Permit.RECLAIMED, 5, 5, "x"))
    with pytest.raises(OrderError):
        cordon(key, "why", 9.0)(dying)
    for change in (cordon(key, "", 9.0), uncordon(key)):
        with pytest.raises(UnknownNameError):
            change(None)


def test_the_changes_are_idempotent_and_touch_nothing_else() -> None:
    """Applied to their own result they change nothing: a repeated guarded write is harmless."""
    before = Control(approved_revision="a", cap_lifted_until=7.0)
    part = pause("why", 5.0, template="t", zone="z")
    changes = (pause("why", 5.0), part, resume(), resume(zone="z"), resume_all, approve("b"))
    for apply in (*changes, lift_cap(9.0)):
        assert apply(apply(before)) == apply(before)
        assert apply(apply(None)) == apply(None)
    paused = pause("why", 5.0)(before)
    assert (paused.approved_revision, paused.cap_lifted_until) == ("a", 7.0)
    assert resume()(paused) == resume_all(paused) == before
    assert resume(template="t")(part(before)) == resume()(part(before)) == part(before)
    assert resume(template="t", zone="z")(part(before)) == resume_all(part(before)) == before
    assert pause("other", 9.0)(paused).paused_since == 5.0


TWICE = InstanceTemplate("r2", (), EarlierRevision("r1", TemplateConfig(base_name="linux")))


def test_a_roll_out_is_paused_and_undone_until_it_is_resumed() -> None:
    """Each may be ordered twice; a pause keeps its first time."""
    control = pause_rollout("linux", "look", 1.0)(None)
    control = pause_rollout("linux", "look again", 2.0)(control)
    assert control.rollout_pauses == (RolloutPause("linux", "look again", 1.0),)
    assert control.is_rollout_paused("linux")
    assert not control.is_rollout_paused("windows")
    undo = undo_rollout("linux", TWICE, "it is slow", 3.0)
    control = undo(undo(control))
    assert control.undone == (Undone("linux", "r2", "r1", "it is slow", 3.0),)
    assert resume_rollout("windows")(control) == control
    assert resume_rollout("linux")(control) == Control()


def test_what_cannot_be_undone_says_why() -> None:
    """There is nothing before it, it is undone already, or there are too many."""
    with pytest.raises(OrderError, match="no earlier revision"):
        undo_rollout("linux", InstanceTemplate("r2"), "", 1.0)
    back = undo_rollout("linux", TWICE, "", 1.0)(None)
    fields = TemplateConfig(base_name="linux")
    there = InstanceTemplate("r1", ("r2",), EarlierRevision("r2", fields))
    with pytest.raises(OrderError, match="rollout resume linux"):
        undo_rollout("linux", there, "", 2.0)(back)
    crowd = Control(
        undone=tuple(Undone(f"t{n}", "r2", "r1") for n in range(MAX_PAUSES)),
        rollout_pauses=tuple(RolloutPause(f"t{n}") for n in range(MAX_PAUSES)),
    )
    for order in (undo_rollout("linux", TWICE, "", 1.0), pause_rollout("linux", "", 1.0)):
        with pytest.raises(OrderError, match=f"{MAX_PAUSES} roll-outs"):
            order(crowd)
