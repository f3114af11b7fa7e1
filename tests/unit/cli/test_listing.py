"""`machines`, `groups` and `templates`: lists for people and for scripts."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from support.served_fleet import ServedFleet, served_fleet


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFleet]:
    """A daemon with three machines, of which one is cordoned."""
    with served_fleet(tmp_path_factory.mktemp("config")) as running:
        running.order("/api/cordon", name=min(running.machines()))
        running.until(lambda: "cordoned" in running.run("machines").output)
        yield running


def names(fleet: ServedFleet, *arguments: str) -> list[str]:
    """The names that a list prints."""
    done = fleet.run(*arguments, "-o", "name")
    assert done.exit_code == 0, done.output
    return done.stdout.split()


def test_machines_are_listed_with_state_and_age(fleet: ServedFleet) -> None:
    """A line for each, with the same words as everywhere."""
    head, *lines = fleet.run("machines").stdout.splitlines()
    assert head.split() == ["NAME", "TEMPLATE", "ZONE", "STATE", "AGE", "LEASE"]
    assert [line.split()[0] for line in lines] == sorted(fleet.machines())
    assert [line.split()[3] for line in lines] == ["cordoned", "cataloged", "cataloged"]
    assert all(line.split()[4].endswith("s") for line in lines)
    wide = fleet.run("machines", "-o", "wide").stdout
    assert "CATALOG" in wide.splitlines()[0]
    assert "Cordoned by operator." in wide


@pytest.mark.parametrize(
    ("selector", "count"),
    [
        ("", 3),
        ("state=cordoned", 1),
        ("state!=cordoned", 2),
        ("template=linux,lease=no", 3),
        ("zone=mars", 0),
        ("age>1d", 0),
        ("age<1d,state=cataloged,state=cordoned", 3),
    ],
)
def test_a_selector_chooses(fleet: ServedFleet, selector: str, count: int) -> None:
    """The daemon's own words for states; ages and leases, too."""
    assert len(names(fleet, "machines", "-l", selector)) == count


def test_lists_are_sorted_as_asked(fleet: ServedFleet) -> None:
    """By name, or what is looked for first."""
    assert names(fleet, "machines", "--sort", "name") == sorted(fleet.machines())
    assert names(fleet, "machines", "--sort", "state")[-1] == min(fleet.machines())
    assert set(names(fleet, "machines", "--sort", "age")) == set(fleet.machines())


def test_groups_and_templates_are_listed(fleet: ServedFleet) -> None:
    """With what the configuration asks for, and what there is."""
    (group,) = msgspec.json.decode(fleet.run("groups", "-o", "json").stdout)["groups"]
    assert (group["template"], group["minimum"], group["target"]) == ("linux", 3, 3)
    assert group["machines"] == {"cataloged": 2, "cordoned": 1}
    head, line = fleet.run("groups", "-o", "wide").stdout.splitlines()
    assert head.split()[:5] == ["NAME", "TEMPLATE", "ZONE", "STATE", "MIN"]
    assert line.split()[0] == group["name"]
    (template,) = msgspec.json.decode(fleet.run("templates", "-o", "json").stdout)["templates"]
    assert (template["name"], template["zones"]) == ("linux", [group["zone"]])
    assert names(fleet, "templates", "-l", "state=active") == ["linux"]
    assert names(fleet, "groups", "-l", "template=other") == []


@pytest.mark.parametrize("command", ["machines", "groups", "templates"])
def test_a_selector_that_cannot_be_understood_says_what_would_be(
    fleet: ServedFleet, command: str
) -> None:
    """Exit code 1, and the syntax."""
    done = fleet.run(command, "-l", "linux")
    assert done.exit_code == 1
    assert "write terms such as template=linux-small" in done.output


def test_nothing_is_said_of_nothing(fleet: ServedFleet) -> None:
    """An empty list for scripts, a word for people."""
    done = fleet.run("machines", "-l", "zone=mars")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "no machines match" in done.stderr
