"""check-instance-metadata-operations: what succeeded is cleared, what failed is sent again."""

from __future__ import annotations

from pathlib import Path

import msgspec

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
GET_OPERATION = "compute.zoneOperations.get"


async def test_check_instance_metadata_operations(tmp_path: Path) -> None:
    """What the spec says of this job.

    "Looks for an active_metadata_update with a url in a models.Instance and checks the status of
    the operation. If succeeded, active_metadata_update is cleared, otherwise only the url is
    cleared and the operation is moved to the front of the pending_metadata_updates."
    """
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        await publish(w, subscribed(machine, "good"))
        await settled(w)
        assert stored(w, machine).active_metadata_update is None
        await w.inject(SET_METADATA, kind="operation", reason="INTERNAL_ERROR", times=1)
        await publish(w, subscribed(machine, "failing"))
        await w.pass_time(1)
        assert await w.fired() == 1
        # From the front of the pending ones it has become active again: without its operation.
        update = stored(w, machine).active_metadata_update
        assert update is not None
        assert update.items["pubsub_subscription"] == "failing"
        assert (update.operation, update.attempts) == (None, 1)
        assert await has(w, machine, "pubsub_subscription", "good")
        await settled(w)
        assert await has(w, machine, "pubsub_subscription", "failing")


async def test_failing_operations_are_repeated_ever_more_slowly_until_one_succeeds(
    tmp_path: Path,
) -> None:
    """Fault 16: four operations end in an error; each next one waits longer, none is lost."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        before = len(await metadata_operations(w, machine))
        await w.inject(SET_METADATA, kind="operation", reason="INTERNAL_ERROR", times=4)
        await publish(w, subscribed(machine, "first"))
        await w.pass_time(2)
        await publish(w, subscribed(machine, "last"))
        assert await settled(w) > 70
        assert await w.fired() == 4
        assert await has(w, machine, "pubsub_subscription", "last")
        made = (await metadata_operations(w, machine))[before:]
        assert len(made) <= 6


async def test_an_operation_that_compute_has_forgotten_is_not_repeated_once_applied(
    tmp_path: Path,
) -> None:
    """Fault 17: the operation is 404; the VM itself says that the update is applied."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        before = len(await metadata_operations(w, machine))
        await w.inject(GET_OPERATION, status=404, reason="notFound", times=3)
        await publish(w, subscribed(machine, "news"))
        await settled(w)
        assert await w.fired() == 1
        assert await has(w, machine, "pubsub_subscription", "news")
        assert len(await metadata_operations(w, machine)) == before + 1


async def test_an_operation_that_never_ends_is_given_up_and_sent_anew(tmp_path: Path) -> None:
    """Fault 17: RUNNING for ever; after a bounded wait the update is sent again, and applied."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        before = len(await metadata_operations(w, machine))
        quick = w.cloud.options
        w.cloud.options = msgspec.structs.replace(quick, operation_seconds=1e7)
        await publish(w, subscribed(machine, "news"))
        await w.pass_time(300)
        w.cloud.options = quick
        assert not await has(w, machine, "pubsub_subscription", "news")
        assert await settled(w, within=900) > 200
        assert await has(w, machine, "pubsub_subscription", "news")
        made = (await metadata_operations(w, machine))[before:]
        assert [operation["status"] for operation in made].count("DONE") == 1
        assert len(made) == 2


async def test_hole_17_an_operation_that_runs_for_ever_is_looked_at_seldom_and_told(
    tmp_path: Path,
) -> None:
    """Each second at first, then a few times; the VM itself decides, not the operation."""
    async with world(tmp_path, crons={"import-config": "* * * * *"}) as w:
        machine = await one_machine(w)
        await settled(w)
        await w.inject("compute.instances.setMetadata", kind="endless", times=1)
        await publish(w, subscribed(machine, "news"))
        await w.pass_time(45)
        await w.reset_calls()
        await w.pass_time(450)
        assert (await w.calls())["compute.zoneOperations.get"] <= 10
        reasons = {problem["reason"] for problem in (await w.get("/api/status"))["problems"]}
        assert "OperationPending" in reasons
        await settled(w, within=900)
        assert await has(w, machine, "pubsub_subscription", "news")
        reasons = {problem["reason"] for problem in (await w.get("/api/status"))["problems"]}
        assert "OperationPending" not in reasons
