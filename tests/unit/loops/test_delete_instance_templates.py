"""delete-instance-templates: a drained template goes after its groups."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gce_backend.localcloud.cloud import CloudOptions
from support.fleet_harness import OTHER_ZONE, PROJECT, manager, template, world
from support.fleet_views import compute_templates, reasons
from support.two_templates import (
    BOTH,
    LINUX_AND_WIN,
    MANAGERS,
    SHORT,
    drop,
    gone,
    of_template,
    up,
    vms_are,
)

DELETE = "compute.instanceTemplates.delete"
COMMIT = "datastore.projects.commit"
SELDOM = {"import-config": "*/20 * * * * *"}
CALM = msgspec.structs.replace(CloudOptions().instant(), dispatch_seconds=1.0)


async def test_delete_instance_templates(tmp_path: Path) -> None:
    """What the spec says of delete-instance-templates.

    "Deletes GCE instance templates that aren't found in the config
    and have no instance group managers configured to use them."
    """
    managers = manager("linux") + manager("win", minimum=4)
    async with world(tmp_path, templates=LINUX_AND_WIN, managers=managers) as w:
        await w.until_states(cataloged=7)
        await w.inject("compute.instanceGroupManagers.delete", status=503, times=None)
        w.write_config(template("win"), manager("win", minimum=4))
        await w.pass_time(300)
        assert await w.fired() > 0
        assert len(await compute_templates(w)) == 2  # a group uses it still
        await w.clear_faults()

        async def one_template() -> bool:
            return [name.startswith("win") for name in await compute_templates(w)] == [True]

        await w.until(one_template, within=900)


async def test_template_that_somebody_else_uses_waits_for_them(tmp_path: Path) -> None:
    """Being in use is a reason to wait, shown and seldom tried; then all of it goes."""
    async with world(
        tmp_path, templates=BOTH, managers=MANAGERS, settings=SHORT, crons=SELDOM, options=CALM
    ) as w:
        await up(w)
        (name,) = (await of_template(w))["templates"]
        body = {
            "name": "theirs",
            "baseInstanceName": "theirs",
            "instanceTemplate": f"projects/{PROJECT}/global/instanceTemplates/{name}",
            "targetSize": 0,
        }
        await w.compute("POST", f"zones/{OTHER_ZONE}/instanceGroupManagers", body)
        drop(w)
        await w.until(vms_are(w, set()))
        await w.pass_time(600)
        assert (await of_template(w))["templates"] == [name]
        assert "ResourceInUse" in await reasons(w)
        assert (await w.calls())["compute.instanceTemplates.delete"] <= 15
        before = await w.calls()
        await w.pass_time(1800)
        calls = await w.calls()
        assert calls[DELETE] > before[DELETE]
        assert calls[COMMIT] == before[COMMIT], "a try that is refused again writes nothing"
        w.write_config(BOTH, MANAGERS)
        await up(w)
        assert (await of_template(w))["templates"] == [name], "named again, it is used again"
        drop(w)
        await w.until(vms_are(w, set()))
        await w.compute("DELETE", f"zones/{OTHER_ZONE}/instanceGroupManagers/theirs")
        await w.until(gone(w), within=1800)


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("seconds", [2.5, 5.0, 8.0, 13.0])
async def test_template_removed_while_it_is_being_made_leaves_nothing_behind(
    tmp_path: Path, seconds: float, crash: bool
) -> None:
    """With operations of five seconds: template, group and VMs are each in flight in turn."""
    options = msgspec.structs.replace(CloudOptions(), operation_seconds=5.0)
    rest = template("other", machine_type="e2-medium"), manager("other", minimum=4)
    async with world(
        tmp_path, templates=rest[0], managers=rest[1], settings=SHORT, options=options
    ) as w:
        await w.until_states(cataloged=4)
        w.write_config(BOTH, MANAGERS)
        await w.pass_time(seconds)
        drop(w)
        if crash:
            await w.pass_time(2.5)  # it drains, and what was begun has not ended
            await w.restart_daemon()
        await w.until(gone(w), within=1800)
        await w.until_states(cataloged=4)
