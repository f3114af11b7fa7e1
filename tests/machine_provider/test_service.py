"""`gce-backend machine-provider`: several processes, one that works, and what each answers."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gce_backend.base.errors import LeadershipLostError, SettingsError
from gce_backend.clients.datastore.terms import Term
from gce_backend.configuration.problems import InvalidConfigurationError
from gce_backend.localcloud.faults import Fault
from gce_backend.machine_provider.agent_watch import AgentWatch
from gce_backend.machine_provider.records import Records
from gce_backend.machine_provider.service import ProviderService
from gce_backend.machine_provider.trends import ALL, Trend
from gce_backend.machine_provider.wire import Dimensions
from support.provider_harness import ACCESS, DAEMON, Place, place

DOC = (Path(__file__).parents[2] / "docs" / "machine-provider.md").read_text(encoding="utf-8")
USER = "ann@example.com"
LINUX: dict[str, Any] = {"dimensions": {"os_family": "LINUX"}, "duration": 3600}


def machine(name: str) -> dict[str, Any]:
    """A machine to be added."""
    return {"dimensions": {"hostname": name, "os_family": "LINUX"}, "policies": {}}


async def ready(p: Place, service: ProviderService) -> bool:
    """Whether a process says that it works."""
    return (await p.send(service, "GET", "/readyz"))[0] == 200


async def until_ready(p: Place, service: ProviderService) -> float:
    """Waits for it; returns the seconds that it took."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while not await ready(p, service):
        assert loop.time() - begun < 60
        await asyncio.sleep(0.1)
    return loop.time() - begun


async def held(p: Place, service: ProviderService, name: str = "r1") -> str | None:
    """The machine of a lease."""
    answer = await p.ok(service, "machine_provider.lease", LINUX | {"request_id": name}, USER)
    assert "error" not in answer
    found = answer.get("hostname")
    return None if found is None else str(found)


async def test_it_serves_the_wire_to_whom_access_cfg_names(tmp_path: Path) -> None:
    """Catalog for the daemon, leases for users, nothing for strangers and nobody."""
    async with place(tmp_path) as p:
        mp = await p.start()
        await until_ready(p, mp)
        await p.ok(mp, "catalog.add_machine", machine("vm-1"))
        await asyncio.sleep(1)
        assert await held(p, mp) == "vm-1"
        assert (await p.call(mp, "catalog.get", {"hostname": "vm-1"}, USER))[0] == 403
        assert (await p.call(mp, "machine_provider.lease", LINUX, "x@elsewhere.org"))[0] == 403
        assert (await p.call(mp, "machine_provider.lease", LINUX, ""))[0] == 403
        status, answer = await p.call(mp, "catalog.add_machine", {"dimensions": 7})
        assert (status, answer["error"]["errors"][0]["reason"]) == (400, "badRequest")
        assert (await p.send(mp, "POST", "/_ah/api/catalog/v1/nothing", DAEMON, {}))[0] == 404


async def test_another_process_takes_over_from_one_that_died(tmp_path: Path) -> None:
    """Within 15 s, with the same machines and leases; until then it says who works."""
    async with place(tmp_path) as p:
        first = await p.start()
        await until_ready(p, first)
        second = await p.start()
        await p.ok(first, "catalog.add_machine", machine("vm-1"))
        await asyncio.sleep(1)
        assert await held(p, first) == "vm-1"
        assert not await ready(p, second)
        status, answer = await p.call(
            second, "machine_provider.lease", LINUX | {"request_id": "r"}, USER
        )
        assert (status, answer["error"]["errors"][0]["reason"]) == (503, "backendError")
        entry = await p.ok(second, "catalog.get", {"hostname": "vm-1"})
        assert entry["state"] == "LEASED"
        assert (await p.send(second, "GET", "/api/v1/whoami", USER))[1]["user"] == USER
        await asyncio.sleep(120)
        assert not await ready(p, second)
        await p.kill(first)
        assert await until_ready(p, second) <= 15
        assert await held(p, second) == "vm-1"
        released = await p.ok(second, "machine_provider.release", {"request_id": "r1"}, USER)
        assert "error" not in released


async def test_a_process_that_stops_hands_its_turn_over_at_once(tmp_path: Path) -> None:
    """A roll-out costs a few seconds, not a time-out."""
    async with place(tmp_path) as p:
        first = await p.start(takeover_seconds=60.0)
        await until_ready(p, first)
        second = await p.start(takeover_seconds=8.0)
        await asyncio.sleep(5)
        await first.stop()
        assert await until_ready(p, second) <= 4


async def test_a_process_that_wakes_up_too_late_writes_nothing(tmp_path: Path) -> None:
    """It was thought dead: its commits carry the old epoch, and are refused."""
    async with place(tmp_path) as p:
        first = await p.start()
        await until_ready(p, first)
        second = await p.start()
        await p.kill(first)
        await until_ready(p, second)
        assert second.provider is not None
        assert second.provider.leadership.term == Term(2)
        store = second.provider._reader.records._datastore.within(Term(1))
        sleeper = Records(store, AgentWatch(p.clock))
        await p.ok(second, "catalog.add_machine", machine("vm-1"))
        await asyncio.sleep(1)
        with pytest.raises(LeadershipLostError):
            await sleeper.change([(("CatalogMachineEntry", "GCE:x"),)], lambda _: {})
        with pytest.raises(LeadershipLostError):
            await sleeper.restore([])
        assert (await p.ok(second, "catalog.get", {"hostname": "vm-1"}))["state"] == "AVAILABLE"


async def test_of_many_processes_one_works_at_any_time(tmp_path: Path) -> None:
    """Started together, killed in turn: never two, and in the end always one."""
    async with place(tmp_path) as p:
        running = [await p.start() for _ in range(4)]
        for _ in range(3):
            await asyncio.sleep(20)
            states = [await ready(p, service) for service in running]
            assert sum(states) == 1
            victim = running.pop(states.index(True))
            await p.kill(victim)
        await asyncio.sleep(20)
        assert await ready(p, running[0])


async def test_a_process_without_its_store_works_again_when_it_is_back(tmp_path: Path) -> None:
    """It says why it is not ready, and nothing is lost."""
    async with place(tmp_path) as p:
        mp = await p.start()
        await until_ready(p, mp)
        await p.ok(mp, "catalog.add_machine", machine("vm-1"))
        await asyncio.sleep(1)
        p.cloud.faults.add(Fault(method="datastore.*", kind="status", status=503, times=None))
        await asyncio.sleep(60)
        assert not await ready(p, mp)
        assert (await p.call(mp, "catalog.add_machine", machine("vm-2")))[0] == 503
        p.cloud.faults.clear()
        await until_ready(p, mp)
        assert await held(p, mp) == "vm-1"


async def test_a_standby_process_answers_reads_and_says_how_old_they_are(tmp_path: Path) -> None:
    """What changes something waits for the one that works; after a takeover all is as of now."""
    reads = ("leases", "machines", "machines/vm-1", "users")
    async with place(tmp_path) as p:
        first = await p.start()
        await until_ready(p, first)
        second = await p.start()
        await p.ok(first, "catalog.add_machine", machine("vm-1"))
        await asyncio.sleep(1)

        async def read(service: ProviderService, path: str) -> Any:
            status, answer = await p.send(service, "GET", f"/api/v1/{path}", "root@example.com")
            assert status == 200, answer
            return answer

        assert [one["state"] for one in (await read(second, "machines"))["machines"]] == [
            "AVAILABLE"
        ]
        assert p.age == 0
        assert await held(p, first) == "vm-1"
        await asyncio.sleep(5)
        assert (await read(second, "machines/vm-1"))["state"] == "AVAILABLE"
        assert p.age == 5
        await asyncio.sleep(5)
        for path in reads:
            of_both = await read(second, path), await read(first, path)
            assert of_both[0] == of_both[1]
        mine = "/api/v1/leases"
        [lease] = (await p.send(second, "GET", mine, USER))[1]["leases"]
        known = f"{mine}/{lease['id']}?after={lease['version']}&wait=55"
        begun = p.clock.monotonic()
        assert (await p.send(second, "GET", known, USER))[1] == lease
        assert p.clock.monotonic() - begun < 1
        both = [{"hostname": "vm-1"}, {"hostname": "vm-2"}]
        batch = await p.ok(second, "catalog.get_machines", {"requests": both})
        assert [one.get("error") for one in batch["responses"]] == [None, "ENTRY_NOT_FOUND"]
        for verb, path, account in (
            ("GET", "/api/v1/demand", DAEMON),
            ("POST", f"{mine}/{lease['id']}:release", USER),
            ("PUT", "/api/v1/offer", DAEMON),
        ):
            body = {"source": "s", "kinds": []} if verb == "PUT" else None
            assert (await p.send(second, verb, path, account, body))[0] == 503
        assert not await ready(p, second)
        p.cloud.faults.add(Fault(method="datastore.projects.runQuery", status=503, times=None))
        await asyncio.sleep(60)
        assert len((await read(second, "machines"))["machines"]) == 1
        assert p.age is not None
        assert p.age >= 60
        await asyncio.sleep(300)
        assert (await p.send(second, "GET", "/api/v1/machines", USER))[0] == 503
        p.cloud.faults.clear()
        await p.kill(first)
        await until_ready(p, second)
        await read(second, "leases")
        assert p.age is None


async def test_charts_go_on_after_a_takeover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the samples of the process before, no older ones, and no more entities than samples."""
    monkeypatch.setattr("gce_backend.machine_provider.trends.KEPT", 5)
    async with place(tmp_path) as p:
        first = await p.start()
        await until_ready(p, first)
        await p.ok(first, "catalog.add_machine", machine("vm-1"))
        await asyncio.sleep(1)
        assert await held(p, first) == "vm-1"
        await asyncio.sleep(500)
        assert first.provider is not None
        assert len(await first.provider.store.query("TrendSample")) == 5
        await p.kill(first)
        second = await p.start()
        await until_ready(p, second)
        assert second.provider is not None
        assert second.provider.working is not None
        trends = second.provider.working.trends
        linux = Trend(Dimensions(os_family="LINUX", backend="GCE"))
        for trend in (ALL, linux, Trend(group="users")):
            assert set(trends.machines.of(trend)) == {(1, 0, 0)}
        times = list(trends.machines.times)
        assert 3 <= len(times) <= 5
        assert p.clock.now() - times[0] < 5 * 60
        await asyncio.sleep(60)
        assert p.clock.now() - trends.machines.times[-1] < 60
        p.cloud.faults.add(Fault(method="datastore.projects.commit", status=503, times=None))
        before = trends.machines.times[-1]
        await asyncio.sleep(70)
        assert trends.machines.times[-1] > before


async def test_access_cfg_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """Without a restart; what is invalid leaves the old in force, and is shown."""
    async with place(tmp_path) as p:
        mp = await p.start()
        await until_ready(p, mp)
        stranger = "bob@new.example.org"
        assert (await p.call(mp, "machine_provider.lease", LINUX, stranger))[0] == 403
        p.access.write_text(ACCESS.replace("*@example.com", "*@new.example.org"))
        await asyncio.sleep(6)
        body = LINUX | {"request_id": "r"}
        assert (await p.call(mp, "machine_provider.lease", body, stranger))[0] == 200
        assert (await p.call(mp, "machine_provider.lease", body, USER))[0] == 403
        with capture_logs() as logs:
            p.access.write_text("groups {")
            await asyncio.sleep(12)
        told = [entry for entry in logs if entry["event"] == "machine_provider.access_invalid"]
        assert len(told) == 1
        assert "access.cfg:1" in told[0]["error"]
        assert (await p.call(mp, "machine_provider.lease", body, stranger))[0] == 200
        assert "machine_provider_access_valid 0.0" in (await p.send(mp, "GET", "/metrics"))[1]
        p.access.unlink()
        await asyncio.sleep(6)
        assert (await p.call(mp, "machine_provider.lease", body, stranger))[0] == 200
        p.access.write_text(ACCESS)
        await asyncio.sleep(6)
        assert (await p.call(mp, "machine_provider.lease", body, stranger))[0] == 403


async def test_metrics_count_machines_calls_decisions_and_waits(tmp_path: Path) -> None:
    """What an operator asks first; readers from elsewhere need a role."""
    async with place(tmp_path) as p:
        mp = await p.start()
        await until_ready(p, mp)
        await p.ok(mp, "catalog.add_machine", machine("vm-1"))
        await asyncio.sleep(1)
        await held(p, mp)
        await held(p, mp, "r2")
        await p.call(mp, "catalog.get", {"hostname": "vm-1"}, USER)
        await asyncio.sleep(30)
        status, text = await p.send(mp, "GET", "/metrics")
        assert status == 200
        lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
        assert lines['machine_provider_machines{state="LEASED"}'] == "1.0"
        assert lines['machine_provider_leases{group="users"}'] == "1.0"
        leased = 'machine_provider_machines_leased{group="users",os_family="LINUX"}'
        assert lines[leased] == "1.0"
        assert lines["machine_provider_requests_waiting"] == "1.0"
        assert 30 <= float(lines["machine_provider_request_waiting_longest_seconds"]) < 32
        assert lines["machine_provider_leader"] == "1.0"
        assert lines["machine_provider_request_wait_seconds_count"] == "1.0"
        denied = 'machine_provider_access_decisions_total{method="catalog.get",outcome="denied"}'
        assert lines[denied] == "1.0"
        calls = 'machine_provider_calls_total{method="machine_provider.lease",status="200"}'
        assert lines[calls] == "2.0"
        assert mp.provider is not None
        await p.ok(mp, "catalog.add_machine", machine("vm-2"))
        await p.ok(mp, "catalog.add_machine", machine("vm-3"))
        await p.ok(mp, "machine_provider.release", {"request_id": "r1"}, USER)
        await asyncio.sleep(5)
        text = (await p.send(mp, "GET", "/metrics"))[1]
        lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
        assert lines['machine_provider_machines_idle{os_family="LINUX"}'] == "1.0"
        assert lines['machine_provider_leases_ended_total{reason="RELEASED"}'] == "1.0"


async def test_every_metric_is_described(tmp_path: Path) -> None:
    """With its labels, in docs/machine-provider.md, and no other."""
    rows = re.findall(r"^\| `machine_provider_(\w+)` \| (.+?) \|", DOC, re.MULTILINE)
    described = {name: set(labels.replace("-", "").split(", ")) - {""} for name, labels in rows}
    async with place(tmp_path) as p:
        mp = await p.start()
        families = {
            family.name.removeprefix("machine_provider_")
            + ("_total" if family.type == "counter" else ""): family
            for family in mp._metrics.registry.collect()
            if not family.name.startswith("machine_provider_process_")
        }
        assert described.keys() == families.keys()
        assert described["machines"] == {"state"}


async def test_the_settings_must_name_access_cfg(tmp_path: Path) -> None:
    """Without it nobody could do anything: it does not start, and says what helps."""
    async with place(tmp_path) as p:
        with pytest.raises(SettingsError, match=r"provider\.access"):
            await p.start(access=None)
        with pytest.raises(SettingsError, match=r"nothing\.cfg: cannot be read"):
            await p.start(access=tmp_path / "nothing.cfg")
        p.access.write_text("groups { }")
        with pytest.raises(InvalidConfigurationError, match="name: is required"):
            await p.start()
        p.access.write_bytes(b"\xff\xfe")
        with pytest.raises(SettingsError, match="UTF-16"):
            await p.start()
