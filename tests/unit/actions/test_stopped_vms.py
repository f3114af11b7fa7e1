"""actions.stopped_vms: which groups have a VM that no longer runs, by one page a minute."""

from __future__ import annotations

from pathlib import Path

import pytest

from gce_backend.actions import stopped_vms
from support.fleet_harness import world
from support.outside import cataloged, whole

SELDOM = {"import-config": "* * * * *"}


async def test_of_more_vms_than_a_page_holds_those_that_stop_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One list a minute, as for few: it asks for those alone that do not run."""
    monkeypatch.setattr(stopped_vms, "PAGE", 2)
    async with world(tmp_path, crons=SELDOM) as w:
        name = min(await cataloged(w, 3))
        await w.pass_time(120)
        await w.reset_calls()
        await w.pass_time(300)
        assert (await w.calls())["compute.instances.aggregatedList"] <= 6
        await w.call("POST", f"/_localcloud/vms/{name}/power-off")

        async def out() -> bool:
            return name not in await w.catalog()

        assert await w.until(out) < 75
        await w.until(whole(w, 3, without={name}))
