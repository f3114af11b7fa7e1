"""The orders as commands: written to Datastore, with no daemon anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from gce_backend.cli import main
from gce_backend.clients.datastore.client import Delete, Mutation, Unindexed, Upsert
from gce_backend.configuration.types import TemplateConfig
from gce_backend.daemon.clients import Clients
from gce_backend.fleet.picture import Change, Fleet
from gce_backend.fleet.store import Store
from gce_backend.localcloud.faults import Fault
from gce_backend.model.entities import (
    CONFIGURATION_KEY,
    CONTROL_KEY,
    STORE_SCHEMA_KEY,
    Candidate,
    CandidateState,
    CatalogState,
    Deletion,
    Entity,
    Instance,
    InstanceGroupManager,
    InstanceTemplate,
    InstanceTemplateRevision,
    Lease,
    PendingDeletion,
    Permit,
    SetAsideMessage,
    StoredConfiguration,
)
from gce_backend.model.keys import Key, MachineKey, manager_key
from gce_backend.model.orders import Control, Drain
from support.patience import PATIENCE
from support.served_cloud import ACCOUNT, PROJECT, ServedCloud, served_cloud

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def served() -> Iterator[ServedCloud]:
    """One cloud for all tests of this module: each sets what it looks at."""
    with served_cloud() as running:
        yield running


@pytest.fixture
def command(served: ServedCloud) -> Command:
    """Runs a command against the cloud."""

    def invoke(*arguments: str, **environment: str) -> Result:
        variables = {**served.environment, **environment}
        return CliRunner().invoke(main, list(arguments), env=variables)

    return invoke


def moment(ahead: float) -> Any:
    """So many seconds from now, or from when a slow command read the clock."""
    return pytest.approx(time.time() + ahead, abs=PATIENCE / 2)


def stored(served: ServedCloud) -> Control:
    """The Control entity."""

    async def read(clients: Clients) -> Control:
        fleet = Fleet(Store(clients.datastore(PROJECT)))
        await fleet.refresh([CONTROL_KEY])
        return fleet.control

    return served.ask(read)


def stored_machine(served: ServedCloud, key: MachineKey) -> Instance:
    """A machine's entity."""

    async def read(clients: Clients) -> Instance:
        fleet = Fleet(Store(clients.datastore(PROJECT)))
        await fleet.refresh([key])
        return fleet.instances[key]

    return served.ask(read)


def store_machine(
    served: ServedCloud, key: MachineKey, machine: Instance, *, active: bool = True
) -> None:
    """Makes a machine's entity read so; above it are its template and group."""
    revision = key.lineage[2]
    above: dict[Key, Any] = {
        key.lineage[3]: InstanceTemplate(active=revision.name if active else None),
        revision: InstanceTemplateRevision(
            template=TemplateConfig(base_name="linux"), active=("zone-a",)
        ),
        key.lineage[1]: InstanceGroupManager(minimum_size=1),
    }

    async def write(clients: Clients) -> None:
        fleet = Fleet(Store(clients.datastore(PROJECT)))
        entities = {**above, key: machine}
        await fleet.refresh(entities)
        await fleet.change([_becomes(at, new) for at, new in entities.items()])

    served.ask(write)


def _becomes(key: Key, entity: Entity) -> Change[Any]:
    return Change(key, lambda _: entity)


@pytest.fixture
def machine(served: ServedCloud) -> MachineKey:
    """A fleet of one machine; nothing is paused or drained."""
    key = manager_key("linux", "0" * 40, "zone-a").child("vm-1")
    store_machine(served, key, Instance(gce_id=7, url="u"))

    async def forget(clients: Clients) -> None:
        fleet = Fleet(Store(clients.datastore(PROJECT)))
        await fleet.refresh([CONTROL_KEY])
        await fleet.change([Change(CONTROL_KEY, lambda _: None)])

    served.ask(forget)
    return key


def test_pause_and_resume_are_stored(served: ServedCloud, command: Command) -> None:
    """The reason and the moment are kept; resumed, nothing of it is left."""
    done = command("pause", "--reason", "a leak in the roof")
    assert (done.exit_code, done.output.splitlines()[0][:7]) == (0, "paused.")
    found = stored(served)
    assert (found.paused, found.pause_reason) == (True, "a leak in the roof")
    assert found.paused_since == moment(0)
    assert command("pause", "--reason", "still").exit_code == 0
    assert stored(served).paused_since == found.paused_since
    assert command("resume").exit_code == 0
    after = stored(served)
    assert (after.paused, after.pause_reason, after.paused_since) == (False, "", None)


def test_resume_says_when_the_settings_pause(command: Command) -> None:
    """The operator learns why the daemon will stay paused."""
    done = command("resume", GCE_BACKEND_ACTUATE="false")
    assert done.exit_code == 0
    assert "actuate = false" in done.output


def test_a_part_of_the_fleet_is_paused_and_resumed(
    served: ServedCloud, command: Command, machine: MachineKey
) -> None:
    """Each pause by its own scope; what stays in force is named, with the command that ends it."""
    assert command("pause", "--reason", "all").exit_code == 0
    done = command("pause", "--template", "linux", "--reason", "a leak")
    assert (done.exit_code, done.output) == (
        0,
        "paused for template linux. A running daemon acts on it within a minute.\n",
    )
    assert command("pause", "--template", "linux", "--zone", "zone-a").exit_code == 0
    assert [found.scope for found in stored(served).pauses] == [
        "template linux",
        "template linux in zone zone-a",
    ]
    ended = command("resume", "--template", "linux", "--zone", "zone-a")
    assert ended.output.splitlines() == [
        "resumed for template linux in zone zone-a. A running daemon acts on it within a minute.",
        (
            f"Paused by {ACCOUNT} (everything): all. It stays in force; "
            "`gce-backend resume` ends it."
        ),
        (
            f"Paused by {ACCOUNT} (template linux): a leak. It stays in force; "
            "`gce-backend resume --template linux` ends it."
        ),
    ]
    again = command("resume", "--template", "linux", "--zone", "zone-a")
    assert (again.exit_code, again.output.splitlines()[0]) == (
        0,
        "nothing was paused for template linux in zone zone-a.",
    )
    assert len(command("resume", "--all").output.splitlines()) == 1
    assert stored(served).pauses_in_force == ()


@pytest.mark.parametrize(
    ("arguments", "known"),
    [
        (["--template", "lunix"], "Known: linux."),
        (["--zone", "mars"], "Known: zone-a."),
        (["--template", "linux", "--zone", "mars"], "Known: zone-a."),
    ],
)
def test_a_pause_of_what_is_not_there_names_what_is(
    served: ServedCloud, command: Command, machine: MachineKey, arguments: list[str], known: str
) -> None:
    """Exit code 1, and nothing is stored."""
    done = command("pause", *arguments)
    assert done.exit_code == 1
    assert known in done.output
    assert stored(served).pauses == ()


def test_all_pauses_and_one_pause_exclude_each_other(command: Command) -> None:
    """A usage error, exit code 2."""
    assert command("resume", "--all", "--zone", "zone-a").exit_code == 2


def test_drain_and_undrain_are_stored(
    served: ServedCloud, command: Command, machine: MachineKey
) -> None:
    """By name or by key; each tells the daemons which machine to read again."""
    done = command("drain", machine.name, "--reason", "its disk rattles")
    assert done.exit_code == 0
    assert done.output == (
        "vm-1: It leaves the catalog and is deleted. "
        "Its group grows back if it has fewer than 1 then. "
        "A running daemon acts on it within a minute.\n"
    )
    found = stored_machine(served, machine).drain
    assert found is not None
    assert found.reason == "its disk rattles"
    assert found.since == moment(0)
    first = stored(served).machine_orders
    assert [order.machine for order in first] == [machine]
    assert command("undrain", str(machine)).output.startswith("vm-1: It is no longer drained.")
    assert stored_machine(served, machine).drain is None
    assert stored(served).machine_orders != first


def test_a_group_that_does_not_grow_back_is_not_said_to(
    served: ServedCloud, command: Command, machine: MachineKey
) -> None:
    """The configuration no longer names it; or a pause keeps everything as it is."""
    assert command("pause", "--zone", "zone-a").exit_code == 0
    said = command("drain", machine.name).output
    assert "until `gce-backend resume --zone zone-a` ends the pause." in said
    assert command("resume", "--all").exit_code == 0
    store_machine(served, machine, Instance(gce_id=7), active=False)
    said = command("drain", machine.name).output
    assert "Its group does not grow back: the configuration no longer names it." in said


@pytest.mark.parametrize(
    ("state", "outlook"),
    [
        (Instance(lease=Lease(1.0, 4_000_000_000.0)), "Somebody holds it until 2096-10-02 07:06"),
        (Instance(lease=Lease(1.0)), "Somebody holds it: it is deleted after its lease ends"),
        (Instance(pending_deletion=PendingDeletion("", 1.0)), "it is deleted anyway"),
        (Instance(deletion=Deletion(Permit.REMOVED, 1.0, 1.0, "x")), "deletion has begun already"),
    ],
)
def test_drain_says_what_becomes_of_the_machine(
    served: ServedCloud, command: Command, machine: MachineKey, state: Instance, outlook: str
) -> None:
    """Who gives the order learns why it may take a while."""
    store_machine(served, machine, state)
    done = command("drain", machine.name)
    assert done.exit_code == 0
    assert outlook in done.output


@pytest.mark.parametrize(
    ("state", "kept", "freed"),
    [
        (Instance(), "It leaves the catalog, and its VM is kept.", "It is offered again."),
        (Instance(lease=Lease(1.0)), "Somebody holds it: it leaves the catalog after", "offered"),
        (
            Instance(pending_deletion=PendingDeletion("", 1.0)),
            "kept",
            "reclaimed it: it is deleted",
        ),
        (Instance(drain=Drain()), "is kept", "It is drained: it is deleted."),
        (Instance(catalog=CatalogState.ABSENT), "is kept", "The catalog lost it: it is deleted."),
    ],
)
def test_cordon_and_uncordon_say_what_becomes_of_the_machine(
    served: ServedCloud,
    command: Command,
    machine: MachineKey,
    state: Instance,
    kept: str,
    freed: str,
) -> None:
    """Both are stored; while it is cordoned, a drain says what it waits for."""
    store_machine(served, machine, state)
    assert kept in command("cordon", machine.name, "--reason", "a look").output
    found = stored_machine(served, machine).cordon
    assert found is not None
    assert found.reason == "a look"
    said = command("drain", machine.name).output if state.drain is None else ""
    assert not said or "after `gce-backend uncordon vm-1`" in said
    if said:
        assert command("undrain", machine.name).exit_code == 0
    assert freed in command("uncordon", machine.name).output
    assert stored_machine(served, machine) == state


def test_a_machine_that_is_not_there_is_refused_with_names_that_look_like_it(
    command: Command,
    machine: MachineKey,
) -> None:
    """A slip of the pen is told from a machine that is gone."""
    assert machine.name == "vm-1"
    near = command("drain", "vm-l")
    assert near.exit_code == 1
    assert "there is no machine 'vm-l'. Do you mean vm-1?" in near.output
    assert "gce-backend machines" in command("drain", "nothing-like-it").output


def test_undrain_comes_too_late_for_a_deletion_that_has_begun(
    served: ServedCloud, command: Command, machine: MachineKey
) -> None:
    """Exit code 1; the entity stays as it was."""
    dying = Instance(deletion=Deletion(Permit.REMOVED, 1.0, 1.0, "x"))
    store_machine(served, machine, dying)
    done = command("undrain", machine.name)
    assert done.exit_code == 1
    assert "has begun: it cannot stay" in done.output
    assert stored_machine(served, machine) == dying


@pytest.mark.parametrize("order", ["drain", "undrain", "cordon", "uncordon"])
def test_a_machine_that_is_not_there_is_no_machine(
    served: ServedCloud, command: Command, machine: MachineKey, order: str
) -> None:
    """Exit code 1, with where to look; no daemon is told anything."""
    before = stored(served)
    done = command(order, "vm-2")
    assert done.exit_code == 1
    assert "no machine 'vm-2'" in done.output
    assert stored(served) == before


def test_reasons_have_an_end(command: Command, machine: MachineKey) -> None:
    """Exit code 1 for both orders that take one."""
    for arguments in (["pause"], ["drain", machine.name]):
        done = command(*arguments, "--reason", "x" * 501)
        assert (done.exit_code, "500 characters" in done.output) == (1, True)


def test_orders_speak_json(command: Command, machine: MachineKey, held: str) -> None:
    """What is in force afterwards, for programs; of a machine, how it is meant to go on."""
    document = json.loads(command("pause", "--zone", "zone-a", "--reason", "r", "--json").output)
    (pause,) = document["pauses"]
    assert (pause["scope"], pause["template"], pause["reason"]) == ("zone zone-a", None, "r")
    assert json.loads(command("resume", "--all", "--json").output)["pauses"] == []
    approved = json.loads(command("approve", HELD, "--json").output)
    assert approved["approved_revision"] == HELD
    assert json.loads(command("lift-cap", "--json").output)["cap_lifted_until"] > time.time()
    (drained,) = told_of(command("drain", machine.name, "--reason", "r", "--json"))
    assert (drained["key"], drained["drained"], drained["reason"]) == (str(machine), True, "r")
    (undrained,) = told_of(command("undrain", machine.name, "--json"))
    assert undrained["drained"] is False


def told_of(done: Result) -> list[dict[str, Any]]:
    """The machines that an order tells of in JSON."""
    document = json.loads(done.output)
    assert document["dry_run"] is False
    machines: list[dict[str, Any]] = document["machines"]
    return machines


def test_a_selector_chooses_the_machines_of_an_order(
    served: ServedCloud, command: Command, machine: MachineKey
) -> None:
    """Each once, with those that are named; a dry run changes nothing; a dying one is left out."""
    other, dying = (machine.group.child(name) for name in ("vm-2", "vm-3"))
    old = Instance(listed_since=1.0)
    for key in (machine, other):
        store_machine(served, key, old)
    store_machine(served, dying, Instance(deletion=Deletion(Permit.REMOVED, 1.0, 1.0, "x")))
    chosen = ("vm-1", "--selector", "template=linux,age>1d", "--max-unavailable", "1")
    said = command("drain", *chosen, "--dry-run").output
    assert said == "vm-1: Nothing is changed.\nvm-2: Nothing is changed.\n"
    assert [stored_machine(served, key).drain for key in (machine, other)] == [None, None]
    said = command("drain", *chosen, "--reason", "old").output
    assert said.count("once at most 1 of its template and zone are lacking and is deleted") == 2
    for key in (machine, other):
        drain = stored_machine(served, key).drain
        assert drain is not None
        assert (drain.reason, drain.max_unavailable) == ("old", 1)
    assert {order.machine for order in stored(served).machine_orders} == {machine, other}
    assert "vm-2: It is no longer drained" in command("undrain", "-l", "state=draining").output


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "name machines, or choose them with --selector"),
        (("-l", "zone"), 2, "'zone' is no term of a selector"),
        (("-l", "zone=mars"), 1, "the selector matches no machine"),
        (("vm-1", "vm-9"), 1, "there is no machine 'vm-9'"),
    ],
)
def test_an_order_about_no_machine_is_refused(
    served: ServedCloud,
    command: Command,
    machine: MachineKey,
    arguments: tuple[str, ...],
    code: int,
    says: str,
) -> None:
    """And nothing is stored, also of those that exist."""
    done = command("drain", *arguments)
    assert (done.exit_code, says in done.output) == (code, True)
    assert stored_machine(served, machine).drain is None


def hold(served: ServedCloud, revision: str) -> None:
    """Lets a revision wait for approval; "" lets none wait."""
    waits = Candidate(revision, CandidateState.HELD, "it takes away 9 of 9 machines", 1.0)

    async def write(clients: Clients) -> None:
        def apply(found: StoredConfiguration | None) -> StoredConfiguration:
            candidate = waits if revision else None
            return msgspec.structs.replace(found or StoredConfiguration(), candidate=candidate)

        fleet = Fleet(Store(clients.datastore(PROJECT)))
        await fleet.refresh([CONFIGURATION_KEY])
        await fleet.change([Change(CONFIGURATION_KEY, apply)])

    served.ask(write)


HELD = "0123abcd" + "e" * 32


@pytest.fixture
def held(served: ServedCloud) -> Iterator[str]:
    """A revision that waits for approval."""
    hold(served, HELD)
    yield HELD
    hold(served, "")


def test_line_14_approve_takes_the_beginning_of_what_waits_and_is_stored_once(
    served: ServedCloud, command: Command, machine: MachineKey, held: str
) -> None:
    """The second time it says so, and exits 0 as well."""
    first = command("approve", "0123")
    assert first.output.startswith(f"{held} is approved. A running daemon")
    assert stored(served).approved_revision == held
    again = command("approve", held)
    assert again.exit_code == 0
    assert again.output.startswith(f"{held} was approved before.")


@pytest.mark.parametrize(
    ("waits", "given", "says"),
    [
        (HELD, "b" * 40, f"does not wait for approval: {HELD} does"),
        (HELD, "012", f"does not wait for approval: {HELD} does"),
        (HELD, f"{HELD}0", f"does not wait for approval: {HELD} does"),
        ("", HELD, "does not wait for approval: none does"),
    ],
)
def test_line_14_approve_refuses_what_does_not_wait(
    served: ServedCloud, command: Command, waits: str, given: str, says: str
) -> None:
    """It names the right one, and an earlier approval stays as it was."""
    hold(served, waits)
    before = stored(served)
    refused = command("approve", given)
    assert refused.exit_code == 1
    assert says in refused.output
    assert stored(served) == before
    hold(served, "")


def test_line_14_messages_are_acknowledged_in_the_store(
    served: ServedCloud, command: Command
) -> None:
    """All of them, or those that are named; one that is not kept is refused."""
    key = Key(SetAsideMessage.KIND, "m1")

    async def keep(clients: Clients) -> None:
        fleet = Fleet(Store(clients.datastore(PROJECT)))
        await fleet.refresh([key])
        await fleet.change([Change(key, lambda _: SetAsideMessage("odd", 1.0, "{}"))])

    async def seen(clients: Clients) -> bool:
        fleet = Fleet(Store(clients.datastore(PROJECT)))
        await fleet.refresh([key])
        return fleet.set_aside[key].seen is not None

    served.ask(keep)
    assert command("messages").output.split() == [
        *("ID", "RECEIVED", "SEEN", "BY", "REASON", "AND", "DATA"),
        *("m1", "1970-01-01", "00:00:01", "UTC", "-", "odd", "{}"),
    ]
    refused = command("messages", "ack", "m2")
    assert (refused.exit_code, "no message 'm2' is set aside" in refused.output) == (1, True)
    assert not served.ask(seen)
    assert command("messages", "ack", "m1").output == "1 message acknowledged\n"
    assert served.ask(seen)
    assert command("messages", "ack").output == "0 messages acknowledged\n"
    (listed,) = json.loads(command("messages", "list", "m1", "--json").output)["set_aside"]
    assert (listed["message_id"], listed["reason"], bool(listed["seen"])) == ("m1", "odd", True)
    assert command("messages", "list", "m2").exit_code == 1


@pytest.mark.parametrize("revision", ["", "two words", "a\nb", "x" * 201, "rév"])
def test_approve_refuses_what_is_no_revision(
    served: ServedCloud, command: Command, revision: str
) -> None:
    """It says where to find the right one, and changes nothing."""
    before = stored(served)
    done = command("approve", revision)
    assert done.exit_code == 1
    assert "GET /api/control" in done.output
    assert stored(served) == before


def test_lift_cap_is_stored_and_ended(served: ServedCloud, command: Command) -> None:
    """Ten minutes unless told otherwise; 0 ends it."""
    assert command("lift-cap").exit_code == 0
    assert stored(served).cap_lifted_until == moment(600)
    assert command("lift-cap", "--minutes", "3").exit_code == 0
    assert stored(served).cap_lifted_until == moment(180)
    assert command("lift-cap", "--minutes", "0").exit_code == 0
    assert stored(served).cap_lifted_until <= time.time()


@pytest.mark.parametrize("minutes", ["-1", "1441", "nan", "1.5", "soon"])
def test_lift_cap_refuses_senseless_times(command: Command, minutes: str) -> None:
    """A usage error, exit code 2."""
    assert command("lift-cap", "--minutes", minutes).exit_code == 2


def test_an_order_leaves_the_other_orders_alone(
    served: ServedCloud, command: Command, held: str
) -> None:
    """All of them are in one entity."""
    for arguments in (["approve", held], ["lift-cap"], ["pause"]):
        assert command(*arguments).exit_code == 0
    found = stored(served)
    assert (found.paused, found.approved_revision) == (True, held)
    assert found.cap_lifted_until > time.time()
    command("resume")


def test_an_order_that_cannot_be_stored_says_so(served: ServedCloud, command: Command) -> None:
    """A message and exit code 1, no traceback; nothing is claimed to be done."""
    fault = Fault(method="datastore.projects.lookup", status=403, reason="PERMISSION_DENIED")
    fault.times = None
    served.cloud.faults.add(fault)
    done = command("pause")
    served.cloud.faults.clear()
    assert fault.fired > 0
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert "PERMISSION_DENIED" in done.output
    assert "paused" not in done.output
    assert not stored(served).paused


def test_localcloud_prints_its_url_first(tmp_path: Path) -> None:
    """Alone on the first line of standard output, for scripts; SIGTERM ends it with 0."""
    arguments = ["localcloud", "--port", "0", "--state", str(tmp_path / "s.sqlite")]
    with subprocess.Popen(
        [sys.executable, "-m", "gce_backend", *arguments, "--config", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(f"{url}/_localcloud/calls", timeout=PATIENCE) as response:  # noqa: S310
            assert response.status == 200
        process.terminate()
        assert process.wait(timeout=PATIENCE) == 0


def test_orders_that_cannot_be_understood_are_not_passed_over(
    command: Command, served: ServedCloud
) -> None:
    """The command says what is wrong, and does not claim to have paused anything."""

    async def write(clients: Clients, mutation: Mutation) -> None:
        await clients.datastore(PROJECT).commit([mutation])

    spoiled = Upsert(CONTROL_KEY.path, {"pauses": Unindexed("{")})
    served.ask(lambda clients: write(clients, spoiled))
    done = command("pause", "--reason", "looking")
    served.ask(lambda clients: write(clients, Delete(CONTROL_KEY.path, None)))
    assert done.exit_code == 1
    assert "cannot be understood: correct it, or delete it" in done.output
    assert "paused." not in done.output
    assert command("pause").exit_code == 0
    assert command("resume").exit_code == 0


def test_no_order_is_written_to_a_store_of_a_newer_release(
    served: ServedCloud, command: Command
) -> None:
    """The message names both versions."""

    async def write(clients: Clients) -> None:
        properties = {"version": Unindexed(99), "release": Unindexed("9.0.0")}
        await clients.datastore(PROJECT).commit([Upsert(STORE_SCHEMA_KEY.path, properties)])

    async def remove(clients: Clients) -> None:
        await clients.datastore(PROJECT).commit([Delete(STORE_SCHEMA_KEY.path, None)])

    served.ask(write)
    try:
        for arguments in (("pause",), ("configure", "--config-set", "services/x")):
            done = command(*arguments)
            assert done.exit_code == 1
            assert "the store has schema version 99" in done.output
    finally:
        served.ask(remove)
