"""A VM's metadata: from SUBSCRIBED to the VM, whatever fails in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.model.entities import Instance
from support.broker_messages import (
    has,
    metadata,
    metadata_operations,
    one_machine,
    publish,
    set_metadata,
    settled,
    subscribed,
    vm,
)
from support.fleet_harness import World, world

SET_METADATA = "compute.instances.setMetadata"
GET_OPERATION = "compute.zoneOperations.get"


def _entity(w: World, machine: dict[str, Any]) -> Instance:
    assert w.daemon.context is not None
    instances = w.daemon.context.fleet.instances
    return next(entity for key, entity in instances.items() if key.name == machine["name"])


async def test_a_subscription_reaches_the_vm_beside_what_others_set(tmp_path: Path) -> None:
    """The paragraph "Metadata": three keys merged, foreign keys kept, one failure, one crash."""
    async with world(tmp_path, options=CloudOptions()) as w:
        machine = await one_machine(w)
        await set_metadata(w, machine, {**await metadata(w, machine), "owner": "us"})
        before = await metadata(w, machine)
        await w.inject(SET_METADATA, kind="operation", reason="INTERNAL_ERROR", times=1)
        await publish(w, subscribed(machine, "first"), subscribed(machine, "second"))

        async def put_back() -> bool:
            update = _entity(w, machine).active_metadata_update
            return update is not None and update.attempts == 1

        await w.until(put_back)
        assert await w.fired() == 1
        await w.restart_daemon()
        await settled(w)
        assert await metadata(w, machine) == {
            **before,
            "pubsub_service_account": "default",
            "pubsub_subscription": "second",
            "pubsub_subscription_project": "mp",
        }
        assert before["owner"] == "us"


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
        entity = _entity(w, machine)
        assert entity.active_metadata_update is not None
        assert entity.active_metadata_update.items["pubsub_subscription"] == "a"
        names = [u.items["pubsub_subscription"] for u in entity.pending_metadata_updates]
        assert names == ["b", "c", "d"]
        await settled(w)
        assert await has(w, machine, "pubsub_subscription", "d")
        assert len(await metadata_operations(w, machine)) == before + 2


async def test_update_instance_metadata(tmp_path: Path) -> None:
    """What the spec says of this job.

    "Looks for an active_metadata_update in a models.Instance and creates the GCE zone operation to
    apply it. Updates models.Instance.active_metadata_update with the URL of the scheduled
    operation."
    """
    options = msgspec.structs.replace(CloudOptions().instant(), operation_seconds=5.0)
    async with world(tmp_path, options=options) as w:
        machine = await one_machine(w)
        await publish(w, subscribed(machine, "news"))
        await w.pass_time(2)
        started = (await metadata_operations(w, machine))[-1]
        active = _entity(w, machine).active_metadata_update
        assert active is not None
        assert active.operation is not None
        assert active.operation.endswith(f"/operations/{started['name']}")
        assert started["status"] != "DONE"


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
        assert _entity(w, machine).active_metadata_update is None
        await w.inject(SET_METADATA, kind="operation", reason="INTERNAL_ERROR", times=1)
        await publish(w, subscribed(machine, "failing"))
        await w.pass_time(1)
        assert await w.fired() == 1
        # From the front of the pending ones it has become active again: without its operation.
        update = _entity(w, machine).active_metadata_update
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


@pytest.mark.parametrize("delay", [0.0, 1.0])
async def test_metadata_that_somebody_changes_between_get_and_set_is_kept(
    tmp_path: Path, delay: float
) -> None:
    """Fault 20: the fingerprint is stale, at the call or when the operation runs; read again."""
    options = msgspec.structs.replace(CloudOptions().instant(), operation_seconds=delay)
    async with world(tmp_path, options=options) as w:
        machine = await one_machine(w)
        await w.inject(SET_METADATA, kind="latency", seconds=5.0, times=1)
        await publish(w, subscribed(machine, "news"))

        async def sending() -> bool:
            return await w.fired() == 1

        await w.until(sending)
        await set_metadata(w, machine, {**await metadata(w, machine), "theirs": "kept"})
        await w.reset_calls()
        await settled(w)
        assert (await w.calls())[SET_METADATA] >= 1  # the first one was refused
        found = await metadata(w, machine)
        assert found["theirs"] == "kept"
        assert found["pubsub_subscription"] == "news"


async def test_an_update_sent_before_a_crash_yields_to_what_others_changed_since(
    tmp_path: Path,
) -> None:
    """Fault 2, 20: its id stands for a request that no longer fits; it is sent under a new one."""
    options = msgspec.structs.replace(CloudOptions().instant(), operation_seconds=2.0)
    async with world(tmp_path, options=options) as w:
        machine = await one_machine(w)
        present = await metadata(w, machine)
        before = len(await metadata_operations(w, machine))
        await w.inject("datastore.projects.commit", kind="latency", seconds=3.0, times=None)
        await publish(w, subscribed(machine, "news"))

        async def sent() -> bool:
            return len(await metadata_operations(w, machine)) == before + 1

        await w.until(sent)
        await w.crash_daemon()  # before the operation is stored
        assert await w.fired() > 0
        await w.clear_faults()
        await w.pass_time(3)
        await set_metadata(w, machine, {**present, "theirs": "kept"})
        await w.start_daemon()
        await settled(w)
        found = await metadata(w, machine)
        assert (found.get("theirs"), found["pubsub_subscription"]) == ("kept", "news")


async def test_metadata_changed_by_others_afterwards_stays_as_they_made_it(tmp_path: Path) -> None:
    """What others do to the metadata, also to our keys, is not fought over."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        await publish(w, subscribed(machine, "news"))
        await settled(w)
        await set_metadata(w, machine, {"pubsub_subscription": "theirs", "x": "1"})
        await w.reset_calls()
        await w.pass_time(600)
        assert await metadata(w, machine) == {"pubsub_subscription": "theirs", "x": "1"}
        assert (await w.calls())[SET_METADATA] == 0


async def test_a_vm_without_any_metadata_gets_it(tmp_path: Path) -> None:
    """Hazard 17: a VM whose metadata has no items."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        await set_metadata(w, machine, {})
        assert "items" not in (await vm(w, machine))["metadata"]
        await publish(w, subscribed(machine, "news"))
        await settled(w)
        assert sorted(await metadata(w, machine)) == [
            "pubsub_service_account",
            "pubsub_subscription",
            "pubsub_subscription_project",
        ]


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
        assert calls[SET_METADATA] == calls["datastore.projects.commit"] == 0


@pytest.mark.parametrize("fails", [None, "INTERNAL_ERROR"])
async def test_a_crash_at_any_moment_neither_loses_nor_doubles_an_update(
    tmp_path: Path, fails: str | None
) -> None:
    """Every call takes its time, and the daemon crashes after 0.13 s, 0.26 s, ... of the way."""
    options = msgspec.structs.replace(CloudOptions().instant(), operation_seconds=1.5)
    async with world(tmp_path, options=options) as w:
        machine = await one_machine(w)
        for method in (
            "datastore.projects.commit",
            "compute.instances.get",
            SET_METADATA,
            GET_OPERATION,
            "pubsub.projects.subscriptions.acknowledge",
        ):
            await w.inject(method, kind="latency", seconds=0.3, times=None)
        for step in range(1, 36, 1 if fails is None else 4):
            before = len(await metadata_operations(w, machine))
            if fails:
                await w.inject(SET_METADATA, kind="operation", reason=fails, times=1)
            await publish(w, subscribed(machine, f"news-{step}"))
            await w.pass_time(step * 0.13)
            await w.restart_daemon()
            await settled(w)
            assert await has(w, machine, "pubsub_subscription", f"news-{step}"), step
            made = (await metadata_operations(w, machine))[before:]
            assert len(made) == (2 if fails else 1), step
        assert await w.fired() > 100


@pytest.mark.parametrize("method", [SET_METADATA, "compute.instances.get", GET_OPERATION])
@pytest.mark.parametrize("kind", ["drop", "truncate", "html", "status"])
async def test_a_lost_answer_doubles_nothing(tmp_path: Path, method: str, kind: str) -> None:
    """Fault 4, 15: the call took effect, its answer did not come; the update is made once."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        before = len(await metadata_operations(w, machine))
        await w.inject(method, kind=kind, when="after", times=1)
        await publish(w, subscribed(machine, "news"))
        await settled(w)
        assert await w.fired() == 1
        assert await has(w, machine, "pubsub_subscription", "news")
        assert len(await metadata_operations(w, machine)) == before + 1


async def test_while_actuation_is_off_no_update_is_sent(tmp_path: Path) -> None:
    """With the switch off nothing is sent; with it on again the update is made good."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        w.settings = msgspec.structs.replace(w.settings, actuate=False)
        await w.restart_daemon()
        await w.reset_calls()
        await publish(w, subscribed(machine, "news"))
        await w.pass_time(300)
        assert (await w.calls())[SET_METADATA] == 0
        w.settings = msgspec.structs.replace(w.settings, actuate=True)
        await w.restart_daemon()
        await settled(w)
        assert await has(w, machine, "pubsub_subscription", "news")
