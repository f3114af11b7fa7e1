"""Orders over HTTP: who may give them, what they do, and what they leave behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from gce_backend.fleet.picture import Change
from gce_backend.model.entities import CONTROL_KEY
from gce_backend.rules.orders import (
    approve,
    pause,
)
from gce_backend.settings.settings import DeletionSettings, HttpSettings, Settings
from gce_backend.web.documents.bodies import MAX_BYTES
from support.fleet_harness import (
    CONTROL_TOKEN,
    OTHER_ZONE,
    ZONE,
    World,
    manager,
    template,
    world,
)
from support.others import somebody_else

ORDERS = (
    "/api/pause",
    "/api/resume",
    "/api/rollout-pause",
    "/api/rollout-resume",
    "/api/rollout-undo",
    "/api/approve",
    "/api/lift-cap",
    "/api/ack-messages",
    "/api/drain",
    "/api/undrain",
    "/api/cordon",
    "/api/uncordon",
)


async def post(w: World, path: str, data: bytes, **headers: str) -> tuple[int, Any, Any]:
    """A POST as it is: status, JSON and headers."""
    async with w.session.post(w.daemon.url + path, data=data, headers=headers) as response:
        return response.status, await response.json(), response.headers


async def control(w: World) -> dict[str, Any]:
    """`GET /api/control`."""
    found: dict[str, Any] = await w.get("/api/control")
    return found


async def metric(w: World, name: str) -> list[str]:
    """The lines of a metric."""
    async with w.session.get(w.daemon.url + "/metrics") as response:
        lines = (await response.text()).splitlines()
    return [line for line in lines if line.startswith(f"gce_backend_{name}")]


async def test_a_pause_stops_all_actuation_and_observing_goes_on(tmp_path: Path) -> None:
    """Neither configuration nor loss is acted on, but seen; a resume makes up for it at once."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        assert await w.act("/api/pause", {"reason": "maintenance"}) == 200
        shown = await control(w)
        assert (shown["paused"], shown["pause_reason"]) == (True, "maintenance")
        assert shown["paused_since"] == pytest.approx(w.clock.now(), abs=5)
        lost = min(await w.vms())
        await w.compute("DELETE", f"zones/us-central1-a/instances/{lost}")
        w.write_config(
            template() + template("other"), manager(minimum=5) + manager("other", minimum=1)
        )
        await w.until(lambda: w.shows_minimum(5))
        await w.reset_calls()
        await w.pass_time(300)
        calls = await w.calls()
        assert len(await w.vms()) == 2
        assert calls["compute.instanceGroupManagers.aggregatedList"] > 0
        mutations = {"insert", "createInstances", "deleteInstances", "delete", "setMetadata"}
        assert not {name for name in calls if name.rpartition(".")[2] in mutations}
        assert not {"catalog.add_machines", "catalog.delete_machine"} & set(calls)
        assert await metric(w, "actuation_paused") == ["gce_backend_actuation_paused 1.0"]
        assert await w.act("/api/resume") == 200

        async def caught_up() -> bool:
            return (await w.states("other"))["cataloged"] == 1

        assert await w.until(caught_up) < 10
        await w.until_states(cataloged=6, within=150)
        assert await metric(w, "actuation_paused") == ["gce_backend_actuation_paused 0.0"]
        assert (await control(w))["paused_since"] is None


async def test_the_setting_pauses_whatever_the_operator_orders(tmp_path: Path) -> None:
    """`actuate = false` is shown as its own reason, and a resume does not override it."""
    async with world(tmp_path, settings=Settings(actuate=False)) as w:
        await w.until(w.is_loaded)
        assert await w.act("/api/resume") == 200
        shown = await control(w)
        assert (shown["paused"], shown["paused_by_settings"]) == (True, True)
        assert shown["paused_by_operator"] is False
        await w.pass_time(120)
        assert await w.vms() == {}
        assert await metric(w, "actuation_paused") == ["gce_backend_actuation_paused 1.0"]


async def test_an_order_outlives_the_daemon(tmp_path: Path) -> None:
    """It is in the store before it is answered: a crash right behind it loses nothing."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        assert await w.act("/api/pause", {"reason": "keep"}) == 200
        await w.restart_daemon()
        await w.until(w.is_loaded)
        shown = await control(w)
        assert (shown["paused"], shown["pause_reason"]) == (True, "keep")


async def test_without_a_token_in_the_settings_all_orders_are_refused(tmp_path: Path) -> None:
    """403, and the answer says how to set a token."""
    async with world(tmp_path, start=False) as w:
        w.settings = msgspec.structs.replace(w.settings, http=HttpSettings(port=0))
        await w.start_daemon()
        await w.until(w.is_loaded)
        for path in ORDERS:
            for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer None"}):
                status, answer, _ = await post(w, path, b"{}", **headers)
                assert status == 403
                assert "GCE_BACKEND_HTTP__TOKEN" in answer["error"]
        assert (await control(w))["paused"] is False


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {CONTROL_TOKEN}x",
        f"Bearer {CONTROL_TOKEN[:-1]}",
        f"Basic {CONTROL_TOKEN}",
        CONTROL_TOKEN,
        "Bearer tökén",
    ],
)
async def test_a_wrong_token_is_refused(tmp_path: Path, authorization: str | None) -> None:
    """401 with the challenge, before the body is looked at; nothing changes."""
    async with world(tmp_path) as w:
        await w.until(w.is_loaded)
        headers = {} if authorization is None else {"Authorization": authorization}
        for path in ORDERS:
            status, _, answered = await post(w, path, b"not json", **headers)
            assert (status, answered["WWW-Authenticate"]) == (401, "Bearer")
        assert (await control(w))["paused"] is False


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/pause", b"x" * (MAX_BYTES + 1), 413),
        ("/api/pause", b"{", 400),
        ("/api/pause", b"\xff\xfe", 400),
        ("/api/pause", b"[]", 400),
        ("/api/pause", b"[" * 10_000, 400),
        ("/api/pause", b'{"reasn": "typo"}', 400),
        ("/api/pause", b'{"reason": 5}', 400),
        ("/api/pause", b'{"reason": "%s"}' % (b"x" * 501), 400),
        ("/api/pause", b'{"template": "nothing"}', 404),
        ("/api/pause", b'{"zone": "us-central1-z"}', 404),
        ("/api/pause", b'{"template": ["linux"]}', 400),
        ("/api/pause", b'{"zone": "%s"}' % (b"x" * 501), 400),
        ("/api/resume", b'{"now": true}', 400),
        ("/api/resume", b'{"all": "yes"}', 400),
        ("/api/drain", b"{}", 400),
        ("/api/drain", b'{"name": ""}', 404),
        ("/api/drain", b'{"name": "linux"}', 404),
        ("/api/drain", b'{"name": "nothing/of/the/kind"}', 404),
        ("/api/drain", b'{"name": "x", "reason": "%s"}' % (b"x" * 501), 400),
        ("/api/undrain", b'{"name": "linux"}', 404),
        ("/api/undrain", b'{"name": "x", "reason": "why"}', 400),
        ("/api/cordon", b'{"name": "linux"}', 404),
        ("/api/uncordon", b'{"name": "x", "reason": "why"}', 400),
        ("/api/approve", b"", 400),
        ("/api/approve", b'{"revision": ""}', 400),
        ("/api/approve", b'{"revision": "two words"}', 400),
        ("/api/approve", b'{"revision": "line\\n"}', 400),
        ("/api/lift-cap", b'{"seconds": -1}', 400),
        ("/api/lift-cap", b'{"seconds": 86401}', 400),
        ("/api/lift-cap", b'{"seconds": 1e999}', 400),
        ("/api/lift-cap", b'{"seconds": "10"}', 400),
    ],
)
async def test_what_is_no_order_is_refused_with_the_reason(
    tmp_path: Path, path: str, body: bytes, status: int
) -> None:
    """Too long, not JSON, or not what the order takes: nothing is written."""
    async with world(tmp_path) as w:
        await w.until(w.is_loaded)
        before = await control(w)
        answer = await post(w, path, body, Authorization=f"Bearer {CONTROL_TOKEN}")
        assert answer[0] == status
        assert answer[1]["error"]
        assert await control(w) == before


async def test_a_body_that_is_packed_wrongly_is_refused(tmp_path: Path) -> None:
    """It says gzip and is not."""
    async with world(tmp_path) as w:
        await w.until(w.is_loaded)
        headers = {"Authorization": f"Bearer {CONTROL_TOKEN}", "Content-Encoding": "gzip"}
        status, answer, _ = await post(w, "/api/pause", b"{}", **headers)
        assert status == 400
        assert answer["error"]


async def test_reading_needs_no_token_and_a_get_gives_no_order(tmp_path: Path) -> None:
    """GET on an order's path is not an order."""
    async with world(tmp_path) as w:
        await w.until(w.is_loaded)
        assert (await control(w))["paused"] is False
        for path in ORDERS:
            async with w.session.get(w.daemon.url + path) as response:
                assert response.status in {404, 405}
        assert (await control(w))["paused"] is False


async def test_every_order_leaves_an_audit_line_without_the_token(tmp_path: Path) -> None:
    """Constant event names, the remote address, what was ordered; refused ones too."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        w.write_config("", "")

        async def is_held() -> bool:
            return (await control(w))["held_revision"] is not None

        await w.until(is_held)
        revision = (await control(w))["held_revision"]
        with capture_logs() as lines:
            await w.act("/api/pause", {"reason": "why"})
            await w.act("/api/resume")
            await w.act("/api/approve", {"revision": revision})
            await w.act("/api/lift-cap", {"seconds": 60})
            await w.act("/api/drain", {"name": name, "reason": "rattles"})
            await w.act("/api/undrain", {"name": name})
            await w.act("/api/pause", token="guessed-token")
        audit = [line for line in lines if line["event"].startswith("control.")]
        assert [line["event"] for line in audit] == [
            "control.paused",
            "control.resumed",
            "control.approved",
            "control.cap_lifted",
            "control.drained",
            "control.undrained",
            "control.refused",
        ]
        assert {line["remote"] for line in audit} == {"127.0.0.1"}
        assert (audit[0]["reason"], audit[2]["revision"]) == ("why", revision)
        assert audit[3]["seconds"] == 60
        assert (audit[4]["name"], audit[4]["reason"], audit[5]["name"]) == (name, "rattles", name)
        assert (audit[6]["status"], audit[6]["path"]) == (401, "/api/pause")
        assert CONTROL_TOKEN not in str(lines)
        assert "guessed-token" not in str(lines)


async def test_an_approval_lets_the_held_configuration_in_at_once(tmp_path: Path) -> None:
    """The held revision is shown; approved, it is imported without waiting for the next tick."""
    async with world(tmp_path, crons={"import-config": "0 * * * * *"}) as w:
        await w.until_states(cataloged=3)
        w.write_config("", "")

        async def held() -> bool:
            return (await control(w))["held_revision"] is not None

        await w.until(held)
        await w.pass_time(10)
        assert len(await w.vms()) == 3
        revision = (await control(w))["held_revision"]
        assert await w.act("/api/approve", {"revision": "another"}) == 404
        await w.pass_time(5)
        assert await held()
        assert not (await control(w))["approved_revision"]
        assert await w.act("/api/approve", {"revision": revision}) == 200

        async def imported() -> bool:
            return bool((await w.get("/api/fleet"))["configuration"]["revision"] == revision)

        assert await w.until(imported) < 5
        assert not await held()
        await w.until(w.has_no_vms)


async def test_the_cap_is_lifted_for_a_while_and_not_longer(tmp_path: Path) -> None:
    """What the cap holds back goes when it is lifted; afterwards the cap holds again."""
    none = DeletionSettings(reclaimed_count=0, reclaimed_share=0.0)
    async with world(tmp_path, settings=Settings(deletion=none)) as w:
        await w.until_states(cataloged=3)
        first = await w.lease("r1")
        await w.release("r1")

        async def holds() -> bool:
            return list((await control(w))["deletions_held"].values()) == [1]

        await w.until(holds)
        await w.pass_time(120)
        assert first in await w.vms()
        assert await w.act("/api/lift-cap", {"seconds": 30}) == 200
        assert (await control(w))["cap_lifted_until"] == pytest.approx(w.clock.now() + 30, abs=2)
        await w.until(lambda: w.lacks(first), within=10)
        await w.pass_time(31)
        assert (await control(w))["cap_lifted_until"] is None
        second = await w.lease("r2")
        await w.release("r2")
        await w.until(holds)
        await w.pass_time(60)
        assert second in await w.vms()


async def test_lifting_the_cap_for_no_time_ends_it(tmp_path: Path) -> None:
    """Second thoughts are possible."""
    async with world(tmp_path) as w:
        await w.until(w.is_loaded)
        assert await w.act("/api/lift-cap") == 200
        assert (await control(w))["cap_lifted_until"] is not None
        assert await w.act("/api/lift-cap", {"seconds": 0}) == 200
        await w.pass_time(0.1)
        assert (await control(w))["cap_lifted_until"] is None


async def test_an_order_keeps_what_the_commands_stored_a_moment_before(tmp_path: Path) -> None:
    """The daemon's picture is old, its guarded write fails, and it is made anew from a read."""
    async with world(tmp_path, crons={"import-config": "0 0 * * * *"}) as w:
        await w.until_states(cataloged=3)
        async with somebody_else(w) as fleet:
            await fleet.change([Change(CONTROL_KEY, approve("from-the-command"))])
        assert await w.act("/api/pause", {"reason": "both"}) == 200
        shown = await control(w)
        assert (shown["paused"], shown["approved_revision"]) == (True, "from-the-command")


async def test_what_a_command_stores_is_obeyed_within_a_minute(tmp_path: Path) -> None:
    """With the default cron: the operator's entities are read again by each import-config."""
    async with world(tmp_path, crons={"import-config": "* * * * *"}) as w:
        await w.until_states(cataloged=3)
        async with somebody_else(w) as fleet:
            await fleet.change([Change(CONTROL_KEY, pause("by command", w.clock.now()))])

        async def is_paused() -> bool:
            return bool((await control(w))["paused"])

        assert await w.until(is_paused) <= 61


async def test_an_order_that_cannot_be_stored_is_refused_and_not_half_done(tmp_path: Path) -> None:
    """Datastore is down: 503, and the daemon does not behave as if it had been paused."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.inject("datastore.projects.commit", times=None)
        assert await w.act("/api/pause", {"reason": "now"}) == 503
        assert await w.fired() > 0
        assert (await control(w))["paused"] is False
        await w.clear_faults()
        assert await w.act("/api/pause", {"reason": "now"}) == 200
        assert (await control(w))["paused"] is True


async def test_before_the_entities_are_loaded_orders_have_to_wait(tmp_path: Path) -> None:
    """503 on both, while the store cannot be read."""
    async with world(tmp_path, start=False) as w:
        await w.inject("datastore.*", times=None)
        await w.start_daemon()
        await w.pass_time(1)
        assert await w.fired() > 0
        assert await w.act("/api/pause") == 503
        async with w.session.get(w.daemon.url + "/api/control") as response:
            assert response.status == 503


async def test_the_metrics_show_what_is_left_of_the_call_budget(tmp_path: Path) -> None:
    """By project, region and quota group, never more than the setting."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        lines = await metric(w, "call_budget_remaining{")
        found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}
        labels = 'group="read",project="local-project",region="us-central1"'
        read = f"gce_backend_call_budget_remaining{{{labels}}}"
        assert 0 < found[read] < w.settings.compute.calls_per_minute


async def test_a_pause_of_what_is_not_there_names_what_is(tmp_path: Path) -> None:
    """Of templates, of zones, and of a template's zones."""
    managers = manager() + manager("other", zone=OTHER_ZONE)
    async with world(tmp_path, templates=template() + template("other"), managers=managers) as w:
        await w.until_states(cataloged=6)
        said = {}
        for scope in (
            {"template": "lunix"},
            {"zone": "mars"},
            {"template": "linux", "zone": OTHER_ZONE},
        ):
            body = msgspec.json.encode(scope)
            status, answer, _ = await post(
                w, "/api/pause", body, Authorization=f"Bearer {CONTROL_TOKEN}"
            )
            assert status == 404
            said[tuple(scope)] = answer["error"]
        assert said["template",] == "there is no template 'lunix'. Known: linux, other."
        assert said["zone",].endswith(f"Known: {OTHER_ZONE}, {ZONE}.")
        assert said["template", "zone"].endswith(f"Known: {ZONE}.")
        assert (await control(w))["pauses"] == []


async def test_a_drained_machine_is_answered_with_what_becomes_of_it(tmp_path: Path) -> None:
    """By its name or its whole key; again, it keeps its moment and takes the newer reason."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        (machine,) = [m for m in await w.machines() if m["name"] == name]
        key = "/".join(machine[part] for part in ("template", "revision", "zone", "name"))
        headers = {"Authorization": f"Bearer {CONTROL_TOKEN}"}
        for given, reason in ((name, "first"), (key, "second")):
            body = msgspec.json.encode({"name": given, "reason": reason})
            status, answer, _ = await post(w, "/api/drain", body, **headers)
            assert status == 200
            assert (answer["name"], answer["key"], answer["state"]) == (name, key, "leased")
            assert answer["drained"] is True
            assert answer["reason"].endswith(f"Drained by operator: {reason}")
        body = msgspec.json.encode({"name": key})
        _, answer, _ = await post(w, "/api/undrain", body, **headers)
        assert (answer["drained"], answer["reason"]) == (False, "Somebody holds it.")
