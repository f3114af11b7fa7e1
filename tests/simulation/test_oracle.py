"""The judge finds planted mistakes, the rows are those of safety.md, failing seeds become short."""

from __future__ import annotations

import contextlib
import functools
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import msgspec
import pytest

from gce_backend.base.clock import SystemClock
from gce_backend.localcloud.assembly import embedded_cloud
from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.compute.quota import Metric
from gce_backend.localcloud.compute.rows import VmRow
from simulation.episode import live, recipe
from simulation.events import KINDS, Event, _lost_unasked
from simulation.faults import Disturbances, Rule
from simulation.holes import HOLES, scripted, search
from simulation.loop import SimulatedLoop
from simulation.network import Request
from simulation.nodes import Node, WorldClock
from simulation.oracle import Entry, Held, Oracle, Vm
from simulation.pools import TYPES, ZONES, Pool
from simulation.rows import ROWS
from simulation.shrink import minimal
from simulation.test_determinism import run
from simulation.world import World

QUICK = (
    "14 a leader that was frozen goes on as if it led",
    "a known lease does not keep what the catalog denies",
    "the caps hold nothing back",
    "6 RECLAIMED of a machine that is leased",
    "8 group made again by hand",
    "18 a clock set back a day",
    "19 one missing revision blinds the look at all groups",
    "a request that waits is not withdrawn",
    "lessees are not told that Compute takes the VM back",
)


@pytest.mark.parametrize("name", QUICK)
def test_a_planted_hole_is_found(name: str) -> None:
    """Within a minute of CPU; `python -m simulation.holes` plants all of them."""
    hole = next(hole for hole in HOLES if hole.name == name)
    seconds, found = search(hole)
    assert found is not None, f"not found in {seconds:.0f} CPU-seconds"


def test_users_get_machines() -> None:
    """Where nobody holds a machine, no promise about leases can break."""
    words = ("--machines", "4", "--daemons", "1", "--only", "lease,lease_all")
    ended = run("--seed", "1", "--episode", "0.2", "--rate", "30", *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "is LEASED" in ended.stdout


@pytest.mark.parametrize(
    ("seed", "machines", "budget", "script"),
    [
        ("hands", 20, 24, ((5.0, "furnace"),)),
        ("5", 8, 1400, ((5.0, "taken_back_growth"), (45.0, "freeze"))),
    ],
)
def test_what_others_do_is_not_held_against_a_daemon(
    seed: str, machines: int, budget: int, script: tuple[tuple[float, str], ...]
) -> None:
    """Others' calls; growth that a daemon that stands still cannot take back in time."""
    made = recipe(seed, 0.4, machines=machines, daemons=1, election=False, budget=budget)
    assert live(scripted(made, script)).violations == []


def test_a_vm_whose_name_a_stranger_took_is_deleted_after_the_stranger_is_told() -> None:
    """Until then the daemon keeps what waits for its deletion, and tells of it."""
    script = ((5, "back_up"), (12, "change_zone"), (60, "restore_store"), (140, "steal_name"))
    made = recipe("stolen 0", 0.05, machines=10, daemons=1, election=False, budget=1400)
    result = live(scripted(made, script))
    assert not result.violations, result.violations
    story = "\n".join(result.story)
    taken = re.search(r"the stranger's machine named (\S+) is taken out of the catalog", story)
    assert taken is not None, story
    assert f"vm {taken[1]} is destroyed" not in story[: taken.start()]
    assert f"vm {taken[1]} is destroyed (DELETING)" in story[taken.end() :]


def test_each_row_of_the_table_of_faults_has_an_event() -> None:
    """What never happens is not survived."""
    told = {row for kind in KINDS.values() for row in kind.rows}
    assert sorted(ROWS) == list(range(1, 57))
    assert told >= set(ROWS)


def test_the_rows_are_those_of_the_page() -> None:
    """docs/safety.md numbers them alike."""
    page = (Path(__file__).parents[2] / "docs" / "safety.md").read_text()
    numbers = {int(found) for found in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert numbers & set(ROWS)


def test_what_a_daemon_with_another_store_makes_is_not_ours_to_track() -> None:
    """S2 is about our own; a group that we make under that name later is."""
    cloud = embedded_cloud(None, SystemClock(), CloudOptions())
    disturbances = Disturbances(cloud, lambda _: None, lambda: 0.0)
    path = "/compute/v1/projects/p/zones/z/instanceGroupManagers?requestId=1"
    body = b'{"name": "linux-1", "targetSize": 3}'
    for client, status, made in (("d9", 409, False), ("d9", 200, True), ("d1", 200, False)):
        request = Request(client, "POST", path, body)
        disturbances.answered(request, functools.partial(bytes, b"HTTP/1.1 %d" % status))
        assert (("z", "linux-1") in disturbances.made_elsewhere) is made


@pytest.mark.parametrize(
    ("verb", "path", "body", "growths", "calls"),
    [
        ("POST", "/g/createInstances?requestId=1", b'[{"name": "a"}, {"name": "b"}]', "a b", 1),
        ("POST", "?requestId=1", b'{"name": "h", "versions": [{"name": "v"}]}', "z/h", 1),
        ("DELETE", "/g", b"", "", 1),
    ],
)
def test_what_a_late_call_makes_and_when_it_arrives_is_noted(
    verb: str, path: str, body: bytes, growths: str, calls: int
) -> None:
    """By what it names, at the time at which it was sent."""
    cloud = embedded_cloud(None, SystemClock(), CloudOptions())
    disturbances = Disturbances(cloud, lambda _: None, lambda: 3.0)
    disturbances.add(Rule("late", ".", (43,), times=1, chance=random.Random(1), seconds=(40, 40)))
    path = f"/compute/v1/projects/p/zones/z/instanceGroupManagers{path}"
    found = disturbances.verdict(Request("d1", verb, path, body))
    assert found is not None
    found.told()
    assert disturbances.late_growths == dict.fromkeys(growths.split(), 3.0)
    assert disturbances.late_calls == [43.0] * calls


@pytest.mark.parametrize(("store", "promises"), [("ours", ["S2"]), ("", ["S2"]), ("theirs", [])])
async def test_a_vm_of_a_template_with_another_store_s_mark_is_not_ours_to_track(
    store: str, promises: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has made its group again, by hand, under a name of ours."""
    world: Any = World.__new__(World)
    row = VmRow(project="p", zone="z", name="a", group="p/z/g", id="1", status="RUNNING")
    identity = SimpleNamespace(
        key={"path": [{"kind": "StoreIdentity", "name": "singleton"}]},
        properties={"id": {"stringValue": "ours"}},
    )
    monkeypatch.setattr(World, "entities", {"": identity})
    world.vms, world.oracle = lambda: [row], judge(lambda: 0.0)
    world.oracle.vms |= {row.id: Vm(row.name, row.group)}
    world.act = AsyncMock(return_value={})
    world.by_hand = AsyncMock(return_value={"labels": {"gce-backend-store": store}})
    await world.judge_tracking()
    assert [violation.promise for violation in world.oracle.violations] == promises


@pytest.mark.parametrize(("restored", "promise"), [(None, ["S1"]), (7.0, []), (30.0, ["S1"])])
def test_a_late_deletion_that_a_restored_store_forgot_is_not_held_against_a_daemon(
    restored: float | None, promise: list[str]
) -> None:
    """What the daemon makes in the group before the restore, or without one, counts."""
    now = 0.0
    oracle = judge(lambda: now)
    oracle.late_deletions["z/g"] = 5.0
    oracle.vms["1"] = Vm("vm", "p/z/g", made=20.0, offered=21.0)
    oracle.entries["vm"] = Entry("AVAILABLE", "1", "", None)
    if restored is not None:
        now = restored
        oracle.restored("", 1.0)
    now = 60.0
    oracle._destroyed(VmRow(project="p", zone="z", name="vm", group="p/z/g", id="1"), "DELETING")
    assert [violation.promise for violation in oracle.violations] == promise


@pytest.mark.parametrize(("restored", "unknown"), [(None, False), (7.0, True), (30.0, False)])
@pytest.mark.parametrize("what", ["vm", "z/g"])
def test_a_late_growth_that_a_restored_store_forgot_is_not_counted(
    what: str, restored: float | None, unknown: bool
) -> None:
    """It names the VM, or makes its group; what is made before the restore counts."""
    now = 0.0
    oracle = judge(lambda: now)
    oracle.late_growths[what] = 5.0
    oracle.vms["1"] = Vm("vm", "p/z/g", made=20.0)
    if restored is not None:
        now = restored
        oracle.restored("", 1.0)
    row = VmRow(project="p", zone="z", name="vm", group="p/z/g", id="1")
    assert oracle.is_made_unknowingly(row) is unknown


READ = Metric("read_requests", None)


def judge(
    now: Callable[[], float],
    processes: Callable[[], tuple[int, int]] = lambda: (1, 1),
) -> Oracle:
    """A judge by itself."""
    return Oracle(
        embedded_cloud(None, SystemClock(), CloudOptions()),
        now=now,
        time=now,
        note=lambda _: None,
        cap=lambda _: 9,
        window=600.0,
        budget=9,
        processes=processes,
        denier="machine-provider",
    )


def test_the_calls_of_a_process_that_died_within_the_minute_count_against_its_own_budget() -> None:
    """Two had nine calls each, one of them is dead, and a third has just begun."""
    processes = (2, 2)
    oracle = judge(lambda: 10.0, processes=lambda: processes)
    oracle._call(READ, 10.0)
    processes = (2, 1)
    for _ in range(17):
        oracle._call(READ, 11.0)
    assert oracle.violations == []
    processes = (3, 2)
    for _ in range(9):
        oracle._call(READ, 12.0)
    assert oracle.violations == []
    oracle._call(READ, 13.0)
    assert [one.promise for one in oracle.violations] == ["S4"]


@pytest.mark.parametrize(("arrival", "promise"), [(5.0, []), (90.0, ["S4"])])
def test_a_call_that_the_network_delays_counts_for_the_minute_in_which_it_was_sent(
    arrival: float, promise: list[str]
) -> None:
    """So a minute may have one more call than the budget allows."""
    oracle = judge(lambda: 10.0)
    oracle.late_calls.append(arrival)
    for _ in range(10):
        oracle._call(READ, 10.0)
    assert [one.promise for one in oracle.violations] == promise


@pytest.mark.parametrize(("named", "unasked"), [(ZONES[0], True), (ZONES[1], False)])
def test_what_was_not_configured_before_an_empty_configuration_is_not_lost_by_it(
    named: str, unasked: bool
) -> None:
    """A machine of a zone that was taken out earlier leaves when its lease ends."""
    world: Any = World.__new__(World)
    world.oracle, world.vms = judge(lambda: 0.0), list
    gone = Vm("linux-1-a-b", f"p/{ZONES[0]}/g", doomed=5.0)
    world.oracle.vms["1"] = gone
    kept = {"linux": Pool(TYPES[0], {named: 3})}
    assert _lost_unasked(world, 1.0, kept, most=True) is unasked


@pytest.mark.parametrize(
    ("removed", "backup", "promise"), [(True, 1.0, []), (True, 30.0, ["S1"]), (False, 1.0, ["S1"])]
)
def test_a_lease_whose_entity_was_removed_and_that_a_restored_catalog_denies_is_known_to_nobody(
    backup: float, promise: list[str], *, removed: bool
) -> None:
    """In either order; one store that knows it is enough to keep the machine."""
    for restored_first in (False, True):
        oracle = judge(lambda: 10.0)
        oracle.vms["1"], oracle._alive["vm"] = Vm("vm", "p/z/g", made=2.0, offered=3.0), "1"
        oracle.held["vm"] = Held("lease", "1", until=1800.0, since=10.0)
        if removed and not restored_first:
            oracle.entity_removed("vm")
        oracle.restored("machine-provider", backup)
        if removed and restored_first:
            oracle.entity_removed("vm")
        oracle._let_go("vm", "DELETED")
        row = VmRow(project="p", zone="z", name="vm", group="p/z/g", id="1")
        oracle._destroyed(row, "DELETING")
        assert [violation.promise for violation in oracle.violations] == promise


def test_the_vms_of_a_daemon_with_another_store_are_not_waited_for() -> None:
    """They stay when everything is taken out of the configuration; those of ours must leave."""
    world: Any = World.__new__(World)
    ours = VmRow(project="p", zone=ZONES[0], name="a", group="p/z/g", id="1", status="RUNNING")
    theirs = msgspec.structs.replace(ours, name="b", group="p/z/h", id="2")
    world.vms, world.pools = lambda: [ours, theirs], {}
    world.oracle = judge(lambda: 0.0)
    world.oracle.vms = {"1": Vm("a", "p/z/g"), "2": Vm("b", "p/z/h", elsewhere=True)}
    world.oracle.entries["b"] = Entry("AVAILABLE", "1", "", None)
    world.contradicted, world.strangers, world.clock = set(), set(), SystemClock()
    assert world.misses() == ["1 VMs, and none is wanted: ['a']"]


def store_types(world: Any, kinds: dict[str, str]) -> None:
    """Gives a world groups, each with a template of its own, by their machine types."""
    groups = {name: SimpleNamespace(template=name) for name in kinds}
    templates = {
        name: SimpleNamespace(properties={"machineType": kind}) for name, kind in kinds.items()
    }
    store = SimpleNamespace(groups=groups, templates=templates)
    world.services = {"compute": SimpleNamespace(_store=store)}


@pytest.mark.parametrize(("held", "missed"), [("new", 1), ("old", 2)])
def test_old_machines_are_too_many_where_the_kept_ones_are_the_present_revision_s(
    held: str, missed: int
) -> None:
    """A roll-out that does not end is no rest: the kept ones take the place of others."""
    world: Any = World.__new__(World)
    store_types(world, {"new": "e2-small", "old": "e2-medium"})
    vm = VmRow(project="p", zone="z", name="kept", group=held, id="0", status="RUNNING")
    old = msgspec.structs.replace(vm, name="free", group="old")
    pool = Pool("e2-small", {"z": 2})
    found = world._of_present_revision(pool, {"kept"}, [old], [vm, old])
    assert pool.sizes(2, 0.0).wanted(found, 1 - found) == missed


@pytest.mark.parametrize(
    ("group", "free", "missed"),
    [
        ("new", 1, []),
        ("new", 2, ["linux in z: 2 VMs, and 1 are needed"]),
        ("old", 1, []),
        ("old", 2, []),
        ("old", 3, ["linux in z: 3 VMs, and 2 are needed"]),
        ("old", 0, ["linux in z: 0 of 1 can be leased"]),
        ("another image", 2, []),
    ],
)
def test_a_kept_machine_of_an_earlier_revision_takes_the_place_of_no_other(
    group: str, free: int, missed: list[str]
) -> None:
    """The present revision's group has its minimum beside it; templates say which one that is."""
    world: Any = World.__new__(World)
    vm = VmRow(project="p", zone="z", name="kept", group=group, id="0", status="RUNNING")
    store_types(world, {"new": "e2-small", "old": "e2-medium", "another image": "e2-small"})
    rows = [msgspec.structs.replace(vm, name=f"n{i}", group="new") for i in range(free)]
    world.oracle = judge(lambda: 0.0)
    world.oracle.entries |= {row.name: Entry("AVAILABLE", "a", "", None) for row in rows}
    world.clock, world.contradicted = SystemClock(), set()
    world.oracle.remembered["kept"] = world.clock.now() + 1000.0
    pool = Pool("e2-small", {"z": 2})
    assert world._misses_of("linux", pool, ("z",), 2, [vm, *rows]) == missed


@pytest.mark.parametrize(("election", "at_work"), [(False, (7, 3)), (True, (5, 2))])
def test_a_daemon_with_another_store_has_a_budget_of_its_own(
    election: bool, at_work: tuple[int, int]
) -> None:
    """It counts as one that began, and works, beside ours."""
    world: Any = World.__new__(World)
    up = SimpleNamespace(is_up=True)
    world.nodes, world.guests, world.starts = [up, up], [up], 7
    world.shape, world._epoch = SimpleNamespace(election=election), lambda: 4
    assert world._at_work() == at_work


def test_the_judge_asks_the_daemon_that_leads() -> None:
    """One that stands by answers, and knows no conditions."""
    with contextlib.closing(SimulatedLoop()) as loop:
        node = Node("d1", WorldClock(loop))
    assert node.leads
    for term, leads in ((None, False), (object(), True)):
        node.daemon = cast("Any", SimpleNamespace(leadership=SimpleNamespace(term=term)))
        assert node.leads is leads


def test_a_failing_list_of_events_becomes_short() -> None:
    """Only what is needed to fail stays, in its order."""
    events = [Event(float(number), f"kind {number}", number) for number in range(40)]
    needed = {events[3], events[17], events[31]}
    runs = 0

    def fails(tried: Sequence[Event]) -> bool:
        nonlocal runs
        runs += 1
        return needed <= set(tried)

    assert minimal(events, fails, runs=1000) == [events[3], events[17], events[31]]
    assert runs < 120
