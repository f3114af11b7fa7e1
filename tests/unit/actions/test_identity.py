"""actions.identity: one id for a store, made once, and remembered."""

from __future__ import annotations

from pathlib import Path

from gce_backend.fleet.picture import Change
from gce_backend.model.entities import STORE_IDENTITY_KEY
from support.fleet_harness import manager, template, world
from support.outside import cataloged


async def test_two_replicas_of_one_store_have_one_id(tmp_path: Path) -> None:
    """The first one makes it, whoever comes later finds it, also after a restart."""
    async with world(tmp_path) as w:
        await cataloged(w, 3)
        mark = await w.mark()
        assert mark.store
        await w.restart_daemon()
        await w.until(w.is_loaded)
        assert await w.mark() == mark


async def test_an_id_that_was_removed_by_hand_is_stored_again(tmp_path: Path) -> None:
    """A running daemon knows it; what it makes next carries the same one."""
    async with world(tmp_path) as w:
        await cataloged(w, 3)
        mark = await w.mark()
        context = w.daemon.context
        assert context is not None
        async with w.fleet() as fleet:
            await fleet.change([Change(STORE_IDENTITY_KEY, lambda _: None)])
        await context.fleet.refresh([STORE_IDENTITY_KEY])
        assert context.fleet.identity == ""
        w.write_config(template() + template("windows"), manager() + manager("windows", minimum=1))
        await cataloged(w, 4)
        assert await w.mark() == mark
