"""What templates.cfg and managers.cfg ask for, as values.

Pure: texts go in, frozen values or a list of problems come out. Where the texts come from,
`clients.config_source` knows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from google.protobuf.message import Message

from gce_backend.configuration import rules
from gce_backend.configuration.problems import (
    MAX_MESSAGE,
    InvalidConfigurationError,
    Problem,
)
from gce_backend.configuration.proto import config_pb2 as pb
from gce_backend.configuration.report import Report
from gce_backend.configuration.text import LineIndex, TextSyntaxError, message_of
from gce_backend.configuration.types import (
    MANAGERS_FILE,
    TEMPLATES_FILE,
    AdditionalDisk,
    Configuration,
    ManagerConfig,
    Pairs,
    Schedule,
    ServiceAccount,
    TemplateConfig,
    template_rules,
)
from gce_backend.configuration.values import (
    BOOT_SECONDS,
    MAX_FILES,
    SURPLUS_SECONDS,
    check_file_path,
    full_scope,
    minutes_of,
    one_line,
    shorten,
    split_pair,
)

MAX_CONFIG_BYTES = 512 * 1024
"""Bytes in templates.cfg or managers.cfg."""
MAX_STORED_BYTES = 1_000_000
"""Bytes of all texts together, as they are stored: a Datastore entity holds 1 MiB."""

M = TypeVar("M", bound=Message)


class Examination(msgspec.Struct, frozen=True):
    """What a configuration asks for, and what is wrong with it.

    Attributes:
        configuration: the templates and managers without problems.
        problems: the first of what is wrong, in the order of the files.
        total: how many problems there are.
        spoiled: the templates that have a problem, or a manager that has one, each with the first.
        readable: both files could be read, so that what is absent is really not asked for.
    """

    configuration: Configuration
    problems: tuple[Problem, ...]
    total: int
    spoiled: Mapping[str, Problem]
    readable: bool


def parse(
    templates_text: str,
    managers_text: str,
    files: Mapping[str, str],
    extra_dimensions: Collection[str] = (),
) -> Configuration:
    """Reads and validates a whole configuration.

    Args:
        templates_text: templates.cfg.
        managers_text: managers.cfg, of the same revision.
        files: the texts of the files that `referenced_files` names, by path; missing ones left out.
        extra_dimensions: dimensions that the settings allow besides the Machine Provider's own.

    Raises:
        InvalidConfigurationError: with the problems of both files, in their order.
    """
    found = examine(templates_text, managers_text, files, extra_dimensions)
    if found.total:
        raise InvalidConfigurationError(found.problems, found.total)
    return found.configuration


def examine(
    templates_text: str,
    managers_text: str,
    files: Mapping[str, str],
    extra_dimensions: Collection[str] = (),
) -> Examination:
    """Like `parse`, but a template with a problem leaves the others as they are."""
    problems = _oversized(templates_text, managers_text, files)
    if problems:
        return Examination(Configuration(), problems, len(problems), {}, readable=False)
    templates_file = _read(TEMPLATES_FILE, templates_text, pb.InstanceTemplateConfig)
    managers_file = _read(MANAGERS_FILE, managers_text, pb.InstanceGroupManagerConfig)
    found: list[Problem] = []
    warnings: list[Problem] = []
    total = 0
    spoiled: dict[str, Problem] = {}
    templates: list[TemplateConfig] = []
    managers: list[ManagerConfig] = []
    messages: pb.InstanceTemplateConfig | None = None
    if isinstance(templates_file, Problem):
        found.append(templates_file)
        total += 1
    else:
        messages, lines = templates_file
        names = [template.base_name for template in messages.templates]
        report = Report(TEMPLATES_FILE, lines, names)
        rules.check_templates(messages, files, report, extra_dimensions)
        rules.check_repetitions(lines, messages, report)
        for index, message in enumerate(messages.templates):
            if index in report.spoiled:
                continue
            template = _template(message, files)
            if complaint := rules.stored_excess(template):
                report.problem(("templates", index), complaint)
            else:
                templates.append(template)
        found += report.problems()
        warnings += report.warnings()
        total += report.total
        for index, problem in report.spoiled.items():
            spoiled.setdefault(names[index], problem)
    if isinstance(managers_file, Problem):
        found.append(managers_file)
        total += 1
    else:
        asked, lines = managers_file
        report = Report(MANAGERS_FILE, lines)
        rules.check_managers(asked, messages, report)
        rules.check_repetitions(lines, asked, report)
        found += report.problems()
        warnings += report.warnings()
        total += report.total
        for index, problem in report.spoiled.items():
            spoiled.setdefault(asked.managers[index].template_base_name, problem)
        sound = {template.base_name for template in templates} - spoiled.keys()
        managers = [
            one for m in asked.managers if m.template_base_name in sound for one in _managers(m)
        ]
    return Examination(
        Configuration(
            tuple(template for template in templates if template.base_name not in spoiled),
            tuple(managers),
            tuple(warnings),
        ),
        tuple(found),
        total,
        spoiled,
        readable=not isinstance(templates_file, Problem) and not isinstance(managers_file, Problem),
    )


@lru_cache(maxsize=2)
def referenced_files(templates_text: str) -> tuple[str, ...]:
    """The paths that metadata_from_file names, each once, so that they can be fetched for `parse`.

    Nothing is raised: what cannot be read, or is not a path inside the config set, is left out here
    and reported by `parse`; so is what is more than MAX_FILES.
    """
    if _too_large(templates_text):
        return ()
    try:
        config = message_of(templates_text, pb.InstanceTemplateConfig)
    except TextSyntaxError:
        return ()
    pairs = (split_pair(text) for t in config.templates for text in t.metadata_from_file)
    paths = dict.fromkeys(pair[1] for pair in pairs if pair)
    return tuple(path for path in paths if not check_file_path(path))[:MAX_FILES]


def _too_large(text: str) -> bool:
    return len(text) > MAX_CONFIG_BYTES or len(text.encode()) > MAX_CONFIG_BYTES


def _oversized(templates: str, managers: str, files: Mapping[str, str]) -> tuple[Problem, ...]:
    """What is too large to be looked into."""
    sizes = {TEMPLATES_FILE: templates, MANAGERS_FILE: managers}
    found = [
        Problem(name, None, "", "", f"is too large: use at most {MAX_CONFIG_BYTES} bytes")
        for name, text in sizes.items()
        if _too_large(text)
    ]
    if not found:
        size = len(templates.encode()) + len(managers.encode()) + len(msgspec.json.encode(files))
        if size > MAX_STORED_BYTES:
            message = (
                f"{size} bytes of configuration and of the files that it names do not fit into one "
                f"entity of {MAX_STORED_BYTES} bytes: make them smaller"
            )
            found.append(Problem(TEMPLATES_FILE, None, "", "", message))
    return tuple(found)


def _read(file: str, text: str, kind: type[M]) -> tuple[M, LineIndex] | Problem:
    text = text.removeprefix("\ufeff")  # Windows programs begin files with it
    try:
        return message_of(text, kind), LineIndex(text)
    except TextSyntaxError as error:
        message = f"cannot be read: {shorten(one_line(error.reason[:MAX_MESSAGE]), MAX_MESSAGE)}"
        return Problem(file, error.line, "", "", message)


def _pairs(texts: Iterable[str]) -> Pairs:
    """Keys and values; of a key that is given twice the last value."""
    return tuple(dict(pair for text in texts if (pair := split_pair(text))).items())


def _dimensions(texts: Iterable[str]) -> Pairs:
    """Like `_pairs`, but there may be several labels."""
    pairs = [pair for text in texts if (pair := split_pair(text))]
    last = dict(pairs)
    kept = dict.fromkeys(
        (key, value if key == rules.LABELS_DIMENSION else last[key]) for key, value in pairs
    )
    return tuple(kept)


def _accounts(message: pb.InstanceTemplate) -> tuple[ServiceAccount, ...]:
    found = {
        account.name: ServiceAccount(
            account.name, tuple(dict.fromkeys(full_scope(scope) for scope in account.scopes))
        )
        for account in message.service_accounts
    }
    return tuple(found.values())


def _disk(message: pb.AdditionalDisk) -> AdditionalDisk:
    return AdditionalDisk(
        size_gb=message.size_gb,
        disk_type=message.disk_type,
        labels=_pairs(message.labels),
        auto_delete=message.auto_delete if message.HasField("auto_delete") else True,
    )


def _template(message: pb.InstanceTemplate, files: Mapping[str, str]) -> TemplateConfig:
    from_file = _pairs(message.metadata_from_file)
    texts = {key: files[path] for key, path in from_file}
    made: dict[str, Any] = {
        "dimensions": _dimensions(message.dimensions),
        "service_accounts": _accounts(message),
        "metadata": tuple((dict(_pairs(message.metadata)) | texts).items()),
        "metadata_from_file": from_file,
        "snapshot_labels": _pairs(message.snapshot_labels),
        "labels": _pairs(message.labels),
        "guest_accelerators": _pairs(message.guest_accelerators),
        "additional_disks": tuple(map(_disk, message.additional_disks)),
        "canary": message.canary if message.HasField("canary") else None,
    }
    for name, rule in template_rules().items():
        if name not in made:
            value = getattr(message, name)
            if not isinstance(value, str | int):
                value = tuple(dict.fromkeys(value))
            made[name] = rule.normal(value) if rule.normal else value
    return TemplateConfig(**made)


def _managers(message: pb.InstanceGroupManager) -> Iterator[ManagerConfig]:
    """A manager of each zone that the message names."""
    for zone in message.zones or [message.zone]:
        yield _manager(message, zone)


def _manager(message: pb.InstanceGroupManager, zone: str) -> ManagerConfig:
    def number(name: str) -> int | None:
        return getattr(message, name) if message.HasField(name) else None

    return ManagerConfig(
        template_base_name=message.template_base_name,
        minimum_size=message.minimum_size,
        maximum_size=message.maximum_size,
        zone=zone,
        zones=tuple(message.zones),
        spare_size=number("spare_size"),
        max_surge=number("max_surge"),
        max_unavailable=number("max_unavailable"),
        surplus_seconds=(
            message.surplus_seconds if message.HasField("surplus_seconds") else SURPLUS_SECONDS
        ),
        max_age_seconds=message.max_age_seconds,
        boot_seconds=message.boot_seconds if message.HasField("boot_seconds") else BOOT_SECONDS,
        schedules=tuple(map(_schedule, message.schedules)),
    )


def _schedule(message: pb.Schedule) -> Schedule:
    def size(name: str) -> int | None:
        return getattr(message, name) if message.HasField(name) else None

    return Schedule(
        days=tuple(sorted({day - 1 for day in message.days})) or tuple(range(7)),
        start=minutes_of(message.start) or 0,
        end=minutes_of(message.end) or 0,
        time_zone=message.time_zone,
        minimum_size=size("minimum_size"),
        maximum_size=size("maximum_size"),
        spare_size=size("spare_size"),
    )
