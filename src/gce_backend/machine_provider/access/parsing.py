"""Turns the text of access.cfg into a checked policy, or lists every problem with line and remedy.

Pure: the caller reads the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

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
}
"""Most values of a repeated field."""
RANGES = {
    "priority": (0, 100),
    "share": (1, 1000),
    "max_leases": (1, 1_000_000),
    "max_machines": (1, 1_000_000),
    "max_held": (0, 1_000_000),
}
"""Least and largest value of a number."""

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)+")
_DURATION = re.compile(r"(\d{1,7}[smhd])+")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


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


def seconds_of(text: str) -> int | None:
    """A length of time such as `90s`, `1h30m` or `7d` in seconds; None when it is malformed."""
    if not _DURATION.fullmatch(text):
        return None
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([smhd])", text))


class _Reader:
    """Converts one file's messages to values, and reports their problems."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def read(self, config: pb.AccessConfig) -> AccessPolicy:
        self._count(config.issuers, ("issuers", 0), "issuers")
        self._count(config.groups, ("groups", 0), "groups")
        self._count(config.client_ids, ("client_ids", 0), "client_ids")
        issuers = tuple(
            self._issuer(issuer, ("issuers", index)) for index, issuer in enumerate(config.issuers)
        )
        self._unique([issuer.url for issuer in issuers], "issuers", "url")
        known = {issuer.url for issuer in issuers}
        groups = tuple(
            self._group(group, ("groups", index), known)
            for index, group in enumerate(config.groups)
        )
        self._unique([group.name for group in groups], "groups", "name")
        for index, client in enumerate(config.client_ids):
            self._word(client, ("client_ids", index))
        if not any(Role.ADMINISTRATOR in group.roles for group in groups):
            message = "no group has the role ADMINISTRATOR: nobody can end others' leases"
            self._report.warning(("groups", 0), message)
        return AccessPolicy(
            issuers=issuers,
            groups=groups,
            client_ids=tuple(config.client_ids) or GCLOUD_CLIENTS,
        )

    def _issuer(self, issuer: pb.Issuer, path: Path) -> Issuer:
        self._url(issuer.url, (*path, "url"))
        self._count(issuer.audiences, (*path, "audiences"), "audiences")
        if not issuer.audiences:
            message = (
                "is required: name the address of this Machine Provider, and ask for tokens for it"
            )
            self._report.problem((*path, "audiences"), message)
        for index, audience in enumerate(issuer.audiences):
            self._word(audience, (*path, "audiences", index))
        self._count(issuer.email_domains, (*path, "email_domains"), "email_domains")
        for index, domain in enumerate(issuer.email_domains):
            here = (*path, "email_domains", index)
            if domain == "*":
                if issuer.url != GOOGLE:
                    name = quote(issuer.url)
                    message = (
                        f"lets {name} assert every address: list the domains that it may assert"
                    )
                    self._report.warning(here, message)
            elif not _DOMAIN.fullmatch(domain):
                message = f'{quote(domain)} is not a domain: write e.g. "example.com"'
                self._report.problem(here, message)
        return Issuer(issuer.url, tuple(issuer.audiences), tuple(issuer.email_domains))

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
        self._count(group.members, (*path, "members"), "members")
        members = tuple(
            self._member(member, (*path, "members", index))
            for index, member in enumerate(group.members)
        )
        self._count(group.workloads, (*path, "workloads"), "workloads")
        workloads = tuple(
            self._workload(workload, (*path, "workloads", index), issuers)
            for index, workload in enumerate(group.workloads)
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
        )

    def _limits(self, group: pb.Group, path: Path) -> LeaseLimits:
        for field, (least, most) in RANGES.items():
            value = getattr(group, field)
            if group.HasField(field) and not least <= value <= most:
                message = f"{value} is out of range: use {least} to {most}"
                self._report.problem((*path, field), message)
        self._count(group.dimensions, (*path, "dimensions"), "dimensions")
        return LeaseLimits(
            priority=group.priority,
            share=group.share if group.HasField("share") else 1,
            max_leases=group.max_leases or None,
            max_machines=group.max_machines or None,
            longest_lease=self._duration(group, "longest_lease", path, LONGEST_LEASE_SECONDS),
            without_end=group.without_end,
            dimensions=self._pairs(group.dimensions, (*path, "dimensions"), "os_family:LINUX"),
            max_held=group.max_held,
            longest_hold=self._duration(group, "longest_hold", path, DEFAULT_HOLD_SECONDS),
        )

    def _duration(self, group: pb.Group, field: str, path: Path, default: int) -> int:
        text = getattr(group, field)
        if not group.HasField(field):
            return default
        seconds = seconds_of(text)
        if seconds is None or not 0 < seconds <= LONGEST_LEASE_SECONDS:
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
        self._count(workload.claims, here, "claims")
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
        pairs = []
        for index, text in enumerate(texts):
            pair = split_pair(text)
            if pair is None or not pair[1] or len(text) > MAX_WORD or not text.isprintable():
                message = f'{quote(text)} is not "key:pattern": write e.g. "{example}"'
                self._report.problem((*path, index), message)
            else:
                pairs.append(pair)
        return tuple(pairs)

    def _word(self, text: str, path: Path) -> None:
        if not text or len(text) > MAX_WORD or not text.isprintable() or " " in text:
            message = f"{quote(text)} is not a word: use 1 to {MAX_WORD} characters without spaces"
            self._report.problem(path, message)

    def _count(self, values: Sequence[object], path: Path, field: str) -> None:
        if len(values) > MOST[field]:
            message = f"{len(values)} are too many: use at most {MOST[field]}"
            self._report.problem(path, message)

    def _unique(self, names: Sequence[str], kind: str, field: str) -> None:
        first: dict[str, int] = {}
        for index, name in enumerate(names):
            if name and first.setdefault(name, index) != index:
                message = f"{quote(name)} is also the {field} of {kind}[{first[name]}]: rename one"
                self._report.problem((kind, index, field), message)
