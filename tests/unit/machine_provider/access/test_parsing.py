"""access.cfg: read whole, or refused with every problem, its line and its remedy."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.configuration.problems import InvalidConfigurationError
from gce_backend.machine_provider.access.parsing import parse_access
from gce_backend.machine_provider.access.policy import GCLOUD_CLIENTS, Role

WHOLE = """\
client_ids: "portal.apps.googleusercontent.com"
issuers {
  url: "https://accounts.google.com"
  audiences: "https://mp.example.com"
  email_domains: "*"
}
issuers { url: "https://ci.example.com" audiences: "mp" }
groups {
  name: "lab"
  members: "*@example.com"
  members: "Ann@Example.org"
  workloads { issuer: "https://ci.example.com" claims: "repository:org/*" }
  roles: [USER, ADMINISTRATOR, BACKEND]
  backend: "GCE"
  priority: 5
  share: 3
  max_leases: 10
  max_machines: 20
  max_waiting: 9
  longest_lease: "1d12h"
  without_end: true
  dimensions: "os_family:LINUX"
  max_held: 2
  longest_hold: "90m"
  hold_failed: "1h"
  transfer_to: "desk"
}
groups { name: "desk" members: "desk@example.com" roles: USER }
"""


def problems_of(text: str) -> list[str]:
    """What is wrong with a file, a line each."""
    with pytest.raises(InvalidConfigurationError) as refused:
        parse_access(text)
    return str(refused.value).splitlines()


def test_every_field_is_read() -> None:
    """As it is written; addresses in lower case, times in seconds."""
    policy = parse_access(WHOLE)
    assert policy.client_ids == ("portal.apps.googleusercontent.com",)
    assert [issuer.url for issuer in policy.issuers] == [
        "https://accounts.google.com",
        "https://ci.example.com",
    ]
    group, desk = policy.groups
    limits = group.limits
    assert group.members == ("*@example.com", "ann@example.org")
    assert group.roles == {Role.USER, Role.ADMINISTRATOR, Role.BACKEND}
    assert (limits.priority, limits.share, limits.max_leases) == (5, 3, 10)
    assert (limits.max_machines, limits.longest_lease, limits.without_end) == (20, 129_600, True)
    assert (limits.max_held, limits.longest_hold, limits.hold_failed) == (2, 5400, 3600)
    assert limits.max_waiting == 9
    assert (group.transfer_to, desk.transfer_to) == (("desk",), ())
    assert limits.dimensions == (("os_family", "LINUX"),)
    assert group.workloads[0].claims == (("repository", "org/*"),)
    assert policy.warnings == ()


def test_what_is_absent_has_its_default() -> None:
    """A group of three lines works."""
    policy = parse_access('groups { name: "a" members: "a@example.com" roles: ADMINISTRATOR }')
    limits = policy.groups[0].limits
    assert policy.client_ids == GCLOUD_CLIENTS
    assert (limits.priority, limits.share, limits.max_leases) == (0, 1, None)
    assert (limits.longest_lease, limits.longest_hold) == (21 * 86400, 7200)
    assert (limits.max_held, limits.hold_failed, limits.max_waiting) == (0, None, 2000)


def test_all_problems_are_said_at_once_with_line_and_remedy() -> None:
    """A file with everything wrong: each problem has its place, in the file's order."""
    text = """\
issuers { url: "http://ci.example.com" }
issuers { url: "https://ok.example.com" audiences: "a b" email_domains: "nodots" }
issuers { url: "https://ok.example.com" audiences: "mp" }
groups {
  name: "Lab"
  members: "nobody"
  members: "*@"
  workloads { issuer: "https://unknown.example.com" claims: "repository" }
  workloads { issuer: "https://ok.example.com" claims: "repository:*" claims: "ref:**" }
  workloads { }
  backend: "GCE"
  priority: 101
  share: 0
  max_leases: 0
  longest_lease: "22d"
  longest_hold: "soon"
  dimensions: "os_family"
}
groups { name: "x" members: "a@example.com" roles: BACKEND }
groups { name: "x" members: "a@example.com" roles: BACKEND backend: "AWS" }
groups { name: "y" members: "a@example.com" roles: USER hold_failed: "1h" transfer_to: "x" }
groups { name: "z" members: "a@example.com" roles: USER max_held: 1 hold_failed: "3h" }
groups { name: "v" members: "a@example.com" roles: VIEWER transfer_to: "z" }
"""
    found = problems_of(text)
    lines = [int(line.split(":")[1]) for line in found]
    assert lines == sorted(lines)
    assert all(line.startswith("access.cfg:") for line in found)
    wanted = {
        r"1: issuers\[0\]: url: .*must be https",
        r"1: issuers\[0\]: audiences: is required",
        r"2: issuers\[1\]: audiences\[0\]: .*not a word",
        r"2: issuers\[1\]: email_domains\[0\]: .*not a domain",
        r"3: issuers\[1\]|issuers\[2\]: url: .*also the url",
        r"5: groups\[0\]: name: .*not a name",
        r"6: groups\[0\]: members\[0\]: .*not a member",
        r"7: groups\[0\]: members\[1\]: .*not a member",
        r"8: groups\[0\]: workloads\[0\].issuer: .*not the url",
        r"8: groups\[0\]: workloads\[0\].claims\[0\]: .*key:pattern",
        r"9: groups\[0\]: workloads\[1\].claims: lets in every job",
        r"10: groups\[0\]: workloads\[2\].issuer: is required",
        r"10: groups\[0\]: workloads\[2\].claims: is required",
        r"4: groups\[0\]: roles: is required",
        r"11: groups\[0\]: backend: has no meaning",
        r"12: groups\[0\]: priority: 101 is out of range",
        r"13: groups\[0\]: share: 0 is out of range",
        r"14: groups\[0\]: max_leases: 0 is out of range",
        r"15: groups\[0\]: longest_lease: .*not a length of time",
        r"16: groups\[0\]: longest_hold: .*not a length of time",
        r"17: groups\[0\]: dimensions\[0\]: .*key:pattern",
        r"19: groups\[1\]: backend: is required",
        r"20: groups\[2\]: backend: .*not one of",
        r"20: groups\[2\]: name: .*also the name",
        r"21: groups\[3\]: hold_failed: has no effect without max_held",
        r"21: groups\[3\]: transfer_to\[0\]: .*not the name of a group with the role USER",
        r"22: groups\[4\]: hold_failed: .*longer than longest_hold",
        r"23: groups\[5\]: transfer_to\[0\]: has no meaning without the role USER",
    }
    missing = {one for one in wanted if not any(re.search(one, line) for line in found)}
    assert missing == set()
    assert len(found) == len(wanted)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ('groups { name: "a" members: "*" roles: USER }', "everybody whose e-mail"),
        ('groups { name: "a" roles: USER }', "nobody belongs"),
        ('groups { name: "a" members: "a@b.org" roles: USER }', "nobody can end others'"),
        (
            'groups { name: "a" members: "*" roles: BACKEND backend: "GCE" }',
            "everybody change the catalog",
        ),
        (
            'issuers { url: "https://ci.example.com" audiences: "mp" email_domains: "*" }',
            "assert every address",
        ),
    ],
)
def test_what_may_be_meant_otherwise_is_warned_of(text: str, warning: str) -> None:
    """It is used all the same."""
    assert any(warning in problem.message for problem in parse_access(text).warnings)


@pytest.mark.parametrize(
    "text", ["groups {", "people: 1", "groups { roles: KING }", "x" * 600_000, "\x00"]
)
def test_what_cannot_be_read_is_one_problem(text: str) -> None:
    """With its line where it is known."""
    (line,) = problems_of(text)
    assert line.startswith("access.cfg")


def test_too_many_of_a_kind_are_counted() -> None:
    """Each repeated field is bounded."""
    crowd = "\n".join(f'  members: "u{number}@example.com"' for number in range(2001))
    text = f'groups {{ name: "a" roles: ADMINISTRATOR\n{crowd}\n}}'
    assert "2001 are too many: use at most 2000" in problems_of(text)[0]


@given(st.text(alphabet=st.sampled_from('{}:"[] \nabgroupsissuersnamemembers*@.1'), max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Never anything else."""
    with contextlib.suppress(InvalidConfigurationError):
        parse_access(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1h30m", 5400), ("7d", 604_800), ("", None), ("1", None), ("1x", None)],
)
def test_lengths_of_time(text: str, seconds: int | None) -> None:
    """With a unit, always."""
    told = WHOLE.replace("1d12h", text)
    if seconds is None:
        assert "longest_lease" in problems_of(told)[0]
    else:
        assert parse_access(told).groups[0].limits.longest_lease == seconds
