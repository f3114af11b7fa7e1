"""Stories of permits that were wrong: the Machine Provider, asked just before, keeps the machine.

What the store says is put wrong behind the daemon's back, as a restore, a hand or a fault puts it
wrong, while somebody holds the machine. Its template leaves the configuration at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from gce_backend.fleet.picture import Change
from gce_backend.model.entities import CatalogState, Instance, Lease
from gce_backend.model.keys import MachineKey
from gce_backend.settings.settings import MachineProviderSettings
from support.broker_messages import about, key_of, publish
from support.deletions import (
    DELETE_INSTANCES,
    DELETE_MACHINE,
    GET_MACHINE,
    NOT_CATALOGED,
    TWO_TEMPLATES,
    add_late,
    entity,
    has_no_entry,
    lease_all,
    release_all,
    settings,
    two_templates,
)
from support.fleet_harness import World, manager, world


def _keys(w: World, names: list[str]) -> list[MachineKey]:
    assert w.daemon.context is not None
    return [key for key in w.daemon.context.fleet.instances if key.name in names]


async def _store_says(
    w: World, names: list[str], what: Callable[[Instance | None], Instance | None]
) -> None:
    assert w.daemon.context is not None
    changes = [Change(key, what) for key in _keys(w, names)]
    await w.daemon.context.fleet.change(changes)


async def _hold(w: World, number: int) -> list[str]:
    """Holds all machines of the template that is to drain, by leasing every machine."""
    held = await lease_all(w, number)
    await w.until_states(leased=number)
    return [name for name in held if name.startswith("other")]


def _says(
    state: CatalogState, lease: Lease | None = None
) -> Callable[[Instance | None], Instance | None]:
    def says(instance: Instance | None) -> Instance | None:
        return replace(instance, catalog=state, lease=lease) if instance is not None else None

    return says


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(lambda _: None, id="forgotten"),
        pytest.param(_says(CatalogState.NEVER), id="never-cataloged"),
        pytest.param(_says(CatalogState.REMOVED), id="removed"),
        pytest.param(_says(CatalogState.ABSENT), id="absent"),
        pytest.param(_says(CatalogState.REFUSED), id="refused"),
        pytest.param(_says(CatalogState.ABSENT, Lease(1.0, 2.0)), id="absent, another lease known"),
    ],
)
async def test_a_store_older_than_the_world_destroys_no_machine_that_is_held(
    tmp_path: Path, what: Callable[[Instance | None], Instance | None]
) -> None:
    """Restored from a backup, or an entity was removed by hand: each lease runs to its end."""
    async with world(
        tmp_path, templates=TWO_TEMPLATES, managers=two_templates(2), settings=settings()
    ) as w:
        await w.until_states(cataloged=4)
        held = await _hold(w, 4)
        assert len(held) == 2
        await _store_says(w, held, what)
        w.write_config(TWO_TEMPLATES, two_templates(2, other=False))
        await w.restart_daemon()
        await w.pass_time(600)
        assert set(held) <= set(await w.vms())
        for name in held:
            assert await w.is_in(name, "leased")
            assert (found := entity(w, name)) is not None
            assert found.lease is not None
            assert found.lease.expiration is not None
        await release_all(w, 4)
        for name in held:
            await w.until(lambda name=name: w.lacks(name))  # type: ignore[misc]  # bound now


async def test_a_machine_set_aside_and_one_404_of_get_are_no_permit_while_it_is_leased(
    tmp_path: Path,
) -> None:
    """The catalog showed another's entry once, and then, for a moment, none."""
    async with world(
        tmp_path, templates=TWO_TEMPLATES, managers=two_templates(1), settings=settings()
    ) as w:
        await w.until_states(cataloged=2)
        held = await _hold(w, 2)
        w.write_config(TWO_TEMPLATES, two_templates(1, other=False))
        await w.until(lambda: _drains(w, held[0]))
        await w.inject(GET_MACHINE, times=2, **NOT_CATALOGED)
        await _store_says(w, held, _says(CatalogState.REFUSED))
        await w.until(w.has_fired)
        await w.pass_time(300)
        assert set(held) <= set(await w.vms())
        assert await w.is_in(held[0], "leased")


async def test_the_entry_of_another_under_a_machine_s_host_name_stays(tmp_path: Path) -> None:
    """The machine that was set aside for it is neither deleted nor taken out of the catalog."""
    async with world(
        tmp_path, templates=TWO_TEMPLATES, managers=two_templates(1), settings=settings()
    ) as w:
        await w.until_states(cataloged=2)
        (machine,) = await w.machines("other")
        name = machine["name"]
        own = {"dimensions": {"hostname": name, "backend": "GCE"}}
        await w.broker("catalog.delete_machine", own)
        await add_late(w, name, key="another/instance")
        await _store_says(w, [name], _says(CatalogState.REFUSED))
        w.write_config(TWO_TEMPLATES, two_templates(1, other=False))
        await w.pass_time(300)
        assert name in await w.catalog()
        assert name in await w.vms()


async def test_a_machine_set_aside_that_the_catalog_holds_again_leaves_it_and_is_deleted(
    tmp_path: Path,
) -> None:
    """The Machine Provider has recovered: the entry is the machine's own, and nobody holds it."""
    async with world(
        tmp_path, templates=TWO_TEMPLATES, managers=two_templates(1), settings=settings()
    ) as w:
        await w.until_states(cataloged=2)
        names = [m["name"] for m in await w.machines("other")]
        w.write_config(TWO_TEMPLATES, two_templates(1, other=False))
        await _store_says(w, names, _says(CatalogState.REFUSED))
        await w.until(lambda: w.lacks(names[0]))
        assert (await w.catalog()).get(names[0], "DELETED") == "DELETED"  # its topic may outlive it


async def test_a_reclaimed_that_comes_again_while_the_machine_is_leased_deletes_nothing(
    tmp_path: Path,
) -> None:
    """Its effect is corrected: the machine is shown as leased, with the end of its lease."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        await w.reset_calls()
        machine = next(m for m in await w.machines() if m["name"] == name)
        await publish(w, about(machine, "RECLAIMED"))
        await w.until(lambda: _asked(w))
        await w.until(lambda: w.is_in(name, "leased"))
        await w.pass_time(300)
        assert (await w.calls())[DELETE_INSTANCES] == 0
        assert (found := entity(w, name)) is not None
        assert found.pending_deletion is None
        assert found.lease is not None
        assert found.lease.expiration is not None
        conditions = (await w.get("/api/fleet"))["conditions"]
        assert [c["reason"] for c in conditions if name in str(c["subject"])] == ["Leased"]
        await w.release()
        await w.until(lambda: w.lacks(name))


async def test_an_addition_that_takes_effect_after_the_removal_keeps_what_is_leased_by_then(
    tmp_path: Path,
) -> None:
    """The machine has left the catalog; a call of long ago puts it in again, and it is leased."""
    async with world(tmp_path, templates=TWO_TEMPLATES, managers=two_templates(1)) as w:
        await w.until_states(cataloged=2)
        (machine,) = await w.machines("other")
        name = machine["name"]
        await w.inject(DELETE_MACHINE, kind="latency", when="after", seconds=10, times=1)
        w.write_config(TWO_TEMPLATES, two_templates(1, other=False))
        await w.until(lambda: has_no_entry(w, name), every=0.1)
        await add_late(w, name, key=key_of(machine), gce_id=machine["id"])
        wanted = {"hostname": name}
        request = {"request_id": "late", "duration": 3600, "dimensions": wanted}

        async def leased() -> bool:
            return bool((await w.broker("machine_provider.lease", request)).get("hostname"))

        await w.until(leased, every=0.1)
        assert (known := entity(w, name)) is not None
        assert known.deletion is None
        await w.pass_time(900)
        assert await w.fired() == 1
        assert name in await w.vms()
        assert await w.is_in(name, "leased")


async def test_one_answer_of_a_restored_catalog_drops_no_lease_that_has_an_end(
    tmp_path: Path,
) -> None:
    """It calls the machine available; the lease that is known here runs for an hour."""
    hasty = MachineProviderSettings(sweep_per_minute=600)
    async with world(tmp_path, managers=manager(minimum=1), settings=settings(None, hasty)) as w:
        await w.until_states(cataloged=1)
        name = await w.lease()
        (machine,) = await w.machines()
        attributes = {"key": key_of(machine), "gce_id": machine["id"]}
        restored = {
            "dimensions": {"backend": "GCE", "hostname": name},
            "policies": {
                "backend_attributes": [{"key": k, "value": v} for k, v in attributes.items()]
            },
            "state": "AVAILABLE",
        }
        await w.inject(GET_MACHINE, kind="answer", body=restored, times=None)
        await w.until(w.has_fired)
        await w.pass_time(120)
        assert (found := entity(w, name)) is not None
        assert found.lease is not None
        assert await w.is_in(name, "leased")


@pytest.mark.parametrize("starts", [False, True], ids=["at work", "before its start"])
async def test_row_42_no_lease_ends_because_the_daemon_s_clock_is_set_ahead(
    tmp_path: Path, *, starts: bool
) -> None:
    """A day ahead, while the catalog does not hold the machine that somebody works on.

    One that is ahead from the beginning is told by Datastore what time it is.
    """
    hasty = MachineProviderSettings(sweep_per_minute=600, lost_seconds=60.0)
    async with world(tmp_path, managers=manager(minimum=1), settings=settings(None, hasty)) as w:
        await w.until_states(cataloged=1)
        name = await w.lease()
        await w.until_states(leased=1)
        await w.inject(GET_MACHINE, status=404, reason="notFound", times=None)
        denied = {"error": "ENTRY_NOT_FOUND"}
        await w.inject(DELETE_MACHINE, kind="answer", body=denied, times=None)
        if starts:
            await w.crash_daemon()
            await w.start_daemon(ahead=86_400.0)
        w.daemon_clock.ahead = 86_400.0
        await w.until(w.has_fired)
        await w.pass_time(1800)
        assert name in await w.vms()
        assert (found := entity(w, name)) is not None
        assert found.lease is not None


async def test_without_an_answer_nothing_is_deleted_and_few_are_asked_about(
    tmp_path: Path,
) -> None:
    """403 and 5xx alike: deletions wait, and begin when the Machine Provider answers again."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        names = await lease_all(w, 3)
        await w.until_states(leased=3)
        await w.inject(DELETE_MACHINE, status=403, reason="forbidden", times=None)
        await w.reset_calls()
        await release_all(w, 3)
        await w.pass_time(300)
        assert set(names) <= set(await w.vms())
        assert 1 <= (await w.calls())[DELETE_MACHINE] <= 15
        assert (await w.calls())[DELETE_INSTANCES] == 0
        assert {job["consecutive_failures"] for job in (await w.get("/api/jobs"))["jobs"]} == {0}
        await w.clear_faults()
        await w.until_states(cataloged=3)
        assert not set(names) & set(await w.vms())
        assert (await w.get("/api/fleet"))["conditions"] == []


async def _drains(w: World, name: str) -> bool:
    assert w.daemon.context is not None
    (key,) = _keys(w, [name])
    return not w.daemon.context.fleet.is_active(key.group)


async def _asked(w: World) -> bool:
    return bool((await w.calls())[DELETE_MACHINE])


async def test_hole_02_a_deletion_that_failed_is_not_repeated_on_an_old_word(
    tmp_path: Path,
) -> None:
    """An addition takes effect while Compute asks for patience, and is leased: its VM stays."""
    async with world(tmp_path, managers=manager(minimum=1), settings=settings()) as w:
        await w.until_states(cataloged=1)
        [machine] = await w.machines()
        name = machine["name"]
        await w.inject(DELETE_INSTANCES, status=503, retry_after=8, times=1)
        assert await w.act("/api/drain", {"name": name}) == 200
        await w.until(w.has_fired)
        await add_late(w, name, key=key_of(machine), gce_id=machine["id"])
        assert await w.lease() == name
        await w.pass_time(600)
        assert name in await w.vms()
        assert (await w.catalog())[name] == "LEASED"
        await w.release()
        await w.until(lambda: w.lacks(name))


async def test_hole_01_a_message_about_a_machine_proves_that_it_was_cataloged(
    tmp_path: Path,
) -> None:
    """The store is older than its lease, and RECLAIMED is lost: it is kept to the end, and goes."""
    hasty = MachineProviderSettings(sweep_per_minute=600)
    async with world(
        tmp_path,
        templates=TWO_TEMPLATES,
        managers=two_templates(1),
        settings=settings(None, hasty),
    ) as w:
        await w.until_states(cataloged=2)
        (machine,) = await w.machines("other")
        name = machine["name"]
        assert await w.lease(duration=300, hostname=name) == name
        assert await w.act("/api/pause", {"reason": "a restore"}) == 200
        await _store_says(w, [name], _says(CatalogState.NEVER))
        end = str(int(w.clock.now()) + 300)
        await publish(w, about(machine, "LEASED", lease_expiration_ts=end))
        await w.until(lambda: w.is_in(name, "leased"))
        await w.inject("pubsub.projects.subscriptions.pull", times=None)
        w.write_config(TWO_TEMPLATES, two_templates(1, other=False))
        await w.pass_time(60)
        assert await w.act("/api/resume", {}) == 200
        await w.pass_time(120)
        assert name in await w.vms()
        await w.until(lambda: w.lacks(name), within=900)
