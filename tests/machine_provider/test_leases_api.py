"""Leases as people and jobs meet them: waiting that tells, and every way in which they end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from gce_backend.machine_provider import entities, queue, upkeep
from gce_backend.machine_provider.entities import (
    FORGET_AT,
    KEPT_SECONDS,
    LeaseState,
    StoredLease,
    digest,
    to_properties,
)
from gce_backend.machine_provider.leases import LeaseTerms
from gce_backend.machine_provider.queue import Allotment
from gce_backend.machine_provider.service import ProviderService
from gce_backend.machine_provider.wire import Dimensions, LeaseRequestMessage
from machine_provider.test_service import until_ready
from support.provider_harness import ACCESS, DAEMON, Place, place
from support.simulation import ProcessClock

ANN, BOB, ROOT = "ann@example.com", "bob@example.com", "root@example.com"
EVE = "eve@example.com"
LIMITED = ACCESS.replace(
    'groups { name: "users" members: "*@example.com" roles: USER }',
    """groups {
  name: "small" members: "bob@example.com" roles: USER max_machines: 1 longest_lease: "1h"
  dimensions: "os_family:LINUX"
}
groups { name: "desk" members: "eve@example.com" roles: USER max_waiting: 3 }
groups {
  name: "users" members: "*@example.com" roles: USER max_held: 1 longest_hold: "1h"
  longest_lease: "4h" hold_failed: "20m" transfer_to: "small"
}""",
)


class Api:
    """The API of one process."""

    def __init__(self, p: Place, service: ProviderService) -> None:
        self.place = p
        self.service = service

    async def __call__(
        self, verb: str, path: str, body: Any = None, who: str = ANN
    ) -> tuple[int, Any]:
        """One request."""
        return await self.place.send(self.service, verb, f"/api/v1/{path}", who, body)

    async def ok(self, verb: str, path: str, body: Any = None, who: str = ANN) -> Any:
        """One that must succeed."""
        status, answer = await self(verb, path, body, who)
        assert status == 200, answer
        return answer

    async def lease(self, name: str, who: str = ANN, **wanted: Any) -> Any:
        """Asks for a Linux machine for an hour; `wanted` changes that."""
        asked = {"request_id": name, "dimensions": {"os_family": "LINUX"}, "duration": 3600}
        return await self.ok("POST", "leases", asked | wanted, who)

    async def refused(self, verb: str, path: str, body: Any = None, who: str = ANN) -> str:
        """What a request that fails is told, behind its status."""
        status, answer = await self(verb, path, body, who)
        assert status >= 400, answer
        return f"{status} {answer['error']['message']}"

    async def get(self, lease: Any, who: str = ANN) -> Any:
        """A lease as it is now."""
        return await self.ok("GET", f"leases/{lease['id']}", who=who)

    async def add(self, *names: str, **dimensions: Any) -> None:
        """Adds machines, and waits until they are there."""
        for name in names:
            body = {"dimensions": {"hostname": name, "os_family": "LINUX", **dimensions}}
            await self.place.ok(
                self.service, "catalog.add_machine", body | {"policies": {}}, DAEMON
            )
        await asyncio.sleep(1)

    async def states(self) -> dict[str, str]:
        """The catalog."""
        found = await self.ok("GET", "machines", who=ROOT)
        return {machine["name"]: machine["state"] for machine in found["machines"]}


@contextlib.asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[Api]:
    """One process, and its API."""
    async with place(tmp_path, LIMITED) as p:
        service = await p.start()
        await until_ready(p, service)
        yield Api(p, service)


@pytest.mark.parametrize("starts", [False, True], ids=["at work", "before its start"])
async def test_row_27_no_lease_ends_because_the_machine_provider_s_clock_is_set_ahead(
    tmp_path: Path, *, starts: bool
) -> None:
    """A day, and later put right: the lease ends an hour after it began, as it is to."""
    async with place(tmp_path, LIMITED) as p:
        p.process_clock = clock = ProcessClock(p.clock)
        service = await p.start()
        await until_ready(p, service)
        mp = Api(p, service)
        await mp.add("vm-1")
        lease = await mp.lease("r1")
        if starts:
            await p.kill(service)
            p.process_clock = clock = ProcessClock(p.clock)
            clock.ahead = 86_400.0
            service = await p.start()
        clock.ahead = 86_400.0
        await asyncio.sleep(1800)
        clock.ahead = 0.0  # so that it takes a token
        mp = Api(p, service)
        assert (await mp.get(lease))["state"] == "active"
        await asyncio.sleep(1900)
        assert (await mp.get(lease))["state"] == "ended"


async def test_a_lease_from_request_to_release(tmp_path: Path) -> None:
    """At once while machines are free; the same request is the same lease; released twice."""
    async with running(tmp_path) as mp:
        await mp.add("vm-1", "vm-2")
        named: dict[str, Any] = {"label": "nightly", "tags": ["branch:main", "try:2"]}
        lease = await mp.lease("r1", **named)
        assert lease["tags"] == named["tags"]
        for tag, number in (("branch:main", 1), ("branch:mai", 0), ("", 1)):
            assert len((await mp.ok("GET", f"leases?tag={tag}"))["leases"]) == number
        assert (lease["state"], lease["machines"], lease["label"]) == (
            "active",
            ["vm-1"],
            "nightly",
        )
        assert lease["ends_at"] == lease["began"] + 3600
        assert await mp.lease("r1", **named) == lease
        assert (await mp.refused("POST", "leases", {"request_id": "r1", "duration": 5}))[
            :3
        ] == "409"
        assert [one["id"] for one in (await mp.ok("GET", "leases"))["leases"]] == [lease["id"]]
        for _ in range(2):
            await mp.ok("POST", f"leases/{lease['id']}:release")
            await asyncio.sleep(1)
        ended = await mp.get(lease)
        assert (ended["state"], ended["ended"], ended.get("machines")) == (
            "ended",
            "RELEASED",
            None,
        )
        assert await mp.states() == {"vm-2": "AVAILABLE"}
        assert (await mp.ok("GET", "leases"))["leases"] == []


async def test_several_machines_are_leased_and_given_back_together(tmp_path: Path) -> None:
    """All or none, in one commit."""
    async with running(tmp_path) as mp:
        await mp.add("vm-1", "vm-2", "vm-3")
        lease = await mp.lease("r1", count=2)
        assert lease["machines"] == ["vm-1", "vm-2"]
        second = await mp.lease("r2", count=2)
        assert second["state"] == "pending"
        await mp.add("vm-4")
        assert (await mp.get(second))["machines"] == ["vm-3", "vm-4"]
        await mp.ok("POST", f"leases/{lease['id']}:release")
        await asyncio.sleep(1)
        assert await mp.states() == {"vm-3": "LEASED", "vm-4": "LEASED"}


async def test_who_waits_is_told_place_reason_and_time(tmp_path: Path) -> None:
    """And gets the machine when it is there."""
    async with running(tmp_path) as mp:
        await mp.add("vm-1")
        holder = await mp.lease("r1")
        first = await mp.lease("r2")
        await asyncio.sleep(1)
        second = await mp.lease("r3")
        assert first["waiting"]["place"] == 1
        assert first["waiting"]["reason"] == "leased"
        assert first["waiting"]["earliest"] == holder["ends_at"]
        assert second["waiting"]["place"] == 2
        assert "earliest" not in second["waiting"]
        await mp.add("vm-2")
        assert (await mp.get(first))["machines"] == ["vm-2"]
        assert (await mp.get(second))["waiting"]["place"] == 1


async def test_what_no_machine_is_names_the_nearest_that_there_is(tmp_path: Path) -> None:
    """And goes on waiting: such a machine may come."""
    async with running(tmp_path) as mp:
        await mp.add("vm-1", num_cpus=4)
        asked = {"os_family": "LINUX", "num_cpus": 64}
        lease = await mp.lease("r1", dimensions=asked)
        waiting = lease["waiting"]
        assert (waiting["reason"], waiting["nearest"]["differs"]) == ("unsatisfiable", ["num_cpus"])
        assert waiting["nearest"]["dimensions"]["num_cpus"] == 4
        many = await mp.lease("r2", count=5)
        assert many["waiting"]["message"] == "it asks for 5 machines, and 1 in the catalog fit"
        await mp.add("vm-64", num_cpus=64)
        assert (await mp.get(lease))["machines"] == ["vm-64"]


async def test_a_group_at_its_limit_waits_and_says_why(tmp_path: Path) -> None:
    """Though machines are free; what the group may never have is refused at once."""
    async with running(tmp_path) as mp:
        await mp.add("vm-1", "vm-2")
        first = await mp.lease("r1", BOB)
        second = await mp.lease("r2", BOB)
        assert second["waiting"]["reason"] == "limit"
        assert "1 of at most 1 machine" in second["waiting"]["message"]
        body = {"request_id": "r3", "duration": 60, "dimensions": {"os_family": "WINDOWS"}}
        assert "os_family must be LINUX" in await mp.refused("POST", "leases", body, BOB)
        body = {"request_id": "r3", "duration": 7200, "dimensions": {"os_family": "LINUX"}}
        assert "may last 3600 s" in await mp.refused("POST", "leases", body, BOB)
        body = {"request_id": "r3", "without_end": True, "dimensions": {"os_family": "LINUX"}}
        assert "must have an end" in await mp.refused("POST", "leases", body, BOB)
        body = {"request_id": "r3", "duration": 60, "count": 2}
        body["dimensions"] = {"os_family": "LINUX"}
        assert "at most 1 machine" in await mp.refused("POST", "leases", body, BOB)
        await mp.ok("POST", f"leases/{first['id']}:release", who=BOB)
        await asyncio.sleep(1)
        assert (await mp.get(second, BOB))["machines"] == ["vm-2"]


async def test_a_grant_is_checked_against_what_its_group_holds_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rounds at a time decide on one picture: neither knows yet what the other grants."""
    async with running(tmp_path) as mp:
        await mp.add("vm-1", "vm-2")
        monkeypatch.setattr(queue, "limit_of", lambda *_: "")
        first, second = await mp.lease("r1", BOB), await mp.lease("r2", BOB)
        assert (first["state"], second["state"]) == ("active", "pending")
        monkeypatch.undo()
        assert (await mp.lease("r3", BOB))["waiting"]["reason"] == "limit"


async def test_a_user_has_a_limited_number_of_requests_that_wait(tmp_path: Path) -> None:
    """Further ones are refused, by both APIs; the same request again is no further one."""
    async with running(tmp_path) as mp:
        for number in (0, 1, 2, 2):
            await mp.lease(f"r{number}", EVE)
        body = {"request_id": "r3", "duration": 60}
        told = await mp.refused("POST", "leases", body, EVE)
        assert told.startswith("409 3 requests of yours wait, which is the most")
        wire = {"requests": [{**body, "dimensions": {}} | {"request_id": f"r{n}"} for n in (3, 4)]}
        answers = await mp.place.ok(mp.service, "machine_provider.batched_lease", wire, EVE)
        assert [one["error"] for one in answers["responses"]] == ["TRANSIENT_ERROR"] * 2
        for one in (await mp.ok("GET", "leases", who=EVE))["leases"][:2]:
            await mp.ok("POST", f"leases/{one['id']}:release", who=EVE)
        await mp.lease("r3", EVE)
        big = {"request_id": "r" * 1001, "duration": 60, "dimensions": {}}
        assert (await mp.place.call(mp.service, "machine_provider.lease", big, EVE))[0] == 400


async def test_a_request_that_is_cancelled_or_too_late_takes_no_machine(tmp_path: Path) -> None:
    """Neither then nor later."""
    async with running(tmp_path) as mp:
        cancelled = await mp.lease("r1")
        late = await mp.lease("r2", wait=30)
        done = await mp.ok("POST", f"leases/{cancelled['id']}:release")
        assert (done["state"], done["ended"]) == ("ended", "CANCELLED")
        await asyncio.sleep(35)
        found = await mp.get(late)
        assert (found["state"], found["ended"]) == ("ended", "WAITED_TOO_LONG")
        await mp.add("vm-1")
        assert await mp.states() == {"vm-1": "AVAILABLE"}


async def test_a_lease_lives_as_long_as_it_is_kept_alive(tmp_path: Path) -> None:
    """A runner that died holds no machine for its whole duration, and one that waits no place."""
    async with running(tmp_path) as mp:
        await mp.add("vm-1")
        lease = await mp.lease("r1", keepalive=30)
        waiting = await mp.lease("r2", keepalive=30)
        for _ in range(10):
            await asyncio.sleep(20)
            await mp.ok("POST", f"leases/{lease['id']}:keepalive")
            await mp.ok("POST", f"leases/{waiting['id']}:keepalive")
        assert (await mp.get(lease))["state"] == "active"
        assert (await mp.get(waiting))["state"] == "pending"
        await asyncio.sleep(33)
        assert (await mp.get(lease))["ended"] == "NOT_KEPT_ALIVE"
        assert (await mp.get(waiting))["ended"] == "NOT_KEPT_ALIVE"
        assert await mp.states() == {}
        assert "409" in await mp.refused("POST", f"leases/{lease['id']}:keepalive")


async def test_a_lease_is_extended_within_what_its_group_may_have(tmp_path: Path) -> None:
    """Any number of times; a refusal says how long is left; one that is over is not revived."""
    async with running(tmp_path) as mp:
        await mp.add("vm-1")
        lease = await mp.lease("r1", duration=60)
        await asyncio.sleep(40)
        longer = await mp.ok("POST", f"leases/{lease['id']}:extend", {"duration": 600})
        assert longer["ends_at"] > lease["ends_at"] + 500
        await asyncio.sleep(300)
        assert (await mp.get(lease))["state"] == "active"
        told = await mp.refused("POST", f"leases/{lease['id']}:extend", {"duration": 5 * 3600})
        assert "14400 s at most" in told
        await asyncio.sleep(400)
        assert (await mp.get(lease))["ended"] == "EXPIRED"
        told = await mp.refused("POST", f"leases/{lease['id']}:extend", {"duration": 60})
        assert told == "409 the lease is over."


async def test_a_machine_is_held_for_a_look_within_the_groups_limits(tmp_path: Path) -> None:
    """Also when nobody keeps the lease alive any more; for a time, and for one machine only."""
    async with running(tmp_path) as mp:
        await mp.add("vm-1", "vm-2")
        lease, other = await mp.lease("r1", keepalive=30), await mp.lease("r2")
        held = await mp.ok("POST", f"leases/{lease['id']}:hold", {"duration": 300})
        assert held["state"] == "held"
        told = await mp.refused("POST", f"leases/{other['id']}:hold", {})
        assert "1 of at most 1 machine" in told
        told = await mp.refused("POST", f"leases/{lease['id']}:hold", {"duration": 7200})
        assert "3600 s at most" in told
        told = await mp.refused("POST", f"leases/{lease['id']}:extend", {"duration": 60})
        assert "held for an investigation" in told
        await asyncio.sleep(60)
        longer = await mp.ok("POST", f"leases/{lease['id']}:hold", {"duration": 3500})
        told = await mp.refused("POST", f"leases/{lease['id']}:hold", {"duration": 3600})
        assert "these may be held for 35" in told
        everything = await mp.ok("POST", f"leases/{lease['id']}:hold", {})
        assert longer["ends_at"] <= everything["ends_at"] == held["ends_at"] + 3300
        await mp.ok("POST", f"leases/{lease['id']}:hold", {"duration": 240})
        await asyncio.sleep(200)
        assert (await mp.get(lease))["machines"] == ["vm-1"]
        await asyncio.sleep(110)
        assert (await mp.get(lease))["ended"] == "EXPIRED"


async def test_the_machines_of_work_that_failed_are_held_as_access_cfg_says(
    tmp_path: Path,
) -> None:
    """As many as the group may hold; of two at the same time, too; the others are released."""
    async with running(tmp_path) as mp:
        await mp.add("vm-1", "vm-2", "vm-3")
        leases = [await mp.lease(name, keepalive=30) for name in ("r1", "r2")]
        ends = await asyncio.gather(
            *(mp.ok("POST", f"leases/{one['id']}:release", {"failed": True}) for one in leases)
        )
        assert sorted(one["state"] for one in ends) == ["active", "held"]
        (held,) = [one for one in ends if one["state"] == "held"]
        await asyncio.sleep(60)
        again = await mp.ok("POST", f"leases/{held['id']}:release", {"failed": True})
        assert (again["state"], again["ends_at"]) == ("held", held["ends_at"])
        assert sorted((await mp.states()).values()) == ["AVAILABLE", "LEASED"]
        await mp.ok("POST", f"leases/{held['id']}:release")
        small = await mp.lease("r3", BOB)
        told = await mp.refused("POST", f"leases/{small['id']}:hold", {}, BOB)
        assert told == "409 access.cfg does not let this group hold machines (max_held)."
        await mp.ok("POST", f"leases/{small['id']}:release", {"failed": True}, BOB)
        await asyncio.sleep(1)
        assert (await mp.get(small, BOB))["ended"] == "RELEASED"


async def test_a_lease_is_transferred_to_whom_access_cfg_allows(tmp_path: Path) -> None:
    """Both learn of it; it counts for the next lessee's group; the former can do nothing more."""
    async with running(tmp_path) as mp:
        await mp.add("vm-1", "vm-2", "vm-3")
        lease = await mp.lease("r1", keepalive=30)
        path = f"leases/{lease['id']}"
        for who, to, status in (
            (EVE, EVE, "404"),
            (ANN, "x@elsewhere.org", "403"),
            (ANN, DAEMON, "403"),
            (ANN, "no address", "403"),
        ):
            told = await mp.refused("POST", f"{path}:transfer", {"user": to}, who)
            assert told.startswith(status)
        waits = asyncio.create_task(
            mp.ok("GET", f"{path}?after={lease['version']}&wait=50"), name="ann waits"
        )
        await asyncio.sleep(1)
        with capture_logs() as logs:
            moved = await mp.ok("POST", f"{path}:transfer", {"user": "Bob@Example.com"})
            await mp.ok("POST", f"{path}:transfer", {"user": BOB}, ROOT)
        events = [one for one in logs if one["event"] == "machine_provider.lease_transferred"]
        assert [(one["user"], one["to"], one["by"], one["group"]) for one in events] == [
            (ANN, BOB, ANN, "small")
        ]
        assert (moved["user"], moved["requester"], moved["group"]) == (BOB, ANN, "small")
        news = await waits
        assert (news["state"], news["ended"]) == ("ended", "TRANSFERRED")
        assert news["message"] == "it is bob@example.com's now"
        assert "machines" not in news
        assert await mp.lease("r1", keepalive=30) == news
        for order, body in (("release", {}), ("extend", {"duration": 60}), ("keepalive", {})):
            told = await mp.refused("POST", f"{path}:{order}", body)
            assert told == "403 The lease is bob@example.com's."
        wire = {"request_id": "r1", "dimensions": {"os_family": "LINUX"}, "duration": 3600}
        answer = await mp.place.ok(mp.service, "machine_provider.release", wire, ANN)
        assert answer["error"] == "NOT_FOUND"
        assert (await mp.ok("GET", "leases"))["leases"] == []
        await asyncio.sleep(60)
        (seen,) = (await mp.ok("GET", "leases", who=BOB))["leases"]
        assert (seen["id"], seen["state"], seen["machines"]) == (lease["id"], "active", ["vm-1"])
        assert (await mp.lease("r2", BOB))["waiting"]["reason"] == "limit"
        other = await mp.lease("r3", count=2)
        told = await mp.refused("POST", f"leases/{other['id']}:transfer", {"user": BOB})
        assert "its group holds 1 of at most 1 machine" in told
        await mp.ok("POST", f"leases/{other['id']}:transfer", {"user": EVE}, ROOT)
        assert mp.service.provider is not None
        assert mp.service.provider.working is not None
        assert +mp.service.provider.working.records.held.leases == {"small": 1, "desk": 1}
        told = await mp.refused("POST", f"{path}:transfer", {"user": ANN}, BOB)
        assert told.startswith("403 The group small may not transfer leases to the group users")
        back = await mp.ok("POST", f"{path}:transfer", {"user": ANN}, ROOT)
        assert (back["user"], back["requester"]) == (ANN, ANN)
        await asyncio.sleep(1)
        assert (await mp.get({"id": seen["id"]}))["machines"] == ["vm-1"]
        ended = await mp.ok("POST", f"{path}:release")
        await asyncio.sleep(1)
        assert (await mp.get(ended))["ended"] == "RELEASED"


async def test_others_leases_are_seen_and_ended_by_who_may(tmp_path: Path) -> None:
    """A user sees what is theirs; an administrator sees and releases everybody's."""
    async with running(tmp_path) as mp:
        await mp.add("vm-1")
        lease = await mp.lease("r1")
        assert "404" in await mp.refused("GET", f"leases/{lease['id']}", who=BOB)
        assert "404" in await mp.refused("POST", f"leases/{lease['id']}:release", who=BOB)
        assert (await mp.ok("GET", "leases?everybody=true", who=BOB))["leases"] == []
        (seen,) = (await mp.ok("GET", "leases?everybody=true", who=ROOT))["leases"]
        assert seen["user"] == ANN
        assert (await mp.ok("GET", "machines/vm-1", who=ROOT))["user"] == ANN
        assert (await mp.ok("GET", "machines/vm-1?backend=GCE", who=BOB)).get("user") is None
        assert "404" in await mp.refused("GET", "machines/vm-1?backend=VSPHERE", who=BOB)
        assert "403" in await mp.refused("GET", "users", who=BOB)
        shown = await mp.ok("GET", "users", who=ROOT)
        assert shown["users"] == [{"user": ANN, "group": "users", "machines": 1}]
        assert [one["name"] for one in shown["groups"]] == ["users", "desk", "small"]
        assert (shown["groups"][0]["leases"], shown["groups"][2]["limits"]["max_machines"]) == (
            1,
            1,
        )
        machines = (await mp.ok("GET", "machines", who=BOB))["machines"]
        assert [(one["state"], one.get("user")) for one in machines] == [("LEASED", None)]
        await mp.ok("POST", f"leases/{lease['id']}:release", who=ROOT)
        await asyncio.sleep(1)
        assert (await mp.get(lease))["ended"] == "RELEASED"


async def test_who_one_is(tmp_path: Path) -> None:
    """Name, roles and limits."""
    async with running(tmp_path) as mp:
        me = await mp.ok("GET", "whoami", who=BOB)
        assert (me["user"], me["roles"], me["group"]) == (BOB, ["USER"], "small")
        assert me["limits"]["max_machines"] == 1
        assert (await mp.ok("GET", "whoami", who="x@elsewhere.org"))["roles"] == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"request_id": "r"},
        {"request_id": "r", "duration": 0},
        {"request_id": "r", "duration": 60, "ends_at": 9_999_999_999},
        {"request_id": "r", "duration": 60, "count": 0},
        {"request_id": "r", "duration": 60, "keepalive": 1},
        {"request_id": "", "duration": 60},
        {"request_id": "r", "duration": 60, "dimensions": 7},
        {"request_id": "r", "duration": 60, "tags": ["<b>"]},
        {"request_id": "r", "duration": 60, "label": "a\x00b"},
        {"request_id": "r", "duration": 60, "dimensions": {"os_version": "9" * 1001}},
    ],
)
async def test_what_is_no_request_is_refused(tmp_path: Path, body: dict[str, Any]) -> None:
    """With 400, and nothing is stored."""
    async with running(tmp_path) as mp:
        assert (await mp.refused("POST", "leases", body))[:3] == "400"
        assert (await mp.ok("GET", "leases"))["leases"] == []


async def test_leases_and_their_order_survive_a_change_of_process(tmp_path: Path) -> None:
    """Who waits keeps the place; who holds keeps the machine, and counts for the limits."""
    async with running(tmp_path) as mp:
        await mp.add("vm-1", "vm-2")
        lease = await mp.lease("r1", BOB)
        waiting = await mp.lease("r2", BOB)
        second = await mp.place.start()
        await mp.place.kill(mp.service)
        await until_ready(mp.place, second)
        mp.service = second
        assert (await mp.get(waiting, BOB))["waiting"]["reason"] == "limit"
        assert (await mp.get(lease, BOB))["machines"] == ["vm-1"]


async def test_a_lease_that_ended_is_kept_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So long its request id means that lease; then it leaves the store."""
    monkeypatch.setattr(entities, "KEPT_SECONDS", 300)
    monkeypatch.setattr(upkeep, "FORGET_SECONDS", 60.0)
    async with running(tmp_path) as mp:
        await mp.add("vm-1", "vm-2")
        ended, runs = await mp.lease("ended"), await mp.lease("runs")
        await mp.ok("POST", f"leases/{ended['id']}:release")
        await asyncio.sleep(240)
        assert (await mp.get(ended))["state"] == "ended"
        assert (await mp.lease("ended"))["id"] == ended["id"]
        await asyncio.sleep(180)
        assert (await mp("GET", f"leases/{ended['id']}"))[0] == 404
        assert (await mp.get(runs))["state"] == "active"
        await mp.add("vm-3")
        assert (await mp.lease("ended"))["state"] == "active"


def test_a_request_keeps_the_checksum_that_an_earlier_release_has_stored() -> None:
    """Otherwise a request that is repeated across an upgrade would be another one."""
    checksum = digest((ANN, LeaseTerms(label="nightly", count=2)))
    assert checksum == "03c13e05d59953d69bb17ead8807db2666579b3d"


def test_what_waits_or_runs_is_not_forgotten() -> None:
    """However old it is: only what has ended has a time from which it may go."""
    wanted = LeaseRequestMessage(request_id="r", dimensions=Dimensions(), indefinite=True)
    waits = StoredLease(user=ANN, request=wanted, checksum="", created=5.0)
    runs = replace(waits, state=LeaseState.FULFILLED, fulfilled_ts=5)
    assert waits.forget_at is runs.forget_at is None
    assert FORGET_AT not in to_properties(runs)
    ended = replace(runs, reclaimed_ts=100)
    assert to_properties(ended)[FORGET_AT] == ended.forget_at == 100 + KEPT_SECONDS


async def test_many_who_wait_cost_no_more_than_one(tmp_path: Path) -> None:
    """The queue is worked out once a second, however many ask for their places."""
    async with running(tmp_path) as mp:
        await mp.add("vm-1")
        for number in range(3):
            await mp.lease(f"r{number}")
        working = mp.service.provider.working if mp.service.provider is not None else None
        assert working is not None
        looks, allotment = 0, working.leases.allotment

        def counted(now: float) -> Allotment:
            nonlocal looks
            looks += 1
            return allotment(now)

        working.leases.allotment = counted  # type: ignore[method-assign]
        for _ in range(20):
            found = (await mp.ok("GET", "leases"))["leases"]
            assert sorted(one["waiting"]["place"] for one in found if "waiting" in one) == [1, 2]
        assert looks <= 3


async def test_a_cordoned_machine_stays_and_is_not_leased(tmp_path: Path) -> None:
    """By an administrator alone; who waits for it is told; a restart keeps it; a lease goes on."""
    async with running(tmp_path) as mp:
        await mp.add("vm-1", "vm-2")
        held = await mp.lease("r1")
        assert held["machines"] == ["vm-1"]
        assert (await mp.refused("POST", "machines/vm-2:cordon"))[:3] == "403"
        for name in ("vm-1", "vm-2", "vm-2"):
            shown = await mp.ok("POST", f"machines/{name}:cordon", who=ROOT)
            assert (shown["name"], shown["cordoned"], shown.get("leasable")) == (name, True, None)
        assert (await mp.get(held))["state"] == "active"
        await mp.ok("POST", f"leases/{held['id']}:release")
        await asyncio.sleep(1)
        waits = (await mp.lease("r2"))["waiting"]
        told = "of 1 machine that fit, 0 can be leased; 1 is cordoned"
        assert (waits["reason"], waits["message"]) == ("cordoned", told)
        await mp.place.kill(mp.service)
        after = Api(mp.place, await mp.place.start())
        await until_ready(mp.place, after.service)
        assert (await after.lease("r2"))["state"] == "pending"
        await after.ok("POST", "machines/vm-2:uncordon", {"backend": "GCE"}, ROOT)
        await asyncio.sleep(1)
        assert (await after.lease("r2"))["machines"] == ["vm-2"]
        for missing in ("machines/vm-1:cordon", "machines/vm-9:uncordon"):
            assert (await after.refused("POST", missing, who=ROOT))[:3] == "404"
        other = {"backend": "VSPHERE"}
        assert (await after.refused("POST", "machines/vm-2:cordon", other, ROOT))[:3] == "404"
