"""What templates.cfg and managers.cfg ask for, as values.

Pure: texts go in, frozen values or a list of problems come out. Where the texts come from,
`config_source` knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from gce_backend.configuration import rules
from gce_backend.configuration.problems import InvalidConfigurationError, Problem
from gce_backend.configuration.proto import config_pb2 as pb
from gce_backend.configuration.text import LineIndex, Path, TextSyntaxError, read
from gce_backend.configuration.types import (
    MANAGERS_FILE,
    TEMPLATES_FILE,
    Configuration,
    ManagerConfig,
    Pairs,
    ServiceAccount,
    TemplateConfig,
)
from gce_backend.configuration.values import check_file_path, one_line, quote, split_pair

M = TypeVar("M", bound=Message)


def parse(templates_text: str, managers_text: str, files: Mapping[str, str]) -> Configuration:
    """Reads and validates a whole configuration.

    Args:
        templates_text: templates.cfg.
        managers_text: managers.cfg, of the same revision.
        files: the texts of the files that `referenced_files` names, by path; missing ones left out.

    Raises:
        InvalidConfigurationError: with every problem of both files, in their order.
    """
    problems: list[Problem] = []
    templates, lines = _read(TEMPLATES_FILE, templates_text, pb.InstanceTemplateConfig, problems)
    if templates is not None:
        report = _Report(TEMPLATES_FILE, lines, [t.base_name for t in templates.templates])
        rules.check_templates(templates, files, report)
        problems += report.in_order()
    managers, lines = _read(MANAGERS_FILE, managers_text, pb.InstanceGroupManagerConfig, problems)
    if managers is not None:
        report = _Report(MANAGERS_FILE, lines, ())
        rules.check_managers(managers, templates, report)
        problems += report.in_order()
    if problems or templates is None or managers is None:
        raise InvalidConfigurationError(problems)
    return Configuration(
        templates=tuple(_template(message, files) for message in templates.templates),
        managers=tuple(_manager(message) for message in managers.managers),
    )


def referenced_files(templates_text: str) -> tuple[str, ...]:
    """The paths that metadata_from_file names, each once, so that they can be fetched for `parse`.

    Nothing is raised: what cannot be read, or is not a path inside the config set, is left out here
    and reported by `parse`.
    """
    try:
        config, _ = read(templates_text, pb.InstanceTemplateConfig)
    except TextSyntaxError:
        return ()
    pairs = (split_pair(text) for t in config.templates for text in t.metadata_from_file)
    paths = dict.fromkeys(pair[1] for pair in pairs if pair)
    return tuple(path for path in paths if not check_file_path(path))


class _Report:
    """Collects what the rules find in one file, and adds where it is."""

    def __init__(self, file: str, lines: LineIndex | None, names: Sequence[str]) -> None:
        self._file = file
        self._lines = lines
        self._names = names
        self._problems: list[Problem] = []

    def __call__(self, path: Path, message: str) -> None:
        line = self._lines.find(path) if self._lines else None
        subject = _dotted(path[:2])
        index = path[1]
        if isinstance(index, int) and index < len(self._names) and self._names[index]:
            subject = f"template {quote(self._names[index])}"
        self._problems.append(Problem(self._file, line, subject, _dotted(path[2:]), message))

    def in_order(self) -> list[Problem]:
        return sorted(self._problems, key=lambda problem: problem.line or 0)


def _dotted(path: Path) -> str:
    """`("service_accounts", 0, "name")` as `service_accounts[0].name`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")


def _read(
    file: str, text: str, kind: type[M], problems: list[Problem]
) -> tuple[M | None, LineIndex | None]:
    try:
        return read(text, kind)
    except TextSyntaxError as error:
        message = f"cannot be read: {one_line(error.reason)}"
        problems.append(Problem(file, error.line, "", "", message))
        return None, None


def _pairs(texts: Iterable[str]) -> Pairs:
    return tuple(pair for text in texts if (pair := split_pair(text)))


def _template(message: pb.InstanceTemplate, files: Mapping[str, str]) -> TemplateConfig:
    from_file = _pairs(message.metadata_from_file)
    return TemplateConfig(
        base_name=message.base_name,
        project=message.project,
        dimensions=_pairs(message.dimensions),
        image_name=message.image_name,
        disk_size_gb=message.disk_size_gb,
        service_accounts=tuple(
            ServiceAccount(account.name, tuple(account.scopes))
            for account in message.service_accounts
        ),
        tags=tuple(message.tags),
        metadata=_pairs(message.metadata) + tuple((key, files[path]) for key, path in from_file),
        machine_type=message.machine_type,
        image_project=message.image_project,
        network_url=message.network_url,
        auto_assign_external_ip=message.auto_assign_external_ip,
        min_cpu_platform=message.min_cpu_platform,
        metadata_from_file=from_file,
        disk_type=message.disk_type,
        snapshot_name=message.snapshot_name,
        snapshot_labels=_pairs(message.snapshot_labels),
    )


def _manager(message: pb.InstanceGroupManager) -> ManagerConfig:
    return ManagerConfig(
        template_base_name=message.template_base_name,
        minimum_size=message.minimum_size,
        maximum_size=message.maximum_size,
        zone=message.zone,
    )
