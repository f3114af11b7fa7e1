"""A pause of a part of the fleet: there nothing is changed but seen, and the rest goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import ComputeSettings, Settings
from support.broker_messages import metadata, publish, subscribed
from support.deletions import (
    DELETE_INSTANCES,
    DELETE_MACHINE,
    TWO_TEMPLATES,
    TWO_ZONES,
    delete_outside,
    entity,
    metric,
    mutations,
    two_templates,
)
from support.fleet_harness import OTHER_ZONE, ZONE, World, manager, template, world

DIFFERENT = template() + template("other", machine_type="e2-medium")
"""Two templates whose machines can be told apart when leasing."""
EACH_MINUTE = {"import-config": "* * * * *"}
OF_LINUX: dict[str, Any] = {"num_cpus": 2, "memory_gb": 2.0}


async def pause(w: World, **scope: str) -> None:
    """Pauses a part of the fleet."""
    assert await w.act("/api/pause", scope) == 200


async def resume(w: World, **scope: Any) -> None:
    """Resumes it."""
    assert await w.act("/api/resume", scope) == 200


async def vms_of(w: World, start: str) -> set[str]:
    """The VMs whose names begin so."""
    return {name for name in await w.vms() if name.startswith(start)}


def has_vms(w: World, start: str, number: int) -> Callable[[], Awaitable[bool]]:
    """Whether there are so many VMs whose names begin so."""

    async def reached() -> bool:
        return len(await vms_of(w, start)) == number

    return reached


def intents(w: World) -> list[Any]:
    """What is stored of insertions, resizes and deletions of templates and groups to be sent."""
    assert w.daemon.context is not None
    fleet = w.daemon.context.fleet
    revisions = [revision.in_flight for revision in fleet.revisions.values()]
    groups = [it for one in fleet.managers.values() for it in (one.in_flight, one.resize)]
    return [intent for intent in (*revisions, *groups) if intent is not None]


async def of_linux(w: World) -> dict[str, Any]:
    """All that exists of the template `linux`, as the cloud tells it."""
    state = await w.cloud_state()
    compute = state["compute"]["projects"]["local-project"]
    return {
        "templates": [name for name in compute["instanceTemplates"] if name.startswith("linux-")],
        "groups": {
            key: (group["targetSize"], sorted(group["instances"]))
            for key, group in compute["groups"].items()
            if "/linux-" in key
        },
        "vms": {
            name: vm["id"] for name, vm in compute["instances"].items() if name.startswith("linux-")
        },
        "catalog": {
            name: state_
            for name, state_ in state["machine_provider"]["catalog"].items()
            if name.startswith("linux-")
        },
    }


async def test_a_paused_template_is_watched_and_not_touched_while_the_other_goes_on(
    tmp_path: Path,
) -> None:
    """Reclaimed, missing and too few machines wait; all is seen and said; then all goes on."""
    managers = two_templates(minimum=4)
    async with world(tmp_path, templates=DIFFERENT, managers=managers) as w:
        await w.until_states(cataloged=8)
        reclaimed = await w.lease("first", **OF_LINUX)
        await pause(w, template="linux", reason="a leak")
        await w.release("first")
        await w.until(lambda: w.is_in(reclaimed, "pending-deletion"))
        held = await w.lease("second", **OF_LINUX)
        lost = next(name for name in await vms_of(w, "linux-") if name not in {reclaimed, held})
        await delete_outside(w, lost)
        before = await of_linux(w)
        w.write_config(DIFFERENT.replace("e2-small", "e2-highcpu-2"), two_templates(minimum=6))
        await w.until(has_vms(w, "other-", 6))
        await w.until(lambda: w.shows_minimum(6, "linux"))
        await w.pass_time(700)
        assert await of_linux(w) == before
        assert not intents(w)
        gone = entity(w, lost)
        assert gone is not None
        assert gone.missing_since is not None
        await resume(w, template="linux")
        await w.until_states(cataloged=12, leased=1)
        assert reclaimed not in await w.vms()
        assert held in await w.vms()


async def test_a_paused_template_whose_configuration_went_away_stays_to_the_last_entity(
    tmp_path: Path,
) -> None:
    """Its machines neither leave the catalog nor are deleted; resumed, nothing of it is left."""
    async with world(tmp_path, templates=DIFFERENT, managers=two_templates()) as w:
        await w.until_states(cataloged=6)
        before = await of_linux(w)
        await pause(w, template="linux")
        w.write_config(template("other", machine_type="e2-medium"), manager("other"))
        await w.until_states(cataloged=3, draining=3)
        await w.pass_time(300)
        assert await of_linux(w) == before
        await resume(w, all=True)
        await w.until(has_vms(w, "linux-", 0))

        async def forgotten() -> bool:
            return not any((await of_linux(w)).values())

        await w.until(forgotten)


async def test_a_pause_of_a_zone_holds_a_roll_out_there_and_nowhere_else(tmp_path: Path) -> None:
    """The instance template has no zone, and is made; groups and machines there stay."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=6)
        old = {name: vm["zone"] for name, vm in (await w.vms()).items()}
        await pause(w, zone=OTHER_ZONE)
        w.write_config(template(machine_type="e2-medium"), TWO_ZONES)

        async def rolled_here() -> bool:
            vms = await w.vms()
            return not {name for name, zone in old.items() if zone == ZONE} & vms.keys()

        await w.until(rolled_here)
        await w.pass_time(120)
        kept = {name for name, zone in old.items() if zone == OTHER_ZONE}
        there = {name for name, vm in (await w.vms()).items() if vm["zone"] == OTHER_ZONE}
        assert there == kept
        assert kept <= (await w.catalog()).keys()
        assert not intents(w)
        assert len([key for key in await w.groups() if key.startswith(OTHER_ZONE)]) == 1
        await resume(w, zone=OTHER_ZONE)
        await w.until(lambda: _none_of(w, set(old)))
        await w.until_states(cataloged=6)


async def _none_of(w: World, names: set[str]) -> bool:
    return not names & (await w.vms()).keys()


async def test_a_pause_of_a_template_in_a_zone_holds_only_where_both_are(tmp_path: Path) -> None:
    """The template elsewhere, and others in that zone, grow."""
    there = manager(zone=OTHER_ZONE, minimum=1) + manager("other", zone=OTHER_ZONE, minimum=1)
    managers = two_templates(minimum=1) + there
    async with world(tmp_path, templates=TWO_TEMPLATES, managers=managers) as w:
        await w.until_states(cataloged=4)
        await pause(w, template="linux", zone=OTHER_ZONE)
        w.write_config(TWO_TEMPLATES, managers.replace("minimum_size: 1", "minimum_size: 2"))
        await w.until_states(cataloged=7)
        await w.pass_time(120)
        vms = [(name.partition("-")[0], vm["zone"]) for name, vm in (await w.vms()).items()]
        assert Counter(vms) == {
            ("linux", ZONE): 2,
            ("linux", OTHER_ZONE): 1,
            ("other", ZONE): 2,
            ("other", OTHER_ZONE): 2,
        }
        await resume(w, template="linux", zone=OTHER_ZONE)
        await w.until_states(cataloged=8)


async def test_machines_of_a_paused_template_are_not_cataloged_nor_told_their_subscription(
    tmp_path: Path,
) -> None:
    """What booted or was subscribed meanwhile waits; resumed, each VM has its metadata."""
    options = msgspec.structs.replace(CloudOptions().instant(), boot_seconds=20.0)
    async with world(tmp_path, templates=DIFFERENT, managers=two_templates(), options=options) as w:
        await w.until_states(starting=6)
        await pause(w, template="linux")
        await w.until_states(cataloged=3, running=3)
        await w.pass_time(120)
        assert not (await of_linux(w))["catalog"]
        assert {m["catalog"] for m in await w.machines("linux")} == {"never"}
        await resume(w, template="linux")

        async def added() -> bool:
            return len((await of_linux(w))["catalog"]) == 3

        await w.until(added, every=0.01)
        await pause(w, template="linux")
        await w.pass_time(120)
        assert await _told(w, "other") == {True}
        assert await _told(w, "linux") == {False}
        waiting = [entity(w, machine["name"]) for machine in await w.machines("linux")]
        updates = [one.active_metadata_update for one in waiting if one is not None]
        assert [update is not None and update.request_id for update in updates] == [None] * 3
        await resume(w, template="linux")
        await w.until_states(cataloged=6)

        async def told() -> bool:
            return await _told(w, "linux") == {True}

        await w.until(told)


async def _told(w: World, name: str) -> set[bool]:
    """Whether a template's VMs have their subscription."""
    return {"pubsub_subscription" in await metadata(w, m) for m in await w.machines(name)}


async def test_what_is_paused_says_so_with_the_reason_and_since_when(tmp_path: Path) -> None:
    """In /api/fleet at each subject, in /api/control, and as a metric; others do not."""
    async with world(tmp_path, templates=TWO_TEMPLATES, managers=two_templates(minimum=1)) as w:
        await w.until_states(cataloged=2)
        now = w.clock.now()
        await pause(w, template="linux", reason="a leak in the roof")
        told = await w.get("/api/control")
        assert (told["paused"], told["paused_by_operator"]) == (False, False)
        (shown,) = told["pauses"]
        since = shown.pop("since")
        assert abs(since - now) < 5
        assert shown == {
            "scope": "template linux",
            "template": "linux",
            "zone": None,
            "reason": "a leak in the roof",
            "by": "operator",
        }
        assert await metric(w, "gce_backend_actuation_paused") == 0
        for subject in await _subjects(w, "linux"):
            assert "a leak in the roof" in subject["reason"]
            (condition,) = subject["conditions"]
            assert (condition["reason"], condition["since"]) == ("Paused", since)
        for subject in await _subjects(w, "other"):
            assert "a leak in the roof" not in subject["reason"]
            assert subject["conditions"] == []


async def _subjects(w: World, name: str) -> list[dict[str, Any]]:
    """A template's revisions, groups and machines, as /api/fleet shows them."""
    templates = (await w.get("/api/fleet"))["templates"]
    (revision,) = next(t for t in templates if t["base_name"] == name)["revisions"]
    (group,) = revision["managers"]
    return [revision, group, *group["instances"]]


async def test_the_end_of_one_pause_leaves_the_others(tmp_path: Path) -> None:
    """That of everything ends alone; a narrower one is no part of a wider one."""
    async with world(tmp_path, templates=TWO_TEMPLATES, managers=two_templates(minimum=1)) as w:
        await w.until_states(cataloged=2)
        await pause(w)
        await pause(w, template="linux")
        await pause(w, template="linux", zone=ZONE)
        w.write_config(TWO_TEMPLATES, two_templates(minimum=2))
        await w.until(lambda: w.shows_minimum(2))
        await resume(w)
        await w.until(has_vms(w, "other-", 2))
        await resume(w, template="linux", zone=ZONE)
        await w.pass_time(120)
        assert len(await vms_of(w, "linux-")) == 1
        await resume(w, template="linux")
        await w.until(has_vms(w, "linux-", 2))


async def test_a_pause_of_a_part_outlives_the_daemon(tmp_path: Path) -> None:
    """A daemon that starts while a template is paused does not touch it."""
    async with world(tmp_path, templates=DIFFERENT, managers=two_templates()) as w:
        await w.until_states(cataloged=6)
        name = await w.lease(**OF_LINUX)
        await pause(w, template="linux")
        await w.crash_daemon()
        await w.release()
        await w.start_daemon()
        await w.until(lambda: w.is_in(name, "pending-deletion"))
        await w.pass_time(130)
        assert name in await w.vms()


async def test_a_pause_stops_a_run_in_the_middle(tmp_path: Path) -> None:
    """One machine after the other leaves the catalog, slowly: after the order no further one."""
    settings = Settings(compute=ComputeSettings(max_concurrency=1))
    async with world(
        tmp_path, templates=DIFFERENT, managers=two_templates(minimum=6), settings=settings
    ) as w:
        await w.until_states(cataloged=12)
        await w.inject(DELETE_MACHINE, kind="latency", seconds=5.0, times=None)
        await w.reset_calls()
        w.write_config(template("other", machine_type="e2-medium"), manager("other", minimum=6))

        async def begun() -> bool:
            return (await w.calls())[DELETE_MACHINE] >= 2

        await w.until(begun)
        await pause(w, template="linux")
        asked = (await w.calls())[DELETE_MACHINE]
        await w.pass_time(120)
        assert (await w.calls())[DELETE_MACHINE] == asked


async def test_a_deletion_begun_before_the_pause_is_not_asked_for_again(tmp_path: Path) -> None:
    """Compute has lost it: repeated every two minutes, but not while its template is paused."""
    async with world(
        tmp_path, templates=DIFFERENT, managers=two_templates(), crons=EACH_MINUTE
    ) as w:
        await w.until_states(cataloged=6)
        name = await w.lease(**OF_LINUX)
        await w.inject(DELETE_INSTANCES, kind="status", status=503, times=None)
        await w.release()

        async def asked() -> bool:
            return bool(await w.fired())

        await w.until(asked)
        await pause(w, template="linux")
        await w.pass_time(60)  # a call that was under way is over
        await w.clear_faults()
        await w.reset_calls()
        before = entity(w, name)
        await w.pass_time(400)
        assert (await w.calls())[DELETE_INSTANCES] == 0
        assert entity(w, name) == before
        assert (await w.calls())["datastore.projects.lookup"] <= 8  # import-config's own
        assert name in await w.vms()
        await resume(w, template="linux")
        await w.until(lambda: w.lacks(name))


async def test_what_was_asked_for_before_the_pause_is_followed_to_its_end(tmp_path: Path) -> None:
    """A deletion is confirmed and an operation's outcome stored; nothing new is begun."""
    options = msgspec.structs.replace(
        CloudOptions().instant(), delete_seconds=30.0, operation_seconds=30.0
    )
    async with world(tmp_path, options=options) as w:
        await w.until_states(cataloged=3)
        await w.until(lambda: _updates(w, 0))
        going = await w.lease()
        await w.release()
        await w.until(lambda: w.is_in(going, "deleting"))
        told = next(machine for machine in await w.machines() if machine["state"] == "cataloged")
        await publish(w, subscribed(told, "another"))
        await w.until(lambda: _is_updated(w, told["name"], sent=True))
        await pause(w, template="linux")
        await w.reset_calls()
        await w.until(lambda: w.is_in(going, "deleted"), within=120)
        await w.until(lambda: _is_updated(w, told["name"], sent=False), within=120)
        assert (await metadata(w, told))["pubsub_subscription"] == "another"
        assert await mutations(w) == {}


async def _is_updated(w: World, name: str, *, sent: bool) -> bool:
    """Whether a machine's metadata update is under way, or there is none."""
    machine = entity(w, name)
    update = machine.active_metadata_update if machine is not None else None
    return update is not None and update.operation is not None if sent else update is None


async def _updates(w: World, number: int) -> bool:
    """Whether so many metadata updates are under way."""
    machines = [entity(w, machine["name"]) for machine in await w.machines()]
    updates = [one.active_metadata_update for one in machines if one is not None]
    sent = sum(update is not None and update.operation is not None for update in updates)
    return sent == number == sum(update is not None for update in updates)


async def test_a_paused_part_with_work_to_do_costs_no_extra_runs(tmp_path: Path) -> None:
    """What waits for the end of a pause is not looked at more often than each minute."""
    async with world(
        tmp_path, templates=DIFFERENT, managers=two_templates(), crons=EACH_MINUTE
    ) as w:
        await w.until_states(cataloged=6)
        name = await w.lease(**OF_LINUX)
        await pause(w, template="linux")
        await w.release()
        await w.until(lambda: w.is_in(name, "pending-deletion"))
        w.write_config(template("other", machine_type="e2-medium"), manager("other"))
        await w.pass_time(100)
        before = await _runs(w)
        await w.pass_time(400)
        more = {job: count - before[job] for job, count in (await _runs(w)).items()}
        assert max(more.values()) <= 10, more


async def _runs(w: World) -> dict[str, int]:
    return {job["name"]: job["runs"] for job in (await w.get("/api/jobs"))["jobs"]}
