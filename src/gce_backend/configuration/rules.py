"""The rules that templates.cfg and managers.cfg keep, alone and together.

Each rule looks at parsed messages and reports what breaks it; none stops at the first finding.
What the rule of one field says by itself stands beside the field, in `types`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from gce_backend.configuration import naming
from gce_backend.configuration.alternatives import name_of, series_and_size
from gce_backend.configuration.proto import config_pb2 as pb
from gce_backend.configuration.report import Report
from gce_backend.configuration.text import LineIndex, Path
from gce_backend.configuration.types import Rule, TemplateConfig, template_rules
from gce_backend.configuration.values import (
    KEEP_SLOW,
    KEEP_SURPLUS,
    LEAST_AGE_SECONDS,
    LEAST_BOOT_SECONDS,
    MAX_AGE_SECONDS,
    MAX_BOOT_SECONDS,
    MAX_DISKS,
    MAX_FILES,
    MAX_GROUP_SIZE,
    MAX_METADATA_TOTAL,
    MAX_METADATA_VALUE,
    MAX_OWN_LABELS,
    MAX_SCHEDULES,
    MAX_SCOPES,
    MAX_SURPLUS_SECONDS,
    MAX_ZONES,
    MEASURED_DIMENSIONS,
    check_account,
    check_additional_size,
    check_base_name,
    check_dimension,
    check_disk_type,
    check_file_path,
    check_machine_type,
    check_metadata_key,
    check_metadata_value,
    check_own_label,
    check_scope,
    check_zone,
    disk_kind,
    full_network,
    full_scope,
    minutes_of,
    network_link,
    quote,
    split_pair,
    time_zone,
    zone_region,
)

LABELS_DIMENSION = "snapshot_labels"
"""The one dimension that has many values."""
MAX_STORED_TEMPLATE = 900_000
"""Bytes of a template as it is stored, which leaves room in an entity of 1 MiB for the rest."""


def check_templates(
    config: pb.InstanceTemplateConfig,
    files: Mapping[str, str],
    report: Report,
    extra_dimensions: Collection[str],
) -> None:
    """Applies all rules for templates.cfg.

    Args:
        files: the texts of the config set's files that metadata_from_file names, by path.
        report: collects the problems.
        extra_dimensions: dimensions that the settings allow.
    """
    first: dict[str, int] = {}
    named: set[str] = set()
    names = {template.base_name for template in config.templates}
    for index, template in enumerate(config.templates):
        path: Path = ("templates", index)
        for field, rule in template_rules().items():
            _check_field(template, field, rule, path, report)
        _check_disks(template, path, report)
        _check_additional_disks(template, path, report)
        _check_accounts(template, path, report)
        _check_dimensions(template, path, report, extra_dimensions)
        _check_metadata(template, files, named, path, report)
        _check_alternatives(template, names, path, report)
        name = template.base_name
        if name and first.setdefault(name, index) != index:
            report.problem(
                (*path, "base_name"),
                f"{quote(name)} is also the base_name of templates[{first[name]}]: it must be "
                "unique over all templates, also across projects; rename one",
            )


def check_repetitions(
    lines: LineIndex,
    config: pb.InstanceTemplateConfig | pb.InstanceGroupManagerConfig,
    report: Report,
) -> None:
    """Warns of fields that have one value and are given several times.

    Args:
        lines: where the file's fields are.
        report: is told.
    """
    for path in lines.repeated():
        kind, repeated = config.DESCRIPTOR, True
        for name in path[::2]:
            field = kind.fields_by_name[str(name)]
            kind, repeated = field.message_type or kind, field.is_repeated
        if not repeated:
            report.warning(path[:-1], "is given several times: the last value counts")


def stored_excess(template: TemplateConfig) -> str | None:
    """Why a template cannot be stored; None when it can."""
    size = len(msgspec.json.encode(template))
    if size <= MAX_STORED_TEMPLATE:
        return None
    return f"has {size} bytes with its metadata: use at most {MAX_STORED_TEMPLATE} to be stored"


def _check_field(
    template: pb.InstanceTemplate, field: str, rule: Rule, path: Path, report: Report
) -> None:
    value = getattr(template, field)
    path = (*path, field)
    if rule.required and not value:
        report.problem(path, "is required: set it")
    if isinstance(value, str | int):
        if rule.normal and isinstance(value, str):
            value = rule.normal(value)
        if value and rule.check and (complaint := rule.check(value)):
            report.problem(path, complaint)
        return
    if rule.limit is not None and len(value) > rule.limit:
        report.problem(path, f"{len(value)} are too many: use at most {rule.limit}")
    if rule.check:
        for index, item in enumerate(value):
            if complaint := rule.check(item):
                report.problem((*path, index), complaint)
        keys = (pair[0] if (pair := split_pair(item)) else item for item in value)
        _warn_of_repetitions(enumerate(keys), path, report)


def _warn_of_repetitions(keys: Iterable[tuple[int, str]], path: Path, report: Report) -> None:
    seen: set[str] = set()
    for index, key in keys:
        if key in seen:
            report.warning(
                (*path, index), f"{quote(key)} is given several times: the last one counts"
            )
        seen.add(key)


def _check_disks(template: pb.InstanceTemplate, path: Path, report: Report) -> None:
    sources = ("image_name", "image_family", "boot_snapshot_name")
    given = [field for field in sources if getattr(template, field)]
    if len(given) > 1:
        report.problem(
            (*path, given[-1]),
            f"a boot disk has one source: remove all but one of {' and '.join(given)}",
        )
    if not given:
        message = "is required: set it, image_family or boot_snapshot_name to boot from"
        if template.snapshot_name or template.snapshot_labels:
            message += "; snapshot_name and snapshot_labels are those of a second disk"
        report.problem((*path, "image_name"), message)


def _check_additional_disks(template: pb.InstanceTemplate, path: Path, report: Report) -> None:
    common = {pair[0] for text in template.labels if (pair := split_pair(text))}
    for index, disk in enumerate(template.additional_disks[:MAX_DISKS]):
        here: Path = (*path, "additional_disks", index)
        if not disk.size_gb:
            report.problem((*here, "size_gb"), "is required: set it, e.g. 100")
        elif complaint := check_additional_size(disk.size_gb):
            report.problem((*here, "size_gb"), complaint)
        if disk.disk_type and (complaint := check_disk_type(disk.disk_type)):
            report.problem((*here, "disk_type"), complaint)
        for at, text in enumerate(disk.labels):
            if complaint := check_own_label(text):
                report.problem((*here, "labels", at), complaint)
        pairs = [pair for text in disk.labels if (pair := split_pair(text))]
        keys = [key for key, _ in pairs]
        _warn_of_repetitions(enumerate(keys), (*here, "labels"), report)
        if len(common.union(keys)) > MAX_OWN_LABELS:
            report.problem(
                (*here, "labels"),
                f"with those of the template, {len(common.union(keys))} are too many: use at most "
                f"{MAX_OWN_LABELS}",
            )


def _check_alternatives(
    template: pb.InstanceTemplate, names: Collection[str], path: Path, report: Report
) -> None:
    """Checks that the alternatives are of one size, and can be named.

    Args:
        names: the base_names of all templates.
    """
    path = (*path, "alternative_machine_types")
    series, size = series_and_size(template.machine_type)
    known = {series}
    for index, machine_type in enumerate(dict.fromkeys(template.alternative_machine_types)):
        if check_machine_type(machine_type):
            continue
        here, name = (*path, index), name_of(template.base_name, machine_type)
        other, its_size = series_and_size(machine_type)
        if its_size != size:
            report.problem(
                here,
                f"{quote(machine_type)} is not of the size of machine_type, {quote(size)}: a "
                "request must fit each of them",
            )
        elif other in known:
            report.problem(here, f"{quote(other)} is a series that is named already: remove one")
        elif name in names:
            report.problem(
                here, f"makes a template {quote(name)}, and another one is called so: rename one"
            )
        elif complaint := check_base_name(name):
            report.problem(here, f"makes a template with this name: {complaint}")
        known.add(other)


def _check_accounts(template: pb.InstanceTemplate, path: Path, report: Report) -> None:
    if template.require_agent and not template.service_accounts:
        report.problem(
            (*path, "require_agent"),
            "needs service_accounts: the agent reports with a token of its VM's account; name one",
        )
    path = (*path, "service_accounts")
    if not template.service_accounts:
        report.warning(
            path,
            "there is none: the VMs do not receive the Machine Provider's messages",
        )
    for index, account in enumerate(template.service_accounts):
        if not account.name:
            report.problem(
                (*path, index, "name"), 'is required: set an email address, or "default"'
            )
        elif complaint := check_account(account.name):
            report.problem((*path, index, "name"), complaint)
        here = (*path, index, "scopes")
        if len(account.scopes) > MAX_SCOPES:
            report.problem(here, f"{len(account.scopes)} are too many: use at most {MAX_SCOPES}")
        scopes = [full_scope(scope) for scope in account.scopes]
        for at, scope in enumerate(scopes):
            if complaint := check_scope(scope):
                report.problem((*here, at), complaint)
        _warn_of_repetitions(enumerate(scopes), here, report)
    names = ((index, account.name) for index, account in enumerate(template.service_accounts))
    _warn_of_repetitions(names, path, report)


def _check_dimensions(
    template: pb.InstanceTemplate, path: Path, report: Report, extra: Collection[str]
) -> None:
    path = (*path, "dimensions")
    keys: list[tuple[int, str]] = []
    for index, text in enumerate(template.dimensions):
        pair = split_pair(text)
        if pair is None:
            report.problem((*path, index), f'{quote(text)} is not a dimension: write "key:value"')
            continue
        key, value = pair
        keys.append((index, text if key == LABELS_DIMENSION else key))
        if complaint := check_dimension(key, value, extra):
            report.problem((*path, index), complaint)
        elif slip := _overridden(template, key, value):
            report.warning((*path, index), slip)
    _warn_of_repetitions(keys, path, report)


def _overridden(template: pb.InstanceTemplate, key: str, value: str) -> str | None:
    """What becomes of a dimension that the daemon sets; None when nothing else does."""
    if not value:
        return f"{key} is empty: no request that names it matches"
    if key in MEASURED_DIMENSIONS:
        return f"{key} is set by the daemon ({MEASURED_DIMENSIONS[key]}): this has no effect"
    labels = template.snapshot_labels
    if key == LABELS_DIMENSION and labels and value not in labels:
        return (
            f"{quote(value)} is not in the field snapshot_labels, which decides: it has no effect"
        )
    dictated = {
        "backend": ("GCE", "the daemon"),
        "project": (template.project, "project"),
        "disk_type": (disk_kind(template.disk_type), "disk_type"),
        "disk_gb": (str(template.disk_size_gb or ""), "disk_size_gb"),
        "snapshot": (
            template.snapshot_name or template.boot_snapshot_name,
            "snapshot_name" if template.snapshot_name else "boot_snapshot_name",
        ),
    }
    actual, field = dictated.get(key, ("", ""))
    if not actual or actual == value:
        return None
    return f"{key} is {quote(actual)} because of {field}: this has no effect"


def _check_metadata(
    template: pb.InstanceTemplate,
    files: Mapping[str, str],
    named: set[str],
    path: Path,
    report: Report,
) -> None:
    """Checks metadata and metadata_from_file, which end up in one list."""
    sizes: dict[str, int] = {}
    for field, values in (
        ("metadata", template.metadata),
        ("metadata_from_file", template.metadata_from_file),
    ):
        for index, text in enumerate(values):
            here = (*path, field, index)
            pair = split_pair(text)
            if pair is None:
                form = "key:value" if field == "metadata" else "key:path"
                report.problem(here, f'{quote(text)} is not metadata: write "{form}"')
                continue
            key, value = pair
            if complaint := check_metadata_key(key):
                report.problem(here, complaint)
            if key in sizes:
                report.warning(here, f"{quote(key)} is given several times: the last one counts")
            if field == "metadata_from_file":
                value = _file_text(value, files, named, here, report)
            if complaint := check_metadata_value(value):
                report.problem(here, f"the value of {quote(key)} {complaint}")
            size = len(value.encode())
            if size > MAX_METADATA_VALUE:
                report.problem(
                    here,
                    f"the value of {quote(key)} has {size} bytes: use at most {MAX_METADATA_VALUE}",
                )
            sizes[key] = len(key.encode()) + size
    total = sum(sizes.values())
    if total > MAX_METADATA_TOTAL:
        report.problem(
            (*path, "metadata"),
            f"all keys and values have {total} bytes: use at most {MAX_METADATA_TOTAL}, so that "
            "Compute Engine's 512 KiB have room for what is added later",
        )


def _file_text(
    name: str, files: Mapping[str, str], named: set[str], path: Path, report: Report
) -> str:
    if complaint := check_file_path(name):
        report.problem(path, complaint)
        return ""
    named.add(name)
    if name not in files:
        if len(named) > MAX_FILES:
            report.problem(path, f"names too many files: use at most {MAX_FILES} in all")
        else:
            message = (
                f"there is no file {quote(name)} in the config set: add it, or correct the path"
            )
            report.problem(path, message)
        return ""
    text = files[name]
    if text.startswith("#!") and "\r\n" in text:
        report.warning(path, f"{quote(name)} has Windows line ends, with which no script starts")
    return text


def check_managers(
    config: pb.InstanceGroupManagerConfig,
    templates: pb.InstanceTemplateConfig | None,
    report: Report,
) -> None:
    """Applies all rules for managers.cfg.

    Args:
        templates: the parsed templates.cfg; None when it cannot be read, so that nothing is said
            about what it does not define.
        report: collects the problems.
    """
    networks = None
    if templates is not None:
        networks = {t.base_name: full_network(t.network_url) for t in templates.templates}
    zones: dict[tuple[str, str], tuple[Path, str]] = {}
    for index, manager in enumerate(config.managers):
        path: Path = ("managers", index)
        name = manager.template_base_name
        if not name or (networks is not None and name not in networks):
            report.warning(
                (*path, "template_base_name"),
                f"{quote(name)} is not the base_name of any template: this manager is skipped",
            )
        _check_sizes(manager, path, report)
        _check_rollout(manager, path, report)
        _check_times(manager, path, report)
        if manager.zones and manager.zone:
            report.problem((*path, "zones"), "is set beside zone: remove one of them")
        elif manager.zones and not 2 <= len(manager.zones) <= MAX_ZONES:
            report.problem(
                (*path, "zones"), f"has {len(manager.zones)}: use zone for one, or 2 to {MAX_ZONES}"
            )
        elif manager.zones:
            for place, zone in enumerate(manager.zones):
                _check_zone(zone, (*path, "zones", place), (name, networks, zones), report)
        elif not manager.zone:
            report.problem((*path, "zone"), 'is required: set it, e.g. "us-central1-a"')
        else:
            _check_zone(manager.zone, (*path, "zone"), (name, networks, zones), report)


def _check_zone(
    zone: str,
    path: Path,
    known: tuple[str, Mapping[str, str] | None, dict[tuple[str, str], tuple[Path, str]]],
    report: Report,
) -> None:
    """Checks a manager's zone.

    Args:
        path: where it is.
        known: the manager's template, the templates' networks if they could be read, and where
            each template's zones were named before.
    """
    name, networks, zones = known
    if complaint := check_zone(zone):
        report.problem(path, complaint)
        return
    network = network_link((networks or {}).get(name, ""))
    region = network.region if network is not None else None
    if region and zone_region(zone) != region:
        report.problem(
            path,
            f"{quote(zone)} is not in {region}, the region of the template's subnetwork: use a "
            "zone there, or another network_url",
        )
    key = (name, naming.short_zone(zone))
    other, before = zones.setdefault(key, (path, zone))
    if other != path and before == zone:
        report.problem(
            path,
            f"managers[{other[1]}] already uses template {quote(name)} in {zone}: at most one "
            "manager in each zone; merge the two",
        )
    elif other != path:
        report.problem(
            path,
            f"{zone} and {before} (managers[{other[1]}]) have one short form, {key[1]}: VMs would "
            "share names; use another zone or another template",
        )


def _check_sizes(manager: pb.InstanceGroupManager, path: Path, report: Report) -> None:
    minimum, maximum = manager.minimum_size, manager.maximum_size
    limit = f"{MAX_GROUP_SIZE}, the most VMs that Compute Engine keeps in a zonal group"
    if not manager.HasField("minimum_size"):
        report.warning((*path, "minimum_size"), "is absent: no machine is kept")
    elif minimum < 0:
        report.problem((*path, "minimum_size"), f"{minimum} is too small: set it to 0 or more")
    elif minimum > MAX_GROUP_SIZE:
        report.problem((*path, "minimum_size"), f"{minimum} is too large: use at most {limit}")
    if maximum < 0:
        report.problem((*path, "maximum_size"), f"{maximum} is negative: leave it out for no limit")
    elif maximum > MAX_GROUP_SIZE:
        report.problem((*path, "maximum_size"), f"{maximum} is too large: use at most {limit}")
    elif 0 < maximum < minimum:
        report.problem(
            (*path, "maximum_size"),
            f"{maximum} is below minimum_size ({minimum}): raise it, or leave it out for no limit",
        )
    _check_spare(manager, path, report)
    if len(manager.schedules) > MAX_SCHEDULES:
        report.problem(
            (*path, "schedules"),
            f"{len(manager.schedules)} are too many: use at most {MAX_SCHEDULES}",
        )
    for index, schedule in enumerate(manager.schedules[:MAX_SCHEDULES]):
        _check_schedule(manager, schedule, (*path, "schedules", index), report)


def _check_schedule(
    manager: pb.InstanceGroupManager, schedule: pb.Schedule, path: Path, report: Report
) -> None:
    for field in ("start", "end"):
        text = getattr(schedule, field)
        if not text:
            report.problem((*path, field), 'is required: set it, e.g. "08:00"')
        elif minutes_of(text) is None:
            report.problem((*path, field), f'{quote(text)} is not a time: write "HH:MM"')
    if schedule.start == "24:00":
        report.problem((*path, "start"), 'begins no day: use "00:00" of the next one')
    if not schedule.time_zone:
        report.problem((*path, "time_zone"), 'is required: set it, e.g. "Europe/Zurich"')
    elif time_zone(schedule.time_zone) is None:
        report.problem(
            (*path, "time_zone"),
            f"{quote(schedule.time_zone)} is not in the IANA database: use a name like "
            '"Europe/Zurich" or "UTC"',
        )
    sizes = ("minimum_size", "maximum_size", "spare_size")
    if not any(schedule.HasField(name) for name in sizes):
        report.problem(path, f"changes nothing: set {', '.join(sizes[:-1])} or {sizes[-1]}")
    then = pb.InstanceGroupManager()
    then.CopyFrom(manager)
    then.ClearField("schedules")
    if not then.HasField("minimum_size"):
        then.minimum_size = 0  # its absence is told of once
    for name in sizes:
        if schedule.HasField(name):
            setattr(then, name, getattr(schedule, name))
    _check_sizes(then, path, report)


def _check_rollout(manager: pb.InstanceGroupManager, path: Path, report: Report) -> None:
    for name in ("max_surge", "max_unavailable"):
        if not 0 <= (number := getattr(manager, name)) <= MAX_GROUP_SIZE:
            report.problem((*path, name), f"{number} is out of range: use 0 to {MAX_GROUP_SIZE}")
    if manager.HasField("max_surge") and not manager.max_surge and not manager.max_unavailable:
        report.problem(
            (*path, "max_surge"),
            "is 0 and leaves no room for a new machine: set max_unavailable to 1 or more, so that "
            "an old one can leave first",
        )


def _check_times(manager: pb.InstanceGroupManager, path: Path, report: Report) -> None:
    age, boot = manager.max_age_seconds, manager.boot_seconds
    if age and not LEAST_AGE_SECONDS <= age <= MAX_AGE_SECONDS:
        report.problem(
            (*path, "max_age_seconds"),
            f"{age} is out of range: use {LEAST_AGE_SECONDS} to {MAX_AGE_SECONDS}, or 0 for never",
        )
    known = boot == KEEP_SLOW or LEAST_BOOT_SECONDS <= boot <= MAX_BOOT_SECONDS
    if manager.HasField("boot_seconds") and not known:
        report.problem(
            (*path, "boot_seconds"),
            f"{boot} is out of range: use {LEAST_BOOT_SECONDS} to {MAX_BOOT_SECONDS}, or "
            f"{KEEP_SLOW} to keep machines that do not come up",
        )


def _check_spare(manager: pb.InstanceGroupManager, path: Path, report: Report) -> None:
    spare, seconds = manager.spare_size, manager.surplus_seconds
    if not 0 <= spare <= MAX_GROUP_SIZE:
        report.problem((*path, "spare_size"), f"{spare} is out of range: use 0 to {MAX_GROUP_SIZE}")
    elif manager.HasField("spare_size") and not manager.maximum_size:
        report.problem(
            (*path, "spare_size"),
            "needs a maximum_size: set it, so that the group cannot grow without limit",
        )
    if not KEEP_SURPLUS <= seconds <= MAX_SURPLUS_SECONDS:
        report.problem(
            (*path, "surplus_seconds"),
            f"{seconds} is out of range: use 0 to {MAX_SURPLUS_SECONDS}, or {KEEP_SURPLUS} to keep "
            "all VMs",
        )
