"""`gce-backend plan`: its words, its exit codes, and that it changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gce_backend.cli import main
from gce_backend.cli.comparison import compare
from gce_backend.cli.plan_text import told
from gce_backend.localcloud.faults import Fault
from support.fleet_harness import OTHER_ZONE, manager, template, world
from support.plain_texts import faults_in
from support.served_fleet import ServedFleet, served_fleet

READS = {
    "compute.images.get",
    "compute.machineTypes.get",
    "compute.networks.get",
    "compute.instanceGroupManagers.aggregatedList",
    "datastore.projects.runQuery",
    "luci_config.Configs.GetConfig",
    "metadata.instance.service-accounts.token",
}
"""All that `plan` calls."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFleet]:
    """A fleet of three machines whose daemon has stopped: nothing moves."""
    with served_fleet(tmp_path_factory.mktemp("config")) as fleet:
        names = fleet.machines()
        fleet.ask(fleet.daemon.abort)
        fleet.machines = lambda: names  # type: ignore[method-assign]  # of a daemon that has stopped
        yield fleet


@pytest.fixture
def fleet(place: ServedFleet) -> ServedFleet:
    """The fleet with the configuration that it has."""
    place.cloud.faults.clear()
    place.write(template(), manager())
    return place


@pytest.fixture
def proposed(tmp_path: Path) -> Path:
    """A directory with another machine type, and one template more."""
    new = template(machine_type="e2-medium") + template("win")
    (tmp_path / "templates.cfg").write_text(new)
    managers = manager(minimum=4, maximum=5) + manager("win", OTHER_ZONE, 2)
    (tmp_path / "managers.cfg").write_text(managers)
    return tmp_path


def test_a_fleet_as_configured_has_nothing_to_change(fleet: ServedFleet) -> None:
    """Exit code 0."""
    done = fleet.run("plan")
    assert done.exit_code == 0
    assert done.output.endswith("\n\nNo changes: the fleet is as this configuration wants it.\n")


def test_a_directory_not_yet_submitted_is_compared(fleet: ServedFleet, proposed: Path) -> None:
    """Exit code 2; each thing that would happen on a line, and all of it in one sentence."""
    done = fleet.run("plan", "--config", str(proposed))
    assert done.exit_code == 2
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{proposed} (revision ")
    assert lines[2:] == [
        "~ template linux: revision 74a47a08 -> 00c88a37",
        "    machine_type: e2-small -> e2-medium",
        "  + instance template linux-00c88a37",
        "  - instance template linux-74a47a08, once its groups are gone",
        (
            "  + group linux-00c88a37-usc1a in us-central1-a: 4 machines (2 at first: "
            "maximum_size 5 holds for old and new together)"
        ),
        "  - group linux-74a47a08-usc1a in us-central1-a: drains 3 machines",
        "",
        "+ template win: revision 74a47a08",
        "    dimensions.os_family: LINUX",
        "    disk_size_gb: 20",
        "    image_name: debian-12",
        "    machine_type: e2-small",
        "    project: local-project",
        "    service_accounts.default: https://www.googleapis.com/auth/pubsub",
        "    service_accounts[0]: default",
        "  + instance template win-74a47a08",
        "  + group win-74a47a08-euw1b in europe-west1-b: 2 machines",
        "",
        (
            "Plan: 2 groups to create (6 machines), 1 group to drain (3 machines), "
            "2 instance templates to create, 1 instance template to delete."
        ),
        "This change adds about 2.81 USD a day at the minimum sizes (4.02 in all).",
    ]


@pytest.mark.parametrize(
    ("minimum", "more", "says"),
    [
        (5, "maximum_size: 9", "3 -> 5 machines, maximum_size unset -> 9"),
        (3, "maximum_size: 9 spare_size: 2", "maximum_size unset -> 9, spare_size unset -> 2; "),
        (2, "max_surge: 1", "3 -> 2 machines: 1 idle machine removed, max_surge unset -> 1"),
    ],
)
def test_every_field_of_a_manager_that_changes_is_told(
    fleet: ServedFleet, tmp_path: Path, minimum: int, more: str, says: str
) -> None:
    """Also beside another number of machines."""
    (tmp_path / "templates.cfg").write_text(template())
    changed = manager(minimum=minimum).replace("minimum_size", f"{more} minimum_size")
    (tmp_path / "managers.cfg").write_text(changed)
    done = fleet.run("plan", "--config", str(tmp_path))
    assert f"-usc1a in us-central1-a: {says}" in done.stdout
    assert faults_in(done.stdout) == []


def test_an_image_family_is_told_with_the_image_that_it_stands_for(
    fleet: ServedFleet, tmp_path: Path
) -> None:
    """As Compute has it now; while Compute does not say, the plan says so."""
    (tmp_path / "templates.cfg").write_text(template(image_name="", image_family="tools"))
    (tmp_path / "managers.cfg").write_text(manager())
    done = fleet.run("plan", "--config", str(tmp_path))
    image = "tools-v20261110"
    assert f"    image_name: debian-12 -> {image}" in done.stdout.splitlines()
    assert f"the newest image of the family local-project/tools is {image}" in done.stdout
    fault = Fault(method="compute.images.getFromFamily", status=403, reason="forbidden")
    fleet.cloud.faults.add(fault)
    done = fleet.run("plan", "--config", str(tmp_path))
    assert "local-project/tools could not be looked up: an unknown image counts" in done.stdout


def test_the_plan_as_json_says_the_same(fleet: ServedFleet, proposed: Path) -> None:
    """Numbers, and each group with the machines that would go."""
    document = fleet.json("plan", "--config", str(proposed))
    assert document["changes"] is True
    totals = document["totals"]
    assert (totals["create"], totals["create_machines"], totals["drain"]) == (2, 6, 1)
    groups = [group for one in document["templates"] for group in one["groups"]]
    drained = [name for one in groups if one["action"] == "drain" for name in one["machines"]]
    assert sorted(drained) == sorted(fleet.machines())


@pytest.mark.parametrize("source", ["directory", "luci-v2"])
def test_nothing_is_written_anywhere(fleet: ServedFleet, proposed: Path, source: str) -> None:
    """Whatever the source: all that is called only reads."""
    fleet.cloud.calls.clear()
    for arguments in ((), ("--config", str(proposed))):
        done = fleet.run("plan", *arguments, GCE_BACKEND_CONFIG__SOURCE=source)
        assert done.exit_code in {0, 2}, done.output
    called = set(fleet.cloud.calls)
    assert {"compute.instanceGroupManagers.aggregatedList", "datastore.projects.runQuery"} <= called
    assert called <= READS
    assert ("luci_config.Configs.GetConfig" in called) == (source == "luci-v2")


def test_a_wrong_configuration_is_told_as_validate_tells_it(
    fleet: ServedFleet, proposed: Path
) -> None:
    """Exit code 1; from a directory and from the source alike."""
    managers = manager(minimum=9, maximum=2)
    (proposed / "managers.cfg").write_text(managers)
    said = fleet.run("validate", str(proposed))
    done = fleet.run("plan", "--config", str(proposed))
    assert (done.exit_code, done.output) == (1, said.output)
    fleet.write((proposed / "templates.cfg").read_text(), managers)
    configured = fleet.run("plan")
    assert (configured.exit_code, configured.stdout) == (1, said.stdout)


def test_a_directory_that_is_not_there_is_an_error(fleet: ServedFleet) -> None:
    """A typing error in its name."""
    done = fleet.run("plan", "--config", "nowhere")
    assert done.exit_code == 1
    assert "there is no such directory" in done.output


def test_wrong_usage_is_not_taken_for_changes(fleet: ServedFleet) -> None:
    """Of this command, 2 says that something would change."""
    done = fleet.run("plan", "--colour", "red")
    assert done.exit_code == 1
    assert "No such option '--colour'" in done.output
    assert fleet.run("status", "--colour", "red").exit_code == 2


def test_a_plan_that_would_be_held_says_how_to_approve_it(
    fleet: ServedFleet, proposed: Path
) -> None:
    """By its revision where that is known, once a daemon has seen it and holds it."""
    fleet.write(template(), "")
    document = fleet.json("plan")
    revision = document["revision"]
    assert "removes 3 of 3 machines" in document["held"]
    assert f"`gce-backend approve {revision}`" in fleet.run("plan").output
    (proposed / "managers.cfg").write_text("")
    assert "approve REVISION" in fleet.json("plan", "--config", str(proposed))["held"]
    assert "none does" in fleet.run("approve", revision).output


def test_pauses_are_told(fleet: ServedFleet) -> None:
    """What would happen does not happen yet; both ways to pause are named."""
    assert fleet.run("pause", "--template", "linux", "--reason", "a leak").exit_code == 0
    try:
        notes = fleet.json("plan", GCE_BACKEND_ACTUATE="false")["notes"]
    finally:
        assert fleet.run("resume", "--all").exit_code == 0
    assert any("actuate = false" in note for note in notes)
    assert any("a leak" in note and "resume --template linux" in note for note in notes)


def test_without_compute_the_machines_in_the_store_are_counted(fleet: ServedFleet) -> None:
    """And the plan says so."""
    fault = Fault(method="compute.*", status=403, reason="forbidden", times=None)
    fleet.cloud.faults.add(fault)
    fleet.write(template(), manager(minimum=5))
    document = fleet.json("plan")
    assert fault.fired
    assert any("machines in the store are counted" in note for note in document["notes"])
    (group,) = document["templates"][0]["groups"]
    assert (group["action"], group["size"], group["goal"]) == ("resize", 3, 5)


def test_an_unreadable_store_is_an_error(fleet: ServedFleet) -> None:
    """Exit code 1, a message, and no plan from half of a picture."""
    fault = Fault(method="datastore.*", status=403, reason="PERMISSION_DENIED", times=None)
    fleet.cloud.faults.add(fault)
    done = fleet.run("plan")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "PERMISSION_DENIED" in done.stderr


def test_colours_are_for_terminals_that_want_them(fleet: ServedFleet, proposed: Path) -> None:
    """None in a pipe, none with --no-color or NO_COLOR, wherever the option stands."""

    def output(*arguments: str, terminal: bool, **environment: str) -> str:
        variables = {**fleet.environment, **environment}
        done = CliRunner().invoke(main, list(arguments), env=variables, color=terminal)
        assert done.exit_code == 2
        return done.output

    plan = ("plan", "--config", str(proposed))
    assert "\x1b[" in output(*plan, terminal=True)
    for plain in (
        output(*plan, terminal=False),
        output(*plan, "--no-color", terminal=True),
        output("--no-color", *plan, terminal=True),
        output(*plan, terminal=True, NO_COLOR="1"),
    ):
        assert "\x1b" not in plain


async def test_what_is_under_way_and_whom_it_waits_for_is_told(tmp_path: Path) -> None:
    """While an old revision drains: the lease and its end, and that it was asked for before."""
    async with world(tmp_path, managers=manager(minimum=1)) as w:
        leased = await w.lease()
        w.write_config(template(machine_type="e2-medium"), manager(minimum=1))
        await w.until_states(leased=1, cataloged=1)
        lines = [click.unstyle(line) for line in told(await compare(w.settings, None))]
        assert (
            "  - group linux-74a47a08-usc1a in us-central1-a: drains 1 machine, waits for 1 leased "
            "(under way)" in lines
        )
        assert any(line.startswith(f"        {leased} is leased until 20") for line in lines)
        assert lines[-1].startswith("Plan: 1 group to drain (1 machine, 1 leased until 20")
