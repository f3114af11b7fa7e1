"""compress-instance-metadata-updates: many pending updates become one."""

from __future__ import annotations

from pathlib import Path

from support.broker_messages import (
    has,
    metadata_operations,
    one_machine,
    publish,
    settled,
    stored,
    subscribed,
)
from support.fleet_harness import world

SET_METADATA = "compute.instances.setMetadata"


async def test_compress_instance_metadata_updates(tmp_path: Path) -> None:
    """What the spec says of this job.

    "Compresses all pending_metadata_updates for a models.Instance into one single update and sets
    it as the active_metadata_update if there isn't already one."
    """
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        await w.inject(SET_METADATA, kind="latency", seconds=10.0, times=1)
        before = len(await metadata_operations(w, machine))
        await publish(w, subscribed(machine, "a"))
        await w.pass_time(1)
        await publish(w, *[subscribed(machine, name) for name in "xyb"])
        await w.pass_time(1)
        for name in "cd":
            await publish(w, subscribed(machine, name))
            await w.pass_time(1)
        assert await w.fired() == 1
        entity = stored(w, machine)
        assert entity.active_metadata_update is not None
        assert entity.active_metadata_update.items["pubsub_subscription"] == "a"
        names = [u.items["pubsub_subscription"] for u in entity.pending_metadata_updates]
        assert names == ["b", "c", "d"]
        await settled(w)
        assert await has(w, machine, "pubsub_subscription", "d")
        assert len(await metadata_operations(w, machine)) == before + 2


async def test_the_second_update_of_the_same_keys_is_applied_once(tmp_path: Path) -> None:
    """Hazard 17: it was repeated every minute for ever."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        await publish(w, subscribed(machine, "one"))
        await settled(w)
        before = len(await metadata_operations(w, machine))
        await publish(w, subscribed(machine, "two"))
        await settled(w)
        await w.reset_calls()
        await w.pass_time(600)
        assert await has(w, machine, "pubsub_subscription", "two")
        assert len(await metadata_operations(w, machine)) == before + 1
        calls = await w.calls()
        assert calls[SET_METADATA] == 0
        assert calls["datastore.projects.commit"] <= 2, "signs of life"
