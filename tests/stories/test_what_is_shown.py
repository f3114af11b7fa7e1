"""What is shown is so: each view says of a thing what follows from all that is known of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import MachineProviderSettings, Settings
from support.deletions import NOT_CATALOGED
from support.fleet_harness import OTHER_ZONE, ZONE, World, manager, template, world
from support.fleet_views import manager_in
from support.outside import abandon, cataloged
from support.scraped import scrape

SELDOM = {"import-config": "* * * * *"}
ADD_MACHINES = "machine_provider.catalog.add_machines"
KNOWS_NOTHING = Settings(machine_provider=MachineProviderSettings(sweep_per_minute=1000))


async def problems(w: World, reason: str) -> list[dict[str, Any]]:
    """The problems shown with this reason."""
    shown = (await w.get("/api/status")).get("problems", ())
    return [problem for problem in shown if problem["reason"] == reason]


def has_problem(w: World, reason: str) -> Callable[[], Awaitable[bool]]:
    """Whether such a problem is shown."""

    async def shown() -> bool:
        return bool(await problems(w, reason))

    return shown


async def row(w: World, zone: str = ZONE) -> dict[str, Any]:
    """A zone's row of the fleet in `/api/status`."""
    rows: list[dict[str, Any]] = (await w.get("/api/status"))["fleet"]
    [found] = [one for one in rows if one["zone"] == zone]
    return found


async def explained(w: World, name: str) -> dict[str, Any]:
    """What `/api/explain` says of the one thing with this name."""
    [found] = (await w.get(f"/api/explain?name={name}"))["found"]
    told: dict[str, Any] = found
    return told


async def take_out(w: World, name: str) -> None:
    """Somebody takes a machine out of the catalog."""
    await w.call("POST", "/_ah/api/catalog/v1/delete_machine", {"dimensions": {"hostname": name}})


async def test_line_09_what_the_catalog_does_not_know_is_lost_and_not_said_to_be_leasable(
    tmp_path: Path,
) -> None:
    """Page, documents, history and metrics agree; the problem says that it is replaced."""
    async with world(tmp_path, crons=SELDOM, settings=KNOWS_NOTHING) as w:
        name = min(await cataloged(w, 3))
        await take_out(w, name)
        await w.until(lambda: w.is_in(name, "lost"))
        told = await explained(w, name)
        assert told["state"] == "lost"
        assert "the catalog no longer holds it" in told["reason"]
        assert told["events"][0]["after"] == "lost"
        assert told["waits_for"].startswith("It is deleted if the catalog does not hold it")
        group = manager_in(await w.get("/api/fleet"), ZONE)
        assert (group["state"], (await row(w))["state"]) == ("degraded", "degraded")
        assert group["reason"].startswith("2 of 3 machines can be leased or are leased; 1 lost.")
        [problem] = await problems(w, "NotInCatalog")
        assert problem["message"].endswith("and another takes its place.")
        found = await scrape(w)
        assert found.of("machines_useful", template="linux", zone=ZONE) == {(): 2}
        assert found.of("machines", template="linux", zone=ZONE, state="lost") == {(): 1}


async def test_line_09_what_is_not_replaced_is_not_said_to_be(tmp_path: Path) -> None:
    """There are enough without it, or a pause keeps everything as it is."""
    async with world(tmp_path, crons=SELDOM, settings=KNOWS_NOTHING) as w:
        name = min(await cataloged(w, 3))
        w.write_config(template(), manager(minimum=2, surplus_seconds=-1))
        await w.until(lambda: w.shows_minimum(2))
        said = "It has 3 machines and needs 2. Its manager keeps them (surplus_seconds: -1)."
        assert (await row(w))["reason"] == said
        await take_out(w, name)
        await w.until(has_problem(w, "NotInCatalog"))
        [problem] = await problems(w, "NotInCatalog")
        assert problem["message"].endswith("no other takes its place: there are enough without it.")
        assert await w.act("/api/pause", {"reason": "looking"}) == 200
        [problem] = await problems(w, "NotInCatalog")
        assert problem["message"].endswith("Nothing is done about it until a pause ends.")


async def test_a_leased_machine_that_the_catalog_does_not_know_is_kept(tmp_path: Path) -> None:
    """It is neither called free, nor said to be replaced."""
    async with world(tmp_path, crons=SELDOM, settings=KNOWS_NOTHING) as w:
        await cataloged(w, 3)
        name = await w.lease()
        await w.inject("machine_provider.catalog.get", times=None, **NOT_CATALOGED)

        async def unknown() -> bool:
            return any(name in one["examples"] for one in await problems(w, "NotInCatalog"))

        await w.until(unknown)
        told = await explained(w, name)
        assert told["state"] == "leased"
        assert "The catalog no longer holds it." in told["reason"]


async def test_line_09_a_paused_group_is_not_growing(tmp_path: Path) -> None:
    """It is paused, on the page and in each document."""
    async with world(tmp_path, crons=SELDOM) as w:
        await cataloged(w, 3)
        assert await w.act("/api/pause", {"zone": ZONE, "reason": "looking"}) == 200
        w.write_config(template(), manager(minimum=5))
        await w.until(lambda: w.shows_minimum(5))
        shown = await row(w)
        assert shown["state"] == "paused"
        assert shown["reason"].startswith("It has 3 of 5 machines, and does not grow until a pause")
        told = await explained(w, f"linux/{ZONE}")
        assert told["state"] == "paused"
        assert told["waits_for"].startswith("The pause has to end")
        assert manager_in(await w.get("/api/fleet"), ZONE)["state"] == "paused"


async def test_line_09_a_group_without_any_machine_is_critical_and_one_with_some_is_not(
    tmp_path: Path,
) -> None:
    """The other zone has its machines; in this one nobody can lease any."""
    both = manager() + manager(zone=OTHER_ZONE, minimum=2)
    async with world(tmp_path, crons=SELDOM, managers=both, start=False) as w:
        await w.inject("*", kind="stockout", zone=OTHER_ZONE, times=None)
        await w.start_daemon()
        await w.until(has_problem(w, "StockOut"))
        await w.until(lambda: w.has_vms(3))
        [problem] = await problems(w, "StockOut")
        assert problem["severity"] == "critical"
        assert problem["message"].endswith(
            f"No machine is leased or can be leased in {OTHER_ZONE}."
        )
        assert (await row(w, OTHER_ZONE))["state"] == "failing"
        await w.clear_faults()
        await w.until(lambda: cataloged_in_all(w, 5))
        await w.inject("*", kind="stockout", zone=ZONE, times=None)
        w.write_config(template(), manager(minimum=4) + manager(zone=OTHER_ZONE, minimum=2))
        await w.until(has_problem(w, "StockOut"))
        [problem] = await problems(w, "StockOut")
        assert problem["severity"] == "warning"


async def cataloged_in_all(w: World, number: int) -> bool:
    """Whether so many machines can be leased."""
    return (await w.states())["cataloged"] == number


async def test_line_09_a_zone_that_does_not_exist_is_failing_and_not_being_created(
    tmp_path: Path,
) -> None:
    """Nothing is under way there, whatever the configuration asks for."""
    both = manager() + manager(zone="us-central9-z", minimum=2)
    async with world(tmp_path, crons=SELDOM, managers=both) as w:
        await w.until(lambda: cataloged_in_all(w, 3))

        async def failing() -> bool:
            return bool((await row(w, "us-central9-z"))["state"] == "failing")

        await w.until(failing)
        told = await explained(w, "linux/us-central9-z")
        assert told["reason"].startswith("It cannot be made now.")
        assert (await row(w))["state"] == "active"


async def test_line_09_a_machine_that_settles_is_not_said_to_wait_for_a_job(tmp_path: Path) -> None:
    """Its addition had no answer: for five minutes its entry may still appear."""
    async with world(tmp_path, crons=SELDOM, options=CloudOptions(), start=False) as w:
        await w.inject(ADD_MACHINES, status=503, times=None)
        await w.start_daemon()
        await w.until(lambda: w.has_vms(3))
        await w.until(lambda: sent(w))
        name = min(await w.vms())
        assert await w.act("/api/drain", {"name": name}) == 200
        told = await explained(w, name)
        assert told["state"] == "draining"
        assert "its entry may still appear" in told["waits_for"]
        assert "has to request" not in told["waits_for"]


async def sent(w: World) -> bool:
    """Whether all machines have been sent to the catalog, without an answer."""
    return {machine["catalog"] for machine in await w.machines()} == {"adding"}


async def test_line_11_a_bad_image_makes_no_old_machine_count_as_lost(tmp_path: Path) -> None:
    """They stay until others can take their place: they are of use, and no alert says otherwise."""
    async with world(tmp_path, crons=SELDOM) as w:
        await cataloged(w, 3)
        await w.inject("compute.instanceTemplates.insert", status=400, times=None)
        w.write_config(template(image_name="no-such-image"), manager())

        async def draining() -> bool:
            return (await w.states())["draining"] == 3

        await w.until(draining)
        await w.pass_time(600)
        found = await scrape(w)
        assert found.of("machines_useful", template="linux", zone=ZONE) == {(): 3}
        assert found.of("machines_lost", template="linux", zone=ZONE) == {(): 0}
        assert not await problems(w, "NotInCatalog")
        assert not await problems(w, "Missing")
        assert (await row(w))["state"] == "failing"
        assert "No machine is" not in str((await w.get("/api/status"))["problems"])


GONE_FROM = (
    "/",
    "/machines",
    "/events?kind=template&name=linux",
    "/api/status",
    "/api/fleet",
    "/api/groups",
    "/api/templates",
    "/api/explain?name=linux",
)


async def shown_on(w: World, word: str) -> set[str]:
    """The pages and documents that say this word of what exists."""
    found = set()
    for path in GONE_FROM:
        async with w.session.get(w.daemon.url + path) as response:
            assert response.status == 200, path
            text = await response.text()
            if path == "/api/fleet":  # what a job cannot do is told as long as its subject is there
                text = str((await w.get(path))["templates"])
            if word in text:
                found.add(path)
    return found


async def test_line_11_a_group_that_is_gone_is_on_no_page(tmp_path: Path) -> None:
    """Its entity stays as long as the tombstones of its machines; nobody is shown it."""
    both = manager() + manager(zone=OTHER_ZONE, minimum=2)
    async with world(tmp_path, crons=SELDOM, managers=both) as w:
        await w.until(lambda: cataloged_in_all(w, 5))
        w.write_config(template(), manager())

        async def gone() -> bool:
            return len((await w.get("/api/groups"))["groups"]) == 1

        await w.until(gone)
        async with w.fleet() as stored:
            assert len(stored.managers) == 2
        assert not await shown_on(w, OTHER_ZONE)
        [before] = (await w.get("/api/groups"))["groups"]
        w.write_config(template(machine_type="n2-standard-8"), manager())

        async def replaced() -> bool:
            rows = (await w.get("/api/groups"))["groups"]
            revisions = {row["revision"] for row in rows if row["state"] == "active"}
            return len(rows) == len(revisions - {before["revision"]}) == 1

        await w.until(replaced)
        told = await explained(w, f"linux/{ZONE}")  # one group, and not the one before as well
        assert told["state"] == "active"


async def test_line_11_a_template_that_is_gone_is_on_no_page(tmp_path: Path) -> None:
    """For an hour it was `draining`, and "0 groups have to go first"."""
    both = template() + template("slow"), manager() + manager("slow", minimum=1)
    async with world(tmp_path, crons=SELDOM, templates=both[0], managers=both[1]) as w:
        await w.until(lambda: cataloged_in_all(w, 4))
        w.write_config(template(), manager())

        async def gone() -> bool:
            return len((await w.get("/api/templates"))["templates"]) == 1

        await w.until(gone)
        assert not await shown_on(w, "slow")
        told = await explained(w, "slow")
        assert (told["state"], told["waits_for"], told["groups"]) == ("deleted", None, [])
        async with w.fleet() as stored:
            assert len(stored.templates) == 2


async def test_line_09_machines_of_no_use_are_critical_when_they_are_all_of_a_zone(
    tmp_path: Path,
) -> None:
    """Stopped ones, and those that the Machine Provider does not take; no wait is for no lease."""
    async with world(tmp_path, crons=SELDOM, settings=KNOWS_NOTHING) as w:
        names = sorted(await cataloged(w, 3))
        await w.compute("POST", f"zones/{ZONE}/instances/{names[0]}/suspend")
        await w.until(has_problem(w, "Stopped"))
        [problem] = await problems(w, "Stopped")
        assert problem["severity"] == "warning"
        end = "Unless it runs again within 120 s, it is deleted, and another takes its place."
        assert problem["message"].endswith(end)
        told = await explained(w, names[0])
        end = "It has to run again within 120 s of its stop. Otherwise it is deleted."
        assert told["waits_for"] == end
        await w.inject("machine_provider.catalog.add_machines", status=503, times=None)
        for name in names[1:]:
            await w.compute("POST", f"zones/{ZONE}/instances/{name}/suspend")

        async def critical(reason: str) -> bool:
            return {one["severity"] for one in await problems(w, reason)} == {"critical"}

        await w.until(lambda: critical("Stopped"))
        await w.until(lambda: critical("Unavailable"))
        [problem] = await problems(w, "Unavailable")
        assert problem["message"].endswith(f". No machine is leased or can be leased in {ZONE}.")


async def test_line_09_a_leased_machine_without_vm_waits_for_its_lease(tmp_path: Path) -> None:
    """It was said to leave the catalog, which it does not while somebody holds it."""
    async with world(tmp_path, crons=SELDOM) as w:
        await cataloged(w, 3)
        name = await w.lease()
        await abandon(w, name)
        await w.compute("DELETE", f"zones/{ZONE}/instances/{name}")
        await w.until(has_problem(w, "Missing"))
        [problem] = await problems(w, "Missing")
        end = "As far as the daemon knows, somebody holds it until its lease ends."
        assert problem["message"].endswith(end)
        assert (await explained(w, name))["waits_for"] == "The lease has to end."


async def test_line_09_a_cordoned_machine_is_what_its_group_waits_for(tmp_path: Path) -> None:
    """No other comes up in its place; and a template that cannot be made is not active."""
    async with world(tmp_path, crons=SELDOM) as w:
        name = min(await cataloged(w, 3))
        assert await w.act("/api/cordon", {"name": name, "reason": "noise"}) == 200
        await w.until(lambda: w.is_in(name, "cordoned"))
        told = await explained(w, f"linux/{ZONE}")
        assert (told["state"], told["waits_for"]) == ("degraded", None)
        assert (await explained(w, name))["waits_for"].endswith(f"`gce-backend uncordon {name}`.")
        w.write_config(template(machine_type="z9-huge-4"), manager())

        async def failing() -> bool:
            [row] = (await w.get("/api/templates"))["templates"]
            return row["state"] == "failing" and "Unknown machine type" in row["reason"]

        await w.until(failing)
        told = await explained(w, "linux")
        assert told["state"] == "failing"


async def test_line_01_the_longest_wait_that_a_peer_asks_for_is_shown_with_its_end(
    tmp_path: Path,
) -> None:
    """Once 999999999 s: it is five minutes, told on the page, and then all goes on."""
    once = {"status": 429, "retry_after": 999999999, "times": 1}
    async with world(tmp_path, crons=SELDOM, start=False) as w:
        await w.inject(ADD_MACHINES, **once)
        await w.inject("pubsub.projects.subscriptions.pull", reason="RESOURCE_EXHAUSTED", **once)
        await w.start_daemon()
        await w.until(has_problem(w, "RateLimited"))
        await w.until(has_problem(w, "NotPulled"))
        for reason in ("RateLimited", "NotPulled"):
            [problem] = await problems(w, reason)
            assert 240 < problem["retry_at"] - w.clock.now() <= 300
        async with w.session.get(w.daemon.url + "/") as response:
            assert (await response.text()).count("tried again <time") == 2
        assert await w.until(lambda: cataloged_in_all(w, 3)) <= 330
        assert not (await w.get("/api/status"))["problems"]
