"""Who may do what: every method against every role, and what a group may lease."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from gce_backend.base.errors import InvalidTokenError
from gce_backend.machine_provider import api, lease_api
from gce_backend.machine_provider.access.decision import NEEDED, decide, fits, lease_refusal
from gce_backend.machine_provider.access.identity import Identity
from gce_backend.machine_provider.access.parsing import parse_access
from gce_backend.machine_provider.access.policy import AccessPolicy, LeaseLimits, Role
from gce_backend.machine_provider.gatekeeper import READS, Gatekeeper
from support.simulation import VirtualClock

CI = "https://ci.example.com"
POLICY = parse_access(f"""
issuers {{ url: "{CI}" audiences: "mp" }}
groups {{ name: "viewers" members: "viewer@example.com" roles: VIEWER }}
groups {{ name: "users" members: "user@example.com" roles: USER priority: 3 }}
groups {{ name: "daemon" members: "backend@example.com" roles: BACKEND backend: "GCE" }}
groups {{ name: "admins" members: "administrator@example.com" roles: ADMINISTRATOR }}
groups {{ name: "lab" members: "*@lab.example.com" roles: [USER, VIEWER] }}
groups {{
  name: "jobs"
  workloads {{ issuer: "{CI}" claims: "repository:org/*" claims: "ref:refs/heads/**" }}
  roles: USER
}}
""")
ROLES = ("viewer", "user", "backend", "administrator", "nobody")
BACKEND, USER, ADMINISTRATOR = {"backend"}, {"user"}, {"administrator"}
ACTORS = USER | ADMINISTRATOR
READERS = {"viewer"} | ACTORS
WATCHERS = {"viewer"} | ADMINISTRATOR
ANYBODY = set(ROLES)
MAY = {
    "backends.offer": BACKEND,
    "catalog.add_machine": BACKEND,
    "catalog.add_machines": BACKEND,
    "catalog.delete_machine": BACKEND,
    "catalog.delete_machines": BACKEND,
    "catalog.get": BACKEND,
    "catalog.get_machines": BACKEND,
    "catalog.modify_capacity": BACKEND,
    "demand.get": BACKEND | WATCHERS,
    "leases.admit": ACTORS,
    "leases.create": USER,
    "leases.extend": ACTORS,
    "leases.get": READERS,
    "leases.hold": ACTORS,
    "leases.keepalive": ACTORS,
    "leases.list": READERS,
    "leases.release": ACTORS,
    "leases.transfer": ACTORS,
    "machine.ack": ANYBODY,
    "machine.poll": ANYBODY,
    "machine_provider.batched_lease": USER,
    "machine_provider.batched_release": USER,
    "machine_provider.instruct": USER,
    "machine_provider.lease": USER,
    "machine_provider.release": USER,
    "machines.cordon": ADMINISTRATOR,
    "machines.get": READERS,
    "machines.list": READERS,
    "machines.report": ANYBODY,
    "machines.trouble": BACKEND,
    "machines.uncordon": ADMINISTRATOR,
    "service.metrics": READERS,
    "service.pages": WATCHERS,
    "service.session": READERS,
    "users.list": WATCHERS,
    "users.whoami": ANYBODY,
}
"""Every method, and the roles that may call it: a new method needs a row of its own."""


def somebody(
    email: str = "", issuer: str = "https://accounts.google.com", **claims: str
) -> Identity:
    """An identity."""
    return Identity(issuer=issuer, subject="1", email=email, claims=claims, expires=0.0)


async def believe(token: str) -> Identity:
    """Believes every token: it is an e-mail address."""
    return somebody(token)


async def refuse(token: str) -> Identity:
    """Believes none."""
    raise InvalidTokenError(f"{len(token)} characters are not a token")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("method", sorted(NEEDED))
async def test_every_method_against_every_role(method: str, role: str) -> None:
    """The gate answers as the table says, and logs who, what and why (but for reads)."""
    gatekeeper = Gatekeeper(believe, lambda: POLICY, VirtualClock())
    with capture_logs() as logs:
        token = f"Bearer {role}@example.com"
        let_in = role in MAY[method]
        if let_in:
            caller = await gatekeeper.admit(token, method, "10.0.0.1")
            assert (caller.backend == "GCE") == (role == "backend")
        else:
            with pytest.raises(api.Refusal, match=method) as refused:
                await gatekeeper.admit(token, method, "10.0.0.1")
            assert refused.value.status == 403
    if let_in and method in READS:
        assert logs == []
        return
    (event,) = logs
    assert event["event"] == f"machine_provider.{'allowed' if let_in else 'denied'}"
    assert event["user"] == f"{role}@example.com"
    assert event["method"] == method
    assert event["reason"]
    assert event["remote"] == "10.0.0.1"


def test_every_method_has_its_roles() -> None:
    """No method is forgotten, here or there, and an unknown one is nobody's."""
    assert MAY.keys() == NEEDED.keys()
    assert NEEDED.keys() == {
        *(*api.METHODS, *lease_api.METHODS),
        *("service.metrics", "service.pages", "service.session"),
    }
    assert not decide(POLICY, somebody("administrator@example.com"), "catalog.nothing").allowed


async def test_nobody_is_nobody() -> None:
    """Without a token: 403, as the original says it; with a policy of nothing, nobody may lease."""
    gatekeeper = Gatekeeper(believe, AccessPolicy, VirtualClock())
    with capture_logs() as logs, pytest.raises(api.Refusal, match="Access is denied"):
        await gatekeeper.admit(None, "machine_provider.lease", "10.0.0.1")
    assert [event["event"] for event in logs] == ["machine_provider.no_token"]
    with pytest.raises(api.Refusal, match="no group"):
        await gatekeeper.admit("Bearer user@example.com", "machine_provider.lease", "10.0.0.1")


async def test_guessing_becomes_slow_for_who_guesses() -> None:
    """Each wrong token of an address waits longer; another address does not."""
    gatekeeper = Gatekeeper(refuse, lambda: POLICY, VirtualClock())
    loop = asyncio.get_running_loop()

    async def guess(remote: str) -> float:
        begun = loop.time()
        with pytest.raises(api.Refusal) as refused:
            await gatekeeper.admit("Bearer guess", "machine_provider.lease", remote)
        assert refused.value.status == 401
        return loop.time() - begun

    waits = [await guess("10.0.0.1") for _ in range(6)]
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(5.0)
    assert await guess("10.0.0.2") == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("who", "groups"),
    [
        (somebody("bob@lab.example.com"), "lab"),
        (somebody("bob@evil-lab.example.com"), "no group"),
        (somebody("bob@lab.example.com.evil.org"), "no group"),
        (somebody("user@example.com"), "users"),
        (somebody("", CI, repository="org/app", ref="refs/heads/a/b"), "jobs"),
        (somebody("", CI, repository="org/app/x", ref="refs/heads/main"), "no group"),
        (somebody("", CI, repository="organisation/app", ref="refs/heads/main"), "no group"),
        (somebody("", CI, repository="org/app", ref="refs/pull/1"), "no group"),
        (somebody("", CI, repository="org/app"), "no group"),
        (somebody("", "https://o.example", repository="org/app", ref="refs/heads/m"), "no group"),
        (somebody(""), "no group"),
    ],
)
def test_groups_hold_whom_they_name_and_nobody_else(who: Identity, groups: str) -> None:
    """Domains and patterns are whole: neither a longer name nor another issuer fits."""
    decision = decide(POLICY, who, "machine_provider.lease")
    assert (decision.group.name if decision.group else "no group") == groups


def test_leases_count_for_the_first_group_that_may_lease() -> None:
    """The file's order decides, so that a special group can stand before a general one."""
    policy = parse_access("""
        groups { name: "readers" members: "*@example.com" roles: VIEWER }
        groups { name: "urgent" members: "ann@example.com" roles: USER priority: 9 }
        groups { name: "all" members: "*@example.com" roles: USER }
    """)
    group = decide(policy, somebody("ann@example.com"), "machine_provider.lease").group
    assert group is not None
    assert (group.name, group.limits.priority) == ("urgent", 9)


@pytest.mark.parametrize(
    ("pattern", "text", "fitting"),
    [
        ("org/*", "org/app", True),
        ("org/*", "org/a/b", False),
        ("org/**", "org/a/b", True),
        ("a.c", "abc", False),
        ("*", "", True),
        ("*", "a/b", False),
        ("x*y", "x\ny", True),
        ("org/*", None, False),
    ],
)
def test_patterns_have_two_wildcards_and_nothing_else(
    pattern: str, text: str | None, fitting: bool
) -> None:
    """No regular expressions."""
    assert fits(pattern, text) == fitting


@pytest.mark.parametrize(
    ("limits", "dimensions", "without_end", "why"),
    [
        (LeaseLimits(), {}, False, None),
        (LeaseLimits(), {}, True, "must have an end"),
        (LeaseLimits(without_end=True), {}, True, None),
        (LeaseLimits(dimensions=(("os", "LINUX"),)), {}, False, "must name os"),
        (LeaseLimits(dimensions=(("os", "LINUX"),)), {"os": "WINDOWS"}, False, "must be LINUX"),
        (LeaseLimits(dimensions=(("os", "L"), ("os", "W"))), {"os": "W"}, False, None),
        (LeaseLimits(dimensions=(("cpus", "4"),)), {"cpus": 4}, False, None),
        (LeaseLimits(dimensions=(("l", "a:*"),)), {"l": ["a:1", "b:1"]}, False, "must be"),
    ],
)
def test_what_a_group_may_not_lease_is_said(
    limits: LeaseLimits, dimensions: dict[str, object], without_end: bool, why: str | None
) -> None:
    """However long it waits."""
    found = lease_refusal(limits, dimensions, without_end=without_end)
    assert (found is None) if why is None else (found is not None and why in found)


def test_roles_add_up_over_groups() -> None:
    """Whoever is in two groups may do what either may."""
    policy = parse_access("""
        groups { name: "a" members: "ann@example.com" roles: VIEWER }
        groups { name: "b" members: "ann@example.com" roles: [BACKEND, ADMINISTRATOR]
                 backend: "VSPHERE" }
    """)
    decision = decide(policy, somebody("ann@example.com"), "catalog.get")
    assert decision.roles == {Role.VIEWER, Role.BACKEND, Role.ADMINISTRATOR}
    assert decision.backend == "VSPHERE"
    assert decision.group is None
