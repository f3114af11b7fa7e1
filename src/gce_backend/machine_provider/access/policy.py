"""What access.cfg says, as checked values."""

from __future__ import annotations

import enum

import msgspec

from gce_backend.configuration.problems import Problem

GOOGLE = "https://accounts.google.com"
"""Who Google's access tokens and identity tokens are from."""
GCLOUD_CLIENTS = (
    "32555940559.apps.googleusercontent.com",
    "764086051850-6qr4p6gpi6hn506pt8ejuq83di341hur.apps.googleusercontent.com",
)
"""The OAuth clients of `gcloud auth login` and `gcloud auth application-default login`."""
LONGEST_LEASE_SECONDS = 21 * 24 * 3600
DEFAULT_HOLD_SECONDS = 2 * 3600

Patterns = tuple[tuple[str, str], ...]
"""Pairs of a key and the pattern that its value must fit."""


class Role(enum.StrEnum):
    """What a caller may do."""

    VIEWER = "VIEWER"  # sees machines, everybody's leases and the queue
    USER = "USER"  # leases machines
    BACKEND = "BACKEND"  # manages machines in the catalog
    ADMINISTRATOR = "ADMINISTRATOR"  # ends everybody's leases, cordons machines


class Issuer(msgspec.Struct, frozen=True):
    """Somebody whose identity tokens are believed.

    Attributes:
        url: as its tokens name it.
        audiences: a token must be for one of these.
        email_domains: whose e-mail addresses it may vouch for; `*` for all.
    """

    url: str
    audiences: tuple[str, ...]
    email_domains: tuple[str, ...] = ()


class Workload(msgspec.Struct, frozen=True):
    """Jobs of one issuer, known by their claims.

    Attributes:
        issuer: its URL.
        claims: all must fit.
    """

    issuer: str
    claims: Patterns


class LeaseLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a group of users may have.

    Attributes:
        priority: higher ones get machines first.
        share: machines in proportion to other groups of the same priority.
        max_leases: at a time; None: any number.
        max_machines: at a time; None: any number.
        longest_lease: seconds that one lease lasts at most, extensions included.
        without_end: whether a lease may have no end.
        dimensions: what may be leased; of a key, one pattern must fit. Empty: everything.
        max_held: machines kept for a look at a time.
        longest_hold: seconds that one is kept at most.
    """

    priority: int = 0
    share: int = 1
    max_leases: int | None = None
    max_machines: int | None = None
    longest_lease: int = LONGEST_LEASE_SECONDS
    without_end: bool = False
    dimensions: Patterns = ()
    max_held: int = 0
    longest_hold: int = DEFAULT_HOLD_SECONDS


class AccessGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Callers who may do the same.

    Attributes:
        name: unique.
        members: e-mail addresses, `*@DOMAIN`, or `*`.
        workloads: jobs.
        roles: what they may do.
        backend: whose machines they manage; None without that role.
        limits: of their leases.
    """

    name: str
    members: tuple[str, ...] = ()
    workloads: tuple[Workload, ...] = ()
    roles: frozenset[Role] = frozenset()
    backend: str | None = None
    limits: LeaseLimits = LeaseLimits()


class AccessPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Who may do what.

    Attributes:
        issuers: whose identity tokens are believed.
        groups: in the order of the file.
        client_ids: OAuth clients of which people's access tokens may be.
        warnings: what is used, but may not mean what its author thinks.
    """

    issuers: tuple[Issuer, ...] = ()
    groups: tuple[AccessGroup, ...] = ()
    client_ids: tuple[str, ...] = GCLOUD_CLIENTS
    warnings: tuple[Problem, ...] = ()

    def issuer(self, url: str) -> Issuer | None:
        """The issuer of that URL; None when its tokens are not believed."""
        return next((issuer for issuer in self.issuers if issuer.url == url), None)

    def group(self, name: str) -> AccessGroup | None:
        """The group of that name."""
        return next((group for group in self.groups if group.name == name), None)
