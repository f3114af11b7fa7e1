"""Turns the text of access.cfg into a checked policy, or lists every problem with line and remedy.

Pure: the caller reads the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from gce_backend.base.dates import length_of_time
from gce_backend.configuration.problems import (
    MAX_MESSAGE,
    InvalidConfigurationError,
    Problem,
)
from gce_backend.configuration.report import Report
from gce_backend.configuration.text import LineIndex, Path, TextSyntaxError, message_of
from gce_backend.configuration.values import one_line, quote, shorten, split_pair
from gce_backend.machine_provider.access.identity import email_of
from gce_backend.machine_provider.access.policy import (
    DEFAULT_HOLD_SECONDS,
    DEFAULT_WAITING,
    GCLOUD_CLIENTS,
    GOOGLE,
    LONGEST_LEASE_SECONDS,
    AccessGroup,
    AccessPolicy,
    Issuer,
    LeaseLimits,
    Patterns,
    Role,
    Workload,
)
from gce_backend.machine_provider.access.proto import access_pb2 as pb
from gce_backend.settings.settings import is_loopback

V = TypeVar("V")
T = TypeVar("T")

ACCESS_FILE = "access.cfg"
MAX_BYTES = 512 * 1024
MAX_WORD = 500
BACKENDS = ("DUMMY", "GCE", "VSPHERE")
MOST = {
    "issuers": 50,
    "groups": 500,
    "client_ids": 50,
    "audiences": 20,
    "email_domains": 100,
    "members": 2000,
    "workloads": 500,
    "claims": 20,
    "dimensions": 64,
    "transfer_to": 100,
}
"""Most values of a repeated field."""
RANGES = {
    "priority": (0, 100),
    "share": (1, 1000),
    "max_leases": (1, 1_000_000),
    "max_machines": (1, 1_000_000),
    "max_held": (0, 1_000_000),
    "max_waiting": (1, 10_000),
}
"""Least and largest value of a number."""

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)+")


def parse_access(text: str) -> AccessPolicy:
    """Reads and checks a whole access.cfg.

    Args:
        text: the file's text.

    Raises:
        InvalidConfigurationError: it is invalid; the error lists every problem in order.
    """
    if len(text.encode()) > MAX_BYTES:
        message = f"is too large: use at most {MAX_BYTES} bytes"
        raise InvalidConfigurationError([Problem(ACCESS_FILE, None, "", "", message)])
    text = text.removeprefix("\ufeff")
    try:
        config, lines = message_of(text, pb.AccessConfig), LineIndex(text)
    except TextSyntaxError as error:
        reason = f"cannot be read: {shorten(one_line(error.reason[:MAX_MESSAGE]), MAX_MESSAGE)}"
        raise InvalidConfigurationError(
            [Problem(ACCESS_FILE, error.line, "", "", reason)]
        ) from None
    report = Report(ACCESS_FILE, lines)
    policy = _Reader(report).read(config)
    if report.total:
        raise InvalidConfigurationError(report.problems(), report.total)
    return msgspec.structs.replace(policy, warnings=tuple(report.warnings()))


class _Reader:
    """Converts one file's messages to values, and reports their problems."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def read(self, config: pb.AccessConfig) -> AccessPolicy:
        issuers = self._each(config.issuers, ("issuers",), self._issuer)
        self._unique([issuer.url for issuer in issuers], "issuers", "url")
        known = {issuer.url for issuer in issuers}
        groups = self._each(
            config.groups, ("groups",), lambda group, path: self._group(group, path, known)
        )
        self._unique([group.name for group in groups], "groups", "name")
        self._transfers(groups)
        clients = self._each(config.client_ids, ("client_ids",), self._word)
        if not any(Role.ADMINISTRATOR in group.roles for group in groups):
            message = "no group has the role ADMINISTRATOR: nobody can end others' leases"
            self._report.warning(("groups", 0), message)
        return AccessPolicy(
            issuers=issuers,
            groups=groups,
            client_ids=clients or GCLOUD_CLIENTS,
        )

    def _issuer(self, issuer: pb.Issuer, path: Path) -> Issuer:
        self._url(issuer.url, (*path, "url"))
        audiences = self._each(issuer.audiences, (*path, "audiences"), self._word)
        if not audiences:
            message = (
                "is required: name the address of this Machine Provider, and ask for tokens for it"
            )
            self._report.problem((*path, "audiences"), message)
        domains = self._each(
            issuer.email_domains,
            (*path, "email_domains"),
            lambda domain, here: self._domain(domain, here, issuer.url),
        )
        return Issuer(issuer.url, audiences, domains)

    def _domain(self, domain: str, path: Path, url: str) -> str:
        if domain == "*" and url != GOOGLE:
            message = f"lets {quote(url)} assert every address: list the domains that it may assert"
            self._report.warning(path, message)
        elif domain != "*" and not _DOMAIN.fullmatch(domain):
            message = f'{quote(domain)} is not a domain: write e.g. "example.com"'
            self._report.problem(path, message)
        return domain

    def _url(self, url: str, path: Path) -> None:
        if not url:
            self._report.problem(path, "is required: set it")
            return
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            host = ""
        sound = bool(host) and len(url) <= MAX_WORD and url.isprintable()
        sound = sound and not (parts.query or parts.fragment or "@" in parts.netloc)
        if not sound:
            message = f"{quote(url)} is not an issuer: write https://HOST[/PATH] as its tokens do"
            self._report.problem(path, message)
        elif parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
            message = f"{quote(url)} must be https: keys that come in the clear can be forged"
            self._report.problem(path, message)

    def _group(self, group: pb.Group, path: Path, issuers: set[str]) -> AccessGroup:
        if not _NAME.fullmatch(group.name):
            message = (
                f"{quote(group.name)} is not a name: use at most 63 lower-case letters, digits and "
                "dashes, beginning with a letter"
                if group.name
                else "is required: set it"
            )
            self._report.problem((*path, "name"), message)
        members = self._each(group.members, (*path, "members"), self._member)
        workloads = self._each(
            group.workloads,
            (*path, "workloads"),
            lambda workload, here: self._workload(workload, here, issuers),
        )
        if not members and not workloads:
            message = "has neither members nor workloads: nobody belongs to it"
            self._report.warning((*path, "members"), message)
        roles = frozenset(Role(pb.Role.Name(role)) for role in group.roles)
        if not roles:
            message = f"is required: name one of {', '.join(Role)}"
            self._report.problem((*path, "roles"), message)
        if Role.BACKEND in roles and group.backend not in BACKENDS:
            message = f"{quote(group.backend)} is not one of {', '.join(BACKENDS)}"
            required = f"is required for the role BACKEND: name one of {', '.join(BACKENDS)}"
            self._report.problem((*path, "backend"), message if group.backend else required)
        if group.backend and Role.BACKEND not in roles:
            message = "has no meaning without the role BACKEND: add the role, or remove it"
            self._report.problem((*path, "backend"), message)
        if Role.BACKEND in roles and "*" in members:
            message = "lets everybody change the catalog: name the daemon's service account"
            self._report.warning((*path, "members"), message)
        return AccessGroup(
            name=group.name,
            members=members,
            workloads=workloads,
            roles=roles,
            backend=group.backend or None,
            limits=self._limits(group, path),
            transfer_to=tuple(group.transfer_to),
        )

    def _transfers(self, groups: Sequence[AccessGroup]) -> None:
        """Checks that leases can be transferred to members of the named groups."""
        lessees = {group.name for group in groups if Role.USER in group.roles}
        for index, group in enumerate(groups):

            def check(name: str, path: Path, group: AccessGroup = group) -> None:
                if name not in lessees:
                    message = f"{quote(name)} is not the name of a group with the role USER"
                    self._report.problem(path, message)
                elif Role.USER not in group.roles:
                    message = "has no meaning without the role USER: add the role, or remove it"
                    self._report.problem(path, message)

            self._each(group.transfer_to, ("groups", index, "transfer_to"), check)

    def _limits(self, group: pb.Group, path: Path) -> LeaseLimits:
        for field, (least, most) in RANGES.items():
            value = getattr(group, field)
            if group.HasField(field) and not least <= value <= most:
                message = f"{value} is out of range: use {least} to {most}"
                self._report.problem((*path, field), message)
        longest_hold = self._duration(group, "longest_hold", path, DEFAULT_HOLD_SECONDS)
        return LeaseLimits(
            priority=group.priority,
            share=group.share if group.HasField("share") else 1,
            max_leases=group.max_leases or None,
            max_machines=group.max_machines or None,
            max_waiting=group.max_waiting or DEFAULT_WAITING,
            longest_lease=self._duration(group, "longest_lease", path, LONGEST_LEASE_SECONDS),
            without_end=group.without_end,
            dimensions=self._pairs(group.dimensions, (*path, "dimensions"), "os_family:LINUX"),
            max_held=group.max_held,
            longest_hold=longest_hold,
            hold_failed=self._hold_failed(group, path, longest_hold),
        )

    def _hold_failed(self, group: pb.Group, path: Path, longest: int) -> int | None:
        """How long machines are held when their work failed, in seconds; None when not at all."""
        if not group.HasField("hold_failed"):
            return None
        here = (*path, "hold_failed")
        seconds = self._duration(group, "hold_failed", path, 0)
        if group.max_held <= 0:
            self._report.problem(here, "has no effect without max_held: set max_held, e.g. to 1")
        elif seconds > longest:
            message = f"{quote(group.hold_failed)} is longer than longest_hold: raise that, too"
            self._report.problem(here, message)
        return seconds or None

    def _duration(self, group: pb.Group, field: str, path: Path, default: int) -> int:
        text = getattr(group, field)
        if not group.HasField(field):
            return default
        seconds = int(length_of_time(text) or 0)
        if text.isdigit() or not 0 < seconds <= LONGEST_LEASE_SECONDS:
            message = (
                f'{quote(text)} is not a length of time: write e.g. "90s", "12h"; "21d" at most'
            )
            self._report.problem((*path, field), message)
        return seconds or default

    def _member(self, member: str, path: Path) -> str:
        lowered = member.lower()
        if lowered == "*":
            message = (
                "lets in everybody whose e-mail address is known, with Google everybody who has an "
                'account there: "*@DOMAIN" lets in one domain'
            )
            self._report.warning(path, message)
        elif not (
            _DOMAIN.fullmatch(lowered[2:]) if lowered.startswith("*@") else email_of(lowered)
        ):
            message = (
                f'{quote(member)} is not a member: write an e-mail address, "*@example.com" for a '
                'domain, or "*"'
            )
            self._report.problem(path, message)
        return lowered

    def _workload(self, workload: pb.Workload, path: Path, issuers: set[str]) -> Workload:
        if workload.issuer not in issuers:
            message = f"{quote(workload.issuer)} is not the url of one of the issuers: add it there"
            required = "is required: name the url of one of the issuers"
            self._report.problem((*path, "issuer"), message if workload.issuer else required)
        here = (*path, "claims")
        claims = self._pairs(workload.claims, here, "repository:example-org/*")
        if not workload.claims:
            self._report.problem(here, 'is required: write e.g. "repository:example-org/*"')
        elif claims and all(not pattern.replace("/", "").strip("*") for _, pattern in claims):
            message = (
                f"lets in every job that {quote(workload.issuer)} knows, also those of strangers: "
                'name whose it is, e.g. "repository:example-org/*"'
            )
            self._report.problem(here, message)
        return Workload(workload.issuer, claims)

    def _pairs(self, texts: Sequence[str], path: Path, example: str) -> Patterns:
        def pair_of(text: str, here: Path) -> tuple[str, str] | None:
            pair = split_pair(text)
            if pair is None or not pair[1] or len(text) > MAX_WORD or not text.isprintable():
                message = f'{quote(text)} is not "key:pattern": write e.g. "{example}"'
                self._report.problem(here, message)
                return None
            return pair

        return tuple(pair for pair in self._each(texts, path, pair_of) if pair is not None)

    def _word(self, text: str, path: Path) -> str:
        if not text or len(text) > MAX_WORD or not text.isprintable() or " " in text:
            message = f"{quote(text)} is not a word: use 1 to {MAX_WORD} characters without spaces"
            self._report.problem(path, message)
        return text

    def _each(self, values: Sequence[V], path: Path, read: Callable[[V, Path], T]) -> tuple[T, ...]:
        """Reads the values of a repeated field, whose number is limited."""
        most = MOST[str(path[-1])]
        if len(values) > most:
            message = f"{len(values)} are too many: use at most {most}"
            self._report.problem(path if len(path) > 1 else (*path, 0), message)
        return tuple(read(value, (*path, index)) for index, value in enumerate(values))

    def _unique(self, names: Sequence[str], kind: str, field: str) -> None:
        first: dict[str, int] = {}
        for index, name in enumerate(names):
            if name and first.setdefault(name, index) != index:
                message = f"{quote(name)} is also the {field} of {kind}[{first[name]}]: rename one"
                self._report.problem((kind, index, field), message)
