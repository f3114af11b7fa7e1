"""What access.cfg says, as checked values."""

from __future__ import annotations

import enum

import msgspec

from gce_backend.configuration.problems import Problem

GOOGLE = "https://accounts.google.com"
"""The issuer of Google's access tokens and identity tokens."""
GCLOUD_CLIENTS = (
    "32555940559.apps.googleusercontent.com",
    "764086051850-6qr4p6gpi6hn506pt8ejuq83di341hur.apps.googleusercontent.com",
)
"""The OAuth clients of `gcloud auth login` and `gcloud auth application-default login`."""
LONGEST_LEASE_SECONDS = 21 * 24 * 3600
DEFAULT_HOLD_SECONDS = 2 * 3600
DEFAULT_WAITING = 2000

Patterns = tuple[tuple[str, str], ...]
"""Pairs of a key and the pattern that its value must match."""


class Role(enum.StrEnum):
    """What a caller may do."""

    VIEWER = "VIEWER"  # sees machines, everybody's leases and the queue
    USER = "USER"  # leases machines
    BACKEND = "BACKEND"  # manages machines in the catalog
    ADMINISTRATOR = "ADMINISTRATOR"  # ends everybody's leases, cordons machines


class Issuer(msgspec.Struct, frozen=True):
    """An issuer whose identity tokens are accepted.

    Attributes:
        url: its URL as its tokens name it.
        audiences: a token must be for one of these.
        email_domains: domains whose e-mail addresses it may assert; `*` for all.
    """

    url: str
    audiences: tuple[str, ...]
    email_domains: tuple[str, ...] = ()


class Workload(msgspec.Struct, frozen=True):
    """Jobs of one issuer, known by their claims.

    Attributes:
        issuer: its URL.
        claims: the required claims; all must match.
    """

    issuer: str
    claims: Patterns


class LeaseLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a group of users.

    Attributes:
        priority: groups with a higher priority get machines first.
        share: its share of machines relative to other groups of the same priority.
        max_leases: most leases at a time; None: any number.
        max_machines: most machines at a time; None: any number.
        max_waiting: most requests of one user that wait at a time.
        longest_lease: the longest lease in seconds, extensions included.
        without_end: whether a lease may have no end.
        dimensions: what may be leased; one pattern of each key must match. Empty: everything.
        max_held: most machines held after a failure at a time; 0: its members cannot hold any.
        longest_hold: the longest time in seconds that such a machine is held.
        hold_failed: seconds for which machines are held when their work failed; None: not at all.
    """

    priority: int = 0
    share: int = 1
    max_leases: int | None = None
    max_machines: int | None = None
    max_waiting: int = DEFAULT_WAITING
    longest_lease: int = LONGEST_LEASE_SECONDS
    without_end: bool = False
    dimensions: Patterns = ()
    max_held: int = 0
    longest_hold: int = DEFAULT_HOLD_SECONDS
    hold_failed: int | None = None


class AccessGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Callers with the same roles and limits.

    Attributes:
        name: unique.
        members: e-mail addresses, `*@DOMAIN`, or `*`.
        workloads: jobs.
        roles: what they may do.
        backend: the backend whose machines they manage; None without that role.
        limits: the limits of their leases.
        transfer_to: other groups to whose members they may transfer leases.
    """

    name: str
    members: tuple[str, ...] = ()
    workloads: tuple[Workload, ...] = ()
    roles: frozenset[Role] = frozenset()
    backend: str | None = None
    limits: LeaseLimits = LeaseLimits()
    transfer_to: tuple[str, ...] = ()


class AccessPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Who may do what.

    Attributes:
        issuers: the trusted issuers.
        groups: in the order of the file.
        client_ids: OAuth clients whose access tokens people may use.
        warnings: parts of the file that may not mean what its author thinks.
    """

    issuers: tuple[Issuer, ...] = ()
    groups: tuple[AccessGroup, ...] = ()
    client_ids: tuple[str, ...] = GCLOUD_CLIENTS
    warnings: tuple[Problem, ...] = ()

    def issuer(self, url: str) -> Issuer | None:
        """The issuer with that URL; None when it is not trusted."""
        return next((issuer for issuer in self.issuers if issuer.url == url), None)

    def group(self, name: str) -> AccessGroup | None:
        """The group of that name."""
        return next((group for group in self.groups if group.name == name), None)
