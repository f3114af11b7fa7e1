"""What /api/status, /api/machines and /api/explain say."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from gce_backend.settings.settings import DeletionSettings, FetchSettings, Settings
from support.fleet_harness import OTHER_ZONE, ZONE, World, manager, template, world

TWO_ZONES = manager("linux", ZONE, 3) + manager("linux", OTHER_ZONE, 2, 4)


async def problems(w: World) -> dict[str, dict[str, Any]]:
    """The problems by reason."""
    return {found["reason"]: found for found in (await w.get("/api/status"))["problems"]}


async def explained(w: World, name: str) -> dict[str, Any]:
    """The one thing that has this name."""
    (found,) = (await w.get(f"/api/explain?name={name}"))["found"]
    assert isinstance(found, dict)
    return found


async def refused(w: World, path: str) -> tuple[int, dict[str, Any]]:
    """The status and the JSON of a document that is not given."""
    async with w.session.get(w.daemon.url + path) as response:
        return response.status, await response.json()


async def test_status_shows_the_fleet_by_template_and_zone(tmp_path: Path) -> None:
    """Minimum, maximum, target, and how many machines are in which state."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=5)
        await w.lease()
        status = await w.get("/api/status")
        rows = {(row["template"], row["zone"]): row for row in status["fleet"]}
        assert set(rows) == {("linux", ZONE), ("linux", OTHER_ZONE)}
        here = rows["linux", OTHER_ZONE]
        assert (here["minimum"], here["maximum"], here["target"]) == (2, 4, 2)
        counts = [row["machines"] for row in rows.values()]
        assert sum(count["leased"] for count in counts) == 1
        assert sum(count["cataloged"] for count in counts) == 4
        assert status["machines"]["cataloged"] == 4
        assert status["problems"] == []
        assert status["configuration"]["revision"]
        read = next(calls for calls in status["calls"] if calls["group"] == "read")
        assert read["used"] + read["left"] == read["limit"] == 1400


async def test_an_old_revision_counts_in_the_row_of_its_template(tmp_path: Path) -> None:
    """While a leased machine of the old revision lives, the row shows two groups."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.lease()
        w.write_config(template(machine_type="e2-medium"), manager())
        await w.until_states(cataloged=3, leased=1)
        (row,) = (await w.get("/api/status"))["fleet"]
        assert row["groups"] == 2
        assert (row["machines"]["cataloged"], row["machines"]["leased"]) == (3, 1)
        assert (row["minimum"], row["state"]) == (3, "active")


async def test_problems_come_with_reason_and_since(tmp_path: Path) -> None:
    """A held configuration, a stockout, a message set aside, and a pause; the most severe first."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=5)
        await w.inject("*", kind="stockout", zone=OTHER_ZONE, times=None)
        w.write_config(template(), manager("linux", ZONE, 3) + manager("linux", OTHER_ZONE, 4))

        async def short() -> bool:
            return "StockOut" in await problems(w)

        await w.until(short)
        w.write_config("", "")
        data = base64.b64encode(b"what?").decode()
        topic = f"/v1/projects/local-project/topics/{w.settings.pubsub.topic}"
        await w.call("POST", f"{topic}:publish", {"messages": [{"data": data}]})
        await w.act("/api/pause", {"zone": ZONE, "reason": "repairs"})

        async def all_there() -> bool:
            return {"HeldForApproval", "SetAside", "Paused"} <= (await problems(w)).keys()

        await w.until(all_there)
        found = await problems(w)
        assert next(iter(found)) == "HeldForApproval"
        assert list(found)[-1] == "Paused"
        assert found["StockOut"]["kind"] == "group"
        assert "2 VMs cannot be created" in found["StockOut"]["message"]
        assert "repairs" in found["Paused"]["message"]
        assert found["Paused"]["subject"] == f"zone {ZONE}"
        now = w.clock.now()
        assert all(0 <= now - problem["since"] < 600 for problem in found.values())
        status = await w.get("/api/status")
        assert status["messages"]["set_aside"] == 1
        assert status["configuration"]["held_revision"] in found["HeldForApproval"]["message"]
        assert (await explained(w, found["StockOut"]["subject"]))["kind"] == "group"


async def test_machines_that_vanished_are_one_problem(tmp_path: Path) -> None:
    """However many of a group are gone, they are told together, with some of their names."""
    soon = Settings(fetch=FetchSettings(resync_seconds=20))
    async with world(tmp_path, managers=manager(minimum=8), settings=soon) as w:
        await w.until_states(cataloged=8)
        await w.inject("machine_provider.*", status=503, times=None)
        gone = sorted(await w.vms())[:6]
        for name in gone:
            await w.compute("DELETE", f"zones/{ZONE}/instances/{name}")

        async def missed() -> bool:
            return bool((await problems(w)).get("Missing", {}).get("count") == 6)

        await w.until(missed)
        found = (await problems(w))["Missing"]
        assert found["subject"] == f"linux/{ZONE}"
        assert len(found["examples"]) == 5
        assert set(found["examples"]) <= set(gone)


async def test_a_failing_job_is_a_problem_since_its_first_failure(tmp_path: Path) -> None:
    """The count of failures goes up, the time of the first one stays."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        (w.config_dir / "templates.cfg").unlink()

        async def fails() -> bool:
            return bool((await problems(w)).get("Failing", {}).get("count", 0) >= 3)

        await w.until(fails)
        found = (await problems(w))["Failing"]
        assert (found["kind"], found["subject"]) == ("job", "import-config")
        jobs = (await w.get("/api/jobs"))["jobs"]
        failing = next(job for job in jobs if job["name"] == "import-config")
        assert found["since"] == failing["failing_since"] < failing["last"]["started_at"]
        w.write_config(template(), manager())

        async def recovered() -> bool:
            return not await problems(w)

        await w.until(recovered)
        jobs = (await w.get("/api/jobs"))["jobs"]
        assert all(job["failing_since"] is None for job in jobs)


async def test_a_machine_that_waits_as_it_should_is_no_problem(tmp_path: Path) -> None:
    """Where the Machine Provider does not let a leased one go, nobody needs to be alarmed."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        assert w.daemon.context is not None
        key, other, _ = w.daemon.context.fleet.instances
        conditions = w.daemon.context.conditions.of_job("remove-cataloged-instances")
        conditions.back_off(key, "Leased", "Somebody holds it.")
        conditions.back_off(other, "Refused", "It said BAD_WORD.")
        found = await problems(w)
        assert set(found) == {"Refused"}
        assert (found["Refused"]["kind"], found["Refused"]["subject"]) == ("machine", other.name)
        assert (await explained(w, key.name))["conditions"][0]["reason"] == "Leased"


async def test_pages_of_machines_lead_through_all_of_them_once(tmp_path: Path) -> None:
    """Each page begins after the one before it, whatever comes and goes in between."""
    async with world(tmp_path, managers=manager(minimum=7)) as w:
        await w.until_states(cataloged=7)
        seen: list[str] = []
        cursor = ""
        while True:
            page = await w.get(f"/api/machines?limit=3&cursor={cursor}")
            assert page["total"] == 7
            seen += [machine["name"] for machine in page["machines"]]
            if page["next"] is None:
                break
            cursor = page["next"]
        assert seen == sorted(await w.vms())


async def test_machines_are_filtered_by_state_zone_and_name(tmp_path: Path) -> None:
    """All conditions together; a numeric id finds its machine."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=5)
        name = await w.lease()

        async def names(query: str) -> list[str]:
            return [m["name"] for m in (await w.get(f"/api/machines?{query}"))["machines"]]

        assert await names("state=leased") == [name]
        assert len(await names(f"zone={OTHER_ZONE}")) == 2
        assert await names(f"q={name[-4:].upper()}&template=linux") == [name]
        assert await names("state=leased&template=other") == []
        (machine,) = (await w.get("/api/machines?state=leased"))["machines"]
        assert await names(f"q={machine['id']}") == [name]


async def test_a_bad_parameter_is_named(tmp_path: Path) -> None:
    """A state that does not exist, a limit that is no number, a parameter that nobody knows."""
    async with world(tmp_path) as w:
        await w.until(w.is_loaded)
        for query, word in (
            ("state=odd", "state"),
            ("limit=many", "limit"),
            ("page=2", "page"),
        ):
            status, answer = await refused(w, f"/api/machines?{query}")
            assert status == 400
            assert f"`{word}`" in answer["error"]
        status, answer = await refused(w, "/api/explain")
        assert (status, "name" in answer["error"]) == (400, True)


async def test_no_number_is_too_long_to_be_looked_for(tmp_path: Path) -> None:
    """Thousands of digits are no VM's id, and no error of ours."""
    digits = "9" * 5000
    async with world(tmp_path) as w:
        await w.until(w.is_loaded)
        assert (await w.get(f"/api/machines?q={digits}"))["machines"] == []
        status, _ = await refused(w, f"/api/explain?name={digits}")
        assert status == 404


async def test_a_machine_is_explained_with_its_history(tmp_path: Path) -> None:
    """State, since when, why, what it waits for, facts and events."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        machine = await explained(w, name)
        assert (machine["kind"], machine["state"], machine["zone"]) == ("machine", "leased", ZONE)
        assert "lease has to end" in machine["waits_for"]
        assert machine["facts"]["machine_type"] == "e2-small"
        assert machine["facts"]["lease_ends_at"] > w.clock.now()
        newest, oldest = machine["events"][0], machine["events"][-1]
        assert (newest["before"], newest["after"]) == ("cataloged", "leased")
        assert newest["at"] == machine["since"]
        assert (oldest["before"], oldest["after"]) == ("", "starting")
        by_key = await explained(w, machine["subject"])
        assert by_key["name"] == name
        by_id = await explained(w, machine["facts"]["id"])
        assert by_id["name"] == name


async def test_what_is_gone_is_explained_by_its_history(tmp_path: Path) -> None:
    """When the tombstone has been forgotten, too, its name still leads to what happened."""
    soon = Settings(
        deletion=DeletionSettings(tombstone_seconds=30, window_seconds=30),
        fetch=FetchSettings(resync_seconds=20),
    )
    async with world(tmp_path, settings=soon) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        await w.release()

        async def forgotten() -> bool:
            return not any(machine["name"] == name for machine in await w.machines())

        await w.until(forgotten)
        machine = await explained(w, name)
        assert (machine["template"], machine["zone"]) == ("linux", ZONE)
        assert (machine["state"], machine["facts"]) == ("deleted", {})
        assert machine["events"][-1]["after"] == "starting"
        assert any("RECLAIMED" in event["cause"] for event in machine["events"])


async def test_a_group_and_a_template_are_explained(tmp_path: Path) -> None:
    """By base_name, by template/zone, by the group's own name."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=5)
        whole = await explained(w, "linux")
        assert (whole["kind"], whole["state"]) == ("template", "active")
        assert {group["zone"] for group in whole["groups"]} == {ZONE, OTHER_ZONE}
        group = await explained(w, f"linux/{OTHER_ZONE}")
        assert group["machines"] == {"cataloged": 2}
        assert (group["facts"]["minimum"], group["facts"]["maximum"]) == (2, 4)
        assert await explained(w, group["name"]) == group


async def test_old_and_new_group_of_a_zone_are_both_shown(tmp_path: Path) -> None:
    """The active one first."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.lease()
        w.write_config(template(machine_type="e2-medium"), manager())
        await w.until_states(cataloged=3, leased=1)
        found = (await w.get(f"/api/explain?name=linux/{ZONE}"))["found"]
        assert [group["state"] for group in found] == ["active", "draining"]
        assert "1 machine has to go first" in found[1]["waits_for"]


async def test_a_name_that_nothing_has_leads_to_similar_ones(tmp_path: Path) -> None:
    """404 says what was looked for; a typo and a beginning are understood."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        status, answer = await refused(w, "/api/explain?name=linnux")
        assert (status, answer["name"]) == (404, "linnux")
        assert answer["similar"][0] == "linux"
        name = min(await w.vms())
        _, answer = await refused(w, f"/api/explain?name={name[:-1]}!")
        assert name in answer["similar"]
        assert (await refused(w, "/api/explain?name=zzz"))[1]["similar"] == []


async def test_a_paused_machine_says_what_ends_the_pause(tmp_path: Path) -> None:
    """What would be deleted waits for the operator's word."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        await w.act("/api/pause", {"reason": "looking into it"})
        await w.release()
        await w.until(lambda: w.is_in(name, "pending-deletion"))
        machine = await explained(w, name)
        assert "pause has to end" in machine["waits_for"]
        assert machine["conditions"][0]["reason"] == "Paused"
        await w.act("/api/resume")
        await w.until(lambda: w.lacks(name))


async def test_before_the_store_is_loaded_documents_say_so(tmp_path: Path) -> None:
    """503, and not an empty fleet."""
    async with world(tmp_path, start=False) as w:
        await w.inject("datastore.*", status=503, times=None)
        await w.start_daemon()
        for path in ("/api/status", "/api/machines", "/api/explain?name=x"):
            status, answer = await refused(w, path)
            assert (status, "not loaded" in answer["error"]) == (503, True)
