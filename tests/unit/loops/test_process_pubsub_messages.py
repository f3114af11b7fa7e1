"""The Machine Provider's messages, and everything that can go wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.compute.vm_views import default_account
from gce_backend.localcloud.metadata import MetadataService
from gce_backend.settings.settings import MachineProviderSettings, PubSubSettings, Settings
from support.broker_messages import (
    SUBSCRIPTION,
    about,
    backlog,
    has,
    key_of,
    metadata,
    metadata_operations,
    metrics,
    one_machine,
    publish,
    readiness,
    set_aside,
    settled,
    subscribed,
    wire,
)
from support.fleet_harness import PROJECT, World, world

COMMIT = "datastore.projects.commit"
SET_METADATA = "compute.instances.setMetadata"
LATER = "99999999999"


async def _state(w: World, name: str) -> str:
    state: str = next(m["state"] for m in await w.machines() if m["name"] == name)
    return state


async def test_what_messages_say_is_stored_before_they_are_acknowledged_and_poison_is_set_aside(
    tmp_path: Path,
) -> None:
    """The paragraph "Messages": a lease, a subscription, a poison; the store is down."""
    seldom = MachineProviderSettings(sweep_per_minute=1)  # it would find that nobody leased it
    async with world(tmp_path, settings=Settings(machine_provider=seldom)) as w:
        machine = await one_machine(w)
        await w.inject(COMMIT, status=503, reason="UNAVAILABLE", times=None)
        lease = about(machine, "LEASED", lease_expiration_ts=LATER)
        await publish(w, wire("NONSENSE", {}), lease, subscribed(machine, "news"))
        await w.pass_time(30)
        assert await w.fired() > 0
        assert (await backlog(w))["unacknowledged"] == 3
        queue = (await w.get("/api/messages"))["queue"]
        assert queue["waiting"] + queue["working"] == 3
        assert 29 <= queue["oldest_seconds"] <= 31
        assert await _state(w, machine["name"]) == "cataloged"
        await w.clear_faults()
        # The broker knows nothing of this lease: asked by the sweep, it would say so.
        await w.inject("machine_provider.catalog.get", times=None)
        await settled(w, within=60)
        assert await _state(w, machine["name"]) == "leased"
        assert await has(w, machine, "pubsub_subscription", "news")
        assert list((await set_aside(w)).values()) == ["unknown kind 'NONSENSE'"]
        queue = (await w.get("/api/messages"))["queue"]
        assert (queue["waiting"], queue["working"], queue["oldest_seconds"]) == (0, 0, 0)


async def test_process_pubsub_messages(tmp_path: Path) -> None:
    """What the spec says of this job.

    "If a machine is SUBSCRIBED, schedules an operation to update its metadata with the
    subscription details. If a machine is RECLAIMED, sets it to pending deletion."
    """
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        await publish(w, subscribed(machine, "details"))
        await settled(w)
        found = await metadata(w, machine)
        assert found["pubsub_subscription"] == "details"
        assert found["pubsub_subscription_project"] == "mp"
        assert found["pubsub_service_account"] == default_account(PROJECT)
        await w.inject("compute.instanceGroupManagers.deleteInstances", times=None)
        await publish(w, about(machine, "RECLAIMED"))

        async def reclaimed() -> bool:
            return await w.is_in(machine["name"], "pending-deletion", "deleting")

        assert await w.until(reclaimed) < 5
        await w.clear_faults()
        await w.until_states(cataloged=3)
        assert machine["name"] not in await w.vms()


async def test_duplicates_also_of_what_was_applied_long_ago_change_nothing(tmp_path: Path) -> None:
    """Fault 5: the same messages again and again make no second setMetadata and no second lease."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        lease = about(machine, "LEASED", lease_expiration_ts=LATER)
        news = subscribed(machine, "news")
        await publish(w, news, news, lease, news, lease)
        await settled(w)
        before = await metadata_operations(w, machine)
        await w.reset_calls()
        for _ in range(3):
            await publish(w, news, lease)
            await settled(w)
        calls = await w.calls()
        assert calls["pubsub.projects.subscriptions.acknowledge"] == 3  # they did come
        assert calls[SET_METADATA] == calls[COMMIT] == 0
        assert await metadata_operations(w, machine) == before
        assert await _state(w, machine["name"]) == "leased"


async def test_leased_and_subscribed_that_come_after_reclaimed_change_nothing(
    tmp_path: Path,
) -> None:
    """Fault 6: reordered and late messages neither keep the machine nor touch its metadata."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        await w.inject("compute.instanceGroupManagers.deleteInstances", times=5)
        await w.reset_calls()
        await publish(w, about(machine, "RECLAIMED"))
        await publish(w, about(machine, "LEASED", lease_expiration_ts=LATER))
        await publish(w, subscribed(machine, "late"))

        async def acknowledged() -> bool:
            return not (await backlog(w))["unacknowledged"]

        await w.until(acknowledged)
        assert await w.is_in(machine["name"], "pending-deletion", "deleting")
        assert (await w.calls())[SET_METADATA] == 0
        await w.until_states(cataloged=3)
        assert await w.fired() > 0
        assert machine["name"] not in await w.vms()
        await publish(w, about(machine, "LEASED", lease_expiration_ts=LATER))  # for the tombstone
        await settled(w)
        assert await _state(w, machine["name"]) == "deleted"
        assert await set_aside(w) == {}


async def test_poison_is_set_aside_with_its_reason_and_blocks_no_other(tmp_path: Path) -> None:
    """Fault 7, hazard 19: each kind of poison, in front of a good message, in one delivery."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        name, key = machine["name"], key_of(machine)
        stem = key.removesuffix(name)
        poison: dict[str, dict[str, Any]] = {
            "not ASCII": {"data": "/w==", "attributes": {"key": key}},
            "no data": {"attributes": {"key": key}},
            "unknown kind": wire("REBOOTED", {"key": key}),
            "no key": wire("RECLAIMED", {"hostname": name}),
            "another project": wire("RECLAIMED", {"key": "other-project/" + key.partition("/")[2]}),
            "another shape": wire("RECLAIMED", {"key": "local-project/linux/abc"}),
            "too long a name": wire("RECLAIMED", {"key": stem + "x" * 900}),
            "a reserved name": wire("RECLAIMED", {"key": stem + "__x__"}),
            "unknown instance": wire("RECLAIMED", {"key": stem + "linux-gone"}),
            "hostname mismatch": wire("RECLAIMED", {"key": key, "hostname": "another"}),
            "bad id": wire("RECLAIMED", {"key": key, "gce_id": "9" * 1000}),
            "half a subscription": about(machine, "SUBSCRIBED", subscription="s"),
        }
        ids = await publish(w, *poison.values())
        await settled(w)
        found = await set_aside(w)
        assert sorted(found) == sorted(ids)
        reasons = dict(zip(poison, (found[i] for i in ids), strict=True))
        expected = {
            "not ASCII": "not base64 of ASCII",
            "no data": "unknown kind ''",
            "unknown kind": "unknown kind 'REBOOTED'",
            "no key": "no attribute 'key'",
            "another project": "of project 'other-project'",
            "another shape": "is not project/template/revision/zone/instance",
            "too long a name": "what cannot be a name",
            "a reserved name": "what cannot be a name",
            "unknown instance": "unknown instance",
            "hostname mismatch": "hostname 'another'",
            "bad id": "is not a number",
            "half a subscription": "subscription_project",
        }
        for what, words in expected.items():
            assert words in reasons[what], what
        assert 'kind="RECLAIMED",outcome="set-aside"} 1.0' in await metrics(w)
        assert f'kind="unknown",outcome="set-aside"}} {len(ids) - 1}.0' in await metrics(w)
        await publish(w, *poison.values(), subscribed(machine, "good"))
        await settled(w)
        assert await has(w, machine, "pubsub_subscription", "good")
        assert await _state(w, name) == "cataloged"
        assert len(await w.vms()) == 3


async def test_set_aside_messages_are_a_problem_until_they_are_looked_at(tmp_path: Path) -> None:
    """One by one, or all; they are kept, and a new one is a problem again."""
    async with world(tmp_path) as w:
        await one_machine(w)

        async def problem() -> int:
            shown = (await w.get("/api/status"))["problems"]
            return sum(one["count"] for one in shown if one["reason"] == "SetAside")

        first, _ = await publish(w, wire("ONE", {}), wire("TWO", {}))
        await settled(w)
        assert await problem() == 2
        assert await w.act("/api/ack-messages", {"message_ids": ["nobody's"]}) == 404
        assert await w.act("/api/ack-messages", {"message_ids": [first]}) == 200
        assert await problem() == 1
        assert await w.act("/api/ack-messages") == 200
        assert await problem() == 0
        assert len(await set_aside(w)) == 2
        await publish(w, wire("THREE", {}))
        await settled(w)
        assert await problem() == 1


async def test_poison_is_remembered_over_a_restart(tmp_path: Path) -> None:
    """What was set aside, why and when is stored."""
    async with world(tmp_path) as w:
        await one_machine(w)
        await publish(w, wire("NONSENSE", {"some": "thing"}))
        await settled(w)
        before = (await w.get("/api/messages"))["set_aside"]
        await w.restart_daemon()
        await settled(w)
        assert (await w.get("/api/messages"))["set_aside"] == before
        assert before[0]["attributes"] == {"some": "thing"}


@pytest.mark.parametrize(
    ("status", "reason"),
    [(503, "UNAVAILABLE"), (500, "INTERNAL"), (409, "ABORTED"), (429, "RESOURCE_EXHAUSTED")],
)
async def test_nothing_transient_is_ever_set_aside(
    tmp_path: Path, status: int, reason: str
) -> None:
    """Fault 7, the other half; S3: while the store fails nothing is acknowledged, or set aside."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        await w.inject("datastore.*", status=status, reason=reason, times=None)
        await publish(w, subscribed(machine, "news"), about(machine, "RECLAIMED"))
        await w.pass_time(100)
        assert await w.fired() > 0
        assert (await backlog(w))["unacknowledged"] == 2
        await w.clear_faults()

        async def gone() -> bool:
            return machine["name"] not in await w.vms()

        assert await w.until(gone) < 60
        await w.until_states(cataloged=3)
        assert await set_aside(w) == {}


async def test_a_commit_whose_answer_is_lost_applies_the_message_once(tmp_path: Path) -> None:
    """S3, fault 24: the outcome of the commit is unknown; the message is applied, once."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        before = len(await metadata_operations(w, machine))
        await w.inject(COMMIT, kind="drop", when="after", times=1)
        await publish(w, subscribed(machine, "news"))
        await settled(w)
        assert await w.fired() == 1
        assert await has(w, machine, "pubsub_subscription", "news")
        assert len(await metadata_operations(w, machine)) == before + 1


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_lost_acknowledgement_costs_a_redelivery_and_nothing_else(
    tmp_path: Path, when: str
) -> None:
    """Fault 8: the acknowledgement fails; the message comes again and changes nothing."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        before = len(await metadata_operations(w, machine))
        await w.inject("pubsub.projects.subscriptions.acknowledge", when=when, times=1)
        await publish(w, subscribed(machine, "news"))
        took = await settled(w)
        assert await w.fired() == 1
        assert took > 50 if when == "before" else took < 5
        assert await has(w, machine, "pubsub_subscription", "news")
        assert len(await metadata_operations(w, machine)) == before + 1


async def test_a_deadline_that_passes_in_mid_work_costs_a_redelivery_and_nothing_else(
    tmp_path: Path,
) -> None:
    """Fault 8: extensions fail while the store is down, so the same message is in hand twice."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        before = len(await metadata_operations(w, machine))
        await w.inject("pubsub.projects.subscriptions.modifyAckDeadline", times=None)
        await w.inject(COMMIT, status=503, reason="UNAVAILABLE", times=None)
        await publish(w, subscribed(machine, "news"))

        async def in_hand_twice() -> bool:
            queue = (await w.get("/api/messages"))["queue"]
            return bool(queue["waiting"] + queue["working"] == 2)

        await w.until(in_hand_twice)
        assert await w.fired() > 2
        await w.clear_faults()
        await settled(w)
        assert await has(w, machine, "pubsub_subscription", "news")
        assert len(await metadata_operations(w, machine)) == before + 1


async def test_a_deleted_subscription_is_told_with_its_remedy_and_the_rest_goes_on(
    tmp_path: Path,
) -> None:
    """Fault 9: readiness says what to do, the fleet changes, and all is well when it is back."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        assert await readiness(w) == (200, "being pulled")
        made = await w.call("GET", SUBSCRIPTION)
        await w.call("DELETE", SUBSCRIPTION)

        async def told() -> bool:
            return (await readiness(w))[0] == 503

        assert await w.until(told) < 60
        assert "`gce-backend setup`" in (await readiness(w))[1]
        managers = (w.config_dir / "managers.cfg").read_text()
        w.write_config(
            (w.config_dir / "templates.cfg").read_text(), managers.replace("size: 3", "size: 4")
        )
        await w.until_states(cataloged=4)
        body = {key: made[key] for key in ("topic", "ackDeadlineSeconds", "expirationPolicy")}
        await w.call("PUT", SUBSCRIPTION, body)

        async def well() -> bool:
            return (await readiness(w))[0] == 200

        assert await w.until(well) < 120
        await publish(w, subscribed(machine, "news"))
        await settled(w)
        assert await has(w, machine, "pubsub_subscription", "news")


async def test_a_message_about_an_earlier_vm_of_the_name_changes_nothing(tmp_path: Path) -> None:
    """Fault 33: the attribute gce_id tells one VM from the next of its name."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        await w.reset_calls()
        await publish(
            w,
            about(machine, "RECLAIMED", gce_id="1234"),
            about(machine, "LEASED", gce_id="1234"),
            subscribed(machine, "wrong", gce_id="1234"),
        )
        await settled(w)
        await w.pass_time(30)
        assert await _state(w, machine["name"]) == "cataloged"
        assert (await w.calls())[SET_METADATA] == 0
        assert await set_aside(w) == {}
        assert 'kind="RECLAIMED",outcome="stale"} 1.0' in await metrics(w)


async def test_shutdown_returns_what_is_in_hand(tmp_path: Path) -> None:
    """What could not be worked on goes back at once: the next process need not wait."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        await w.inject(COMMIT, status=503, reason="UNAVAILABLE", times=None)
        await publish(w, subscribed(machine, "news"))
        await w.pass_time(10)
        assert await w.fired() > 0
        assert await backlog(w) | {"unacknowledged": 1, "waiting": 0} == await backlog(w)
        await w.daemon.stop()
        assert (await backlog(w))["waiting"] == 1
        await w.clear_faults()
        await w.start_daemon()
        assert await settled(w) < 10
        assert await has(w, machine, "pubsub_subscription", "news")


async def test_shutdown_finishes_what_it_has_begun(tmp_path: Path) -> None:
    """A batch in work when the process is told to stop is stored and acknowledged."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        await w.inject(COMMIT, kind="latency", seconds=5.0, times=1)
        await publish(w, subscribed(machine, "news"))
        await w.pass_time(1)
        assert await w.fired() == 1
        await w.daemon.stop()
        assert (await backlog(w))["unacknowledged"] == 0
        await w.start_daemon()
        await settled(w, within=5)
        assert await has(w, machine, "pubsub_subscription", "news")


async def test_thousands_of_messages_are_worked_on_in_one_go(tmp_path: Path) -> None:
    """Hazard 19: more than one pull holds, with one bad apple; not a hundred a minute."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        await w.reset_calls()
        lease = about(machine, "LEASED", lease_expiration_ts=LATER)
        for _ in range(2):
            await publish(w, *[lease] * 700, wire("NONSENSE", {}), *[lease] * 299)
        await publish(w, *[lease] * 500)
        assert await settled(w) < 5
        calls = await w.calls()
        assert calls["pubsub.projects.subscriptions.pull"] < 10
        assert calls[COMMIT] < 10
        assert await _state(w, machine["name"]) == "leased"


async def test_a_small_queue_stops_the_pull_until_there_is_room(tmp_path: Path) -> None:
    """The queue is bounded: what does not fit stays at Pub/Sub, and comes when there is room."""
    settings = Settings(pubsub=PubSubSettings(queue_size=5))
    async with world(tmp_path, settings=settings) as w:
        machine = await one_machine(w)
        await w.inject(COMMIT, status=503, reason="UNAVAILABLE", times=None)
        await publish(w, *[subscribed(machine, "news")] * 17)
        await w.pass_time(200)
        assert await w.fired() > 0
        queue = (await w.get("/api/messages"))["queue"]
        assert queue["waiting"] + queue["working"] == 5
        assert (await backlog(w))["waiting"] == 12
        await w.clear_faults()
        await settled(w, within=60)
        assert await has(w, machine, "pubsub_subscription", "news")


async def test_expired_and_revoked_tokens_lose_no_message(tmp_path: Path) -> None:
    """Fault 36: tokens live for a minute, and are revoked in between."""
    options = msgspec.structs.replace(CloudOptions().instant(), token_seconds=60.0)
    async with world(tmp_path, options=options) as w:
        machine = await one_machine(w)
        token = "metadata.instance.service-accounts.token"
        before = (await w.calls())[token]
        services = w.cloud._services
        server = next(service for service in services if isinstance(service, MetadataService))
        for turn in range(4):
            server.revoke_all()
            w._token = ""
            await publish(w, subscribed(machine, f"news-{turn}"))
            await w.pass_time(100)
            w._token = ""
            assert await has(w, machine, "pubsub_subscription", f"news-{turn}")
        assert (await w.calls())[token] - before > 4
        assert (await readiness(w))[0] == 200


async def test_the_consumer_gives_up_on_nothing_that_pub_sub_answers(tmp_path: Path) -> None:
    """Fault 15: HTML, half a body, errors and cut connections; the pull goes on afterwards."""
    async with world(tmp_path) as w:
        machine = await one_machine(w)
        for kind in ("html", "truncate", "drop", "status"):
            await w.inject("pubsub.projects.subscriptions.pull", kind=kind, times=2)

            async def fired() -> bool:
                return await w.fired() == 2

            await w.until(fired)
            await w.clear_faults()
            await publish(w, subscribed(machine, kind))
            await settled(w)
            assert await has(w, machine, "pubsub_subscription", kind)
        assert await readiness(w) == (200, "being pulled")
