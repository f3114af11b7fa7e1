"""What happened is kept in the store, whole and within bounds, and can be asked for."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from gce_backend.base.clock import Clock
from gce_backend.clients.datastore.client import Unindexed, Upsert
from gce_backend.daemon.clients import Clients
from gce_backend.daemon.daemon import Daemon
from gce_backend.engine.metrics import Metrics
from gce_backend.fleet.picture import Change, Fleet
from gce_backend.fleet.store import Store
from gce_backend.model.entities import CONTROL_KEY
from gce_backend.model.events import HistoryPage
from gce_backend.rules.history_pages import PageName
from gce_backend.rules.orders import approve
from gce_backend.settings.settings import (
    JOB_NAMES,
    DeletionSettings,
    HistorySettings,
    JobSettings,
    Settings,
)
from support.crashing import CRONS, OPTIONS, SETTINGS, Life, OneBlow, When
from support.fleet_harness import (
    CONTROL_TOKEN,
    OTHER_ZONE,
    PROJECT,
    ZONE,
    World,
    manager,
    template,
    world,
)
from support.simulation import VirtualClock

Events = list[dict[str, Any]]
COMMIT = "datastore.projects.commit"
QUERY = "datastore.projects.runQuery"
HOUR = 3600.0


async def _events(w: World, url: str = "", **query: Any) -> Events:
    """All events that fulfil this, oldest first, page by page; of another daemon if `url` says."""
    events: Events = []
    query = {"limit": 1000, **query}
    while True:
        address = f"{url or w.daemon.url}/api/events?{urlencode(query)}"
        async with w.session.get(address) as response:
            assert response.status == 200, await response.text()
            answer = await response.json()
        events += answer["events"]
        if answer["next"] is None:
            return events[::-1]
        query["before"] = answer["next"]


async def _told(w: World, **query: Any) -> list[tuple[str, str, str]]:
    """The states, and the first two words of the cause, of each event."""
    return [
        (event["before"], event["after"], " ".join(event["cause"].split()[:2]))
        for event in await _events(w, **query)
    ]


def _check_chains(events: Events) -> None:
    """Each event begins where the one before ended: none is lost, none is there twice."""
    states: defaultdict[str, str] = defaultdict(str)
    assert len({event["id"] for event in events}) == len(events)
    for event in events:
        if event["kind"] in {"machine", "group", "template"}:
            assert event["before"] == states[event["subject"]], event
            states[event["subject"]] = event["after"]
            assert event["cause"], event


@asynccontextmanager
async def _store(w: World) -> AsyncIterator[tuple[Clients, Store]]:
    """The store, as another process has it."""
    clients = Clients(w.settings, w.clock, random.Random(0), Metrics())
    try:
        yield clients, Store(clients.datastore(PROJECT))
    finally:
        await clients.close()


async def _kept(w: World) -> list[PageName]:
    """What the store holds."""
    async with _store(w) as (_, store):
        names = await store.names(HistoryPage.KIND)
    return [told for name in names if (told := PageName.of(name)) is not None]


async def test_the_life_of_a_machine_is_told_from_its_making_to_its_end(tmp_path: Path) -> None:
    """Each state that it was in, and which job or message brought it there."""
    async with world(tmp_path, managers=manager(minimum=1), options=OPTIONS) as w:
        await w.until_states(cataloged=1)
        name = await w.lease()
        await w.release()
        await w.until(lambda: w.lacks(name))
        await w.pass_time(60.0)
        events = await _events(w, name=name)
        story = await _told(w, name=name)

    states = [step for step in story if step[0] != step[1]]
    assert states == [
        ("", "creating", "job fetch-instances"),
        ("creating", "starting", "job fetch-instances"),
        ("starting", "running", "job catalog-instances"),
        ("running", "cataloged", "job catalog-instances"),
        ("cataloged", "leased", "message LEASED"),
        ("leased", "pending-deletion", "message RECLAIMED"),
        ("pending-deletion", "deleting", "job delete-instances-pending-deletion"),
        ("deleting", "deleted", "job delete-instances-pending-deletion"),
    ]
    besides = [step[2] for step in story if step[0] == step[1]]
    assert besides == ["message SUBSCRIBED", "job check-instance-metadata-operations"]
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)
    assert all(event["reason"] for event in events)
    assert {(event["kind"], event["name"]) for event in events} == {("machine", name)}
    ids = [event["cause"].split()[2] for event in events if event["cause"].startswith("message")]
    assert len(set(ids)) == len(ids) == 3, "each message is named by its id"


async def test_a_rollout_is_told_of_templates_groups_and_machines(tmp_path: Path) -> None:
    """The old revision, its group and its machines drain in the commit that brings the new one."""
    async with world(tmp_path, managers=manager(minimum=2)) as w:
        await w.until_states(cataloged=2)
        leased = await w.lease()
        (free,) = {machine["name"] for machine in await w.machines()} - {leased}
        w.write_config(template(machine_type="e2-medium"), manager(minimum=2))
        await w.until_states(cataloged=2, leased=1)
        await w.until(lambda: w.lacks(free))
        drained = await _events(w, cause="job process-config")
        later = await _told(w, name=free)
        everything = await _events(w)

    begun = [event for event in drained if event["at"] == drained[-1]["at"]]
    assert len({event["id"].partition(".")[0] for event in begun}) == 1, "one commit"
    told = {(event["kind"], event["name"], event["before"], event["after"]) for event in begun}
    groups = {after: name for kind, name, _, after in told if kind == "group"}
    old, new = groups["draining"], groups["creating"]
    assert told == {
        ("template", "linux", "active", "active"),
        ("template", "linux", "active", "draining"),
        ("template", "linux", "", "creating"),
        ("group", old, "active", "draining"),
        ("group", new, "", "creating"),
        ("machine", free, "cataloged", "draining"),
        ("machine", leased, "leased", "leased"),
    }
    assert [step for step in later if step[0] != step[1]][-3:] == [
        ("cataloged", "draining", "job process-config"),
        ("draining", "deleting", "job delete-drained-instances"),
        ("deleting", "deleted", "job delete-drained-instances"),
    ]
    _check_chains(everything)


async def test_growth_is_told_of_its_group(tmp_path: Path) -> None:
    """What the configuration asks for, and the order that follows from it."""
    async with world(tmp_path, managers=manager(minimum=1)) as w:
        await w.until_states(cataloged=1)
        w.write_config(template(), manager(minimum=3, maximum=5))
        await w.until_states(cataloged=3)
        events = await _events(w, kind="group")
    told = [(event["before"], event["after"], event["reason"]) for event in events[-3:]]
    assert told == [
        (
            "active",
            "active",
            "The configuration asks for 3 to 5 machines instead of at least 1 machine.",
        ),
        ("active", "growing", "The daemon lets the group grow by 2 machines."),
        ("growing", "active", "The growth by 2 machines has ended."),
    ]
    causes = [event["cause"] for event in events[-3:]]
    assert causes == ["job process-config", *["job resize-instance-groups"] * 2]


async def test_orders_and_configurations_are_told_with_who_gave_them(tmp_path: Path) -> None:
    """Pause, resume, a drained machine, addresses, a new revision."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        name = (await w.machines())[0]["name"]
        assert await w.act("/api/pause", {"reason": "looking into it"}) == 200
        assert await w.act("/api/pause", {"reason": "looking into it"}) == 200
        assert await w.act("/api/resume") == 200
        assert await w.act("/api/drain", {"name": name, "reason": "it is noisy"}) == 200
        first = (await w.get("/api/fleet"))["configuration"]["revision"]
        w.write_config(template(), manager(minimum=4))
        await w.until_states(cataloged=4, within=900)
        second = (await w.get("/api/fleet"))["configuration"]["revision"]
        orders = await _events(w, kind="control")
        drained = await _events(w, name=name, cause="operator")
        revisions = await _events(w, kind="configuration", cause="job import-config")
        addresses = await _events(w, kind="configuration", cause="operator configure")
    assert [(e["before"], e["after"], e["reason"], e["cause"]) for e in orders] == [
        ("running", "paused", "looking into it", "operator pause"),
        ("paused", "running", "The pause of the whole fleet has ended.", "operator resume"),
    ]
    assert [(e["before"], e["after"], e["reason"], e["cause"]) for e in drained] == [
        ("cataloged", "draining", "Drained by operator: it is noisy", "operator drain")
    ]
    assert [(e["before"], e["after"]) for e in revisions] == [("", first), (first, second)]
    assert len(addresses) == 3


async def test_a_configuration_that_is_not_taken_is_told_once_and_after_a_restart_known(
    tmp_path: Path,
) -> None:
    """Held, then invalid, then taken back: an event each, however often it is served."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        w.write_config("", "")
        await w.pass_time(200)
        _, held = await _events(w, kind="configuration", cause="job import-config")
        waiting = (await w.get("/api/control"))["held_revision"]
        assert f"Revision {waiting} is held: it removes 3 of 3 machines" in held["reason"]
        assert held["before"] == held["after"] != waiting
        await w.reset_calls()
        await w.pass_time(200)
        assert (await w.calls())["datastore.projects.commit"] == 0
        await w.restart_daemon()
        await w.until(w.is_loaded)
        assert (await w.get("/api/control"))["held_revision"] == waiting
        w.write_config("templates {", "")
        await w.pass_time(200)
        w.write_config(template(), manager())
        await w.pass_time(200)
        told = await _events(w, kind="configuration", cause="job import-config")
        assert [event["reason"].split(":")[0].partition(" is ")[2] for event in told] == [
            "in force.",
            "held",
            "invalid",
            "no longer served.",
        ]
        assert (await w.get("/api/control"))["held_revision"] is None


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", [12, 31])
@pytest.mark.parametrize("deadly", [True, False])
async def test_a_blow_at_a_commit_loses_and_doubles_no_event(
    tmp_path: Path, at: int, when: When, *, deadly: bool
) -> None:
    """A process killed at a commit, or a commit of unknown outcome: every chain stays whole."""
    faults = OneBlow(at, when, only=COMMIT, deadly=deadly)
    async with world(tmp_path, options=OPTIONS, settings=SETTINGS, crons=CRONS, start=False) as w:
        w.cloud.faults = faults
        await w.start_daemon()

        async def replace_the_dead() -> None:
            await faults.struck.wait()
            if deadly:
                await w.crash_daemon()
                await w.pass_time(1.0)
                faults.dead = False
                await w.start_daemon()

        replacing = asyncio.create_task(replace_the_dead(), name="blow")
        try:
            await Life(w).live()
        finally:
            replacing.cancel()
            await asyncio.gather(replacing, return_exceptions=True)
        assert await w.fired() == 1
        events = await _events(w)
        there = {machine["name"]: machine["state"] for machine in await w.machines()}
    _check_chains(events)
    last = {event["name"]: event["after"] for event in events if event["kind"] == "machine"}
    assert {name: last.pop(name) for name in there} == there
    assert set(last.values()) == {"deleted"}, "what no longer exists has been told to its end"


async def test_quiet_minutes_write_and_read_nothing_of_it(tmp_path: Path) -> None:
    """Nothing happens and nobody looks: no commit but signs of life, no query but the resync's."""
    settings = Settings(jobs={"import-config": JobSettings(cron="* * * * *")})
    async with world(tmp_path, settings=settings) as w:
        await w.until_states(cataloged=3)
        await w.pass_time(180.0)
        before = await _kept(w)
        await w.reset_calls()
        await w.pass_time(600.0)
        calls = await w.calls()
        assert await _kept(w) == before
        assert calls[COMMIT] <= 2
        assert w.daemon.context is not None
        reviews = 600.0 / settings.store.resync_seconds * w.daemon.context.fleet.pages
        assert calls[QUERY] <= reviews + 1


async def test_many_readers_share_one_read_in_two_seconds(tmp_path: Path) -> None:
    """However many look at once, the store is asked once, and only for what is new."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.pass_time(300.0)
        await w.reset_calls()
        answers = await asyncio.gather(*(w.get("/api/events") for _ in range(10)))
        assert (await w.calls())[QUERY] == 1
        assert all(answer == answers[0] and answer["events"] for answer in answers)
        await w.pass_time(2.5)
        await w.get("/api/events")
        assert (await w.calls())[QUERY] == 2


async def test_what_another_replica_does_is_seen_too(tmp_path: Path) -> None:
    """Both tell the same history, of what each of them did."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await _events(w)
        second = Daemon(w.settings, clock=w.clock, rng=random.Random(99))
        try:
            await second.start()
            await w.until(lambda: _is_loaded(second))
            headers = {"Authorization": f"Bearer {CONTROL_TOKEN}"}
            for order in ("pause", "resume"):
                url = f"{second.url}/api/{order}"
                async with w.session.post(url, headers=headers) as answer:
                    assert answer.status == 200
                await w.pass_time(0.1)  # events of one moment have no order
            assert await w.act("/api/lift-cap", {"seconds": 60}) == 200
            await w.pass_time(3.0)
            ours, theirs = await _events(w), await _events(w, second.url)
        finally:
            await second.abort()
    assert ours == theirs
    causes = [event["cause"] for event in ours if event["kind"] == "control"]
    assert causes == ["operator pause", "operator resume", "operator lift-cap"]


async def _is_loaded(daemon: Daemon) -> bool:
    return daemon.view is not None


async def test_old_events_go_after_their_time(tmp_path: Path) -> None:
    """A daemon that was down for three days removes what is older than two, first of all."""
    settings = Settings(history=HistorySettings(max_age_days=2.0))
    async with world(tmp_path, settings=settings) as w:
        await w.until_states(cataloged=3)
        await w.pass_time(10.0)
        early = await _kept(w)
        await w.crash_daemon()
        w.clock.epoch += 3 * 86400.0
        await w.start_daemon()
        name = await w.lease()
        await w.pass_time(10.0)
        late = await _kept(w)
        events = await _events(w)
    assert early
    assert late
    assert not set(early) & set(late)
    assert (name, "leased") in {(event["name"], event["after"]) for event in events}
    assert all(event["at"] > w.clock.epoch - 86400.0 for event in events)


async def test_too_many_events_go_the_oldest_first(tmp_path: Path) -> None:
    """Within the hour, whatever their age; at no time are more shown than are allowed."""
    settings = Settings(
        history=HistorySettings(max_events=20),
        deletion=DeletionSettings(tombstone_seconds=5.0, window_seconds=5.0),
    )
    crons = {**dict.fromkeys(JOB_NAMES, "0 * * * *"), "cleanup-entities": "*/10 * * * *"}
    async with world(tmp_path, settings=settings, crons=crons) as w:
        await w.until_states(cataloged=3)
        for request_id in ("r1", "r2", "r3"):
            name = await w.lease(request_id)
            await w.release(request_id)
            await w.until(partial(w.lacks, name))
        await w.until_states(cataloged=3)
        assert sum(page.events for page in await _kept(w)) > 40
        shown = await _events(w)
        assert 0 < len(shown) <= 20
        await w.pass_time(HOUR + 600.0)
        kept = await _kept(w)
        assert 0 < sum(page.events for page in kept) <= 20
        newest = await _events(w)
    assert newest == shown


async def test_many_changes_in_a_commit_stay_within_its_limits(tmp_path: Path) -> None:
    """A page goes with 497 changes; what becomes of all machines at once is one commit as well."""
    count = 520
    async with world(tmp_path, managers=manager(minimum=count)) as w:
        await w.until_states(cataloged=count)
        rising = {page.events for page in await _kept(w)}
        size = await _bytes_of_history(w)
        await w.act("/api/pause")
        w.write_config(template(machine_type="e2-medium"), manager(minimum=count))
        await w.pass_time(10.0)
        drains = await _events(w, kind="machine", cause="job process-config")
        full = {page.events for page in await _kept(w)}
    assert 497 in rising
    assert size < 500 * count, "bytes of history from seeing to cataloging a machine"
    assert [(e["before"], e["after"]) for e in drains] == [("cataloged", "draining")] * count
    assert len({event["name"] for event in drains}) == count
    assert len({event["at"] for event in drains}) == 1
    assert 500 in full


async def _bytes_of_history(w: World) -> int:
    async with _store(w) as (clients, _):
        rows = await clients.datastore(PROJECT).query(HistoryPage.KIND)
    return sum(len(str(row.properties)) for row in rows)


async def test_events_are_found_by_what_they_are_about(tmp_path: Path) -> None:
    """Each parameter of the API leaves out what it must, and nothing else."""
    templates = template() + template("windows")
    managers = manager(minimum=1) + manager("windows", OTHER_ZONE, minimum=1)
    async with world(tmp_path, templates=templates, managers=managers) as w:
        await w.until_states(cataloged=2)
        await w.pass_time(120.0)
        middle = w.clock.now()
        await w.lease()
        everything = await _events(w)
        machine = next(m for m in await w.machines() if m["template"] == "linux")
        cases: tuple[tuple[dict[str, Any], Callable[[dict[str, Any]], bool]], ...] = (
            ({"kind": "group"}, lambda e: e["kind"] == "group"),
            ({"name": machine["name"]}, lambda e: e["name"] == machine["name"]),
            ({"name": "linux"}, lambda e: e["name"] == "linux"),
            ({"template": "linux"}, lambda e: e["subject"].split("/")[0] == "linux"),
            ({"template": "lin"}, lambda _: False),
            ({"zone": OTHER_ZONE}, lambda e: OTHER_ZONE in e["subject"].split("/")),
            ({"cause": "message"}, lambda e: e["cause"].startswith("message ")),
            ({"cause": "job fetch-instances"}, lambda e: e["cause"] == "job fetch-instances"),
            ({"since": middle}, lambda e: e["at"] >= middle),
            (
                {"template": "windows", "kind": "machine", "zone": OTHER_ZONE},
                lambda e: e["kind"] == "machine" and "windows" in e["subject"],
            ),
        )
        for query, pick in cases:
            assert await _events(w, **query) == [e for e in everything if pick(e)], query
        group = next(e for e in everything if e["kind"] == "group" and ZONE in e["subject"])
        assert {e["subject"] for e in await _events(w, name=group["name"])} == {group["subject"]}


async def test_pages_of_an_answer_join_without_a_gap(tmp_path: Path) -> None:
    """`before` goes on where the page before ended; `next` says when there is no more."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.pass_time(10.0)
        everything = await _events(w)
        assert await _events(w, limit=1) == everything
        assert await _events(w, limit=4) == everything
        first = await w.get("/api/events?limit=4")
        assert first["events"] == everything[:-5:-1]
        assert first["next"] == everything[-4]["id"]
        whole = await w.get(f"/api/events?limit={len(everything)}")
        assert whole["next"] is None


async def test_a_follower_sees_each_event_once(tmp_path: Path) -> None:
    """Asking for what is after the newest one seen, every few seconds, gives all of them."""
    async with world(tmp_path, options=OPTIONS) as w:
        seen: list[str] = []

        async def follow() -> None:
            while True:
                query = {"after": seen[-1]} if seen else {}
                seen.extend(event["id"] for event in await _events(w, limit=3, **query))
                await w.pass_time(2.1)

        await w.until(w.is_loaded)
        following = asyncio.create_task(follow(), name="follow")
        await w.until_states(cataloged=3)
        await w.lease()
        await w.release()
        await w.pass_time(60.0)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        everything = [event["id"] for event in await _events(w)]
    assert seen == everything
    assert len(seen) > 20


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("limit=0", "limit"),
        ("limit=many", "limit"),
        ("limit=100000", "limit"),
        ("kind=planet", "kind"),
        ("since=yesterday", "since"),
        ("before=7", "before"),
        ("after=x", "after"),
        ("colour=red", "colour"),
    ],
)
async def test_a_bad_parameter_is_named(tmp_path: Path, query: str, named: str) -> None:
    """400, with the parameter's name."""
    async with world(tmp_path) as w:
        await w.until(w.is_loaded)
        async with w.session.get(f"{w.daemon.url}/api/events?{query}") as answer:
            assert answer.status == 400
            assert named in (await answer.json())["error"]


async def test_a_store_that_cannot_be_read_is_503_and_says_so(tmp_path: Path) -> None:
    """The next look reads again."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.pass_time(60.0)
        await w.inject(QUERY, status=403, reason="PERMISSION_DENIED", times=1)
        async with w.session.get(f"{w.daemon.url}/api/events") as answer:
            assert answer.status == 503
            assert "history" in (await answer.json())["error"]
        assert await w.fired() == 1
        assert await _events(w)


async def test_before_the_store_is_loaded_there_is_no_history(tmp_path: Path) -> None:
    """503, as for every document."""
    async with world(tmp_path, start=False) as w:
        await w.inject(QUERY, status=403, reason="PERMISSION_DENIED", times=None)
        await w.start_daemon()
        async with w.session.get(f"{w.daemon.url}/api/events") as answer:
            assert answer.status == 503


@pytest.mark.parametrize("name", ["1800000000000000-001-0badcafe", "made-by-hand"])
async def test_a_page_that_cannot_be_understood_spoils_only_itself(
    tmp_path: Path, name: str
) -> None:
    """It is listed as corrupt; all others are told."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.pass_time(5.0)
        before = await _events(w)
        async with _store(w) as (clients, _):
            properties = {"at": Unindexed(1.0), "happenings": Unindexed("nonsense")}
            path = ((HistoryPage.KIND, name),)
            await clients.datastore(PROJECT).commit([Upsert(path, properties)])
        await w.pass_time(5.0)
        assert await _events(w) == before
        assert name in (await w.get("/api/fleet"))["corrupt"]
        await w.lease()
        await w.pass_time(5.0)
        assert len(await _events(w)) > len(before)


async def test_a_clock_that_was_set_back_hides_nothing(tmp_path: Path) -> None:
    """What is written a day earlier by the clock is read, and comes later (fault 27)."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        before = await _events(w)
        w.clock.epoch -= 86400.0
        name = await w.lease(duration=20 * 86400)
        await w.pass_time(5.0)
        after = await _events(w)
    assert after[: len(before)] == before
    new = after[len(before) :]
    assert (name, "leased") in {(event["name"], event["after"]) for event in new}
    assert all(event["at"] < before[0]["at"] for event in new)


async def _order(w: World, clock: Clock) -> None:
    """An order that another process stores, by its own clock."""
    async with _store(w) as (_, store):
        fleet = Fleet(store, random.Random(7), clock)
        await fleet.refresh([CONTROL_KEY])
        await fleet.change([Change(CONTROL_KEY, approve("r2"), "operator approve")])


async def test_another_process_is_heard_after_our_clock_was_set_back(tmp_path: Path) -> None:
    """What it writes by the right time has names before all those that are known (fault 27)."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        before = await _events(w)
        w.clock.epoch -= 86400.0
        await _order(w, w.clock)
        await w.pass_time(3.0)
        after = await _events(w)
    assert after[1:] == before
    assert after[0]["cause"] == "operator approve"


async def test_what_another_process_stores_late_is_seen(tmp_path: Path) -> None:
    """Its commit took half a minute, or its clock is that much behind."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.pass_time(120.0)
        await w.lease()
        await w.pass_time(5.0)
        before = await _events(w)
        await _order(w, VirtualClock(w.clock.epoch - 30.0))
        await w.pass_time(3.0)
        (late,) = [event for event in await _events(w) if event not in before]
    assert late["cause"] == "operator approve"
    assert late["id"] < before[-1]["id"]
