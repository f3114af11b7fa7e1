"""A VM's metadata: from SUBSCRIBED to the VM, whatever fails in between."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.compute.vm_views import default_account
from support.broker_messages import (
    has,
    metadata,
    metadata_operations,
    one_machine,
    publish,
    set_metadata,
    settled,
    stored,
    subscribed,
    vm,
)
from support.fleet_harness import PROJECT, World, world

SET_METADATA = "compute.instances.setMetadata"
GET_OPERATION = "compute.zoneOperations.get"


async def test_a_subscription_reaches_the_vm_beside_what_others_set(tmp_path: Path) -> None:
    """The paragraph "Metadata": three keys merged, foreign keys kept, one failure, one crash."""
    async with world(tmp_path, options=CloudOptions()) as w:
        machine = await one_machine(w)
        await set_metadata(w, machine, {**await metadata(w, machine), "owner": "us"})
        before = await metadata(w, machine)
        await w.inject(SET_METADATA, kind="operation", reason="INTERNAL_ERROR", times=1)
        await publish(w, subscribed(machine, "first"), subscribed(machine, "second"))

        async def put_back() -> bool:
            update = stored(w, machine).active_metadata_update
            return update is not None and update.attempts == 1

        await w.until(put_back)
        assert await w.fired() == 1
        await w.restart_daemon()
        await settled(w)
        assert await metadata(w, machine) == {
            **before,
            "pubsub_service_account": default_account(PROJECT),
            "pubsub_subscription": "second",
            "pubsub_subscription_project": "mp",
        }
        assert before["owner"] == "us"


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
        active = stored(w, machine).active_metadata_update
        assert active is not None
        assert active.operation is not None
        assert active.operation.endswith(f"/operations/{started['name']}")
        assert started["status"] != "DONE"


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


async def test_an_update_for_which_there_is_no_room_is_dropped_and_says_so(tmp_path: Path) -> None:
    """Compute would refuse it for ever: it is not sent. The next one that fits ends the problem."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        full = {"a": "x" * (256 * 1024), "b": "x" * (256 * 1024 - 20)}
        await set_metadata(w, machine, full)
        await w.reset_calls()
        await publish(w, subscribed(machine, "news"))
        await settled(w)
        await w.pass_time(3600)
        assert (await w.calls())[SET_METADATA] == 0
        assert await metadata(w, machine) == full
        assert await _reasons(w, machine) == ["MetadataTooLarge"]
        await set_metadata(w, machine, {"a": full["a"]})
        await publish(w, subscribed(machine, "later"))
        await settled(w)
        assert await has(w, machine, "pubsub_subscription", "later")
        assert await _reasons(w, machine) == []


async def _reasons(w: World, machine: Mapping[str, Any]) -> list[str]:
    """The problems that the daemon tells of a machine."""
    answer = await w.get(f"/api/explain?name={machine['name']}")
    return [condition["reason"] for condition in answer["found"][0]["conditions"]]


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


@pytest.mark.parametrize(
    ("status", "word", "reason"),
    [(412, "conditionNotMet", "MetadataContested"), (404, "notFound", "NotFound")],
)
async def test_hole_17_a_fingerprint_that_never_fits_costs_a_few_calls_and_is_told(
    tmp_path: Path, status: int, word: str, reason: str
) -> None:
    """412 or 404 for ten minutes: ever fewer calls, a condition, and the update once it fits."""
    async with world(tmp_path, crons={"import-config": "* * * * *"}) as w:
        machine = await one_machine(w)
        await settled(w)
        await w.inject(SET_METADATA, status=status, reason=word, times=None)
        await w.reset_calls()
        await publish(w, subscribed(machine, "news"))
        await w.pass_time(60)
        calls = await w.calls()
        assert 0 < calls[SET_METADATA] <= 6
        assert calls["compute.instances.get"] <= 6
        await w.pass_time(540)
        assert (await w.calls())[SET_METADATA] <= 12
        reasons = {problem["reason"] for problem in (await w.get("/api/status"))["problems"]}
        assert reason in reasons
        await w.clear_faults()
        await settled(w, within=700)
        assert await has(w, machine, "pubsub_subscription", "news")
        reasons = {problem["reason"] for problem in (await w.get("/api/status"))["problems"]}
        assert reason not in reasons
